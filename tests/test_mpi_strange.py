"""The `mpi` system among strangers: files that a job wrote, options that changed, and what others do meanwhile."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from farm import PATH
from mpi_ranks import MPIRUN, mpirun_for_tests
from test_mpi import Bench

from jobmill.errors import SystemUnavailable
from jobmill.systems import mpi, pilot_fleet, pilot_notices, process_tree, run_folder
from jobmill.systems.batch_row import Row
from jobmill.systems.pilot_fleet import PilotFleet
from jobmill.systems.pilot_here import PilotHere
from jobmill.systems.system import NativeState

pytestmark = pytest.mark.timeout(90)
FAR = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]  # ranks as if they were on another host


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "spool", launcher=["false"])
    yield made
    made.close()


def room(bench: Bench, name: str, **files: object) -> Path:
    """Make the folder of an allocation with such files in it; those that are no text become JSON."""
    folder = bench.spool / "pilots/mpi/allocations" / name
    folder.mkdir(parents=True)
    for file, said in files.items():
        text = said if isinstance(said, str) else json.dumps(said)
        (folder / file.replace("_", ".")).write_text(text)
    return folder


@pytest.mark.parametrize(
    "said",
    ['{"beat": "x"}', '{"beat": {}}', '{"left": [], "state": 7, "table": 3}', "[" * 100_000, "\0", '{"beat": 1e999}'],
)
def test_what_a_rank_is_said_to_say_stops_nobody(bench: Bench, said: str) -> None:
    (handle,) = bench.system.submit([bench.job("a", "exit 0")])
    room(bench, "1", native=f"1@{run_folder.BOOT}", rank_0=said, terms="{}", script="x")
    bench.system.release([str(handle)])
    bench.system.survey("rec")
    assert bench.system.status([str(handle)])[str(handle)].state is NativeState.SUBMITTED


@pytest.mark.parametrize(
    "said", ['{"time": "x", "phase": []}', '{"time": [], "reason": 1}', "[" * 100_000, '{"time": 1e999}']
)
def test_how_an_allocation_is_said_to_have_ended_stops_nobody(bench: Bench, said: str) -> None:
    (handle,) = bench.system.submit([bench.job("a", "exit 0")])
    room(bench, "1", native=f"1@{run_folder.BOOT}", ended=said, terms="{}")
    bench.system.release([str(handle)])
    bench.system.survey("rec")
    assert bench.system.status([str(handle)])[str(handle)].state is NativeState.SUBMITTED


@pytest.mark.parametrize("name", ["007", "0", "9999999", "123456789012345678901234567890"])
def test_a_strange_folder_is_no_allocation(bench: Bench, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its number would be counted on from, up to those that no rank's folder can bear."""
    bench.system.survey("rec")
    room(bench, name)
    (bench.spool / "pilots/mpi/allocations/12").touch()
    monkeypatch.setattr(pilot_fleet, "UNANSWERED", 0.0)
    (handle,) = bench.system.submit([bench.job("a", "exit 0")])
    bench.system.release([str(handle)])
    for _ in range(3):
        bench.system._fleet._asked_at = -1e9
        bench.system.survey("rec")
    assert set(bench.allocations()) == {name, "12", "1"} or set(bench.allocations()) == {name, "12", "13"}


