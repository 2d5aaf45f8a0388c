"""What the bodies of jobs wrote themselves, outside of Redis: when each started, and how it ended."""

from __future__ import annotations

import signal
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

BODY = Path(__file__).with_name("body.sh")


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One line: it was on disk before the body went on."""

    kind: str  # start | end
    job_id: str
    run: int
    how: str  # how the body was to end: an exit value, or the name of a signal
    at: float  # seconds since boot
    pid: int


class Evidence:
    """One file that all bodies append to; the order of its lines is the order of what happened."""

    def __init__(self, file: Path) -> None:
        self.file = file
        file.touch()

    def command(self, seconds: float, how: str | int = 0) -> list[str]:
        """Return argv of a body that takes so long and ends like this."""
        return ["/bin/sh", str(BODY), str(self.file), f"{seconds:g}", str(how)]

    def lines(self) -> list[Line]:
        """Return everything that was told, in order."""
        found = []
        for row in self.file.read_text().splitlines():
            kind, job_id, run, how, at, pid = row.split()
            found.append(Line(kind=kind, job_id=job_id, run=int(run), how=how, at=float(at), pid=int(pid)))
        return found

    def started(self) -> int:
        """Return how many bodies have started so far."""
        return sum(1 for row in self.file.read_bytes().splitlines() if row.startswith(b"start "))


def now() -> float:
    """Return the time by the clock of lines: seconds since boot."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def by_run(lines: list[Line]) -> Mapping[str, Mapping[int, list[Line]]]:
    """Return job id -> run -> its lines in order."""
    found: dict[str, dict[int, list[Line]]] = defaultdict(lambda: defaultdict(list))
    for line in lines:
        found[line.job_id][line.run].append(line)
    return found


def exit_of(how: str) -> tuple[int | None, int | None]:
    """Return (exit value, signal number) of a body that was to end like this."""
    return (int(how), None) if how.isdigit() else (None, int(signal.Signals[f"SIG{how}"]))
