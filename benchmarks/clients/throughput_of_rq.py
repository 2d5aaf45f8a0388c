"""RQ's submission, clock and proof, run by the Python of its own environment: SOCKET JOBS WORKERS."""

from __future__ import annotations

import sys
from typing import Any

from ends import measure
from noop_of_rq import noop
from redis import Redis
from rq import Queue, Worker  # type: ignore[import-not-found]
from rq.job import Job  # type: ignore[import-not-found]

KEEP = 86400  # seconds for which results are kept


class RqDoor:
    """One `enqueue_many` (one pipeline); an end is an entry of the finished registry, written with the result."""

    def __init__(self, socket: str, workers: int) -> None:
        self._redis = Redis(unix_socket_path=socket)
        self._queue = Queue(connection=self._redis)
        self._workers = workers

    def ready(self) -> bool:
        """Count the registered workers."""
        return int(Worker.count(connection=self._redis)) >= self._workers

    def submit(self, jobs: int) -> list[str]:
        """Enqueue all in one pipeline."""
        rows = [Queue.prepare_data(noop, args=(number,), result_ttl=KEEP) for number in range(jobs)]
        return [job.id for job in self._queue.enqueue_many(rows)]

    def ended(self) -> int:
        """Count the registries of what finished and of what failed."""
        registries = (self._queue.finished_job_registry, self._queue.failed_job_registry)
        return sum(int(self._redis.zcard(registry.key)) for registry in registries)

    def results(self, submitted: list[str]) -> list[Any]:
        """Fetch each job and its result."""
        found = Job.fetch_many(submitted, connection=self._redis)
        return [job.return_value() if job is not None and job.is_finished else None for job in found]


if __name__ == "__main__":
    measure(RqDoor(sys.argv[1], int(sys.argv[3])), int(sys.argv[2]))
