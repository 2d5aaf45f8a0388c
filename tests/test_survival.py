"""kill -9 of every process in turn, while 200 jobs run: each ends exactly once, with its own exit code."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from laws import violations
from pipeline import Evidence, Pipeline, exits

from jobmill.ledger import launch
from jobmill.systems import run_folder
from jobmill.systems.launch_token import life

JOBS = 200


@pytest.fixture
def pipeline(tmp_path: Path) -> Iterator[Pipeline]:
    made = Pipeline(tmp_path)
    yield made
    made.stop()


def submit(pipeline: Pipeline, evidence: Evidence) -> dict[str, int]:
    """Submit 200 jobs, sleeping ones and working ones, with exit codes of their own; return id -> exit code."""
    expected, jobs = {}, []
    for n in range(JOBS):
        body = "sleep 0.05" if n % 2 else "head -c 300000 /dev/urandom | sha256sum > /dev/null"
        job_id = f"job-{n}"
        expected[job_id] = n % 3
        jobs.append({"id": job_id, "command": evidence.command(body, n % 3), "workdir": "/tmp"})
    pipeline.client.submit_many(jobs)
    return expected


def check(pipeline: Pipeline, evidence: Evidence, expected: dict[str, int]) -> None:
    """All ended once, with the right codes; nothing held, nothing left in any list."""
    rows = pipeline.client.wait(list(expected), timeout=90)
    assert {row.state for row in rows.values()} <= {"done", "failed"}, [
        (r.id, r.state, r.exit) for r in rows.values() if r.state not in ("done", "failed")
    ]
    assert exits(pipeline.client, list(expected)) == expected
    counts = evidence.counts()
    assert {i: (counts["start", i], counts["end", i]) for i in expected} == dict.fromkeys(expected, (1, 1))
    client = pipeline.client.record.client
    pipeline.until(lambda: not violations(client, at_rest=True), timeout=20)
    assert client.scard("LocalJobs") == 0


@pytest.mark.timeout(180)
@pytest.mark.parametrize("victim", ["manager", "starter", "fetcher", "runner", "guard", "server"])
def test_all_jobs_end_exactly_once_when_a_process_is_killed(pipeline: Pipeline, tmp_path: Path, victim: str) -> None:
    evidence = Evidence(tmp_path / "evidence")
    evidence.file.touch()
    pipeline.start()
    expected = submit(pipeline, evidence)
    for kill in range(3):
        evidence.until_started(pipeline, 25 * (kill + 1))
        if victim == "server":
            pipeline.kill_server()
        else:
            pipeline.kill(victim)
            if victim in pipeline.workers:
                pipeline.start(victim)
    check(pipeline, evidence, expected)


@pytest.mark.timeout(180)
def test_all_jobs_end_exactly_once_when_guard_and_starter_die_together(pipeline: Pipeline, tmp_path: Path) -> None:
    evidence = Evidence(tmp_path / "evidence")
    evidence.file.touch()
    pipeline.start()
    expected = submit(pipeline, evidence)
    evidence.until_started(pipeline, 40)
    pipeline.kill("guard")
    pipeline.kill("starter")
    pipeline.start("starter")
    check(pipeline, evidence, expected)


@pytest.mark.timeout(120)
def test_a_walltime_holds_when_guard_and_runner_are_dead(pipeline: Pipeline) -> None:
    pipeline.start()
    job_id = pipeline.client.submit({"command": "trap '' TERM; sleep 60; sleep 60", "resources": {"walltime": "3s"}})
    pipeline.until(lambda: pipeline.client.record.client.hget(f"Job:{job_id}", "state") == b"running")
    for pid in [*pipeline.pids("guard"), *pipeline.pids("runner")]:
        os.kill(pid, signal.SIGKILL)
    row = pipeline.client.wait(job_id, timeout=40)
    assert (row.state, row.exit["reason"], row.run) == ("failed", "timeout", 1)


@pytest.mark.timeout(120)
def test_what_is_cancelled_when_guard_and_runner_are_dead_has_been_running(pipeline: Pipeline) -> None:
    pipeline.start()
    job_id = pipeline.client.submit({"command": "sleep 60"})
    pipeline.until(lambda: pipeline.client.record.client.hget(f"Job:{job_id}", "state") == b"running")
    for pid in [*pipeline.pids("guard"), *pipeline.pids("runner")]:
        os.kill(pid, signal.SIGKILL)
    pipeline.client.cancel([job_id])
    row = pipeline.client.wait(job_id, timeout=40)
    assert (row.state, row.exit["exit_status"], row.exit["reason"]) == ("cancelled", "killed_by_user", "cancelled")


@pytest.mark.timeout(120)
def test_a_marker_that_a_dead_runner_left_holds_up_nobody(pipeline: Pipeline) -> None:
    pipeline.start()
    client, record = pipeline.client, pipeline.client.record
    client.wait(client.submit({"id": "before", "command": "true"}), timeout=20)
    client.submit({"id": "marked", "command": "true", "hold": True})
    pipeline.until(lambda: record.client.hget("Job:marked", "state") == b"held")
    arrival = launch.standings(record, ["marked"])["marked"].arrival
    token = f"{life(record.identity(), arrival)}:marked:1"
    folder = run_folder.enter(os.fsencode(pipeline.state / "spool"), token)
    os.close(run_folder.take(folder, run_folder.header(token, "local/gone.table")))
    client.release(["marked"])
    pipeline.until(lambda: record.client.hget("Job:marked", "state") == b"starting")
    client.submit({"id": "behind", "command": "sleep 60"})
    pipeline.until(lambda: record.client.hget("Job:behind", "state") == b"running", timeout=5)
    client.cancel(["behind"])
    assert client.wait("behind", timeout=15).state == "cancelled"
    row = client.wait("marked", timeout=40)  # its lease ran out, and it was settled: it had never started
    assert (row.state, row.run, client.runs("marked")[0]["reason"]) == ("done", 2, "sealed")


@pytest.mark.timeout(120)
def test_slots_of_jobs_that_nobody_saw_end_are_free_within_seconds(pipeline: Pipeline) -> None:
    pipeline.start()
    lost = pipeline.client.submit_many([{"command": "sleep 1"} for _ in range(4)])
    redis = pipeline.client.record.client
    pipeline.until(lambda: redis.zcard("Running_Queue") == 4)
    for pid in [*pipeline.pids("guard"), *pipeline.pids("runner")]:
        os.kill(pid, signal.SIGKILL)
    began = time.monotonic()
    assert pipeline.client.wait(pipeline.client.submit({"command": "sleep 0.1"}), timeout=40).state == "done"
    assert time.monotonic() - began < 12  # they are polled at once; the grace, and what a busy machine adds
    assert {row.state for row in pipeline.client.wait(lost, timeout=5).values()} == {"lost"}


def test_a_spool_that_cannot_be_written_puts_jobs_off_and_fails_none(pipeline: Pipeline, tmp_path: Path) -> None:
    evidence = Evidence(tmp_path / "evidence")
    evidence.file.touch()
    jobs = pipeline.state / "spool" / "jobs"
    jobs.parent.mkdir(parents=True)
    jobs.write_text("a file where the folder of run folders has to be")
    pipeline.start()
    specs = [{"command": evidence.command("true", n % 3), "workdir": "/tmp"} for n in range(9)]
    ids = pipeline.client.submit_many(specs)
    redis = pipeline.client.record.client
    pipeline.until(lambda: redis.zcard("Later") == 9)
    assert b"spool" in redis.hget(f"Job:{ids[0]}", "why")
    jobs.unlink()
    rows = pipeline.client.wait(ids, timeout=40)
    assert {row.run for row in rows.values()} == {1}  # it cost neither a run nor a retry
    assert exits(pipeline.client, ids) == {job_id: n % 3 for n, job_id in enumerate(ids)}
    assert violations(redis, at_rest=True) == []
