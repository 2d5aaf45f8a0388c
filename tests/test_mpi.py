"""The `mpi` system by mpirun on this machine: who is killed when, what drains, what is refused."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mpi_ranks import mpirun_for_tests, options
from test_mpi_conformance import stop
from tokens import RECORD

from jobmill.errors import ConfigError, SystemUnavailable
from jobmill.systems import process_tree, run_folder
from jobmill.systems.mpi import MpiSystem
from jobmill.systems.pilot_fleet import PilotFleet
from jobmill.systems.pilot_here import PilotHere
from jobmill.systems.pilot_line import DONE, HELD, LINE, Line
from jobmill.systems.system import (
    End,
    ExitInfo,
    ExitStatus,
    Launch,
    NativeState,
    Settled,
    Submission,
    SubmitError,
    SubmitFailure,
)

pytestmark = pytest.mark.timeout(150)


@pytest.fixture(scope="module", autouse=True)
def _mpirun() -> None:
    mpirun_for_tests()


class Bench:
    """A pilot, and the launches of one test."""

    def __init__(self, spool: Path, **more: Any) -> None:
        self.spool = spool
        self.more = more
        self.systems: list[MpiSystem] = []
        self.system = self.another(**more)
        self.line = Line(bytes(spool), "mpi")
        self.life = f"{RECORD}x{time.monotonic_ns()}"
        self.ended: dict[str, ExitInfo] = {}

    def another(self, **more: Any) -> MpiSystem:
        """Return one more instance, as another process has it."""
        made = MpiSystem.build("mpi", options(**{**self.more, **more}), self.spool)
        self.systems.append(made)
        return made

    def job(self, name: str, text: str, number: int = 1, **fields: Any) -> Submission:
        argv = ("/bin/sh", "-c", text)
        token = f"{self.life}.{number}:{name}:1"
        return Submission(token=token, job_id=name, run=1, argv=argv, name=name, **fields)

    def launch(self, *jobs: Submission) -> list[str]:
        answers = self.system.submit(jobs)
        assert not [it for it in answers if isinstance(it, SubmitError)], answers
        self.system.fileno()
        self.system.release([str(it) for it in answers])
        return [str(it) for it in answers]

    def until(self, look: Callable[[], Any], seconds: float = 40.0) -> Any:
        until = time.monotonic() + seconds
        while not (found := look()):
            assert time.monotonic() < until, f"waited in vain; {self.tell()}"
            for notice in self.system.ends():
                if isinstance(notice, End):
                    self.ended[notice.token] = ExitInfo.from_json(notice.exit)
            time.sleep(0.05)
        return found

    def tell(self) -> str:
        """Return what the folders say, for who has to find out why."""
        logs = [it.read_text()[-800:] for it in self.spool.glob("pilots/mpi/allocations/*/native.log")]
        files = [str(it.relative_to(self.spool)) for it in self.spool.glob("pilots/mpi/*/*")]
        return f"{files[:60]} {logs}"

    def end(self, handle: str, seconds: float = 40.0) -> ExitInfo:
        found: ExitInfo = self.until(lambda: self.system.exit_info([handle]).get(handle), seconds)
        return found

    def running(self, handle: str) -> None:
        self.until(lambda: self.system.status([handle])[handle].state is NativeState.RUNNING)

    def state(self, handle: str) -> NativeState:
        return self.system.status([handle])[handle].state

    def file(self, name: str, file: str = "stdout") -> str:
        return (self.spool / "jobs" / name / "run.1" / file).read_text()

    def rank(self, number: int, allocation: int = 1) -> dict[str, Any]:
        """Return what a rank says of itself, once it does."""

        def look() -> Any:
            with contextlib.suppress(OSError, ValueError):
                return json.loads((self.spool / f"pilots/mpi/allocations/{allocation}/rank.{number}").read_text())

        found: dict[str, Any] = self.until(look)
        return found

    def rank_of(self, name: str) -> dict[str, Any]:
        """Return what the rank says of itself that has a job."""
        table = run_folder.read(os.fsencode(self.spool / "jobs" / name / "run.1"))
        assert table is not None
        return next(it for it in (self.rank(0), self.rank(1)) if it["table"] == table.guard)

    def guard(self, name: str) -> int:
        """Return the pid of the guard of the rank that has a job."""
        found = process_tree.process(int(self.rank_of(name)["pid"]))
        assert found is not None
        return found.parent

    def head(self) -> tuple[int, int]:
        """Return the pids of the allocation's first process and of its launcher."""
        words = str(self.spool).encode()
        for it in process_tree.table().values():
            line = process_tree.command_line(it.pid)
            if words in line and b"pilot_head import" in line and not line.startswith(b"/bin/sh"):
                launcher = [child.pid for child in process_tree.children(it.pid)]
                if launcher:
                    return it.pid, launcher[0]
        raise AssertionError(f"no head; {self.tell()}")

    def allocations(self) -> list[str]:
        return sorted(it.name for it in (self.spool / "pilots/mpi/allocations").iterdir())

    def ended_by(self, number: int = 1) -> dict[str, Any]:
        path = self.spool / f"pilots/mpi/allocations/{number}/ended"
        self.until(path.exists)
        return dict(json.loads(path.read_text()))

    def close(self) -> None:
        for it in self.systems:
            it.close()
        stop(self.spool)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "spool")
    yield made
    made.close()


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    """Makes a bench with options of its own."""
    found: list[Bench] = []

    def make(**more: Any) -> Bench:
        found.append(Bench(tmp_path / "spool", **more))
        return found[-1]

    yield make
    for it in found:
        it.close()


