"""The `mpi` system over real Slurm, three nodes: one allocation is one pilot, and how it ends is told of its jobs."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from slurm_farm import Slurm
from test_mpi import SLEEP, Bench
from test_mpi_conformance import stop
from test_slurm import up

from jobmill.systems import process_tree
from jobmill.systems.mpi import MpiSystem
from jobmill.systems.pilot_fleet import PilotFleet
from jobmill.systems.slurm import SlurmSystem
from jobmill.systems.system import ExecutionSystem, NativeState, Submission, SubmitError
from jobmill.testing import Conformance

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Slurm]:
    """Three nodes; what runs in the partition `low` gives way to the others."""
    low = "PartitionName=low Nodes=ALL PriorityTier=0 PreemptMode=CANCEL MaxTime=INFINITE State=UP"
    settings = [low, "PreemptType=preempt/partition_prio", "PreemptMode=CANCEL", "OverTimeLimit=0"]
    yield from up(nodes=3, settings=settings)


def over(cluster: Slurm, **more: Any) -> dict[str, Any]:
    """Return the options of a pilot over this cluster: three ranks on three nodes."""
    said = {"over": {"kind": "slurm", "env": cluster.env, "late": 1}, "ranks": 3, "nodes": 3, "cpus": 2}
    return said | {"walltime": 300, "idle": 20, "kill_grace": 0.5, "poll_interval": 1, "drain": 20} | more


class Pilot(Bench):
    """A pilot over Slurm, and the launches of one test."""

    def __init__(self, cluster: Slurm, spool: Path, **more: Any) -> None:
        self.cluster = cluster
        super().__init__(spool, **more)

    def another(self, **more: Any) -> MpiSystem:
        made = MpiSystem.build("mpi", over(self.cluster, **{**self.more, **more}), self.spool)
        self.systems.append(made)
        return made

    def queue(self) -> list[list[str]]:
        """Return [id, state, name] of what Slurm has in line or running."""
        words = self.cluster.command("squeue", "-h", "--states=PENDING,RUNNING", "--Format=JobID:|,State:|,Name:|")
        return [[it.strip() for it in line.split("|")[:3]] for line in words.splitlines()]

    def native(self, number: int = 1) -> str:
        path = self.spool / f"pilots/mpi/allocations/{number}/native"
        self.until(path.exists)
        return path.read_text()


@pytest.fixture
def bench(cluster: Slurm, tmp_path: Path) -> Iterator[Pilot]:
    made = Pilot(cluster, tmp_path / "spool")
    yield made
    for it in made.systems:
        it.close()
    cluster.empty()


class TestConformance(Conformance):
    """Three ranks by srun on three nodes."""

    quiet = 2.5
    patience = 60.0
    many: ClassVar[int] = 100
    cluster: Slurm

    @pytest.fixture(autouse=True)
    def _cluster(self, cluster: Slurm, tmp_path: Path) -> Iterator[None]:
        self.cluster = cluster
        yield
        stop(tmp_path / "spool")
        cluster.empty()

    def make(self, spool: Path) -> ExecutionSystem:
        return MpiSystem.build("mpi", over(self.cluster, allocations=2), spool)

    def make_absent(self, spool: Path) -> ExecutionSystem:
        (spool / "file").touch()
        return MpiSystem.build("mpi", over(self.cluster), spool / "file" / "below")


def test_one_allocation_of_three_nodes_is_one_pilot(bench: Pilot) -> None:
    text = 'echo "$JOBMILL_RANK of $JOBMILL_ALLOCATION"; env | grep -c "^SLURM"; sleep 1.5'
    handles = bench.launch(*[bench.job(f"a{n}", text, n + 1) for n in range(6)])
    bench.until(lambda: bench.queue())
    ((native, _, name),) = bench.queue()
    assert name.startswith("pilot.") and native == bench.native()
    for handle in handles:
        assert bench.end(handle).regular
    said = [bench.file(f"a{n}").split() for n in range(6)]
    assert sorted(words[0] for words in said) == ["0", "0", "1", "1", "2", "2"], said
    assert {words[3] for words in said} == {"0"}, "what srun told its rank is none of the job's"
    nodes = bench.cluster.command("squeue", "-h", "-j", native, "-o", "%D %C").split()
    assert nodes == ["3", "6"]


@pytest.mark.parametrize(("how", "reason"), [("cancelled", "killed"), ("preempted", "preempted")])
def test_an_allocation_that_is_taken_away(bench: Pilot, tmp_path: Path, how: str, reason: str) -> None:
    """What ran ends with the reason for which Slurm took the allocation; what waited runs in the next one."""
    bench.system.close()
    bench.system = bench.another(queue="low", ranks=1, nodes=1, cpus=2)
    text = SLEEP.format(tmp_path / "a", 90)
    ran = bench.launch(bench.job("a0", text, 1), bench.job("a1", f"trap '' TERM; {text}", 2))
    for handle in ran:
        bench.running(handle)
    waits = bench.launch(bench.job("b0", "exit 4", 8))
    native = bench.native()
    if how == "cancelled":
        bench.cluster.command("scancel", native)
    else:
        words = ["sbatch", "--parsable", "-p", "debug", "-N3", "--exclusive", "-t1", "--wrap", "sleep 3"]
        bench.cluster.command(*words, "--output=/dev/null")
    for handle in ran:
        end = bench.end(handle, 60)
        assert end.reason == reason and not end.regular, end
        assert "allocation 1" in (end.evidence or ""), end
    assert bench.end(waits[0], 60).exit_value == 4
    assert (tmp_path / "a").read_text().count("start") == 2


def test_slurm_ends_an_allocation_before_its_ranks_do(bench: Pilot, tmp_path: Path) -> None:
    """By its TimeLimit, which somebody has made shorter: what ran has `timeout`, what waited the next allocation."""
    bench.system.close()
    bench.system = bench.another(ranks=1, nodes=1, cpus=2)
    text = SLEEP.format(tmp_path / "a", 120)
    ran = bench.launch(bench.job("a0", text, 1), bench.job("a1", f"trap '' TERM; {text}", 2))
    for handle in ran:
        bench.running(handle)
    bench.cluster.command("scontrol", "update", f"JobId={bench.native()}", "TimeLimit=1")
    waits = bench.launch(bench.job("b0", "exit 4", 8))
    for handle in ran:
        end = bench.end(handle, 110)
        assert end.reason == "timeout" and not end.regular, end
    assert bench.ended_by(1)["phase"] == "timeout"
    assert bench.end(waits[0], 60).exit_value == 4
    assert (tmp_path / "a").read_text().count("start") == 2


def test_a_node_that_stands_still_is_unknown_not_ended(bench: Pilot, tmp_path: Path) -> None:
    """Its ranks give no sign: where another host looks, nothing is told as ended, and it goes on."""
    (one,) = bench.launch(bench.job("a", SLEEP.format(tmp_path / "a", 8)))
    bench.running(one)
    rank = bench.until(lambda: next((bench.rank(n) for n in range(3) if bench.rank(n)["used"]), None))
    pid = int(rank["pid"])
    os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(10)
        assert bench.system.exit_info([one]) == {}
        assert bench.state(one) in (NativeState.RUNNING, NativeState.UNKNOWN)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert bench.end(one).exit_value == 3


@pytest.mark.parametrize("phase", ["sent", "freed"])
def test_an_allocation_that_nobody_could_note_is_adopted_by_its_name(
    bench: Pilot, phase: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Died(BaseException):
        """As a SIGKILL: no handler runs."""

    def die(*words: Any) -> Any:
        raise Died

    real = SlurmSystem.send

    def sent(*words: Any) -> Any:
        real(*words)
        raise Died

    with monkeypatch.context() as patched:
        if phase == "sent":
            patched.setattr(SlurmSystem, "send", sent)
        else:
            patched.setattr(SlurmSystem, "free", die)
        (handle,) = bench.system.submit([bench.job("a", "exit 4")])
        with contextlib.suppress(Died):
            bench.system.release([str(handle)])
    ((native, state, _),) = bench.queue()
    assert state == "PENDING", "nobody has freed it"
    other = bench.another()
    other.fileno()
    assert bench.end(str(handle), 60).exit_value == 4
    assert bench.allocations() == ["1"] and bench.native() == native


def test_an_allocation_that_no_folder_knows_is_cancelled(bench: Pilot) -> None:
    (one,) = bench.launch(bench.job("a", "sleep 2"))
    bench.running(one)
    fleet: PilotFleet = bench.system._fleet
    stray = Submission(token=f"{fleet.prefix}77", job_id="pilot", run=77, argv=("x",), walltime=300)
    assert bench.system.options.over is not None
    bench.system.options.over.send(stray, str(bench.spool), "#!/bin/sh\nsleep 60\n")
    assert len(bench.queue()) == 2
    bench.until(lambda: len(bench.queue()) == 1)
    assert bench.end(one).regular


def test_a_refusal_of_the_scheduler_is_told_and_not_repeated_for_ever(bench: Pilot) -> None:
    bench.system.close()
    bench.system = bench.another(queue="no-such-partition")
    (one,) = bench.launch(bench.job("a", "true"))
    bench.until(lambda: "nvalid partition" in str(bench.system.status([one])[one].reason))
    time.sleep(8)
    assert len(bench.allocations()) <= 3
    assert not isinstance(bench.system.submit([bench.job("b", "true", 2)])[0], SubmitError), "it waits"
    bench.system.kill([one], force=True)


def test_nothing_is_left_of_an_allocation_when_its_work_is_done(bench: Pilot) -> None:
    bench.system.close()
    bench.system = bench.another(idle=1)
    (one,) = bench.launch(bench.job("a", "exit 4"))
    assert bench.end(one).exit_value == 4
    bench.until(lambda: not bench.queue())
    assert bench.ended_by(1)["phase"] == "completed"
    spool = str(bench.spool).encode()

    def left() -> list[int]:
        everyone = process_tree.table().values()
        return [it.pid for it in everyone if spool in process_tree.command_line(it.pid)]

    bench.until(lambda: not left())
