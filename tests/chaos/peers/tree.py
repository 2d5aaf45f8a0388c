"""Processes of this machine by descent, by state, and by a mark in their environment that their children inherit."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

from tests.chaos import processes

MARK = "CHAOS_PEER"


def children(pid: int) -> list[int]:
    """Return the living children of a process."""
    found: list[int] = []
    with contextlib.suppress(OSError):  # it ends while we look
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                found += [int(word) for word in (task / "children").read_text().split()]
    return [child for child in found if not processes.gone(child)]


def stopped(pid: int) -> bool:
    """Tell whether a process is stopped by a signal."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except OSError:
        return False


def marked(folder: Path) -> list[int]:
    """Return every process whose environment carries the mark of a folder."""
    found, mark = [], f"{MARK}={folder}".encode()
    for path in Path("/proc").iterdir():
        if path.name.isdigit() and int(path.name) != os.getpid():
            with contextlib.suppress(OSError):
                if mark in (path / "environ").read_bytes().split(b"\0") and not processes.gone(int(path.name)):
                    found.append(int(path.name))
    return found


def words(pid: int) -> str:
    """Return the command line of a process; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def end(folder: Path) -> None:
    """Kill every process with the mark of a folder, until none is left: a dying one may still start another."""
    while left := marked(folder):
        for pid in left:
            processes.send(pid, signal.SIGKILL)
