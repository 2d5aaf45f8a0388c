"""What each process of a pipeline spends on a job while many go through it, from the push to the last end."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.contender import WrongResult
from benchmarks.jobmill_under_test import pipeline
from benchmarks.residents import PROC, tree
from benchmarks.standing import role
from jobmill.client import Client
from jobmill.jobs.states import ENDED, State

LOOK = 0.02  # seconds between looks at the number of ended jobs
REST = 0.2  # seconds after the last end in which the processes finish what belongs to it (dependents, logs)
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, kw_only=True)
class Spent:
    """Microseconds for each job of one run."""

    wall_us: float  # first push → the record has the last end
    cpu_us: Mapping[str, float]  # by process, user and system; ``jobs``: the commands themselves, from their clone on

    @property
    def per_s(self) -> float:
        """Jobs a second."""
        return 1e6 / self.wall_us


def spend(folder: Path, systems: str, job: Mapping[str, Any], jobs: int) -> Spent:
    """Run so many jobs through a new pipeline; raise WrongResult unless each ended well in its first run."""
    with _supervised(folder, systems) as (client, supervisor):
        client.wait(client.submit(job), timeout=60)  # each process has loaded what its work needs
        time.sleep(REST)
        before = _cpu(supervisor)
        begin = time.perf_counter()
        ids = client.submit_many([job] * jobs)
        deadline = begin + 60 + jobs / 10
        while (found := _ended(client)) <= jobs:
            if time.perf_counter() > deadline:
                raise WrongResult(f"jobmill has recorded {found - 1} of {jobs} ends; it hangs, or is very slow")
            time.sleep(LOOK)
        wall = time.perf_counter() - begin
        time.sleep(REST)
        after = _cpu(supervisor)
        if after.keys() != before.keys():
            raise WrongResult(f"processes came or went during the run: {sorted(before.keys() ^ after.keys())}")
        rows = client.wait(ids, timeout=60).values()
        wrong = [r.id for r in rows if r.state is not State.DONE or r.exit.get("exit_value") != 0 or r.run != 1]
        if wrong or len(rows) != jobs:
            raise WrongResult(f"{len(wrong)} of {jobs} jobs did not exit with 0 in their first run: {wrong[:5]}")
    used = {name: (after[name] - before[name]) * 1e6 / jobs for name in before}
    return Spent(wall_us=wall * 1e6 / jobs, cpu_us=used)


@contextmanager
def _supervised(folder: Path, systems: str) -> Iterator[tuple[Client, int]]:
    """Give a client of a new pipeline, and the kernel's id of the thread that is its supervisor."""
    known = set(threading.enumerate())
    with pipeline(folder, systems) as client:
        (supervisor,) = set(threading.enumerate()) - known
        yield client, supervisor.native_id or 0


def _ended(client: Client) -> int:
    record = client.record
    return sum(record.read([("ZCARD", record.keys.ended(state)) for state in ENDED]))


def _cpu(supervisor: int) -> dict[str, float]:
    """Return the processor seconds of each process so far; this one's threads are client and supervisor."""
    me = os.getpid()
    client = threading.get_native_id()
    found = {"client": _on_cpu(me, client), "supervisor": _on_cpu(me, supervisor)}
    for pid in tree([me])[1:]:
        name = role((PROC / str(pid) / "cmdline").read_text(errors="replace").replace("\0", " ").strip())
        found[name] = found.get(name, 0.0) + process_seconds(pid)
        if name == "runner":  # whose children, waited for, are the jobs: fields 16 and 17 of proc(5), stat
            fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
            found["jobs"] = (int(fields[13]) + int(fields[14])) / TICKS
    return found


def process_seconds(pid: int) -> float:
    """Return the processor seconds that the threads of a process have used; those that are gone do not count."""
    return sum(_on_cpu(pid, int(task.name)) for task in (PROC / str(pid) / "task").iterdir())


def _on_cpu(pid: int, task: int) -> float:
    """Return the seconds that a thread was on a processor (schedstat: nanoseconds, where stat counts 10 ms)."""
    return int((PROC / str(pid) / "task" / str(task) / "schedstat").read_text().split()[0]) / 1e9