SLEEP = 'echo start >> "{0}"; sleep {1}; echo end >> "{0}"; exit 3'


def test_a_thousand_tiny_jobs_on_four_ranks_none_doubled_none_lost(made: Callable[..., Bench], tmp_path: Path) -> None:
    bench = made(ranks=4, cpus=1)
    starts = tmp_path / "starts"
    jobs = [bench.job(f"j{n}", f'echo {n} >> "{starts}"; exit {n % 5}', n + 1) for n in range(1000)]
    handles = bench.launch(*jobs)
    bench.until(lambda: len(bench.ended) == 1000, 90)
    assert Counter(starts.read_text().split()) == Counter(str(n) for n in range(1000))
    assert [bench.ended[job.token].exit_value for job in jobs] == [n % 5 for n in range(1000)]
    hosts = Counter(run_folder.read(os.fsencode(bench.spool / f"jobs/j{n}/run.1")).guard for n in range(1000))  # type: ignore[union-attr]
    assert len(hosts) == 4, f"each rank has its share: {hosts}"
    bench.system.forget(handles)
    assert not bench.line.where()


def test_a_killed_runner_of_a_rank_takes_nothing_along(bench: Bench, tmp_path: Path) -> None:
    (one,) = bench.launch(bench.job("a", SLEEP.format(tmp_path / "a", 3)))
    bench.running(one)
    rank = bench.rank_of("a")
    os.kill(int(rank["pid"]), signal.SIGKILL)
    others = bench.launch(*[bench.job(f"b{n}", "exit 0", n + 2) for n in range(20)])
    for handle in others:
        assert bench.end(handle).regular
    assert bench.state(one) is NativeState.RUNNING, "its guard has inherited it"
    end = bench.end(one)
    assert (end.exit_value, end.reason) == (3, None) and (tmp_path / "a").read_text() == "start\nend\n"
    assert bench.allocations() == ["1"]


def test_a_killed_guard_lets_its_rank_finish_what_runs_and_the_others_go_on(bench: Bench, tmp_path: Path) -> None:
    (one,) = bench.launch(bench.job("a", SLEEP.format(tmp_path / "a", 3)))
    bench.running(one)
    os.kill(bench.guard("a"), signal.SIGKILL)
    others = bench.launch(*[bench.job(f"b{n}", "exit 0", n + 2) for n in range(10)])
    for handle in others:
        assert bench.end(handle).regular
    end = bench.end(one)
    assert (end.exit_value, end.reason) == (3, None) and (tmp_path / "a").read_text() == "start\nend\n"


