"""The manager's work: admit what is pushed, grant what has room, drive what waited for others."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from jobmill.config import Config
from jobmill.errors import JobmillError
from jobmill.ledger import admission, capacity, ending, membership
from jobmill.ledger.admission import Batch
from jobmill.ledger.exchange import Call
from jobmill.ledger.membership import Membership
from jobmill.ledger.record import BATCH, Record
from jobmill.manager.census import Census
from jobmill.manager.doorway import QUEUE, SHIFT, Doorway, complain
from jobmill.manager.intake import Intake
from jobmill.manager.needs import Needs
from jobmill.manager.sites import Sites
from jobmill.worker.work import Work

logger = logging.getLogger("jobmill")

RESULTS = "Result_Queue"


class Manager(Work):
    """Takes from Job_Queue and Result_Queue."""

    role = "manager"

    def __init__(self, record: Record, config: Config) -> None:
        self._record = record
        self._config = config
        self.digest = config.digest
        self._sites = Sites(config)
        self._needs = Needs(self._sites.sets)
        intake = Intake(config, self._sites.dispatcher(), self._needs)
        self._doorway = Doorway(intake, config.limits.document, self._sites.sets)
        self._applied = self._told = False
        self._admitted = 0
        self._unfinished = False  # there was more to grant
        self._census = Census(record, config.limits.max_waiting)
        self._member: Membership | None = None

    def queues(self) -> Sequence[str]:
        """Return the two lists that it takes from."""
        return (QUEUE, RESULTS)

    def wants(self, queue: str) -> bool:
        """Leave Job_Queue alone while too many jobs wait or the server is nearly full."""
        return queue != QUEUE or not self._census.crowded

    def enter(self, member: Membership) -> None:
        """Apply the configuration's limits (where they changed), then grant what waits."""
        self._member = member
        self._apply()
        self._needs.limits = capacity.limits(self._record)
        self._grant()

    def _apply(self) -> None:
        """Apply the configuration once, as soon as no living manager has another one (law 12)."""
        if self._applied:
            return
        other = membership.other_digest(self._record, self.role, self.digest, self._config.limits.lease)
        if not other:
            self._sites.apply(self._record)
            self._applied = True
        elif not self._told:
            self._told = True
            logger.warning(
                "a manager runs with another configuration: this one applies no limits before that one is gone",
                extra={"other": other, "own": self.digest},
            )

    def taking(self, queue: str) -> Call[Batch]:
        """Take what is read at once, or one batch of ends."""
        assert self._member is not None
        return self._doorway.taking(self._member) if queue == QUEUE else admission.taking(self._member, RESULTS, BATCH)

    def ring(self, queue: str, batch: Batch | None = None) -> int:
        """Deal with what stands at the head of a list."""
        assert self._member is not None
        head = batch or self._record.do(self.taking(queue))
        if queue != QUEUE:
            return self._results(self._member, head)
        count = self._doorway.admit(self._member, head)
        self._admitted += count
        return count

    def tick(self, now: float) -> None:
        """Refresh what is known of limits and crowding, and grant: the net under every ring."""
        self._apply()
        self._needs.limits = capacity.limits(self._record)
        self._census.refresh(self._admitted)
        self._grant()

    def _results(self, member: Membership, batch: Batch) -> int:
        if batch.entries:
            ending.resolve(member, batch)
            self._grant()
        return len(batch.entries)

    def flush(self, now: float) -> float | None:
        """Go on granting where there was more to grant than one go takes."""
        if self._unfinished and now != float("inf"):
            self._grant()
        return 0.0 if self._unfinished else None

    def _grant(self) -> None:
        """Grant for about `SHIFT` seconds: in between there are heartbeats."""
        left = dict(self._sites.sets)
        stop = time.monotonic() + SHIFT
        while left and time.monotonic() < stop:
            calls = [admission.granting(system, capacity_set, BATCH) for system, capacity_set in left.items()]
            answers = self._record.send(calls).answers()
            complain(answers)
            left = {
                system: left[system]
                for system, answer in zip(left, answers, strict=True)
                if not isinstance(answer, JobmillError) and (answer.jobs >= BATCH or answer.cut)
            }
        self._unfinished = bool(left)
