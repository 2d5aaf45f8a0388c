"""A whole pipeline whose jobs run in a pool of RQ workers, on the same server and on one of its own."""

from __future__ import annotations

import json
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from conftest import Server
from pipeline import Evidence, Pipeline, exits
from rq_pool import Pool, children, kill

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def pool(valkey: Server, tmp_path: Path) -> Iterator[Pool]:
    made = Pool(valkey.url, tmp_path / "pool", lease=5)
    made.folder.mkdir()
    yield made
    made.stop()


@pytest.fixture
def pipeline(pool: Pool, tmp_path: Path) -> Iterator[Pipeline]:
    settings = {"kind": "rq", "limit": 500, "poll_interval": 0.5, **pool.options}
    config = {"systems": {"pool": settings}, "limits": {"lease": "5s"}}
    made = Pipeline(tmp_path / "p", config=json.dumps(config))
    made.start()
    yield made
    made.stop()


def test_jobs_end_as_they_are_whoever_dies(pipeline: Pipeline, pool: Pool, tmp_path: Path) -> None:
    evidence = Evidence(tmp_path / "evidence")
    evidence.file.touch()
    ids = [f"j{i}" for i in range(60)]
    jobs = [{"id": i, "command": evidence.command("sleep 0.05", n % 3)} for n, i in enumerate(ids)]
    pipeline.client.submit_many(jobs)
    pipeline.until(lambda: _known(pipeline, "submitted") > 20)
    pool.work()
    pool.work()
    evidence.until_started(pipeline, 10)
    for role in ("starter", "fetcher", "manager"):
        pipeline.kill(role, signal.SIGKILL)
        pipeline.start(role)
    kill(pool.workers[0].pid)
    pool.work()
    pipeline.client.wait(ids, timeout=90)
    assert exits(pipeline.client, ids) == {i: n % 3 for n, i in enumerate(ids)}
    assert evidence.counts() == Counter((what, i) for i in ids for what in ("start", "end"))
    assert set(evidence.starts_of_runs().values()) == {1}
    pipeline.until(lambda: pool.system.survey(_record(pipeline)) == {})


def test_ends_are_pushed(pipeline: Pipeline, pool: Pool) -> None:
    pool.work()
    first = pipeline.client.wait(pipeline.client.submit({"command": "true"}), timeout=30)
    assert first.state == "done"
    pipeline.kill("starter", signal.SIGTERM)
    pipeline.config.write_text(pipeline.config.read_text().replace('"poll_interval": 0.5', '"poll_interval": 60'))
    pipeline.start("starter")
    pipeline.kill("fetcher", signal.SIGTERM)
    pipeline.start("fetcher")
    began = time.monotonic()
    pipeline.client.wait([pipeline.client.submit({"command": "true"}) for _ in range(5)], timeout=30)
    assert time.monotonic() - began < 20  # no poll has told it


def test_a_run_whose_horse_died_is_followed_by_another(pipeline: Pipeline, pool: Pool, tmp_path: Path) -> None:
    worker = pool.work()
    evidence = Evidence(tmp_path / "evidence")
    evidence.file.touch()
    body = "[ $JOBMILL_RUN -gt 1 ] || sleep 60"
    job = {"id": "again", "command": evidence.command(body, 5), "retry": {"max": 2, "delay": 0, "on": ["node_fail"]}}
    pipeline.client.submit(job)
    evidence.until_started(pipeline, 1)
    for horse in children(worker.pid):
        kill(horse)
    row = pipeline.client.wait("again", timeout=60)
    assert (row.run, row.exit["exit_value"]) == (2, 5)
    (lost,) = [run for run in pipeline.client.runs("again") if run["run"] == 1]
    assert lost["exit"]["reason"] == "node_fail" and "no heartbeat" in lost["exit"]["evidence"]
    assert evidence.starts_of_runs() == {("again", "1"): 1, ("again", "2"): 1}


