"""The manager's work: admit what is pushed, grant what has room, drive what waited for others."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from jobmill.config import Config
from jobmill.errors import ServerFull
from jobmill.ledger import admission, capacity, ending, membership
from jobmill.ledger.admission import Entry, Refusal
from jobmill.ledger.membership import Membership
from jobmill.ledger.record import BATCH, Record
from jobmill.manager.census import Census
from jobmill.manager.intake import Intake, Stream
from jobmill.manager.needs import Needs
from jobmill.manager.sites import Sites
from jobmill.worker.work import Work

logger = logging.getLogger("jobmill")

SPLIT = 500  # parts of a stream that one script puts into the private list
READ = 8 << 20  # bytes of entries that are looked at in one go, and one more entry
PATIENCE = 1.0  # seconds of reading after which what was read is admitted: in between there are heartbeats
INTAKE, RESULTS = "Job_Queue", "Result_Queue"


class Manager(Work):
    """Takes from Job_Queue and Result_Queue."""

    role = "manager"

    def __init__(self, record: Record, config: Config) -> None:
        self._record = record
        self._config = config
        self.digest = config.digest
        self._sites = Sites(config)
        self._needs = Needs(self._sites.sets)
        self._intake = Intake(config, self._sites.dispatcher(), self._needs)
        self._applied = self._told = False
        self._census = Census(record, config.limits.max_waiting)
        self._member: Membership | None = None

    def queues(self) -> Sequence[str]:
        """Return the two lists that it takes from."""
        return (INTAKE, RESULTS)

    def wants(self, queue: str) -> bool:
        """Leave Job_Queue alone while too many jobs wait or the server is nearly full."""
        return queue != INTAKE or not self._census.crowded

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

    def ring(self, queue: str) -> int:
        """Deal with one batch of a list."""
        return self._admit() if queue == INTAKE else self._results()

    def tick(self, now: float) -> None:
        """Refresh what is known of limits and crowding, and grant: the net under every ring."""
        self._apply()
        self._needs.limits = capacity.limits(self._record)
        self._census.refresh()
        self._grant()

    def _admit(self) -> int:
        assert self._member is not None
        batch = admission.take(self._member, INTAKE, BATCH, self._config.limits.document, READ)
        found: list[Entry | Refusal] = []
        until = time.monotonic() + PATIENCE
        for i, raw in enumerate(batch.entries):
            if found and time.monotonic() > until:
                break
            if i in batch.oversize:
                found.append(self._intake.oversize(batch.oversize[i], INTAKE))
                continue
            read = self._intake.read(raw, INTAKE)
            if isinstance(read, Stream):
                if not found:
                    admission.split(self._member, batch, _pieces(read.documents))
                    return BATCH  # look again at once
                break
            found.append(read)
        if not found:
            return 0
        # A cut reply ends this turn; the next look at the list finds what the record made of it (law 2).
        words = admission.admit(self._member, batch, found, time.time())
        for entry, word in zip(found, words, strict=False):
            if isinstance(entry, Refusal):
                logger.warning("refused: %s", entry.reason, extra={"id": entry.job_id or "?"})
            elif word == "dead":
                logger.warning("refused: its id is taken by another job", extra={"id": entry.job_id})
        if len(found) == 1 and isinstance(found[0], Entry) and words != ["dead"]:
            logger.info("%s", words[0], extra={"id": found[0].job_id, "system": found[0].system})
        elif len(found) > 1:
            logger.info("admitted a batch", extra={"jobs": words.count("admitted"), "refused": words.count("dead")})
        self._grant()
        return BATCH if batch.cut or len(found) < len(batch.entries) else len(found)

    def _results(self) -> int:
        assert self._member is not None
        batch = admission.take(self._member, RESULTS, BATCH)
        if batch.entries:
            ending.resolve(self._member, batch)
            self._grant()
        return len(batch.entries)

    def _grant(self) -> None:
        try:
            for system, capacity_set in self._sites.sets.items():
                while admission.grant(self._record, system, capacity_set, BATCH)[0] >= BATCH:
                    pass
        except ServerFull as error:
            logger.warning("no grants: %s", error)


def _pieces(documents: Sequence[str]) -> Sequence[str]:
    """Return at most SPLIT entries for the private list: documents, or shorter streams to be split in their turn.

    A document's text goes up to the next one's, so that their texts in a row are the stream as it was.
    """
    size = -(-len(documents) // SPLIT)
    return ["".join(documents[i : i + size]) for i in range(0, len(documents), size)]
