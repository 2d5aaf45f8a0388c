"""What the clients of the task queues share: one clock from the first submission to the last recorded end.

Standard library only: it runs in the Python of each program's own environment.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any, Protocol

WARM_UP = 20  # jobs outside of the clock
LOOK = 0.02  # seconds between looks at the number of ends: what the clock may be late by
PATIENCE = 60.0  # seconds for workers to appear, and on top of a tenth of a second a job


class WrongEnd(Exception):
    """A result is missing, or is not what the job returns."""


class Door(Protocol):
    """How one task queue is asked."""

    def ready(self) -> bool:
        """Tell whether all workers are there."""

    def submit(self, jobs: int) -> Any:
        """Submit jobs that return their number, from 0; return whatever `results` needs."""

    def ended(self) -> int:
        """Return the number of ends in the server, since its start."""

    def results(self, submitted: Any) -> list[Any]:
        """Return what each job returned, read from the server; None where it did not succeed."""


def measure(door: Door, jobs: int) -> None:
    """Warm up, run so many jobs, look at each result; print the seconds as one line of JSON."""
    _until(door.ready, PATIENCE, "not all workers have appeared")
    door.submit(WARM_UP)
    _until(lambda: door.ended() >= WARM_UP, PATIENCE, "the first jobs have not ended")
    begin = time.perf_counter()
    submitted = door.submit(jobs)
    sent = time.perf_counter() - begin
    _until(lambda: door.ended() >= WARM_UP + jobs, PATIENCE + jobs / 10, f"not all of {jobs} jobs have ended")
    seconds = time.perf_counter() - begin
    wrong = [(number, value) for number, value in enumerate(door.results(submitted)) if value != number]
    if wrong:
        raise WrongEnd(f"{len(wrong)} of {jobs} results are wrong; (number, result): {wrong[:5]}")
    print(json.dumps({"seconds": seconds, "submitted": sent}))


def _until(true: Callable[[], bool], patience: float, words: str) -> None:
    deadline = time.perf_counter() + patience
    while not true():
        if time.perf_counter() > deadline:
            raise WrongEnd(f"{words} within {patience:g} s")
        time.sleep(LOOK)
