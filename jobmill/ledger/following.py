"""Following jobs to their ends: every change once, refusals included; the stream tells when, the record what."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from jobmill.errors import ServerUnavailable
from jobmill.jobs.states import ENDED
from jobmill.ledger import dead, listing
from jobmill.ledger.events import Events
from jobmill.ledger.listing import JobRow
from jobmill.ledger.record import Record, batches

RECHECK = 2.0  # seconds between looks at all records: the stream is lossy
LOOK_BACK = 1000  # dead entries that are searched for a refusal


class Following:
    """Jobs on the way to their ends. Make it before the jobs are pushed, so that no change is missed."""

    def __init__(self, record: Record, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.record = record
        self.states: dict[str, str] = {}  # id -> last known state; "" while it stands in Job_Queue
        self.refused: dict[str, str] = {}  # id -> why
        self.left: set[str] = set()
        self.outage = ""  # the words of the server's absence, while it lasts
        self._clock = clock
        self._events = Events(record)
        self._recheck = 0.0
        self._ended: dict[str, JobRow] = {}  # whose record came with the news of its end

    def add(self, job_ids: Sequence[str]) -> None:
        """Follow these as well."""
        self.states.update(dict.fromkeys(job_ids, ""))
        self.left.update(job_ids)
        for job_id in job_ids:
            self._ended.pop(job_id, None)
        self._recheck = 0.0

    def step(self, block: float) -> list[str]:
        """Return the ids whose state changed, waiting up to ``block`` seconds (at most 2) for the first."""
        try:
            found = self._step(block)
            self.outage = ""
            return found
        except ServerUnavailable as error:
            self.outage = str(error)
            time.sleep(min(block, 0.2))
            return []

    def _step(self, block: float) -> list[str]:
        now = self._clock()
        if now >= self._recheck:
            found = self._look(sorted(self.left))
            # 10,000 jobs cost about 0.1 s a look, so look less often the more there are
            self._recheck = now + max(RECHECK, len(self.left) / 2500)
            return found
        wait = max(0.001, min(block, self._recheck - now))
        if len(self.left) == 1:
            return self._last(next(iter(self.left)), wait)
        changed = {}
        for change in self._events.next(wait):
            if change.job_id in self.left:
                changed[change.job_id] = change.state
        told = []
        for job_id, state in changed.items():
            if state == "refused":  # of an entry with this id, which may be somebody else's: a known job goes on
                if not listing.states(self.record, [job_id])[0]:
                    told += self._refusals([job_id])
            elif self._took(job_id, state):
                told.append(job_id)
        return told

    def _last(self, job_id: str, wait: float) -> list[str]:
        """Wait for the only one that is left: its record comes with the news."""
        changes, (answer,) = self._events.next_with(wait, [listing.asking(self.record, job_id)])
        row = listing.row(job_id, answer)
        if row is None:
            refused = any(change.job_id == job_id and change.state == "refused" for change in changes)
            return self._refusals([job_id]) if refused else []
        if row.ended:
            self._ended[job_id] = row
        return [job_id] if self._took(job_id, row.state) else []

    def _look(self, job_ids: Sequence[str]) -> list[str]:
        found, unknown = [], []
        for some in batches(job_ids):
            answers = self._events.look(listing.asking_states(self.record, some))
            for job_id, state in zip(some, listing.told_states(answers), strict=True):
                if state and self._took(job_id, state):
                    found.append(job_id)
                elif not state:
                    unknown.append(job_id)
        return found + (self._refusals(unknown) if unknown else [])

    def _took(self, job_id: str, state: str) -> bool:
        if self.states[job_id] == state:
            return False
        self.states[job_id] = state
        if state in ENDED:
            self.left.discard(job_id)
        return True

    def _refusals(self, job_ids: Sequence[str]) -> list[str]:
        wanted, found = set(job_ids), []
        for entry in reversed(dead.entries(self.record, -LOOK_BACK)):
            # what could not be read whole has no id in its header, and still names it in its text
            named = [entry.job_id] if entry.job_id else [i for i in wanted if f'"{i}"'.encode() in entry.entry]
            for job_id in named:
                if job_id in wanted and job_id in self.left:
                    self.refused[job_id] = entry.reason
                    self.states[job_id] = "refused"
                    self.left.discard(job_id)
                    found.append(job_id)
        return found

    def nowhere(self) -> list[str]:
        """Return the ids that neither the record nor Job_Queue nor a manager has now; ask twice to be sure."""
        unknown = sorted(i for i in self.left if not self.states[i])
        if not unknown or listing.queued(self.record):
            return []
        return [
            job_id
            for some in batches(unknown)
            for job_id, state in zip(some, listing.states(self.record, some), strict=True)
            if not state
        ]

    def rows(self, job_ids: Sequence[str]) -> dict[str, JobRow]:
        """Return the records of jobs by id."""
        asked = [job_id for job_id in job_ids if job_id not in self._ended]
        found = {row.id: row for some in batches(asked) for row in listing.jobs(self.record, some)}
        found |= self._ended
        return {job_id: found[job_id] for job_id in job_ids if job_id in found}
