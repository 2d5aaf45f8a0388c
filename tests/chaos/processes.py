"""The processes of this machine that belong to one chaos run: its guards, its runners, the bodies of its jobs."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path


def guards(spool: Path) -> list[int]:
    """Return the guards of a spool."""
    return _of(spool, "jobmill.systems.guard")


def runners(spool: Path) -> list[int]:
    """Return the runners of a spool."""
    return _of(spool, "jobmill.systems.runner")


def bodies(record: str) -> dict[int, str]:
    """Return pid -> token of every process that a job of this record started."""
    found = {}
    mark = b"JOBMILL_TOKEN=" + record.encode() + b"."
    for pid in _all():
        with contextlib.suppress(OSError):
            for word in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                if word.startswith(mark) and not gone(pid):
                    found[pid] = word.partition(b"=")[2].decode()
    return found


def leaders(record: str) -> dict[int, str]:
    """Return pid -> token of the first process of every job that runs, at one moment: all of these live at once."""
    seen = {(pid, _start(pid)): token for pid, token in bodies(record).items() if _leads(pid)}
    return {pid: token for (pid, start), token in seen.items() if not gone(pid) and start == _start(pid)}


def _leads(pid: int) -> bool:
    try:
        return os.getsid(pid) == pid
    except ProcessLookupError:
        return False


def _start(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def gone(pid: int) -> bool:
    """Tell whether a process is gone or a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def send(pid: int, number: signal.Signals) -> bool:
    """Signal a process; False when it is gone."""
    try:
        os.kill(pid, number)
        return True
    except ProcessLookupError:
        return False


def _of(spool: Path, module: str) -> list[int]:
    found = []
    for pid in _all():
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
            if module in words and f"\0{spool}\0" in words and not gone(pid):
                found.append(pid)
    return found


def _all() -> Iterator[int]:
    return (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit())