def test_a_rank_that_dies_whole_is_seen_by_its_locks(bench: Bench, tmp_path: Path) -> None:
    (one,) = bench.launch(bench.job("a", SLEEP.format(tmp_path / "a", 60)))
    bench.running(one)
    guard, runner = bench.guard("a"), int(bench.rank_of("a")["pid"])
    for pid in (guard, runner):
        os.kill(pid, signal.SIGSTOP)
    for pid in (runner, guard):
        os.kill(pid, signal.SIGKILL)
    bench.until(lambda: bench.system.status([one])[one].orphan)  # its process runs on, and is told as what it is
    assert one not in bench.system.exit_info([one])
    bench.until(lambda: bench.system.kill([one], force=True)[one] or None)
    end = bench.end(one)
    assert end.reason == "lost" and end.exit_status is ExitStatus.UNDETERMINED, end
    (two,) = bench.launch(bench.job("b", "exit 4", 2))
    assert bench.end(two).exit_value == 4


def test_a_runner_killed_and_then_its_guard_leave_no_rank_behind(made: Callable[..., Bench], tmp_path: Path) -> None:
    """Nobody is left to see how the job of the first runner ends: its rank does not wait for that for ever."""
    bench = made(ranks=1)
    (one,) = bench.launch(bench.job("a", SLEEP.format(tmp_path / "a", 6)))
    bench.running(one)
    first = int(bench.rank(0)["pid"])
    guard = process_tree.process(first).parent  # type: ignore[union-attr]
    os.kill(first, signal.SIGKILL)
    bench.until(lambda: bench.rank(0)["pid"] != first)
    os.kill(guard, signal.SIGKILL)
    bench.ended_by(1)
    assert bench.end(one).reason == "lost" and (tmp_path / "a").read_text() == "start\nend\n"


@pytest.mark.parametrize("whom", ["launcher", "head"])
def test_who_kills_the_allocation_takes_no_job_along(bench: Bench, tmp_path: Path, whom: str) -> None:
    (one,) = bench.launch(bench.job("a", SLEEP.format(tmp_path / "a", 3)))
    bench.running(one)
    head, launcher = bench.head()
    os.kill(launcher if whom == "launcher" else head, signal.SIGKILL)
    two, three = bench.launch(bench.job("b", "exit 4", 2), bench.job("c", "exit 5", 3))
    end = bench.end(one)
    assert (end.exit_value, end.reason) == (3, None) and (tmp_path / "a").read_text() == "start\nend\n"
    assert (bench.end(two).exit_value, bench.end(three).exit_value) == (4, 5), "they have the next allocation"
    if whom == "head":  # without its launcher alone an allocation goes on
        assert bench.ended_by(1)["phase"] == "failed"


def test_all_of_an_allocation_killed_at_once(bench: Bench, tmp_path: Path) -> None:
    """As a machine does that kills all: what ran is lost, what waited runs in the next allocation."""
    text = SLEEP.format(tmp_path / "a", 60)
    handles = bench.launch(*[bench.job(f"a{n}", text, n + 1) for n in range(4)])
    for handle in handles:
        bench.running(handle)
    waits = bench.launch(*[bench.job(f"b{n}", "exit 0", n + 9) for n in range(6)])
    words = str(bench.spool).encode()
    mine = [it for it in process_tree.table().values() if it.pid != os.getpid()]
    doomed = {it.pid: it for it in mine if words in process_tree.command_line(it.pid)}
    doomed |= {it.pid: it for it in mine if (process_tree.token_of(it.pid) or b"").startswith(bench.life.encode())}
    doomed |= {bench.head()[1]: process_tree.process(bench.head()[1])}  # type: ignore[dict-item]
    for it in doomed.values():
        process_tree.send(it.pid, it.start, signal.SIGSTOP)
    for it in doomed.values():
        process_tree.send(it.pid, it.start, signal.SIGKILL)
    for handle in waits:
        assert bench.end(handle).regular
    for handle in handles:
        end = bench.end(handle)
        assert end.reason == "lost" and not end.regular, end
    assert (tmp_path / "a").read_text() == "start\n" * 4, "none was started again"


