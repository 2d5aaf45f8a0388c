"""The `rq` system tells nothing that is not so: servers that forget, hands that write there what is none of theirs."""

from __future__ import annotations

import base64
import json
import os
import pickle
import signal
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from conftest import Server
from rq_pool import Pool, kill
from test_rq_death import LEASE, Ticking, guards, horse_of
from test_rq_pool import alive
from tokens import RECORD

from jobmill.errors import StageFailed, StageStopped, SystemUnavailable
from jobmill.systems import pool_server
from jobmill.systems.pool import PoolSystem
from jobmill.systems.pool_files import PoolFiles
from jobmill.systems.system import ExitStatus, Launch, NativeState, Settled, Submission, Transfer

pytestmark = pytest.mark.timeout(90)


@pytest.fixture
def pool(running_server: Callable[[str], Server], tmp_path: Path) -> Iterator[Pool]:
    made = Pool(running_server("valkey").url, tmp_path, lease=LEASE)
    yield made
    made.stop()


@pytest.fixture
def client(pool: Pool) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(pool.url) as made:
        yield made


def quiet(words: str) -> None:
    """Take no note of progress."""


# Killing.


def leaves_a_stubborn_one(pool: Pool, tmp_path: Path) -> tuple[str, int, int]:
    """Return handle and horse of a launch whose first process has ended while its horse slept, and who is left."""
    go, pid = tmp_path / "go", tmp_path / "pid"
    stubborn = f"trap '' TERM; echo $$ > {pid}; while :; do sleep 0.1; done"
    text = f"(setsid sh -c '{stubborn}' >/dev/null 2>&1 &); while [ ! -e {go} ]; do sleep 0.05; done"
    text = text.replace("trap '' TERM", 'trap "" TERM')
    worker = pool.work()
    (handle,) = pool.launch(pool.sh("leaves", text))
    pool.until(lambda: pid.exists() and pid.read_text().strip())
    horse = horse_of(pool, worker)
    kill(horse, signal.SIGSTOP)
    go.touch()
    return handle, horse, int(pid.read_text())


def test_what_outlives_its_leader_is_ended_though_the_horse_is_killed_then(pool: Pool, tmp_path: Path) -> None:
    """Else the lease would prove nothing: an end would be told, and a kill, while it runs on."""
    handle, horse, left = leaves_a_stubborn_one(pool, tmp_path)
    kill(horse)
    pool.until(lambda: pool.system.kill([handle], force=True)[handle], 30)
    assert not alive(left)
    assert pool.end(handle).reason == "node_fail"


def test_and_though_who_watches_it_is_killed_as_well(pool: Pool, tmp_path: Path) -> None:
    handle, horse, left = leaves_a_stubborn_one(pool, tmp_path)
    _, runner = guards(horse)
    kill(runner)
    kill(horse)
    pool.until(lambda: pool.system.kill([handle], force=True)[handle], 30)
    assert not alive(left)


def test_an_end_is_not_told_before_the_rest_is_gone(pool: Pool, tmp_path: Path) -> None:
    handle, horse, left = leaves_a_stubborn_one(pool, tmp_path)
    kill(horse, signal.SIGCONT)
    end = pool.end(handle)
    assert not alive(left) and end.regular
    assert pool.system.kill([handle], force=True)[handle]


# A server that forgets.


def test_a_kill_of_what_the_server_has_lost_is_proved_by_time(pool: Pool, client: redis.Redis) -> None:
    pool.work()
    job = Ticking(pool, "lost")
    client.flushall()
    begun = time.monotonic()
    assert pool.system.kill([job.handle], force=True) == {job.handle: False}
    assert pool.state(job.handle) is NativeState.ABSENT
    assert pool.system.exit_info([job.handle]) == {}  # nobody knows
    pool.until(lambda: pool.system.kill([job.handle], force=False)[job.handle], 30)
    assert time.monotonic() - begun > LEASE and job.living() == []
    assert pool.system.exit_info([job.handle]) == {}
    assert pool.state(job.handle) is NativeState.ABSENT
    pool.system.forget([job.handle])
    assert not client.keys("jobmill:rq:run:*")


