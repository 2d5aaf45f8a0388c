"""The users: they submit through a broken network, again until they are answered, and change their minds."""

from __future__ import annotations

import heapq
import random
import threading
import time
from collections.abc import Sequence

from jobmill.errors import JobmillError
from jobmill.jobs.spec import JobSpec
from jobmill.ledger import listing
from tests.chaos.evidence import now
from tests.chaos.workload import Job
from tests.chaos.world import World

AHEAD = 60  # jobs that may stand in line: a queue, and never the whole run at once


class Users:
    """Submits all jobs of a run, never many more than have started, and cancels some."""

    def __init__(self, world: World, jobs: Sequence[Job], *, seed: int) -> None:
        self.acknowledged: set[str] = set()
        self.sent: set[str] = set()
        self.answers: dict[str, tuple[str, float]] = {}  # job -> what its cancel was answered, and when (since boot)
        self.failed: list[str] = []  # a fault of this program
        self._world, self._jobs = world, jobs
        self._draw = random.Random(f"users {seed}")
        self._over = threading.Event()
        self._wishes: list[tuple[float, str]] = []
        self._thread = threading.Thread(target=self._serve, name="users", daemon=True)

    @property
    def busy(self) -> bool:
        """Tell whether something is still to be submitted or cancelled."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Submit nothing more."""
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _serve(self) -> None:
        try:
            self._submit_all()
        except Exception as error:  # told at the end, and the run counts as failed
            self.failed.append(f"users: {error!r}")

    def _submit_all(self) -> None:
        left = list(self._jobs)
        while (left or self._wishes) and not self._over.is_set():
            if left and self._in_line() < AHEAD:
                some = self._draw.randint(1, 20)
                batch, left = left[:some], left[some:]
                self._submit(batch)
                for job in batch:
                    if job.cancel_after is not None:
                        heapq.heappush(self._wishes, (time.monotonic() + job.cancel_after, job.plan.job_id))
            while self._wishes and self._wishes[0][0] <= time.monotonic() and not self._over.is_set():
                self._cancel(heapq.heappop(self._wishes)[1])
            self._over.wait(0.02)

    def _in_line(self) -> int:
        try:
            return listing.queued(self._world.direct.record) + listing.waiting(self._world.direct.record)
        except JobmillError:
            return AHEAD

    def _submit(self, batch: Sequence[Job]) -> None:
        specs = [JobSpec.parse(job.spec) for job in batch]
        ids = [job.plan.job_id for job in batch]
        self.sent.update(ids)
        while not self._over.is_set():
            try:
                self._world.client.send(specs)
                self.acknowledged.update(ids)
                return
            except JobmillError:  # not answered: it may have been done, and doing it again does no harm
                self._over.wait(0.1)

    def _cancel(self, job_id: str) -> None:
        while not self._over.is_set():
            try:
                answer = self._world.client.cancel([job_id], why="changed my mind", who="users")
                self.answers[job_id] = answer[job_id], now()
                return
            except JobmillError:
                self._over.wait(0.1)