def test_one_of_many_is_killed(bench: Bench, tmp_path: Path) -> None:
    handles = bench.launch(*[bench.job(f"a{n}", "sleep 60", n + 1) for n in range(6)])
    for handle in handles[:4]:
        bench.running(handle)
    assert [bench.state(handle) for handle in handles[4:]] == [NativeState.SUBMITTED] * 2
    assert bench.until(lambda: bench.system.kill([handles[1]], force=True)[handles[1]])
    assert bench.end(handles[1]).term_sig == 9
    assert [bench.state(handles[n]) for n in (0, 2, 3)] == [NativeState.RUNNING] * 3
    bench.running(handles[4])  # it has the slot
    assert bench.system.kill([handles[5]], force=False)[handles[5]], "what waits is sealed"
    assert bench.end(handles[5]).exit_status is ExitStatus.ABORTED_BEFORE_RUNNING
    bench.system.kill(handles, force=True)
    for handle in handles:
        assert not bench.end(handle).regular


def test_an_idle_allocation_ends_itself_and_the_next_comes_when_it_is_wanted(made: Callable[..., Bench]) -> None:
    bench = made(idle=1)
    (one,) = bench.launch(bench.job("a", "sleep 3"))
    assert bench.end(one).regular, "while one rank works, none of them leaves"
    ended = bench.ended_by(1)
    assert ended["phase"] == "completed" and {bench.rank(n)["state"] for n in (0, 1)} == {"left"}
    time.sleep(2)
    assert bench.allocations() == ["1"]
    (two,) = bench.launch(bench.job("b", "exit 4", 2))
    assert bench.end(two).exit_value == 4 and bench.allocations() == ["1", "2"]


def test_the_walltime_is_kept_and_what_does_not_fit_waits(made: Callable[..., Bench]) -> None:
    bench = made(walltime=16, drain=4, kill_grace=0.5, ranks=1, cpus=2, idle=60)
    (first,) = bench.launch(bench.job("a", "sleep 60"))  # without a walltime: it has the allocation's
    bench.running(first)
    began = time.monotonic()
    time.sleep(6)
    (fits_not,) = bench.launch(bench.job("b", "exit 4", 2, walltime=5.0))
    time.sleep(0.5)
    if bench.state(fits_not) is NativeState.SUBMITTED:  # else the machine was quick
        assert "allocation 1" in str(bench.system.status([fits_not])[fits_not].reason)
    (never,) = bench.system.submit([bench.job("c", "true", 3, walltime=8.0)])
    assert isinstance(never, SubmitError) and never.failure is SubmitFailure.PERMANENT, never
    assert "never fits" in never.message
    end = bench.end(first)
    assert end.reason == "timeout" and end.term_sig == 15, end
    assert time.monotonic() - began < 18
    assert bench.end(fits_not).exit_value == 4
    assert bench.ended_by(1)["phase"] == "completed"


def test_a_walltime_of_a_job_and_large_jobs_among_small_ones(bench: Bench) -> None:
    (long,) = bench.launch(bench.job("a", "sleep 60", 1, walltime=1.0))
    end = bench.end(long)
    assert end.reason == "timeout", end
    small = [bench.job(f"s{n}", "sleep 0.3", n + 10) for n in range(60)]
    bench.launch(*small)
    (large,) = bench.launch(bench.job("l", "echo $JOBMILL_CPUS", 5, cpus=2))
    begun = time.monotonic()
    assert bench.end(large).regular and bench.file("l") == "2\n"
    assert time.monotonic() - begun < 12, "a large job is not starved by small ones"