def test_what_was_committed_and_lost_is_not_taken_for_never_started(pool: Pool, client: redis.Redis) -> None:
    pool.work()
    job, never = Ticking(pool, "lost"), pool.sh("never", "true")
    token = f"{RECORD}.1:lost:1"
    client.flushall()

    def settle(token: str, handle: str | None) -> str:
        return str(pool.system.settle([Launch(token=token, handle=handle)])[token])

    assert settle(token, job.handle) == Settled.UNKNOWN
    pool.until(lambda: settle(token, job.handle) != Settled.UNKNOWN, 30)
    assert job.living() == [] and settle(token, job.handle) == Settled.LOST
    assert settle(never.token, None) == Settled.NOT_STARTED
    assert pool.launch(pool.sh("lost", "true")) == [job.handle]  # a late one comes to nothing
    assert pool.system.exit_info([job.handle]) == {}


def test_withdrawn_is_never_started_and_may_be_submitted_again(pool: Pool) -> None:
    job = pool.sh("back", "exit 3")
    (handle,) = pool.launch(job)
    pool.system.withdraw([job.token])
    assert pool.state(handle) is NativeState.ABSENT and pool.system.exit_info([handle]) == {}
    assert pool.launch(job) == [handle]
    pool.work()
    assert pool.end(handle).exit_value == 3
    (other,) = pool.launch(pool.sh("other", "true"))
    pool.system.withdraw([f"{RECORD}.1:other:1"])
    assert pool.system.settle([Launch(token=f"{RECORD}.1:other:1", handle=other)]) == {
        f"{RECORD}.1:other:1": Settled.NOT_STARTED
    }


def test_files_that_the_server_has_lost_are_no_globs_that_match_nothing(pool: Pool, client: redis.Redis) -> None:
    pool.work()
    (handle,) = pool.launch(pool.sh("a", "echo > out", files={"wanted.json": '["out"]'}))
    assert pool.end(handle).regular
    client.flushall()
    with pytest.raises(StageFailed, match="does not know the launch any more"):
        pool.system.stage_out(handle, pool.folder / "home", ["out"], quiet)


def test_files_that_a_full_server_did_not_take_are_told(pool: Pool, client: redis.Redis, tmp_path: Path) -> None:
    pool.work()
    go = tmp_path / "go"
    (handle,) = pool.launch(pool.sh("a", f"while [ ! -e {go} ]; do sleep 0.05; done; head -c 9000000 /dev/zero > out"))
    pool.until(lambda: pool.state(handle) is NativeState.RUNNING)
    client.config_set("maxmemory", int(client.info("memory")["used_memory"]) + 4_000_000)
    try:
        go.touch()
        pool.until(lambda: "OOM" in pool.tail() or handle in pool.system.exit_info([handle]))
    finally:
        time.sleep(1)
        client.config_set("maxmemory", 0)
    assert pool.end(handle).regular
    with pytest.raises(StageFailed, match=r"could not be brought .* is in /.* for a week"):
        pool.system.stage_out(handle, pool.folder / "home", ["out"], quiet)


# Hostile hands on the pool's server. They run programs on the workers as they like (RQ unpickles), but not here.


class Planted:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_a_pickle_on_the_pools_server_is_not_opened_here(pool: Pool, client: redis.Redis, tmp_path: Path) -> None:
    (handle,) = pool.launch(pool.sh("a", "true"))
    planted = pickle.dumps(Planted(tmp_path / "planted"))
    words = base64.b64encode(zlib.compress(b"Traceback\nImportError: no jobmill"))
    result = {"type": 1, "return_value": base64.b64encode(planted), "exc_string": words}
    client.xadd(f"rq:results:{handle}", result)
    client.hset(f"rq:job:{handle}", mapping={"status": "canceled", "meta": planted, "data": zlib.compress(planted)})
    assert pool.state(handle) is NativeState.ENDED
    assert "ImportError: no jobmill" in (pool.end(handle).message or "")
    assert not (tmp_path / "planted").exists()


def test_a_result_that_unpacks_without_end_is_cut(pool: Pool, client: redis.Redis) -> None:
    (handle,) = pool.launch(pool.sh("a", "true"))
    client.xadd(f"rq:results:{handle}", {"type": 1, "exc_string": base64.b64encode(zlib.compress(b"x" * (64 << 20)))})
    client.hset(f"rq:job:{handle}", "status", "canceled")
    assert pool.state(handle) is NativeState.ENDED
    assert len(pool.end(handle).message or "") < 2000


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '{"exit_status":"perfect"}', "[" * 100_000, "null"])
def test_an_exit_record_that_is_none_is_an_end_that_nobody_knows(pool: Pool, client: redis.Redis, text: str) -> None:
    (handle,) = pool.hold(pool.sh("a", "true"))
    client.hset(f"jobmill:rq:run:{handle}", mapping={"state": "ended", "end": text})
    info = pool.system.exit_info([handle])[handle]
    assert (info.exit_status, info.reason) == (ExitStatus.UNDETERMINED, "lost") and not info.regular


