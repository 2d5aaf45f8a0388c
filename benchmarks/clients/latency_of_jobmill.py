"""Latencies of jobmill as its Python client sees them: URL JOBS RATE COMMAND → one line of JSON (latency_loop)."""

from __future__ import annotations

import sys
import threading

from latency_loop import Watch, WrongEnd, measure

from jobmill.client import Client
from jobmill.jobs.identifier import new_id
from jobmill.jobs.states import State
from jobmill.ledger.following import Following
from jobmill.ledger.listing import JobRow


class JobmillDoor:
    """Closed: `Client.submit`, `Client.wait`. Open: one thread follows the stream, as `jobmill wait` does."""

    def __init__(self, url: str, jobs: int, command: str) -> None:
        self._client, self._observer = Client(url), Client(url)
        self._job = {"command": [command]}
        self._ids = [new_id() for _ in range(jobs)]  # drawn before the clock: who follows must know what

    def one(self) -> None:
        """Submit and wait."""
        _check([self._client.wait(self._client.submit(self._job), timeout=60)])

    def open(self, watch: Watch) -> None:
        """Follow all."""
        numbers = {job_id: number for number, job_id in enumerate(self._ids)}
        following = Following(self._observer.record)
        following.add(self._ids)
        following.step(0.001)

        def follow() -> None:
            while following.left:
                for job_id in following.step(1.0):
                    if job_id not in following.left:
                        watch.end(numbers[job_id])

        threading.Thread(target=follow, daemon=True).start()

    def send(self, number: int) -> None:
        """Submit."""
        self._client.submit(self._job, id=self._ids[number])

    def check(self) -> None:
        """Read all records."""
        _check(list(self._client.wait(self._ids, timeout=60).values()))


def _check(rows: list[JobRow]) -> None:
    for row in rows:
        if row.state is not State.DONE or row.exit.get("exit_value") != 0 or row.run != 1:
            raise WrongEnd(f"job {row.id} ended {row.state} in run {row.run}: {row.exit}")


if __name__ == "__main__":
    measure(JobmillDoor(sys.argv[1], int(sys.argv[2]), sys.argv[4]), int(sys.argv[2]), float(sys.argv[3]))