def test_what_no_rank_can_hold_is_refused_with_why(bench: Bench) -> None:
    wrong = {
        "cpus": (bench.job("a", "true", cpus=3), "3 cpus wanted, a rank of mpi has 2"),
        "tasks": (bench.job("b", "true", cpus=2, tasks=2), "4 cpus in 2 tasks wanted"),
        "nodes": (bench.job("c", "true", nodes=2), "a job in a pilot runs on one node"),
        "gpus": (bench.job("d", "true", gpus=1), "no GPUs"),
        "native": (bench.job("e", "true", native="-q x"), "native words"),
    }
    answers = bench.system.submit([job for job, _ in wrong.values()])
    for answer, (_, words) in zip(answers, wrong.values(), strict=True):
        assert isinstance(answer, SubmitError) and answer.failure is SubmitFailure.PERMANENT, answer
        assert words in answer.message, answer


def test_tasks_are_started_by_the_launcher_within_the_slots_of_a_rank(bench: Bench) -> None:
    (one,) = bench.launch(bench.job("a", "echo $OMPI_COMM_WORLD_RANK of $OMPI_COMM_WORLD_SIZE", tasks=2))
    assert bench.end(one).regular, bench.file("a", "stderr")
    assert sorted(bench.file("a").splitlines()) == ["0 of 2", "1 of 2"]
    (two,) = bench.launch(bench.job("b", "env", 2))
    assert bench.end(two).regular
    names = {line.partition("=")[0] for line in bench.file("b").splitlines()}
    assert not {it for it in names if it.split("_")[0] in ("OMPI", "PMIX", "PMI", "SLURM")}, "it is no rank of ours"
    assert {"JOBMILL_ALLOCATION", "JOBMILL_RANK", "JOBMILL_CPUS"} <= names


def test_allocations_follow_what_waits_up_to_the_limit(made: Callable[..., Bench]) -> None:
    bench = made(ranks=1, cpus=2, allocations=3, idle=2)
    handles = bench.launch(*[bench.job(f"a{n}", "sleep 3", n + 1) for n in range(20)])
    for handle in handles:
        assert bench.end(handle).regular
    assert bench.allocations() == ["1", "2", "3"]
    bench.ended_by(3)


def test_two_starters_and_a_fetcher_ask_for_one_allocation(bench: Bench) -> None:
    others = [bench.another() for _ in range(4)]
    for it in others:
        it.fileno()
    for number, it in enumerate([bench.system, *others]):
        (answer,) = it.submit([bench.job(f"a{number}", "sleep 2", number + 1)])
        it.release([str(answer)])
    bench.until(lambda: all((bench.spool / f"jobs/a{n}/run.1/run").exists() for n in range(4)))
    assert bench.allocations() == ["1"]