def test_nonsense_stops_nobody(pool: Pool, client: redis.Redis) -> None:
    pool.work()
    (first,) = pool.launch(pool.sh("first", "sleep 2"))
    pool.until(lambda: pool.state(first) is NativeState.RUNNING)
    (ends,) = {client.hget(f"jobmill:rq:run:{first}", "ends")}
    assert ends is not None
    notices = [b"7", b"[]", b"null", b'["end",3,"x"]', b'["end","rec.1:a:1",7]', b'["start","rec.1:a:1"]', b"\xff"]
    client.rpush(ends, *notices, b'["end","rec.1:a:1","[]"]', b"[" * 100_000)
    asks = [b"7", b"[]", b"\xff", b'["log"]', b'["log","stdout",-1,1e400,"jobmill:rq:answer:x"]', b"[" * 100_000]
    client.rpush(f"jobmill:rq:ask:{first}", *asks, b'["log","stdout",0,99999999999999999999,"jobmill:rq:answer:x"]')
    assert pool.system.logs(first, "stdout", 0, 1 << 62) == b""
    assert pool.end(first).regular
    pool.until(lambda: len(pool.ends) == 1)  # told after all that
    (handle,) = pool.hold(pool.sh("odd", "true"))
    client.hset(f"jobmill:rq:run:{handle}", mapping={"state": "running", "until": "soon"})
    assert pool.state(handle) is NativeState.RUNNING


@pytest.mark.parametrize(
    "name", ["../../../../tmp/planted", "/etc/planted", "/work/../../planted", "a/../../../planted", "/work/"]
)
def test_no_name_leads_out_of_home(pool: Pool, client: redis.Redis, name: str, tmp_path: Path) -> None:
    pool.work()
    (handle,) = pool.launch(pool.sh("a", "true"))
    assert pool.end(handle).regular
    client.hset(f"jobmill:rq:out:{handle}", name, json.dumps({"size": 1, "mode": 0o777, "mtime": 0, "n": 99}))
    client.set(f"jobmill:rq:out:{handle}:99", "x")
    home = tmp_path / "deep" / "er" / "home"
    pool.until(lambda: not list(pool.rooms.iterdir()))  # what is removed meanwhile cannot be searched
    with pytest.raises(StageFailed, match="is no name of a file"):
        pool.system.stage_out(handle, home, ["**", "../*", "../../*"], quiet)
    assert not [path for path in tmp_path.rglob("planted") if home not in path.parents]
    assert not Path("/etc/planted").exists() and not Path("/tmp/planted").exists()


@pytest.mark.parametrize("text", ["", "7", "{}", '{"n":0,"size":"x"}', '{"n":0,"size":-1}', '{"n":0,"kind":"pipe"}'])
def test_an_entry_that_is_no_file_is_told(pool: Pool, client: redis.Redis, text: str) -> None:
    (handle,) = pool.hold(pool.sh("a", "true"))
    client.hset(f"jobmill:rq:out:{handle}", "stdout", text)
    with pytest.raises(StageFailed, match="what is no file of a launch"):
        pool.system.stage_out(handle, pool.folder / "home", [], quiet)


# The address.


