"""Processes that stay: what they hold of memory, and what they use of a core while nobody asks them for anything."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
QUIET = 0.05  # of a core, below which a tree of processes counts as done with its start
SETTLE = 60.0  # seconds that it may take
MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Resident:
    """One process after its time of idleness."""

    name: str
    cpu_percent: float  # of one core, user and system
    wakes_per_s: float  # how often it was woken up (voluntary context switches of all its threads)
    rss_mb: float  # MiB that are in memory, those shared with others counted in each
    pss_mb: float  # MiB, each shared page divided by the number of those that have it


@dataclass(frozen=True, kw_only=True)
class _Counters:
    ticks: int
    wakes: int


def idle(roots: Sequence[int], seconds: float, name: Callable[[str], str]) -> list[Resident]:
    """Return the processes ``roots`` and all under them after so many seconds of idleness, once they are quiet.

    ``name`` makes a short name of a command line. A process that comes or goes meanwhile raises ProcessLookupError:
    then nothing was idle.
    """
    _settle(roots)
    pids = tree(roots)
    begin, before = time.monotonic(), {pid: _counters(pid) for pid in pids}
    time.sleep(seconds)
    passed, after = time.monotonic() - begin, {pid: _counters(pid) for pid in pids}
    if tree(roots) != pids:
        raise ProcessLookupError(f"processes under {roots} came or went while they should have been idle")
    hertz = os.sysconf("SC_CLK_TCK")
    found = []
    for pid in pids:
        rss, pss = _memory(pid)
        found.append(
            Resident(
                name=name((PROC / str(pid) / "cmdline").read_text(errors="replace").replace("\0", " ").strip()),
                cpu_percent=100 * (after[pid].ticks - before[pid].ticks) / hertz / passed,
                wakes_per_s=(after[pid].wakes - before[pid].wakes) / passed,
                rss_mb=rss / MIB,
                pss_mb=pss / MIB,
            )
        )
    return found


def tree(roots: Sequence[int]) -> Sequence[int]:
    """Return the processes and all their descendants, parents first."""
    children: dict[int, list[int]] = {}
    for entry in PROC.iterdir():
        if entry.name.isdecimal():
            try:
                parent = int(_stat(int(entry.name))[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found = [*roots]
    for pid in found:
        found += sorted(children.get(pid, []))
    return found


def _settle(roots: Sequence[int]) -> None:
    deadline = time.monotonic() + SETTLE
    last = None
    while time.monotonic() < deadline:
        now = {pid: _counters(pid).ticks for pid in tree(roots)}
        if last is not None and now.keys() == last.keys():
            used = sum(now.values()) - sum(last.values())
            if used / os.sysconf("SC_CLK_TCK") < QUIET:
                return
        last = now
        time.sleep(1.0)
    raise TimeoutError(f"the processes under {roots} have not become quiet within {SETTLE:g} s")


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/<pid>/stat from the third on (proc(5)): the name before them may hold anything."""
    return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()


def _counters(pid: int) -> _Counters:
    fields = _stat(pid)
    wakes = 0
    for task in (PROC / str(pid) / "task").iterdir():
        for line in (task / "status").read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches:"):
                wakes += int(line.split()[1])
    return _Counters(ticks=int(fields[11]) + int(fields[12]), wakes=wakes)


def _memory(pid: int) -> tuple[int, int]:
    """Return RSS and PSS in bytes (smaps_rollup, in kB)."""
    lines = (PROC / str(pid) / "smaps_rollup").read_text().splitlines()
    values = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.startswith(("Rss:", "Pss:"))}
    return values["Rss"], values["Pss"]
