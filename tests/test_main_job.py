"""The main job: a plain push of YAML, the three console scripts, Redis on TCP, and the result in the record."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from laws import violations
from pipeline import Pipeline
from servers import locate

from jobmill.client import Client
from jobmill.errors import ServerUnavailable, UnknownName

HERE = Path(__file__).parent
EXAMPLES = HERE.parent / "examples"


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


@pytest.fixture
def redis_url(tmp_path: Path) -> Iterator[str]:
    """Debian's redis-server on a TCP port, in the supported setting."""
    port = free_port()
    server = subprocess.Popen(
        [str(locate("redis7")), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(tmp_path), "--save", "",
         "--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction"],
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    url = f"redis://127.0.0.1:{port}"
    client = Client(url)
    for _ in range(200):
        try:
            client.record.ping()
            break
        except ServerUnavailable:
            time.sleep(0.02)
    client.record.ping()
    yield url
    client.close()
    server.terminate()
    server.wait(timeout=10)


def alive(marker: str) -> list[str]:
    """Return the processes whose command line holds a word that only the test's job has."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if marker in line and state != "Z":
                found.append(line)
    return found


def test_console_scripts_serve_a_redis_server_on_tcp(redis_url: str, tmp_path: Path) -> None:
    """Each worker by its own console script, found where the package is installed; jobs by a plain push."""
    scripts = Path(sys.executable).parent
    env = os.environ | {"JOBMILL_REDIS_URL": redis_url, "JOBMILL_STATE": str(tmp_path / "state")}
    workers = [
        subprocess.Popen([str(scripts / f"jobmill-{role}")], env=env, cwd=tmp_path, stderr=subprocess.DEVNULL)
        for role in ("manager", "starter", "fetcher")
    ]
    client = Client(redis_url)
    try:
        raw = (EXAMPLES / "hello.yaml").read_bytes()
        client.record.call("RPUSH", "Job_Queue", raw)
        deadline = time.monotonic() + 20
        while not client.last() and time.monotonic() < deadline:
            time.sleep(0.02)
        row = client.wait(client.last(), timeout=20)
        assert row.state == "done"
        assert row.exit["exit_status"] == "finished_regularly" and row.exit["exit_value"] == 0
        assert set(row.times) == {"submitted", "granted", "ended"} or "started" in row.times
        assert row.exit["resource_usage"]["wall"] >= 0
        assert client.log(row)
        assert [(tmp_path / "state" / name).stat().st_mode & 0o777 for name in (".", "spool")] == [0o700, 0o700]
    finally:
        for worker in workers:
            worker.terminate()
        assert [worker.wait(timeout=15) for worker in workers] == [0, 0, 0]
        client.close()


@pytest.fixture
def pipeline(tmp_path: Path) -> Iterator[Pipeline]:
    made = Pipeline(tmp_path)
    made.start()
    yield made
    made.stop()


def test_depths_can_be_read_while_jobs_run(pipeline: Pipeline) -> None:
    redis = pipeline.client.record.client
    ids = pipeline.client.submit_many([{"command": "sleep 2"} for _ in range(6)])
    pipeline.until(lambda: redis.zcard("Running_Queue") == 4)
    assert redis.llen("Job_Queue") == 0
    assert redis.scard("LocalJobs") == 4  # four slots, and nothing is granted ahead of long jobs
    rows = pipeline.client.wait(ids, timeout=20)
    assert {r.state for r in rows.values()} == {"done"}
    assert redis.scard("LocalJobs") == 0 and redis.zcard("Running_Queue") == 0
    assert violations(redis, at_rest=True) == []


def test_cancel_kills_the_whole_tree_including_what_left_the_session(pipeline: Pipeline) -> None:
    marker = f"3{int(time.time() * 1000) % 10**8}.5"
    job = f"trap '' TERM; setsid sleep {marker} & (setsid nohup sh -c 'sleep {marker}; :' &) ; sleep {marker}; wait"
    job_id = pipeline.client.submit({"command": job})
    pipeline.until(lambda: len(alive(f"sleep {marker}")) >= 4)
    answer = pipeline.client.cancel([job_id], why="enough", who="ann")
    assert answer == {job_id: "wished"}
    row = pipeline.client.wait(job_id, timeout=30)
    assert row.state == "cancelled"
    assert row.exit["exit_status"] == "killed_by_user" and row.exit["reason"] == "cancelled"
    assert "ann" in row.exit["message"] and "enough" in row.exit["message"]
    assert alive(f"sleep {marker}") == []


def test_cancel_of_what_has_not_begun_ends_at_once(pipeline: Pipeline) -> None:
    busy = pipeline.client.submit_many([{"command": "sleep 3"} for _ in range(4)])
    waiting = pipeline.client.submit({"command": "true"})
    pipeline.until(lambda: pipeline.client.record.call("ZCARD", "Running_Queue") == 4)
    assert pipeline.client.cancel([waiting, "no-such"]) == {waiting: "cancelled", "no-such": "unknown"}
    pipeline.client.cancel(busy)
    rows = pipeline.client.wait([*busy, waiting], timeout=20)
    assert {r.state for r in rows.values()} == {"cancelled"}


def test_walltime_ends_with_its_reason(pipeline: Pipeline) -> None:
    job_id = pipeline.client.submit({"command": "sleep 60", "resources": {"walltime": "1s"}})
    row = pipeline.client.wait(job_id, timeout=20)
    assert row.state == "failed" and row.exit["reason"] == "timeout" and row.exit["term_sig"] == signal.SIGTERM


def test_a_retry_is_a_new_run_with_its_own_folder(pipeline: Pipeline, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    job_id = pipeline.client.submit(
        {
            "command": f"echo run $JOBMILL_RUN; test -e {flag} && exit 0; touch {flag}; exit 7",
            "retry": {"max": 2, "delay": "1s", "on": ["failed"]},
        }
    )
    row = pipeline.client.wait(job_id, timeout=20)
    assert (row.state, row.run) == ("done", 2)
    runs = pipeline.client.runs(job_id)
    assert [(r["run"], r["state"], r["exit"]["exit_value"]) for r in runs] == [(1, "failed", 7)]
    assert (pipeline.client.folder(row, 1) / "stdout").read_text() == "run 1\n"
    assert (pipeline.client.folder(row, 2) / "stdout").read_text() == "run 2\n"


def test_steps_show_their_progress_and_return_data(pipeline: Pipeline, tmp_path: Path) -> None:
    (tmp_path / "mod.py").write_text("def make(n): return n * 2\ndef add(a, b=1): return {'total': a + b}\n")
    gate = tmp_path / "gate"
    job_id = pipeline.client.submit(
        {
            "workdir": str(tmp_path),
            "steps": [
                {"name": "make", "function": "mod:make", "inputs": {"n": 20}, "outputs": ["a"]},
                {"name": "hold", "command": f"while ! test -e {gate}; do sleep 0.05; done"},
                {"name": "add", "function": "mod:add", "inputs": {"b": 2}},
            ],
        }
    )
    redis = pipeline.client.record.client
    pipeline.until(lambda: redis.hget(f"Job:{job_id}", "progress") == b"2/3 hold")
    gate.touch()
    assert pipeline.client.result(job_id, timeout=20) == {"total": 42}
    folder = pipeline.client.folder(pipeline.client.job(job_id))
    assert {"make.log", "hold.log", "add.log"} <= {p.name for p in folder.iterdir()}


def test_dependents_run_after_and_not_after_a_failure(pipeline: Pipeline) -> None:
    submit = pipeline.client.submit
    first = submit({"command": "sleep 0.3"})
    good = submit({"command": "true", "depends_on": [first]})
    bad = submit({"command": "sleep 0.3; exit 1"})
    never = submit({"command": "true", "depends_on": [bad]})
    chain = submit({"command": "true", "depends_on": [never]})
    anyway = submit({"command": "true", "depends_on": [bad], "after": "failed"})
    rows = pipeline.client.wait([first, good, bad, never, chain, anyway], timeout=30)
    assert {i: rows[i].state.value for i in rows} == {
        first: "done", good: "done", bad: "failed", never: "not_run", chain: "not_run", anyway: "done",
    }  # fmt: skip
    assert rows[good].exit["started"] >= rows[first].exit["ended"]
    assert bad in rows[never].exit["message"]


def test_two_of_each_worker_share_the_work(tmp_path: Path, pipeline: Pipeline) -> None:
    first = dict(pipeline.workers)
    pipeline.start()
    ids = pipeline.client.submit_many([{"command": ["/bin/true"]} for _ in range(300)])
    rows = pipeline.client.wait(ids, timeout=60)
    assert {r.state for r in rows.values()} == {"done"}
    for worker in first.values():
        worker.terminate()
    for worker in first.values():
        assert worker.wait(timeout=15) == 0
    row = pipeline.client.wait(pipeline.client.submit({"command": "true"}), timeout=30)  # the second starter leads now
    assert row.state == "done"
    assert violations(pipeline.client.record.client, at_rest=True) == []


def test_a_plain_push_by_redis_cli(pipeline: Pipeline) -> None:
    assert shutil.which("redis-cli"), "apt-get install redis-tools"
    socket_path = pipeline.url.removeprefix("unix://")
    with (EXAMPLES / "hello.yaml").open("rb") as file:
        subprocess.run(["redis-cli", "-s", socket_path, "-x", "RPUSH", "Job_Queue"], stdin=file, check=True, timeout=10)
    pipeline.until(lambda: bool(pipeline.client.last()))
    assert pipeline.client.wait(pipeline.client.last(), timeout=20).state == "done"


def test_a_wait_on_an_id_that_is_nowhere_ends(pipeline: Pipeline) -> None:
    began = time.monotonic()
    with pytest.raises(UnknownName, match="no-such-job"):
        pipeline.client.wait("no-such-job", timeout=30)
    assert time.monotonic() - began < 15


def test_somebody_elses_refusal_does_not_end_a_wait(pipeline: Pipeline) -> None:
    redis = pipeline.client.record.client
    job_id = pipeline.client.submit({"command": "sleep 2", "id": "mine"})
    pipeline.until(lambda: redis.hget("Job:mine", "state") == b"running")
    redis.rpush("Job_Queue", "{id: mine, command: other}", "{id: mine, commandd: wrong}")
    assert pipeline.client.wait(job_id, timeout=20).state == "done"
    assert redis.llen("Dead_Queue") == 2


def test_a_wait_outlives_the_server_whatever_it_looks_at(pipeline: Pipeline) -> None:
    """Unknown ids make it look more often and at more keys; an outage is no answer about any of them."""
    redis, answers = pipeline.client.record.client, []
    redis.hset("Capacity", "LocalJobs", 0)

    def wait() -> None:
        waiting = Client(pipeline.url)
        try:
            answers.append(waiting.wait(["late", "later"], timeout=60))
        except Exception as error:
            answers.append(error)
        finally:
            waiting.close()

    thread = threading.Thread(target=wait)
    thread.start()
    for _ in range(12):  # over several of its looks
        pipeline.kill_server()
        time.sleep(0.25)
    pipeline.client.submit_many([{"id": "late", "command": "true"}, {"id": "later", "command": "true"}])
    redis.hset("Capacity", "LocalJobs", 8)
    thread.join(60)
    assert [type(a) for a in answers] in ([dict], [UnknownName]), answers