def test_the_thread_that_sees_to_allocations_survives_what_nobody_thought_of(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def fail(*words: Any) -> Any:
        calls.append(1)
        raise ValueError("nobody thought of it")

    monkeypatch.setattr(PilotFleet, "scale", fail)
    monkeypatch.setattr(pilot_notices, "TURN", 0.05)
    bench.system.fileno()
    bench.until(lambda: len(calls) > 2, 5)
    monkeypatch.undo()


def test_what_is_made_while_the_scheduler_is_asked_is_not_cancelled(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process asks for an allocation after we looked, and before the scheduler answers us."""
    bench.system.survey("rec")
    room(bench, "1", native=f"1@{run_folder.BOOT}", script="x", terms="{}")
    cancelled: list[Row] = []
    real = PilotHere.queue

    def queue(self: PilotHere) -> Sequence[Row]:
        room(bench, "2", native=f"2@{run_folder.BOOT}", script="x", terms="{}")
        return real(self)

    monkeypatch.setattr(PilotHere, "queue", queue)
    monkeypatch.setattr(PilotHere, "free", lambda self, ids: None)
    monkeypatch.setattr(PilotHere, "cancel", lambda self, rows, force: cancelled.extend(rows))
    bench.system._fleet.ask(bench.system._fleet.look())
    assert not cancelled


def test_a_launch_that_no_rank_can_hold_any_more_asks_for_no_allocation(bench: Bench, tmp_path: Path) -> None:
    """The options were changed while it waited: each allocation would stand idle, end, and be followed by the next."""
    wide = Bench(bench.spool, launcher=["false"], cpus=8)
    (one,) = wide.system.submit([wide.job("a", "exit 0", cpus=8)])
    narrow = bench.another(cpus=2)
    narrow.release([str(one)])
    narrow.survey("rec")
    assert bench.allocations() == []
    look = narrow.status([str(one)])[str(one)]
    assert look.state is NativeState.SUBMITTED and "8 cpus" in str(look.reason) and "2" in str(look.reason), look
    wide.system.release([str(one)])
    wide.system.survey("rec")
    assert bench.allocations() == ["1"], "where it fits again, it counts"


def test_a_walltime_of_a_hundred_years_is_seen_in_line(bench: Bench) -> None:
    (one,) = bench.system.submit([bench.job("a", "exit 0", walltime=3.2e9)])
    assert bench.system.status([str(one)])[str(one)].held


def test_a_refused_launch_is_not_waited_for(bench: Bench) -> None:
    bench.system.fileno()
    bench.system.submit([bench.job("a", "exit 0", cpus=100)])
    assert bench.system._notices is not None and not bench.system._notices._out


def test_an_allocation_that_came_while_somebody_asked_is_not_taken_for_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a rank of it runs, of which only files tell, must not get an end from who has not seen its folder yet."""
    mpirun_for_tests()
    bench = Bench(tmp_path / "spool", launcher=[*FAR, *MPIRUN, "{ranks}"])
    try:
        slow = bench.another()
        slow.survey("rec")
        before = slow._fleet.look()
        assert before == {}
        (one,) = bench.launch(bench.job("a", "sleep 4; exit 3"))
        bench.running(one)
        slow._deal(before)  # as it goes on after a question that took its time
        assert bench.system.exit_info([one]) == {}
        assert bench.end(one).exit_value == 3
    finally:
        bench.close()


def test_what_was_told_to_have_ended_leaves_the_folders(tmp_path: Path) -> None:
    """Whose end is pushed is forgotten by nobody else: a day of it would be read at each look."""
    mpirun_for_tests()
    bench = Bench(tmp_path / "spool")
    try:
        bench.launch(*[bench.job(f"a{n}", f"exit {n % 2}", n + 1) for n in range(50)])
        bench.until(lambda: len(bench.ended) == 50)
        bench.until(lambda: not bench.line.where(), 10)
    finally:
        bench.close()


def test_a_silent_rank_on_another_host_makes_its_jobs_unknown_not_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mpirun_for_tests()
    bench = Bench(tmp_path / "spool", launcher=[*FAR, *MPIRUN, "{ranks}"])
    monkeypatch.setattr(mpi, "SILENT", 4.0)
    still: list[int] = []
    try:
        (one,) = bench.launch(bench.job("a", "sleep 3; exit 3"))
        bench.running(one)
        words = str(bench.spool).encode()
        everyone = [(it.pid, process_tree.command_line(it.pid)) for it in process_tree.table().values()]
        still = [pid for pid, line in everyone if words in line and b"pilot_rank" in line]
        assert len(still) == 2
        for pid in still:
            os.kill(pid, signal.SIGSTOP)
        bench.until(lambda: bench.state(one) is NativeState.UNKNOWN, 15)
        assert "no sign of life" in str(bench.system.status([one])[one].reason)
        time.sleep(2)
        assert bench.state(one) is NativeState.UNKNOWN and bench.system.exit_info([one]) == {}
        for pid in still:
            os.kill(pid, signal.SIGCONT)
        assert bench.end(one).exit_value == 3
    finally:
        for pid in still:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGCONT)
        bench.close()


def test_a_full_disk_delays_ends_and_starts_and_loses_none(tmp_path: Path) -> None:
    """The spool lies on a file system of its own, which somebody fills while one job runs and another waits."""
    mpirun_for_tests()
    spool = tmp_path / "spool"
    spool.mkdir()
    if subprocess.call(["mount", "-t", "tmpfs", "-o", "size=4M", "tmpfs", str(spool)], stderr=subprocess.DEVNULL):
        pytest.skip("mounting needs root: sudo make test")
    bench = Bench(spool)
    try:
        (one,) = bench.launch(bench.job("a", "sleep 4; exit 3"))
        bench.running(one)
        (waits,) = bench.system.submit([bench.job("b", "exit 4", 2)])
        full = spool / "full"
        with contextlib.suppress(OSError), full.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        bench.system.release([str(waits)])
        with pytest.raises(SystemUnavailable):
            bench.system.submit([bench.job("c", "exit 5", 3)])
        time.sleep(6)
        look = bench.system.status([str(waits)])[str(waits)]  # what somebody freed meanwhile may have let it run
        assert look.state not in (NativeState.ABSENT, NativeState.UNKNOWN), look
        full.unlink()
        assert bench.end(one).exit_value == 3
        assert bench.end(str(waits)).exit_value == 4
    finally:
        bench.close()
        subprocess.call(["umount", "-l", str(spool)])


def test_doctor_tells_root_that_mpirun_refuses_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mpirun_for_tests()
    monkeypatch.setattr(os, "geteuid", lambda: 0)

    def told(**options: Any) -> Any:
        made = mpi.MpiSystem.build("mpi", {"path": PATH, **options}, tmp_path / "spool")
        return next(check for check in made.check() if check.name == "launcher")

    refused = told()
    assert not refused.ok and "for root" in refused.detail and "--allow-run-as-root" in refused.fix
    assert told(launcher=[*MPIRUN, "{ranks}"]).ok and told(launcher=["sh"]).ok
