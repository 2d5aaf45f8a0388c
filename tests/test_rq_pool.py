"""The `rq` system with real `rq worker`s: what ends how, and what is told of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from conftest import Server
from rq.job import Job
from rq_pool import Pool
from tokens import RECORD

from jobmill.errors import ConfigError, StageFailed, SystemUnavailable
from jobmill.systems import process_tree
from jobmill.systems.pool import PoolSystem
from jobmill.systems.pool_record import PoolRecord
from jobmill.systems.system import (
    ExitStatus,
    Launch,
    NativeState,
    Settled,
    Submission,
    SubmitError,
    SubmitFailure,
    Transfer,
)

pytestmark = pytest.mark.timeout(90)


@pytest.fixture
def pool(running_server: Callable[[str], Server], tmp_path: Path) -> Iterator[Pool]:
    made = Pool(running_server("valkey").url, tmp_path)
    yield made
    made.stop()


def test_every_server_will_do(server: Server, tmp_path: Path) -> None:
    pool = Pool(server.url, tmp_path)
    try:
        (queued,) = pool.launch(pool.sh("queued", "true"))
        assert pool.system.kill([queued], force=False) == {queued: True}
        pool.work()
        (handle,) = pool.launch(pool.sh("runs", "echo out; exit 3"))
        pool.until(lambda: f"{RECORD}.1:runs:1" in pool.ends)
        assert pool.end(handle).exit_value == 3 and pool.system.logs(handle, "stdout", 1) == b"ut\n"
        assert pool.system.stage_out(handle, tmp_path / "home", [], lambda words: None) == []
    finally:
        pool.stop()


def test_exit_values_and_signals_are_the_kernels(pool: Pool) -> None:
    pool.work()
    handles = pool.launch(
        pool.sh("zero", "echo out; echo err >&2"),
        pool.sh("one", "exit 1"),
        pool.job("none", "no-such-command"),
        pool.sh("term", "kill -TERM $$"),
        pool.sh("kill", "kill -KILL $$"),
    )
    zero, one, none, term, killed = [pool.end(handle) for handle in handles]
    assert zero.regular and zero.exit_value == 0 and zero.resource_usage["wall"] >= 0
    assert (one.exit_status, one.exit_value) == (ExitStatus.FINISHED_REGULARLY, 1)
    assert (none.exit_value, none.reason) == (127, "start_failed") and "no-such-command" in (none.message or "")
    assert (term.exit_status, term.term_sig) == (ExitStatus.FINISHED_SIGNAL, 15)
    assert killed.term_sig == 9
    assert pool.system.logs(handles[0], "stdout", 0) == b"out\n"
    assert pool.system.logs(handles[0], "stderr", 1) == b"rr\n"
    pool.until(lambda: len(pool.ends) == 5)
    assert pool.ends[f"{RECORD}.1:one:1"] == one
    assert sorted(pool.starts) == [f"{RECORD}.1:{name}:1" for name in ("kill", "one", "term", "zero")]


def test_walltime_ends_the_whole_tree(pool: Pool, tmp_path: Path) -> None:
    pool.work()
    escaped = tmp_path / "escaped"
    text = f"trap '' TERM; setsid sh -c 'trap \"\" TERM; echo $$ > {escaped}; sleep 300' & sleep 300"
    (handle,) = pool.launch(pool.sh("long", text, walltime=1.0))
    end = pool.end(handle)
    assert (end.reason, end.term_sig) == ("timeout", 9)
    assert not alive(int(escaped.read_text()))


def test_what_a_job_is_given_is_what_it_gets(pool: Pool, tmp_path: Path) -> None:
    pool.work(env={"SECRET": "leaks"})
    odd = "a\n'\"$(id)`\\ \u00e9\udcff*"
    workdir = tmp_path / "there"
    workdir.mkdir()
    (tmp_path / "in").write_text("input")
    words, env, here, files, missing = pool.launch(
        pool.job("words", "printf", "%s", odd, env={"ODD": odd}),
        pool.sh("env", 'env; printf "%s" "$ODD" > odd', env={"ODD": odd}, cpus=3),
        pool.sh("here", "pwd; cat", workdir=str(workdir), stdin=str(tmp_path / "in"), stdout=str(tmp_path / "out")),
        pool.sh("files", "cat given; pwd; echo $JOBMILL_RUN_FOLDER", files={"given": "text\n"}),
        pool.sh("missing", "true", workdir=str(tmp_path / "nowhere")),
    )
    assert pool.end(words).regular
    assert pool.system.logs(words, "stdout", 0) == odd.encode("utf-8", "surrogateescape")
    assert pool.end(env).regular
    told = pool.system.logs(env, "stdout", 0)
    assert b"JOBMILL_CPUS=3\n" in told and b"JOBMILL_JOB_ID=env\n" in told
    assert b"SECRET" not in told and b"RQ_" not in told and b"REDIS" not in told
    assert pool.system.logs(env, "odd", 0) == odd.encode("utf-8", "surrogateescape")
    assert pool.end(here).regular and (tmp_path / "out").read_text() == f"{workdir}\ninput"
    assert pool.end(files).regular
    text, pwd, folder = pool.system.logs(files, "stdout", 0).decode().splitlines()
    assert text == "text" and pwd == folder and folder.startswith(str(pool.rooms))
    assert pool.end(missing).reason == "start_failed"
    assert "nowhere" in (pool.system.exit_info([missing])[missing].message or "")
    pool.until(lambda: not list(pool.rooms.iterdir()))  # nothing stays on the worker's host


def test_a_kill_is_proved(pool: Pool, tmp_path: Path) -> None:
    pool.work()
    pids = tmp_path / "pids"
    text = f"trap '' TERM; setsid sleep 301 & echo $! > {pids}; echo $$ >> {pids}; sleep 302"
    stubborn, queued = pool.launch(pool.sh("stubborn", text), pool.sh("queued", f"echo no > {tmp_path}/never"))
    pool.until(lambda: pids.exists() and len(pids.read_text().split()) == 2)
    assert pool.system.kill([stubborn], force=False) == {stubborn: False}
    assert pool.system.kill([queued], force=False) == {queued: True}
    assert pool.system.exit_info([queued])[queued].reason == "not_started"
    pool.until(lambda: pool.system.kill([stubborn], force=True)[stubborn])
    assert not [pid for pid in map(int, pids.read_text().split()) if alive(pid)]
    assert pool.end(stubborn).term_sig == 9
    last = pool.launch(pool.sh("last", "true"))[0]
    assert pool.end(last).regular and not (tmp_path / "never").exists()
    assert pool.system.kill([last, "lost-1-0"], force=True) == {last: True, "lost-1-0": False}  # see test_rq_truth


def test_settle_at_each_step(pool: Pool, tmp_path: Path) -> None:
    file = tmp_path / "starts"
    jobs = [pool.sh(name, f"echo {name} >> {file}; sleep 0.5") for name in ("never", "held", "queued", "sealed")]
    never, held, queued, sealed = jobs
    settled = pool.another()

    def settle(it: Submission, handle: str | None = None) -> str:
        return str(settled.settle([Launch(token=it.token, handle=handle)])[it.token])

    assert settle(never) == Settled.NOT_STARTED
    (late,) = pool.hold(never)
    pool.system.release([late])
    (on_hold,) = pool.hold(held)
    assert settle(held) == on_hold
    assert settled.status([on_hold])[on_hold].held
    (in_line,) = pool.launch(queued)
    assert settle(queued) == in_line == settle(queued, in_line)
    (gone,) = pool.launch(sealed)
    assert settled.kill([gone], force=False)[gone]
    assert settle(sealed, gone) == Settled.NOT_STARTED
    assert sorted(settled.inventory(RECORD).values()) == [held.token, queued.token]
    assert settled.inventory("other") == {}
    pool.work()
    pool.until(lambda: pool.state(in_line) is NativeState.RUNNING)
    assert settle(queued) == in_line
    assert pool.end(in_line).regular and settle(queued) == in_line
    settled.release([on_hold])
    settled.release([on_hold, in_line, gone])
    assert pool.end(on_hold).regular
    assert sorted(file.read_text().split()) == ["held", "queued"]
    assert settled.survey(RECORD) == {}
    settled.forget([on_hold, in_line])
    assert settled.exit_info([on_hold, in_line]) == {}
    assert settled.status([on_hold])[on_hold].state is NativeState.ABSENT
    settled.close()


def test_rq_may_run_a_job_again_as_often_as_it_likes(pool: Pool, tmp_path: Path) -> None:
    file = tmp_path / "starts"
    (handle,) = pool.launch(pool.sh("once", f"echo once >> {file}; sleep 1"))
    with redis.Redis.from_url(pool.url) as client:
        client.rpush("rq:queue:default", *[handle] * 4)
        for _ in range(3):
            pool.work()
        assert pool.end(handle).regular
        pool.until(lambda: client.llen("rq:queue:default") == 0)
        Job.fetch(handle, connection=client).requeue() if Job.fetch(handle, connection=client).is_failed else None
        client.rpush("rq:queue:default", handle)
        pool.until(lambda: client.llen("rq:queue:default") == 0)
    (last,) = pool.launch(pool.sh("last", "true"))
    assert pool.end(last).regular
    assert file.read_text().split() == ["once"]


@pytest.mark.timeout(300)
def test_two_hundred_at_once(pool: Pool, tmp_path: Path) -> None:
    file = tmp_path / "starts"
    file.touch()
    handles = pool.launch(*[pool.sh(f"j{i}", f"echo {i} >> {file}; exit {i % 5}") for i in range(200)])
    for _ in range(3):
        pool.work()
    pool.until(lambda: len(pool.ends) == 200, 240)
    assert sorted(map(int, file.read_text().split())) == list(range(200))
    exits = pool.system.exit_info(handles)
    assert [exits[handle].exit_value for handle in handles] == [i % 5 for i in range(200)]
    assert {pool.ends[f"{RECORD}.1:j{i}:1"] == exits[handles[i]] for i in range(200)} == {True}
    assert pool.system.survey(RECORD) == {}


def test_logs_while_it_runs_and_after(pool: Pool, tmp_path: Path) -> None:
    pool.work()
    go = tmp_path / "go"
    text = f"printf 0123456789; echo own > own.log; while [ ! -e {go} ]; do sleep 0.05; done; printf abc"
    (handle,) = pool.launch(pool.sh("talks", text))
    pool.until(lambda: pool.state(handle) is NativeState.RUNNING)
    pool.until(lambda: pool.system.logs(handle, "stdout", 0) == b"0123456789")
    assert pool.system.logs(handle, "stdout", 7) == b"789"
    assert pool.system.logs(handle, "stdout", 2, 3) == b"234"
    assert pool.system.logs(handle, "own.log", 0) == b"own\n"
    assert pool.system.logs(handle, "stdout", 99) == b"" == pool.system.logs(handle, "absent", 0)
    with pytest.raises(ValueError):
        pool.system.logs(handle, "../lock", 0)
    go.touch()
    pool.end(handle)
    assert pool.system.logs(handle, "stdout", 8) == b"89abc"


def test_files_go_there_and_come_home(pool: Pool, tmp_path: Path) -> None:
    pool.work()
    (tmp_path / "tree" / "sub").mkdir(parents=True)
    (tmp_path / "tree" / "sub" / "deep").write_bytes(b"\0deep")
    script = tmp_path / "script.sh"
    script.write_text("#!/bin/sh\ncat tree/sub/deep > out/a.sam; echo b > out/sub/b; echo x > 'odd \n name'; exit 4\n")
    script.chmod(0o755)
    said: list[str] = []
    inputs = (
        Transfer(source=str(script), target="bin/run"),
        Transfer(source=str(tmp_path / "tree"), target="tree"),
    )
    globs = ["out/*.sam", "out/sub", "none*"]
    files = {"wanted.json": json.dumps(globs)}
    job = pool.sh("files", "mkdir -p out/sub; ./bin/run", inputs=inputs, files=files)
    ready = pool.system.stage_in(pool.system.stage_in(job, said.append), said.append)
    assert ready.staged and any("stages in" in words for words in said)
    (handle,) = pool.launch(ready)
    assert pool.end(handle).exit_value == 4
    home = tmp_path / "home"
    home.mkdir()
    for _ in range(2):
        assert pool.system.stage_out(handle, home, globs, said.append) == ["none*"]
    assert (home / "outputs" / "out" / "a.sam").read_bytes() == b"\0deep"
    assert (home / "outputs" / "out" / "sub" / "b").read_text() == "b\n"
    assert pool.system.stage_out(handle, home, ["odd*"], said.append) == []
    assert (home / "outputs" / "odd \n name").read_text() == "x\n"
    assert (home / "stdout").read_bytes() == b"" and (home / "stderr").exists()
    pool.system.forget([handle])
    with redis.Redis.from_url(pool.url) as client:
        assert [key for key in client.keys("jobmill:*") if b":ends:" not in key] == []
    with pytest.raises(StageFailed, match="/nowhere does not exist"):
        pool.system.stage_in(pool.sh("x", "", inputs=(Transfer(source="/nowhere", target="a"),)), said.append)


def test_more_than_the_bound_stays_on_the_host_and_is_named(
    running_server: Callable[[str], Server], tmp_path: Path
) -> None:
    pool = Pool(running_server("valkey").url, tmp_path, keep="2M")
    try:
        pool.work()
        text = "echo small; head -c 3000000 /dev/zero > large; echo ok > wanted"
        (handle,) = pool.launch(pool.sh("much", text, files={"wanted.json": '["wanted", "large"]'}))
        assert pool.end(handle).regular
        assert pool.system.stage_out(handle, tmp_path / "home", ["wanted", "no"], lambda words: None) == ["no"]
        with pytest.raises(StageFailed, match=r"large: 3000000 bytes are more than is left of `keep`; it is in /"):
            pool.system.stage_out(handle, tmp_path / "home", ["wanted", "large"], lambda words: None)
        assert (tmp_path / "home" / "outputs" / "wanted").read_text() == "ok\n"
        assert (tmp_path / "home" / "stdout").read_text() == "small\n"
        assert len(list(pool.rooms.glob("*/jobs/much/run.1/large"))) == 1
        (tmp_path / "big").write_bytes(b"x" * (3 << 20))
        big = pool.sh("in", "true", inputs=(Transfer(source=str(tmp_path / "big"), target="big"),))
        with pytest.raises(StageFailed, match=r"more than the 2\.0 MiB"):
            pool.system.stage_in(big, lambda words: None)
    finally:
        pool.stop()


def test_a_shared_spool_needs_no_way_home(running_server: Callable[[str], Server], tmp_path: Path) -> None:
    pool = Pool(running_server("valkey").url, tmp_path, shared=True)
    try:
        assert pool.system.stages is False
        pool.work()
        (handle,) = pool.launch(pool.sh("shared", "echo here; echo out > file; pwd"))
        assert pool.end(handle).regular
        folder = tmp_path / "spool" / "jobs" / "shared" / "run.1"
        assert (folder / "stdout").read_text().splitlines()[0] == "here" and (folder / "file").exists()
        assert pool.system.logs(handle, "stdout", 0, 4) == b"here"
        pool.until(lambda: not list(pool.rooms.iterdir()))
        assert (folder / "run").exists()
    finally:
        pool.stop()


def test_a_job_goes_to_the_smallest_queue_that_it_fits(running_server: Callable[[str], Server], tmp_path: Path) -> None:
    queues = {"big": {"cpus": 8, "memory": "64G", "gpus": 1}, "small": {"cpus": 1}, "wide": {"cpus": 4}}
    pool = Pool(running_server("valkey").url, tmp_path, queues=queues)
    try:
        handles = pool.hold(
            pool.sh("a", ""),
            pool.sh("b", "", cpus=2),
            pool.sh("c", "", memory=100 << 10, cpus=3),
            pool.sh("d", "", gpus=1),
            pool.sh("e", "", queue="wide"),
        )
        with redis.Redis.from_url(pool.url) as client:
            chosen = [client.hget(f"jobmill:rq:run:{handle}", "queue") for handle in handles]
        assert chosen == [b"small", b"wide", b"wide", b"big", b"wide"]
        for job, words in (
            (pool.sh("f", "", cpus=9), "no queue gives what the job asks for (cpus 9)"),
            (pool.sh("g", "", queue="bigg"), "there is no queue 'bigg' (did you mean 'big'?)"),
            (pool.sh("h", "", queue="small", cpus=2), "queue 'small' does not give"),
        ):
            (refused,) = pool.system.submit([job])
            assert isinstance(refused, SubmitError) and refused.failure is SubmitFailure.PERMANENT
            assert words in refused.message and "big (cpus 8, memory 65536, gpus 1)" in refused.message
        pool.system.release(handles[:1])
        look = pool.system.status(handles[:1])[handles[0]]
        assert look.state is NativeState.SUBMITTED and "nobody listens on queue small" in (look.reason or "")
        by_name = {check.name: check for check in pool.system.check()}
        assert (
            by_name["server"].ok and not by_name["queue small"].ok and "rq worker small" in by_name["queue small"].fix
        )
        pool.work("small")
        assert pool.end(handles[0]).regular
        assert {check.name: check for check in pool.system.check()}["queue small"].ok
        pool.system.withdraw([f"{RECORD}.1:b:1"])
        pool.system.fileno()
        pool.until(lambda: f"{RECORD}.1:b:1" in pool.ends)
        assert pool.ends[f"{RECORD}.1:b:1"].reason == "withdrawn"
        again = pool.launch(pool.sh("b", "true", cpus=2))
        pool.work("wide")
        assert pool.end(again[0]).regular
    finally:
        pool.stop()


def test_a_server_that_is_absent(tmp_path: Path) -> None:
    system = PoolSystem.build("far", {"url": f"unix://{tmp_path}/nothing"}, tmp_path)
    job = Submission(token=f"{RECORD}.1:a:1", job_id="a", run=1, argv=("true",))
    for verb in (
        lambda: system.submit([job]),
        lambda: system.status(["x"]),
        lambda: system.survey(RECORD),
        lambda: system.settle([Launch(token=job.token)]),
        lambda: system.kill(["x"], force=True),
        lambda: system.logs("x", "stdout", 0),
    ):
        with pytest.raises(SystemUnavailable, match="the pool's server does not answer"):
            verb()
    (check,) = system.check()
    assert not check.ok and check.fix
    system.close()


def test_a_submission_whose_answer_is_cut_is_unclear(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(*_: object) -> list[str]:
        raise redis.ConnectionError("cut")

    monkeypatch.setattr(PoolRecord, "hold", cut)
    (answer,) = pool.system.submit([pool.sh("a", "true")])
    assert isinstance(answer, SubmitError) and answer.failure is SubmitFailure.UNCLEAR


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"url": "redis://:hunter2@host/0"}, "holds a password"),
        ({"url": "redis://host/0?password=hunter2"}, "holds a password"),
        ({"url": "http://host"}, "write redis://"),
        ({"url": 3}, "write a URL"),
        ({"slots": 3}, "number of `rq worker`s"),
        ({"lease": 3}, "lease: must be"),
        ({"lease": "long"}, "not a number of seconds"),
        ({"queues": {"a b": {}}}, "cannot be a queue's name"),
        ({"queues": {"a": {"cpu": 1}}}, "did you mean 'cpus'"),
        ({"queues": {"a": {"memory": "lots"}}}, "no amount of memory"),
        ({"queues": 3}, "write a list"),
        ({"keep": "x"}, "no amount of memory"),
        ({"shared": 1}, "neither true nor false"),
        ({"queue": {}}, "did you mean 'queues'"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        PoolSystem.build("p", options, tmp_path)
    assert "hunter2" not in str(caught.value) and "systems.p" in str(caught.value)


def test_the_address_may_stand_elsewhere(
    running_server: Callable[[str], Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = running_server("valkey").url
    (tmp_path / "url").write_text(f"{url}\n")
    monkeypatch.setenv("POOL_URL", url)
    for given in ("env:POOL_URL", f"file:{tmp_path}/url"):
        system = PoolSystem.build("p", {"url": given}, tmp_path)
        assert system.check()[0].ok
        system.close()
    monkeypatch.delenv("JOBMILL_REDIS_URL", raising=False)
    with pytest.raises(SystemUnavailable, match=r"\$JOBMILL_REDIS_URL"):
        PoolSystem.build("p", {}, tmp_path).survey(RECORD)
    monkeypatch.setenv("JOBMILL_REDIS_URL", "redis://:hunter2@[bad/0")
    with pytest.raises(SystemUnavailable) as caught:
        PoolSystem.build("p", {}, tmp_path).survey(RECORD)
    assert "hunter2" not in str(caught.value)


def test_a_worker_without_jobmill_is_told(pool: Pool, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['jobmill'] = None\n")
    pool.work(env={"PYTHONPATH": str(tmp_path)})
    (handle,) = pool.launch(pool.sh("a", "true"))
    pool.until(lambda: pool.state(handle) is NativeState.ENDED)
    end = pool.end(handle)
    assert end.reason == "submit_failed" and "jobmill" in (end.message or "")
    with redis.Redis.from_url(pool.url) as client:
        assert client.hget(f"jobmill:rq:run:{handle}", "again") == b"4"


def test_a_host_that_cannot_make_a_folder_is_told(pool: Pool, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    pool.work(env={"JOBMILL_POOL_FOLDER": str(tmp_path / "file" / "rooms")})
    (handle,) = pool.launch(pool.sh("a", "true"))
    end = pool.end(handle)
    assert end.reason == "node_fail" and "cannot make its folder" in (end.message or "")


def test_inputs_that_were_dropped_are_told(pool: Pool, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("x")
    job = pool.sh("a", "true", inputs=(Transfer(source=str(tmp_path / "in"), target="in"),))
    (handle,) = pool.launch(job)
    pool.work()
    end = pool.end(handle)
    assert end.reason == "stage_failed" and "is not on the pool's server" in (end.message or "")


def test_what_somebody_took_out_of_rq_is_told(pool: Pool) -> None:
    emptied, canceled = pool.launch(pool.sh("emptied", "true"), pool.sh("canceled", "true"))
    with redis.Redis.from_url(pool.url) as client:
        Job.fetch(canceled, connection=client).cancel()
        Job.fetch(emptied, connection=client).delete()
    assert pool.state(emptied) is pool.state(canceled) is NativeState.ENDED
    assert "RQ does not have it" in (pool.end(emptied).message or "")
    assert "RQ's job is canceled" in (pool.end(canceled).message or "")


def test_what_was_given_to_a_worker_that_was_cut_off_then_is_given_to_another(
    running_server: Callable[[str], Server], tmp_path: Path
) -> None:
    pool = Pool(running_server("valkey").url, tmp_path, lease=5)
    try:
        (handle,) = pool.launch(pool.sh("stuck", f"echo start >> {tmp_path}/starts"))
        with redis.Redis.from_url(pool.url) as client:  # as the server has it when nobody reads its answer
            assert client.lmove("rq:queue:default", "rq:queue:default:intermediate", "LEFT", "RIGHT")
        pool.work()
        pool.until(lambda: pool.state(handle) is NativeState.ENDED)
        assert pool.end(handle).regular
        assert (tmp_path / "starts").read_text() == "start\n"
    finally:
        pool.stop()


def alive(pid: int) -> bool:
    found = process_tree.process(pid)
    return found is not None and found.state not in process_tree.GONE