def test_cancelled_in_line_and_while_it_runs(pipeline: Pipeline, pool: Pool, tmp_path: Path) -> None:
    pool.work()
    on = tmp_path / "on"
    pipeline.client.submit({"id": "runs", "command": f"trap '' TERM; touch {on}; while :; do sleep 1; done"})
    pipeline.until(on.exists)
    pipeline.client.submit({"id": "line", "command": "true"})
    pipeline.until(lambda: "waits for one of 1 workers" in _progress(pipeline, "line"))
    pipeline.client.cancel(["line", "runs"], why="enough")
    ended = pipeline.client.wait(["line", "runs"], timeout=60)
    line, runs = ended["line"], ended["runs"]
    assert (line.state, runs.state) == ("cancelled", "cancelled")
    assert (line.exit["exit_status"], runs.exit["exit_status"]) == ("aborted_before_running", "killed_by_user")
    pipeline.until(lambda: not pool.all_pids())


def test_steps_run_by_the_python_of_their_host(pipeline: Pipeline, pool: Pool) -> None:
    pool.work()
    steps = [{"name": "a", "command": "echo one > file"}, {"name": "b", "command": "cat file; exit 3"}]
    job = {"id": "steps", "ClassType": "Pool", "steps": steps, "outputs": ["file"]}
    row = pipeline.client.wait(pipeline.client.submit(job), timeout=60)
    assert (row.state, row.exit["exit_value"]) == ("failed", 3)
    home = pipeline.client.folder(row)
    assert (home / "stdout").exists() and (home / "steps").exists()


def test_files_go_there_and_come_home(pipeline: Pipeline, pool: Pool, tmp_path: Path) -> None:
    pool.work()
    (tmp_path / "reads").write_text("acgt\n")
    job = {
        "command": "rev reads > out.txt; echo said",
        "inputs": [{"from": str(tmp_path / "reads"), "to": "reads"}],
        "outputs": ["out.txt"],
    }
    row = pipeline.client.wait(pipeline.client.submit(job), timeout=60)
    assert row.state == "done", row.exit
    home = pipeline.client.folder(row)
    assert (home / "outputs" / "out.txt").read_text() == "tgca\n" and (home / "stdout").read_text() == "said\n"
    missing = pipeline.client.wait(pipeline.client.submit({"command": "true", "outputs": ["none"]}), timeout=60)
    assert missing.exit["reason"] == "missing_output"
    with redis.Redis.from_url(pool.url) as client:  # what was brought home is not kept twice
        pipeline.until(lambda: not [key for key in client.keys("jobmill:rq:*") if b":out:" in key or b":in:" in key])


def test_what_fits_in_no_queue_fails_at_once(pool: Pool, tmp_path: Path) -> None:
    settings = {"kind": "rq", "limit": 5, "queues": {"one": {"cpus": 1}}, **pool.options}
    pipeline = Pipeline(tmp_path / "q", config=json.dumps({"systems": {"pool": settings}}))
    try:
        pipeline.start()
        job = pipeline.client.submit({"command": "true", "resources": {"cpus": 4}})
        row = pipeline.client.wait(job, timeout=30)
        assert row.exit["reason"] == "submit_failed" and "one (cpus 1)" in row.exit["message"]
        waits = pipeline.client.submit({"command": "true"})
        pipeline.until(lambda: "nobody listens on queue one" in _progress(pipeline, waits))
    finally:
        pipeline.stop()


def test_the_pool_is_on_the_pipelines_own_server_by_default(pool: Pool, tmp_path: Path) -> None:
    config = {"systems": {"pool": {"kind": "rq"}}}
    pipeline = Pipeline(tmp_path / "q", config=json.dumps(config), url=pool.url)
    try:
        pipeline.start()
        pool.work()
        row = pipeline.client.wait(pipeline.client.submit({"command": "exit 4"}), timeout=30)
        assert row.exit["exit_value"] == 4
    finally:
        pipeline.stop()


def _progress(pipeline: Pipeline, job_id: str) -> str:
    with redis.Redis.from_url(pipeline.url) as client:
        return (client.hget(f"Job:{job_id}", "progress") or b"").decode()


def _record(pipeline: Pipeline) -> str:
    with redis.Redis.from_url(pipeline.url) as client:
        return bytes(client.get("Record") or b"").decode()


def _known(pipeline: Pipeline, state: str) -> int:
    with redis.Redis.from_url(pipeline.url) as client:
        keys = [key for key in client.scan_iter("Job:*") if client.type(key) == b"hash"]
        return sum(1 for key in keys if client.hget(key, "state") == state.encode())
