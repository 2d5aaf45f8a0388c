"""Latencies of HyperQueue, run by the Python of its own environment: FOLDER JOBS RATE COMMAND.

Its `wait_for_jobs` looks at once and then each second, so whoever uses it waits a second for the shortest of jobs,
and holds the interpreter's lock meanwhile. But its callback is told of the first look and may raise, and then the call
ends: so we look each millisecond, and measure the server and the worker instead of that second.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from typing import Any

from hyperqueue import Client, Job, LocalCluster  # type: ignore[import-not-found]
from hyperqueue.cluster import WorkerConfig  # type: ignore[import-not-found]
from latency_loop import Watch, WrongEnd, measure

SLOTS = 2
LOOK = 0.001  # seconds between looks


class Looked(Exception):
    """Ends a wait after its first look."""


class HyperQueueDoor:
    """One task a job. Closed: submission, then looks. Open: one thread with a client of its own."""

    def __init__(self, client: Client, observer: Client, command: str) -> None:
        self._client, self._observer = client, observer
        self._command = command
        self._sent: dict[int, int] = {}  # its id -> our number
        self._all_sent: list[int] = []

    def _submit(self) -> int:
        job = Job(max_fails=None)
        job.program([self._command], stdout=None, stderr=None)
        return int(self._client.submit(job).id)

    def one(self) -> None:
        """Submit and wait."""
        job_id = self._submit()
        while not _completed(self._client, [job_id]):
            time.sleep(LOOK)
        self._check([job_id])

    def open(self, watch: Watch) -> None:
        """Look again and again at all that were sent and not seen to end."""

        def follow() -> None:
            while not watch.whole.is_set():
                for job_id in _completed(self._observer, list(self._sent)) if self._sent else ():
                    watch.end(self._sent.pop(job_id))
                time.sleep(LOOK)

        threading.Thread(target=follow, daemon=True).start()

    def send(self, number: int) -> None:
        """Submit."""
        job_id = self._submit()
        self._all_sent.append(job_id)
        self._sent[job_id] = number

    def check(self) -> None:
        """Ask for what failed."""
        self._check(self._all_sent)

    def _check(self, ids: list[int]) -> None:
        failed = self._client.connection.wait_for_jobs(ids, lambda _: None)  # they have ended: it answers at once
        if failed:
            raise WrongEnd(f"hyperqueue tells of failed jobs: {sorted(failed)[:5]}")


def _completed(client: Client, ids: list[int]) -> list[int]:
    """Return which of these have ended now."""
    found: list[int] = []

    def look(states: dict[int, dict[str, Any]]) -> None:
        found.extend(job_id for job_id, state in states.items() if state["completed"])
        raise Looked

    with contextlib.suppress(Looked):
        client.connection.wait_for_jobs(ids, look)
    return found


def main() -> None:
    """Start server and worker, and measure."""
    with LocalCluster(sys.argv[1], WorkerConfig(cores=SLOTS)) as cluster:
        door = HyperQueueDoor(cluster.client(), cluster.client(), sys.argv[4])
        measure(door, int(sys.argv[2]), float(sys.argv[3]))


if __name__ == "__main__":
    main()
