"""dramatiq's submission, clock and proof, run by the Python of its own environment: SOCKET JOBS WORKERS."""

from __future__ import annotations

import sys
from typing import Any

from dramatiq.results import ResultMissing  # type: ignore[import-not-found]
from ends import measure
from noop_of_dramatiq import backend, broker, noop


class DramatiqDoor:
    """`send` one by one; results have a database of their own, so its size is the count."""

    def __init__(self, workers: int) -> None:
        self._workers = workers

    def ready(self) -> bool:
        """Count the brokers that have told that they live; the client's own is none before it has sent something."""
        return int(broker.client.zcard("dramatiq:__heartbeats__")) >= self._workers

    def submit(self, jobs: int) -> list[Any]:
        """Send all."""
        return [noop.send(number) for number in range(jobs)]

    def ended(self) -> int:
        """Count the results."""
        return int(backend.client.dbsize())

    def results(self, submitted: list[Any]) -> list[Any]:
        """Read each result."""
        return [_result(message) for message in submitted]


def _result(message: Any) -> Any:
    try:
        return message.get_result(backend=backend)
    except ResultMissing:
        return None


if __name__ == "__main__":
    measure(DramatiqDoor(int(sys.argv[3])), int(sys.argv[2]))