@pytest.mark.parametrize("query", ["foo=bar", "db=x", "socket_timeout=long"])
def test_an_address_with_an_option_that_there_is_not(query: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("POOL_URL", f"redis://:hunter2@127.0.0.1:1/?{query}")
    system = PoolSystem.build("p", {"url": "env:POOL_URL"}, tmp_path)
    with pytest.raises(SystemUnavailable, match="cannot be parsed") as caught:
        system.survey(RECORD)
    assert "hunter2" not in str(caught.value)
    assert not system.check()[0].ok


def test_an_address_cannot_undo_what_we_rely_on(pool: Pool) -> None:
    made = pool_server.connect(f"{pool.url}?decode_responses=1&retry_on_timeout=1&socket_timeout=77", 5.0)
    assert made.connection_pool.connection_kwargs["socket_timeout"] == 5.0
    assert "retry_on_timeout" not in made.connection_pool.connection_kwargs
    made.set("x", "y")
    assert made.get("x") == b"y"
    made.close()


def test_no_secret_of_a_launch_or_of_the_address_stays(
    running_server: Callable[[str], Server], tmp_path: Path, monkeypatch: Any
) -> None:
    server = running_server("valkey")
    with redis.Redis.from_url(server.url) as admin:
        admin.acl_setuser("anna", enabled=True, passwords=["+hunter2"], keys=["*"], channels=["*"], commands=["+@all"])
        where = server.url.removeprefix("unix://").partition("?")[0]
        url = (
            f"unix://anna:hunter2@{where}"
            if server.url.startswith("unix")
            else server.url.replace("redis://", "redis://anna:hunter2@")
        )
        monkeypatch.setenv("POOL_URL", url)
        monkeypatch.setenv("RQ_REDIS_URL", url)
        pool = Pool("env:POOL_URL", tmp_path)
        try:
            worker = pool.work(by_environment=True)
            (handle,) = pool.launch(pool.sh("a", "env; sleep 1", env={"API_KEY": "sesame"}))
            pool.until(lambda: pool.state(handle) is NativeState.RUNNING)
            words = b"".join(Path(f"/proc/{pid}/cmdline").read_bytes() for pid in [worker.pid, *pool.all_pids()])
            assert b"hunter2" not in words and b"sesame" not in words
            assert pool.end(handle).regular
            assert b"hunter2" not in pool.system.logs(handle, "stdout", 0)
            pool.until(lambda: not list(pool.rooms.iterdir()))
            keys = [key for key in admin.keys("*") if b":out:" not in key]  # stdout is the user's own
            everything = b"".join(admin.dump(key) or b"" for key in keys)
            assert b"hunter2" not in everything and b"sesame" not in everything
            assert "hunter2" not in pool.tail() and "sesame" not in pool.tail()
        finally:
            pool.stop()


# Inputs.


def staged(pool: Pool, job: Submission) -> Submission:
    return pool.system.stage_in(job, quiet)


def test_inputs_come_as_they_are(pool: Pool, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "empty").mkdir(parents=True)
    (tree / "real").mkdir()
    (tree / "real" / "file").write_text("here\n")
    (tree / "link").symlink_to("real")
    pool.work()
    job = pool.sh("a", "test -d tree/empty && readlink tree/link && cat tree/link/file", inputs=_one(tree, "tree"))
    (handle,) = pool.launch(staged(pool, job))
    assert pool.end(handle).regular
    assert pool.system.logs(handle, "stdout", 0) == b"real\nhere\n"
    (tree / "out").symlink_to("/etc")
    with pytest.raises(StageFailed, match="a link that leads to a folder outside"):
        staged(pool, pool.sh("b", "true", inputs=_one(tree, "tree")))


def test_inputs_replace_nothing_that_is_there(pool: Pool, tmp_path: Path) -> None:
    source, workdir = tmp_path / "in", tmp_path / "there"
    source.write_text("new\n")
    workdir.mkdir()
    (workdir / "in").write_text("old\n")
    pool.work()
    given, nowhere, marker, out, good = pool.launch(
        staged(pool, pool.sh("given", "cat in", workdir=str(workdir), inputs=_one(source, "in"))),
        staged(pool, pool.sh("nowhere", "cat in", workdir=f"{workdir}/no", inputs=_one(source, "in"))),
        staged(pool, pool.sh("marker", "cat run", inputs=_one(source, "run"))),
        staged(pool, pool.sh("out", "true", inputs=_one(source, "../../../planted"))),
        staged(pool, pool.sh("good", "cat sub/in", workdir=str(workdir), inputs=_one(source, "sub/in"))),
    )
    for handle, words in ((given, "other content"), (nowhere, "is no folder"), (marker, "replace"), (out, "leads out")):
        end = pool.end(handle)
        assert end.reason == "stage_failed" and words in (end.message or ""), end
    assert (workdir / "in").read_text() == "old\n" and not list(tmp_path.rglob("planted"))
    assert pool.end(good).regular and pool.system.logs(good, "stdout", 0) == b"new\n"


def test_a_connection_that_is_cut_while_inputs_come_fails_nothing(
    pool: Pool, client: redis.Redis, tmp_path: Path
) -> None:
    for n in range(300):
        (tmp_path / "many" / str(n)).parent.mkdir(exist_ok=True)
        (tmp_path / "many" / str(n)).write_text(str(n))
    (handle,) = pool.launch(staged(pool, pool.sh("a", "ls many | wc -l", inputs=_one(tmp_path / "many", "many"))))
    pool.work()
    while pool.system.status([handle])[handle].native_state != "started":
        time.sleep(0.002)
    for _ in range(5):
        client.client_kill_filter(_type="normal", skipme=True)
        time.sleep(0.02)
    pool.until(lambda: pool.system.exit_info([handle]))
    assert pool.end(handle).regular and pool.system.logs(handle, "stdout", 0).strip() == b"300"


def test_stage_in_stops_when_told(pool: Pool, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("x")

    def stop(words: str) -> None:
        raise StageStopped("not wanted")

    with pytest.raises(StageStopped):
        pool.system.stage_in(pool.sh("a", "true", inputs=_one(tmp_path / "in", "in")), stop)


def test_a_shared_spool_takes_inputs_and_gives_logs(running_server: Callable[[str], Server], tmp_path: Path) -> None:
    pool = Pool(running_server("valkey").url, tmp_path, shared=True)
    try:
        pool.work()
        (tmp_path / "in").write_text("x\n")
        job = staged(pool, pool.sh("shared", "cat in; mkfifo pipe", inputs=_one(tmp_path / "in", "in")))
        (handle,) = pool.launch(job)
        assert pool.end(handle).regular
        assert pool.system.logs(handle, "stdout", 0) == b"x\n"
        with pytest.raises(SystemUnavailable, match="pipe cannot be read"):  # and nobody waits for its writer
            pool.system.logs(handle, "pipe", 0)
        (gone,) = pool.hold(staged(pool, pool.sh("gone", "true", inputs=_one(tmp_path / "in", "in"))))
        assert pool.system.kill([gone], force=False)[gone]
        pool.system.forget([gone, handle])
        assert not list((tmp_path / "spool" / "stage" / "pool").iterdir())
    finally:
        pool.stop()


# What comes home.


def test_globs_are_of_the_working_directory_alone(pool: Pool, tmp_path: Path) -> None:
    workdir = tmp_path / "there"
    workdir.mkdir()
    pool.work()
    text = 'echo > "$JOBMILL_RUN_FOLDER/only.log"; mkdir -p d/e; ln -s e d/l; echo x > d/e/f'
    away = pool.sh("away", text, workdir=str(workdir), files={"wanted.json": '["*.log", "d"]'})
    (handle,) = pool.launch(away)
    assert pool.end(handle).regular
    home = tmp_path / "home"
    assert pool.system.stage_out(handle, home, ["*.log", "d"], quiet) == ["*.log"]
    assert str((home / "outputs" / "d" / "l").readlink()) == "e" and (home / "outputs" / "d" / "l" / "f").exists()
    with pytest.raises(StageFailed, match=r"\*\.txt: was not said to be wanted"):
        pool.system.stage_out(handle, home, ["*.txt"], quiet)


def test_what_nobody_wants_stays_and_is_removed(pool: Pool, tmp_path: Path) -> None:
    pool.options["keep"] = "1M"
    pool.system = pool.another()
    pool.work()
    text = "head -c 3000000 /dev/zero > scratch; echo > small.log; mkdir d; echo > d/x"
    (handle,) = pool.launch(pool.sh("a", text, files={"wanted.json": "[]"}))
    assert pool.end(handle).regular
    assert pool.system.stage_out(handle, tmp_path / "home", [], quiet) == []
    assert pool.system.logs(handle, "small.log", 0) == b"\n"
    pool.until(lambda: not list(pool.rooms.iterdir()))


def _one(source: Path, target: str) -> tuple[Transfer, ...]:
    return (Transfer(source=str(source), target=target),)


def test_a_file_that_became_a_pipe_keeps_nobody(client: redis.Redis, tmp_path: Path) -> None:
    """Between the look at it and the reading: to open a pipe may never return."""
    os.mkfifo(tmp_path / "p")
    began = time.monotonic()
    with pytest.raises(OSError, match="is no file any more"):
        PoolFiles(client, "jm:", "x", "out").put("p", tmp_path / "p")
    assert time.monotonic() - began < 1
