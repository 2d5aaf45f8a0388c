"""The clock of the latency benchmark: a closed loop, then an open one, the same for every program under measurement.

Standard library only: it runs in the Python of each program's own environment. Prints one line of JSON: milliseconds
of each job, ``{"closed": […], "open": […]}``.
"""

from __future__ import annotations

import json
import threading
import time
from typing import Protocol

WARM_UP = 20  # jobs outside of the clock, and never more than inside
PATIENCE = 60.0  # seconds for what is left when the last job of the open loop was submitted


class WrongEnd(Exception):
    """A job did not end with exit status 0."""


class Watch:
    """Takes down when the end of each job was seen, from any thread."""

    def __init__(self, jobs: int) -> None:
        self.seen: dict[int, float] = {}
        self.whole = threading.Event()
        self._jobs = jobs

    def end(self, number: int) -> None:
        """Note that the end of this job is seen now; a job that is told twice counts once."""
        self.seen.setdefault(number, time.perf_counter())
        if len(self.seen) == self._jobs:
            self.whole.set()


class Door(Protocol):
    """How one program is asked."""

    def one(self) -> None:
        """Submit a job and wait for its end; raise WrongEnd."""

    def open(self, watch: Watch) -> None:
        """Begin to follow the ends of many."""

    def send(self, number: int) -> None:
        """Submit a job whose end the watch is told of."""

    def check(self) -> None:
        """Look at the results of all that were sent; raise WrongEnd."""


def measure(door: Door, jobs: int, rate: float) -> None:
    """Run both loops with so many jobs each, ``rate`` jobs a second in the open one; print the result."""
    for _ in range(min(WARM_UP, jobs)):
        door.one()
    closed = []
    for _ in range(jobs):
        begin = time.perf_counter()
        door.one()
        closed.append(time.perf_counter() - begin)
    print(json.dumps({"closed": _ms(closed), "open": _ms(_open(door, jobs, rate))}))


def _open(door: Door, jobs: int, rate: float) -> list[float]:
    """Submit on schedule, however slow the answers are; each job's clock starts at its scheduled time.

    Whoever starts the clock when the submission gets through does not see the wait before it (coordinated omission).
    """
    watch = Watch(jobs)
    door.open(watch)
    begin = time.perf_counter() + 0.1
    due = [begin + number / rate for number in range(jobs)]
    for number in range(jobs):
        time.sleep(max(0.0, due[number] - time.perf_counter()))
        door.send(number)
    if not watch.whole.wait(PATIENCE):
        raise WrongEnd(f"{len(watch.seen)} of {jobs} ends were seen {PATIENCE:g} s after the last submission")
    door.check()
    return [watch.seen[number] - due[number] for number in range(jobs)]


def _ms(seconds: list[float]) -> list[float]:
    return [round(1000 * value, 3) for value in seconds]