@pytest.mark.parametrize("phase", ["claimed", "written", "sent", "freed"])
def test_an_allocation_whose_asker_died_is_adopted_or_never_begins(
    bench: Bench, phase: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after each step of asking for one: whoever comes next goes on with it, and none is there twice."""

    class Died(BaseException):
        """As a SIGKILL: no handler runs."""

    def die(*words: Any) -> Any:
        raise Died

    with monkeypatch.context() as patched:
        if phase == "claimed":
            patched.setattr(PilotFleet, "_write", die)
        elif phase == "written":
            patched.setattr(PilotHere, "send", die)
        elif phase == "sent":
            patched.setattr(PilotHere, "free", die)
        else:
            patched.setattr("jobmill.systems.pilot_fleet.logger.info", die)
        (handle,) = bench.system.submit([bench.job("a", "exit 4")])
        with contextlib.suppress(Died):
            bench.system.release([str(handle)])
    assert bench.allocations() == ["1"]
    other = bench.another()
    other.fileno()
    assert bench.end(str(handle), 60).exit_value == 4
    assert bench.allocations() == (["1", "2"] if phase == "claimed" else ["1"])


def test_a_launcher_that_is_not_there_is_told_and_not_tried_for_ever(made: Callable[..., Bench]) -> None:
    bench = made(launcher=["no-such-launcher"])
    (one,) = bench.launch(bench.job("a", "true"))
    bench.until(lambda: "no-such-launcher" in str(bench.system.status([one])[one].reason))
    time.sleep(5)
    assert len(bench.allocations()) <= 3, "the pause between them grows"
    assert [check.ok for check in bench.system.check() if check.name == "launcher"] == [False]
    bench.system.kill([one], force=True)


def test_a_spool_that_takes_nothing_keeps_the_jobs(bench: Bench) -> None:
    """Run folders cannot be made: launches go back into line, and run once they can."""
    (first,) = bench.launch(bench.job("a", "exit 0"))
    assert bench.end(first).regular
    jobs = bench.spool / "jobs"
    jobs.rename(bench.spool / "away")
    jobs.touch()  # no folder can be made there, for root neither
    one: str | SubmitError | None = None
    job = bench.job("b", "exit 4", 2)
    with contextlib.suppress(SystemUnavailable):
        (one,) = bench.system.submit([job])
    if one is not None:
        bench.system.release([str(one)])
    time.sleep(3)
    jobs.unlink()
    (bench.spool / "away").rename(jobs)
    if one is None:
        (one,) = bench.launch(job)
    assert bench.end(str(one)).exit_value == 4


def test_a_start_is_settled_in_every_place(bench: Bench) -> None:
    jobs = [bench.job(f"a{n}", "sleep 60", n + 1) for n in range(6)]
    held = bench.system.submit(jobs)
    other = bench.another()
    assert other.settle([Launch(token=jobs[0].token)]) == {jobs[0].token: held[0]}
    bench.system.fileno()
    bench.system.release([str(it) for it in held])
    for handle in held[:4]:
        bench.running(str(handle))
    answers = other.settle([Launch(token=job.token) for job in jobs])
    assert [answers[job.token] for job in jobs] == list(held), "taken, and in line"
    gone = bench.job("gone", "true", 99)
    assert other.settle([Launch(token=gone.token)]) == {gone.token: Settled.NOT_STARTED}
    bench.system.kill([str(it) for it in held], force=True)


def test_names_in_line_are_bounded_and_strange_files_are_left_alone(bench: Bench) -> None:
    bench.system.fileno()
    for place in (HELD, LINE, DONE):
        Path(os.fsdecode(bench.line.path(place, b"no launch"))).write_text("x")
    spoiled = bench.job("s", "true", 7)
    (handle,) = bench.system.submit([spoiled])
    name = next(it.name for it in bench.line.entries(HELD))
    Path(os.fsdecode(bench.line.path(HELD, name))).write_text("nonsense\n")
    bench.system.release([str(handle)])
    end = bench.end(str(handle))
    assert end.reason == "submit_failed" and "spoiled" in str(end.message), end
    job = Submission(token=f"{bench.life}.1:{'j' * 64}:1", job_id="j" * 64, run=1, argv=("/bin/true",))
    (long,) = bench.launch(job)
    assert bench.end(long).regular


def test_an_idle_rank_hardly_looks(made: Callable[..., Bench], tmp_path: Path) -> None:
    """Looks a second of an idle rank: bounded for one, and for many together."""
    from jobmill.systems.pilot_rank import PER_SECOND, SLOWEST, TICK

    for ranks in (1, 16, 64):
        tick = min(SLOWEST, max(TICK, ranks / PER_SECOND))
        assert ranks / tick <= PER_SECOND * 1.2 and tick < 1.0


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"slots": 4}, "ranks x cpus"),
        ({"rank": 4}, "did you mean"),
        ({"ranks": 0}, "whole number from 1"),
        ({"over": {"kind": "local"}}, "no batch scheduler"),
        ({"over": {"kind": "slurm"}}, "walltime"),
        ({"walltime": 60}, "leave no time"),
        ({"nodes": 2}, "this machine alone"),
        ({"launcher": "mpirun"}, "list of words"),
    ],
)
def test_options_that_cannot_be(wrong: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as told:
        MpiSystem.build("mpi", wrong, tmp_path)
    assert words in str(told.value), told.value
