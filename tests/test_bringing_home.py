"""What a job leaves on a system that shares no files comes home: logs first, outputs by glob, whoever dies."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from chaos.disk import Disk, available
from far_pipeline import FarPipeline, ended, names

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def far(tmp_path: Path) -> Iterator[FarPipeline]:
    pipeline = FarPipeline(tmp_path)
    try:
        yield pipeline
    finally:
        pipeline.stop()


def submit(far: FarPipeline, command: str, **more: object) -> str:
    return far.client.submit({"command": command, "system": "far", "workdir": None, "inputs": [], **more})


PLAIN = {"inputs": ["/etc/passwd"]}  # so that it runs in its run folder


def test_logs_own_files_and_outputs_come_home(far: FarPipeline) -> None:
    far.start()
    job = submit(
        far,
        "echo out; echo err >&2; echo '{\"n\": 1}' > $JOBMILL_RETURN_FILE; mkdir -p d/e; touch a.sam; echo b > d/e/b",
        outputs=["*.sam", {"glob": "d", "required": False}, {"glob": "none", "required": False}],
        **PLAIN,
    )
    state, reason, row = ended(far.client, job)
    assert (state, reason) == ("done", None), row.exit
    home = far.home(job)
    assert (home / "stdout").read_text() == "out\n" and (home / "stderr").read_text() == "err\n"
    assert names(home / "outputs") == {b"a.sam", b"d/e/b"}
    assert far.client.result(job) == {"n": 1}
    assert "progress" not in row.facts and "exited" not in row.facts
    far.until(lambda: far.told("forgotten")[job] == 1)
    assert far.client.log(row) == b"out\n" and far.client.log(row, "stderr") == b"err\n"
    assert not (far.there / "jobs" / job / "run.1").exists()
    assert "end\n" in (home / "run").read_text()


@pytest.mark.parametrize(
    ("command", "want"),
    [("echo last; exit 3", ("failed", "exit_value")), ("echo last; kill -9 $$", ("failed", "signal"))],
)
def test_a_failed_job_brings_its_logs_and_what_it_made(far: FarPipeline, command: str, want: tuple[str, str]) -> None:
    far.start()
    job = submit(far, f"touch half; {command}", outputs=["half", "whole"], **PLAIN)
    state, reason, _ = ended(far.client, job)
    assert (state, reason) == want
    assert (far.home(job) / "stdout").read_text() == "last\n" and names(far.home(job) / "outputs") == {b"half"}


def test_a_required_output_that_is_not_there(far: FarPipeline) -> None:
    far.start()
    state, reason, row = ended(far.client, submit(far, "echo hi", outputs=["*.sam"], **PLAIN))
    assert (state, reason) == ("failed", "missing_output") and "*.sam (looked on far)" in row.exit["message"]
    assert row.exit["exit_value"] == 0 and far.client.log(row) == b"hi\n"


def test_success_needs_the_outputs_that_were_asked_for(far: FarPipeline) -> None:
    far.hook("out.fail")
    far.start()
    with_outputs = submit(far, "touch x; echo hi", outputs=["x"], **PLAIN)
    without = submit(far, "echo hi", **PLAIN)
    bad = submit(far, "exit 4", **PLAIN)
    state, reason, row = ended(far.client, with_outputs)
    assert (state, reason, row.exit["exit_value"]) == ("failed", "stage_failed", 0)
    assert "could not be brought home" in row.exit["message"] and "the hook says" in row.exit["message"]
    assert far.client.log(row) == b"hi\n"  # there: it is the only copy, so nothing was forgotten
    state, reason, row = ended(far.client, without)
    assert (state, reason) == ("done", None) and "could not be brought home" in row.exit["message"]
    state, reason, row = ended(far.client, bad)
    assert (state, reason, row.exit["exit_value"]) == ("failed", "exit_value", 4)
    time.sleep(1.5)
    assert not far.told("forgotten")


def test_an_outage_is_waited_for(far: FarPipeline) -> None:
    far.hook("out.down")
    far.start()
    job = submit(far, "echo hi > x", outputs=["x"], **PLAIN)
    far.until(lambda: "does not answer; tries again" in far.words_of(job))
    assert far.state_of(job) == "collecting"
    far.unhook("out.down")
    assert ended(far.client, job)[0] == "done" and (far.home(job) / "outputs" / "x").read_text() == "hi\n"


def test_an_outage_has_an_end(tmp_path: Path) -> None:
    far = FarPipeline(tmp_path, stage_patience=1.5)
    try:
        far.hook("out.down")
        far.start()
        job = submit(far, "echo hi > x", outputs=["x"], **PLAIN)
        state, reason, row = ended(far.client, job)
        assert (state, reason, row.exit["exit_value"]) == ("failed", "stage_failed", 0)
        assert "far does not answer" in row.exit["message"]
    finally:
        far.stop()


@pytest.mark.skipif(not available(), reason="a disk of limited size needs root: run the tests as root")
def test_a_full_disk_at_home_is_waited_for(tmp_path: Path) -> None:
    disk = Disk(tmp_path / "disk", 32)
    far: FarPipeline | None = None
    try:
        far = FarPipeline(tmp_path)
        spool = disk.folder / "spool"
        far.config.write_text(f"spool: {spool}\n" + far.config.read_text())
        far.start()
        job = submit(far, "sleep 2; head -c 8000000 /dev/zero > x", outputs=["x"], **PLAIN)
        far.until_state(job, "running")
        disk.fill()
        far.until(lambda: "cannot be brought home now" in far.words_of(job))
        assert far.state_of(job) == "collecting" and "No space left" in far.words_of(job)
        disk.free()
        assert ended(far.client, job)[0] == "done"
        assert (spool / "jobs" / job / "run.1" / "outputs" / "x").stat().st_size == 8_000_000
    finally:
        if far is not None:
            far.stop()
        disk.unmount()


def test_a_killed_fetcher_is_followed_by_another(far: FarPipeline) -> None:
    far.hook("out.slow", "0.3")
    far.start()
    job = submit(far, "for n in 1 2 3 4 5 6 7 8 9; do echo $n > $n.txt; done", outputs=["*.txt"], **PLAIN)
    far.until(lambda: (far.home(job) / "outputs" / "2.txt").exists())
    far.kill("fetcher")
    assert far.client.job(job).state == "collecting"
    far.unhook("out.slow")
    far.start("fetcher")
    state, reason, row = ended(far.client, job)
    assert (state, reason, row.run) == ("done", None, 1)
    assert names(far.home(job) / "outputs") == {b"%d.txt" % n for n in range(1, 10)}  # and no temporary ones
    assert far.told("attempts")[f"out {job}"] == 2


def test_two_fetchers_bring_it_once(far: FarPipeline) -> None:
    far.hook("out.slow", "0.2")
    far.start()
    first = far.workers["fetcher"]
    far.start("fetcher")
    try:
        job = submit(far, "for n in $(seq 12); do echo $n > $n.txt; done", outputs=["*.txt"], **PLAIN)
        began = time.monotonic()
        assert ended(far.client, job)[0] == "done" and time.monotonic() - began > 6  # longer than the lease
        assert far.told("attempts")[f"out {job}"] == 1
    finally:
        first.send_signal(signal.SIGTERM)
        first.wait(timeout=20)


def test_a_cancel_while_files_come_home_ends_it_with_its_logs(far: FarPipeline) -> None:
    far.hook("out.slow", "0.2")
    far.start()
    job = submit(far, "echo hi; for n in $(seq 500); do echo $n > $n.txt; done", outputs=["*.txt"], **PLAIN)
    far.until(lambda: (far.home(job) / "outputs").exists())
    began = time.monotonic()
    far.client.cancel([job], why="too slow")
    state, reason, row = ended(far.client, job)
    assert (state, reason) == ("cancelled", "cancelled") and time.monotonic() - began < 8
    assert "outputs were not brought home" in row.exit["message"]
    assert far.client.log(row) == b"hi\n"


def test_a_job_that_is_cancelled_while_it_runs_leaves_its_logs(far: FarPipeline) -> None:
    far.start()
    job = submit(far, "echo hi; sleep 60", outputs=["x"], **PLAIN)
    far.until_state(job, "running")
    far.until(lambda: far.client.log(far.client.job(job)) == b"hi\n")
    far.client.cancel([job])
    state, reason, _ = ended(far.client, job)
    assert (state, reason) == ("cancelled", "cancelled") and (far.home(job) / "stdout").read_text() == "hi\n"


def test_a_cancel_does_not_wait_for_a_system_that_hangs(far: FarPipeline) -> None:
    far.hook("out.hang")
    far.start()
    job = submit(far, "true", outputs=["x"], **PLAIN)
    far.until_state(job, "collecting")
    began = time.monotonic()
    far.client.cancel([job])
    assert ended(far.client, job)[0] == "cancelled" and time.monotonic() - began < 15
    far.unhook("out.hang")


def test_slow_ones_keep_no_quick_one(far: FarPipeline) -> None:
    far.hook("out.slow", "")  # 0.1 s a piece
    for number in range(6):
        far.hook(f"out.slow.quick-{number}", "0")
    far.start()
    slow = [
        submit(far, "for n in $(seq 150); do echo $n > $n.txt; done", outputs=["*.txt"], id=f"slow-{n}", **PLAIN)
        for n in range(4)
    ]
    for job in slow:
        far.until_state(job, "collecting")
    time.sleep(0.5)
    began = time.monotonic()
    quick = [submit(far, "touch 1.txt", outputs=["*.txt"], id=f"quick-{n}", **PLAIN) for n in range(6)]
    here = [far.client.submit({"command": "true", "system": "local"}) for _ in range(50)]
    assert {row.state for row in far.client.wait(quick + here, timeout=30).values()} == {"done"}
    assert time.monotonic() - began < 8
    far.unhook("out.slow")
    assert {row.state for row in far.client.wait(slow, timeout=60).values()} == {"done"}


def test_an_id_that_is_used_again_keeps_what_its_earlier_job_brought_home(far: FarPipeline) -> None:
    far.start()
    job = submit(far, "echo first", id="twice", **PLAIN)
    assert ended(far.client, job)[0] == "done"
    record = far.client.record
    arrival = int(float(record.call("HGET", "Job:twice", "score")))
    record.call("UNLINK", "Job:twice", "Spec:twice", "Job:twice:runs")
    record.call("ZREM", "Jobs:done", "twice")
    assert ended(far.client, submit(far, "echo second", id="twice", **PLAIN))[0] == "done"
    assert (far.home("twice") / "stdout").read_text() == "second\n"
    (aside,) = far.home("twice").parent.parent.glob(f"twice.*.{arrival}.1")
    assert (aside / "run.1" / "stdout").read_text() == "first\n"


def test_a_retry_brings_each_run_home(far: FarPipeline) -> None:
    far.start()
    job = submit(far, "echo $JOBMILL_RUN; exit 1", retry={"max": 1, "delay": 0, "on": ["failed"]}, **PLAIN)
    assert ended(far.client, job)[2].run == 2
    assert [(far.home(job, run) / "stdout").read_text() for run in (1, 2)] == ["1\n", "2\n"]
