"""Celery's submission, clock and proof, run by the Python of its own environment: SOCKET JOBS WORKERS."""

from __future__ import annotations

import sys
from typing import Any

from ends import measure
from noop_of_celery import app, noop
from redis import Redis


class CeleryDoor:
    """`apply_async` one by one over one producer; results have a database of their own, so its size is the count."""

    def __init__(self, socket: str, workers: int) -> None:
        self._results = Redis(unix_socket_path=socket, db=1)
        self._workers = workers

    def ready(self) -> bool:
        """Ask the worker for the size of its pool."""
        pools = [stats["pool"]["max-concurrency"] for stats in (app.control.inspect().stats() or {}).values()]
        return sum(pools) >= self._workers

    def submit(self, jobs: int) -> list[Any]:
        """Send all."""
        with app.producer_or_acquire() as producer:
            return [noop.apply_async((number,), producer=producer) for number in range(jobs)]

    def ended(self) -> int:
        """Count the results."""
        return int(self._results.dbsize())

    def results(self, submitted: list[Any]) -> list[Any]:
        """Read each result anew."""
        found = [app.AsyncResult(sent.id) for sent in submitted]
        return [result.result if result.state == "SUCCESS" else None for result in found]


if __name__ == "__main__":
    measure(CeleryDoor(sys.argv[1], int(sys.argv[3])), int(sys.argv[2]))
