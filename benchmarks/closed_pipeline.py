"""A pipeline without an end: server and managers as `jobmill up` starts them, a `fake` system, and nothing that runs.

What is pushed is admitted and waits; what its system's set has room for is granted, and stays granted.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.contender import WrongResult
from jobmill.daemon.server import EmbeddedServer
from jobmill.daemon.worker import WorkerProcess, workers
from jobmill.ledger import capacity, dead, listing, membership
from jobmill.ledger.record import Record

SYSTEM, SET = "fake", "FakeJobs"
LOOK = 0.01  # seconds between looks at what is admitted: what the clock may be late by
PUSH = 250  # entries of one push, as the client's
TICKS = os.sysconf("SC_CLK_TCK")


class ClosedPipeline:
    """One embedded server and any number of managers in a folder of their own."""

    def __init__(self, folder: Path, *, limit: int, binary: Path | None = None) -> None:
        """``limit``: most jobs granted (0: none). ``binary``: another server program than the embedded one."""
        self.folder = folder
        self.server = EmbeddedServer(folder / "state", binary=binary, start_timeout=600)
        self.managers: list[WorkerProcess] = []
        self.config = folder / "jobmill.yaml"
        self.config.write_text(
            f"state: {folder}/state\nspool: {folder}/spool\nsystems: {{{SYSTEM}: {{kind: fake}}}}\n"
            f"capacities: {{{SET}: {limit}}}\nlimits: {{max_waiting: 100000000}}\n"
        )
        self._parent, self._child = os.pipe()  # the managers stop when this program is gone

    def __enter__(self) -> ClosedPipeline:
        self.server.start()
        self.record = Record(self.server.url)
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.stop_managers()
        finally:
            self.record.close()
            self.server.stop()
            os.close(self._parent)
            os.close(self._child)

    def start_managers(self, count: int = 1) -> None:
        """Start managers and return when all of them take; raise WrongResult when they do not within 30 s."""
        (kind,) = workers("--config", str(self.config), kinds=("manager",))
        environment = {name: value for name, value in os.environ.items() if not name.startswith("JOBMILL_")}
        with (self.folder / "managers.log").open("ab") as log:
            for _ in range(count):
                manager = WorkerProcess(kind, clock=time.monotonic, spawn=subprocess.Popen)
                manager.start(env=environment, log=log.fileno(), parent=self._parent)
                self.managers.append(manager)
        deadline = time.monotonic() + 30
        while len(self._registered()) < len(self.managers):
            self._look(deadline, "the managers do not register")
        # each of them waits for an entry now, or will after a moment: one job goes the whole way
        jobs = self.admitted() + 1
        self.push([f'{{"id":"warm-{time.time_ns()}","command":["/bin/true"],"user":"ann"}}'])
        self.until_admitted(jobs, timeout=30)

    def _registered(self) -> set[int]:
        known = {process.pid for process in membership.processes(self.record)}
        return known & {m.process.pid for m in self.managers if m.process}

    def stop_managers(self) -> None:
        """Stop all managers warm, and wait for their ends."""
        for manager in self.managers:
            manager.send(signal.SIGTERM)
        for manager in self.managers:
            if manager.process is not None:
                manager.process.wait(timeout=30)
        self.managers.clear()

    @contextmanager
    def managers_stopped(self) -> Iterator[None]:
        """Stop the managers where they are for the length of a block, at most some seconds: they do not notice."""
        for manager in self.managers:
            manager.send(signal.SIGSTOP)
        try:
            yield
        finally:
            for manager in self.managers:
                manager.send(signal.SIGCONT)

    def push(self, entries: Sequence[str]) -> None:
        """Push entries in batches."""
        for i in range(0, len(entries), PUSH):
            self.record.call("RPUSH", self.record.keys("Job_Queue"), *entries[i : i + PUSH])

    def admitted(self) -> int:
        """Count the jobs that wait or are granted; one that is granted meanwhile is counted at the next look."""
        granted = capacity.usage(self.record, [SET])[0].used  # first: else it would be counted twice
        return granted + listing.waiting(self.record)

    def until_admitted(self, count: int, *, timeout: float) -> float:
        """Wait for so many jobs; return the moment by `time.perf_counter`; raise WrongResult when they do not come."""
        deadline = time.monotonic() + timeout
        while True:
            # one cheap command a look while there is much to do: the looks are not what is measured
            if not self.record.call("LLEN", self.record.keys("Job_Queue")):
                found = self.admitted()
                if found >= count or dead.count(self.record):
                    break
            self._look(deadline, f"less than {count} jobs are admitted")
        moment = time.perf_counter()
        self.check(count)
        return moment

    def check(self, count: int) -> None:
        """Raise WrongResult unless exactly so many jobs are admitted and none was refused."""
        refused, found = dead.entries(self.record, 0, 0), self.admitted()
        if found < count:  # one was granted between the two counts
            time.sleep(LOOK)
            found = self.admitted()
        if refused or found != count:
            raise WrongResult(f"{found} of {count} jobs are admitted; refused: {[e.reason for e in refused] or 'none'}")

    def _look(self, deadline: float, what: str) -> None:
        gone = [m.process.poll() for m in self.managers if m.process is not None and m.process.poll() is not None]
        if gone or time.monotonic() > deadline:
            words = (self.folder / "managers.log").read_text(errors="replace").splitlines()[-3:]
            raise WrongResult(f"{what}; managers gone: {gone or 'none'}; they said last: {' | '.join(words)}")
        time.sleep(LOOK)

    def cpu(self) -> tuple[float, float]:
        """Return the CPU seconds that the managers and the server have used so far."""
        pids = [m.process.pid for m in self.managers if m.process is not None]
        return sum(map(cpu_seconds, pids)), cpu_seconds(self.server.pid or 0)


def cpu_seconds(pid: int) -> float:
    """Return user and system time of a live process (proc(5), stat, fields 14 and 15), in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS
