"""Launches wait for their inputs beside the loop: under a lease, in nobody's way, and whoever dies meanwhile."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chaos.disk import Disk, available
from far_pipeline import FarPipeline, ended
from pipeline import Evidence

from jobmill.jobs.spec import JobSpec

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def far(tmp_path: Path) -> Iterator[FarPipeline]:
    pipeline = FarPipeline(tmp_path)
    try:
        yield pipeline
    finally:
        pipeline.stop()


def tree(folder: Path, count: int = 3) -> str:
    folder.mkdir()
    for number in range(count):
        (folder / str(number)).write_text(f"{number}\n")
    return str(folder)


def stages(far: FarPipeline) -> set[str]:
    """Return what waits in the stage folders."""
    return {path.name for spool in (far.there, far.state / "spool") for path in spool.glob("stage/*/*")}


@pytest.mark.parametrize("system", ["local", "far"])
def test_a_job_finds_its_inputs(far: FarPipeline, tmp_path: Path, system: str) -> None:
    far.start()
    source = tree(tmp_path / "tree")
    inputs = [source, {"from": f"{source}/1", "to": "deep/one"}]
    job = far.client.submit({"command": "cat tree/* deep/one; echo x >> tree/0", "inputs": inputs, "system": system})
    state, reason, row = ended(far.client, job)
    assert (state, reason) == ("done", None), row.exit
    assert far.client.log(row) == b"0\n1\n2\n1\n" and (tmp_path / "tree" / "0").read_text() == "0\n"
    assert stages(far) == set() and "progress" not in row.facts


def test_inputs_come_into_a_workdir_and_replace_nothing(far: FarPipeline, tmp_path: Path) -> None:
    far.start()
    (tmp_path / "f").write_text("new\n")
    work = tmp_path / "work"
    work.mkdir()
    job: dict[str, Any] = {"command": "cat f", "inputs": [str(tmp_path / "f")], "workdir": str(work)}
    first = far.client.submit(job | {"system": "local"})
    assert ended(far.client, first)[0] == "done" and (work / "f").read_text() == "new\n"
    assert ended(far.client, far.client.submit(job | {"system": "local"}))[0] == "done"  # the same is there: fine
    (work / "f").write_text("old\n")
    state, reason, row = ended(far.client, far.client.submit(job | {"system": "local"}))
    assert (state, reason) == ("failed", "stage_failed") and "is there with other content" in row.exit["message"]
    assert (work / "f").read_text() == "old\n" and row.exit["exit_status"] == "aborted_before_running"


def test_relative_inputs_are_those_of_the_folder_where_it_was_submitted(
    far: FarPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    (here / "f").write_text("f\n")
    monkeypatch.chdir(here)
    spec = far.client.complete(JobSpec.parse({"command": "x", "inputs": ["f", {"from": "../z", "to": "y"}]}))
    assert [(one.source, one.target) for one in spec.inputs] == [(str(here / "f"), "f"), (str(tmp_path / "z"), "y")]
    assert spec.workdir is None  # it runs where its inputs come to
    far.start()
    job = far.client.submit({"command": "cat f; ls", "inputs": "f", "system": "local"})
    assert far.client.log(ended(far.client, job)[2]).startswith(b"f\nf\n")
    assert os.listdir(here) == ["f"]  # noqa: PTH208


def test_a_push_has_no_folder_that_an_input_could_be_relative_to(far: FarPipeline) -> None:
    far.start("manager")
    far.client.record.call("RPUSH", "Job_Queue", json.dumps({"id": "loose", "command": "x", "inputs": ["f"]}))
    far.until(lambda: bool(far.client.record.call("LLEN", "Dead_Queue")))
    assert b"'f' is relative" in far.client.record.call("LINDEX", "Dead_Queue", 0)


@pytest.mark.parametrize("system", ["local", "far"])
def test_what_cannot_come_ends_the_job_and_can_be_retried(far: FarPipeline, tmp_path: Path, system: str) -> None:
    far.start()
    gone = far.client.submit({"command": "true", "inputs": [str(tmp_path / "gone")], "system": system})
    os.mkfifo(tmp_path / "pipe")
    pipe = far.client.submit({"command": "true", "inputs": [str(tmp_path / "pipe")], "system": system})
    for job, words in ((gone, "gone does not exist"), (pipe, "neither a file nor a folder")):
        state, reason, row = ended(far.client, job)
        assert (state, reason) == ("failed", "stage_failed") and words in row.exit["message"]
    late = {"max": 9, "delay": "0.5s", "backoff": 1, "on": ["stage_failed"]}
    job = far.client.submit(
        {"command": "cat gone", "inputs": [str(tmp_path / "gone")], "system": system, "retry": late}
    )
    far.until(lambda: far.state_of(job) == "later")
    (tmp_path / "gone").write_text("here\n")
    state, _, row = ended(far.client, job)
    assert state == "done" and row.run > 1 and far.client.log(row) == b"here\n"


def test_a_system_that_brings_nothing_says_so(tmp_path: Path) -> None:
    from pipeline import Pipeline

    pipeline = Pipeline(tmp_path / "p", config="systems: {fake: {kind: fake, limit: 9}}")
    try:
        pipeline.start()
        job = pipeline.client.submit({"command": "true", "inputs": ["/etc/passwd"]})
        state, reason, row = ended(pipeline.client, job)
        assert (state, reason) == ("failed", "stage_failed") and "brings no inputs" in row.exit["message"]
    finally:
        pipeline.stop()


def test_slow_stagings_keep_no_quick_job(far: FarPipeline, tmp_path: Path) -> None:
    source, small = tree(tmp_path / "tree", 300), tree(tmp_path / "small", 1)
    far.hook("in.slow", "0.01")  # for each of 300 files, twice: 3 s at least
    for number in range(20):
        far.hook(f"in.slow.quick-{number}", "0")
    far.start()
    slow = [
        far.client.submit({"command": "ls tree | wc -l", "inputs": [source], "system": "far", "id": f"slow-{n}"})
        for n in range(20)
    ]
    far.until(lambda: any("stages in" in far.words_of(job) for job in slow))
    began = time.monotonic()
    quick = [far.client.submit({"command": "true", "system": "local"}) for _ in range(200)]
    quick += [
        far.client.submit({"command": "cat small/0", "inputs": [small], "system": "far", "id": f"quick-{n}"})
        for n in range(20)
    ]
    far.client.cancel(slow[15:])
    rows = far.client.wait(quick, timeout=40)
    assert {row.state for row in rows.values()} == {"done"} and time.monotonic() - began < 15
    assert far.client.wait(slow[19]).state == "cancelled"
    far.unhook("in.slow")
    rows = far.client.wait(slow, timeout=60)
    assert sorted({str(row.state) for row in rows.values()}) == ["cancelled", "done"]
    assert far.client.log(rows[slow[0]]) == b"300\n" and all(row.run == 1 for row in rows.values())


def test_a_long_staging_keeps_its_lease_and_tells_how_far_it_is(far: FarPipeline, tmp_path: Path) -> None:
    source = tree(tmp_path / "tree", 70)
    far.hook("in.slow", "0.1")
    far.start()
    job = far.client.submit({"command": "ls tree | wc -l", "inputs": [source], "system": "far"})
    far.until(lambda: far.words_of(job).startswith("stages in "), 60)
    assert far.state_of(job) == "starting"
    assert "/70, " in far.words_of(job) and far.words_of(job).endswith(" bytes")
    from jobmill.ledger.explanation import Explainer

    assert Explainer(far.client.record).reason(far.client.job(job)).why.startswith("stages in ")
    state, _, row = ended(far.client, job)  # some 7 s: longer than the lease of 5
    assert (state, row.run) == ("done", 1) and "progress" not in row.facts


@pytest.mark.parametrize("hook", ["in.slow", "in.hang"])
def test_a_cancel_ends_a_staging_at_once(far: FarPipeline, tmp_path: Path, hook: str) -> None:
    far.hook(hook, "0.3")
    far.start()
    job = far.client.submit({"command": "true", "inputs": [tree(tmp_path / "tree", 500)], "system": "far"})
    far.until(lambda: far.words_of(job) != "")
    began = time.monotonic()
    far.client.cancel([job], why="no")
    state, reason, row = ended(far.client, job)
    assert (state, reason) == ("cancelled", "cancelled") and time.monotonic() - began < 5
    assert row.exit["exit_status"] == "aborted_before_running"
    far.unhook(hook)
    far.until(lambda: stages(far) == set())
    assert far.client.wait(far.client.submit({"command": "true", "system": "far"}), timeout=20).state == "done"


def test_a_cancel_in_line_removes_what_was_brought(tmp_path: Path) -> None:
    far = FarPipeline(tmp_path, slots=1)
    try:
        far.start()
        far.client.record.call("HSET", "Pace", "local", "1")  # jobs are short there: more is granted than runs
        source = tree(tmp_path / "tree")
        jobs = far.client.submit_many([{"command": "sleep 30", "system": "local", "inputs": [source]}] * 2)
        far.until(lambda: "running" in map(far.state_of, jobs))
        first, second = sorted(jobs, key=far.state_of)  # whose inputs were there first runs, and the other one waits
        far.until(lambda: len(stages(far)) == 1 and far.words_of(second) == "")
        far.client.cancel([second])
        assert ended(far.client, second)[0] == "cancelled"
        far.until(lambda: stages(far) == set())
        far.client.cancel([first])
        assert ended(far.client, first)[0] == "cancelled"
    finally:
        far.stop()


def test_a_launch_that_could_not_start_leaves_nothing_there(far: FarPipeline, tmp_path: Path) -> None:
    far.start()
    job = far.client.submit({"command": ["/no/such"], "inputs": [tree(tmp_path / "tree")], "system": "far"})
    state, reason, row = ended(far.client, job)
    assert (state, reason, row.exit["exit_value"]) == ("failed", "start_failed", 127)
    far.until(lambda: far.told("forgotten")[job] == 1)
    far.until(lambda: stages(far) == set() and not (far.there / "jobs" / job / "run.1").exists())


def test_an_outage_gives_the_launch_back(far: FarPipeline, tmp_path: Path) -> None:
    far.hook("in.down")
    far.start()
    job = far.client.submit({"command": "true", "inputs": [tree(tmp_path / "tree")], "system": "far"})
    far.until_state(job, "later")
    assert b"far does not answer" in far.client.record.call("HGET", f"Job:{job}", "why")
    far.unhook("in.down")
    state, _, row = ended(far.client, job)
    assert (state, row.run) == ("done", 1) and "retries" not in row.facts


def test_a_warm_stop_gives_it_back_and_the_next_starter_goes_on(far: FarPipeline, tmp_path: Path) -> None:
    far.hook("in.slow", "0.05")
    far.start()
    job = far.client.submit({"command": "ls tree | wc -l", "inputs": [tree(tmp_path / "tree", 200)], "system": "far"})
    far.until(lambda: far.words_of(job).startswith("stages in "), 60)
    began = time.monotonic()
    far.workers["starter"].terminate()
    assert far.workers["starter"].wait(10) == 0 and time.monotonic() - began < 5
    far.until_state(job, "granted")  # by the manager, which grants it anew
    assert far.words_of(job) == "" and len(stages(far)) == 1
    far.unhook("in.slow")
    far.start("starter")
    state, _, row = ended(far.client, job)
    assert (state, row.run, far.client.log(row)) == ("done", 1, b"200\n")


@pytest.mark.parametrize("system", ["local", "far"])
def test_a_killed_starter_costs_a_run_number(far: FarPipeline, tmp_path: Path, system: str) -> None:
    evidence = Evidence(tmp_path / "evidence")
    evidence.file.touch()
    far.hook("in.slow", "0.05")
    inputs = [tree(tmp_path / "tree", 100)]
    if system == "local":
        with (tmp_path / "big").open("wb") as file:
            file.truncate(6 << 30)  # no bytes on the disk, and seconds to copy
        inputs = [str(tmp_path / "big")]
    far.start()
    job = far.client.submit({"command": evidence.command("ls", 0), "inputs": inputs, "system": system})
    far.until(lambda: "stages in" in far.words_of(job))
    far.kill("starter", signal.SIGKILL)
    far.unhook("in.slow")
    if system == "local":
        (tmp_path / "big").unlink()
        (tmp_path / "big").write_text("small")
    far.start("starter")
    state, _, row = ended(far.client, job)
    assert (state, row.run) == ("done", 2)
    assert evidence.starts_of_runs() == {(job, "2"): 1}
    assert "stage" not in far.client.log(row).decode()


@pytest.mark.skipif(not available(), reason="a disk of limited size needs root: run the tests as root")
def test_a_full_disk_gives_it_back_until_there_is_room(tmp_path: Path) -> None:
    disk = Disk(tmp_path / "disk", 24)
    far: FarPipeline | None = None
    try:
        far = FarPipeline(tmp_path)
        spool = disk.folder / "spool"
        far.config.write_text(f"spool: {spool}\n" + far.config.read_text())
        (tmp_path / "f").write_bytes(b"x" * (8 << 20))
        (tmp_path / "g").write_bytes(b"x" * (64 << 20))
        far.start()
        far.until(lambda: (spool / "guards").exists())
        disk.fill()
        job = far.client.submit({"command": "wc -c < f", "inputs": [str(tmp_path / "f")], "system": "local"})
        far.until_state(job, "later")
        why = far.client.record.call("HGET", f"Job:{job}", "why").decode()
        assert "are free" in why or "No space left" in why
        never = far.client.submit({"command": "true", "inputs": [str(tmp_path / "g")], "system": "local"})
        disk.free()
        state, _, row = ended(far.client, job)
        assert (state, far.client.log(row)) == ("done", b"8388608\n")
        state, reason, row = ended(far.client, never)
        assert (state, reason) == ("failed", "stage_failed") and "the whole disk" in row.exit["message"]
    finally:
        if far is not None:
            far.stop()
        disk.unmount()
