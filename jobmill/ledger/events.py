"""The stream of changes: lossy by design, for those who wait, watch and count; the hash is the truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jobmill.ledger.connection import BLOCK
from jobmill.ledger.record import Record, text


@dataclass(frozen=True, kw_only=True)
class Change:
    """One change of state."""

    job_id: str
    state: str
    run: int
    time: float  # the server's Unix time, seconds


class Events:
    """A reader of the stream, from its first look on."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self._stream = record.keys("Events")
        self._after = ""

    def look(self, commands: Sequence[tuple[Any, ...]] = ()) -> list[Any]:
        """Return what commands answer that change nothing; what changes after the first look is told by `next`."""
        if self._after:
            return self._record.read(commands)
        last, *answers = self._record.read([("XREVRANGE", self._stream, "+", "-", "COUNT", 1), *commands])
        self._after = text(last[0][0]) if last else "0-0"
        return answers

    def next(self, block: float = BLOCK) -> Sequence[Change]:
        """Return the changes since the last call or first look; wait up to ``block`` seconds (at most 2) for one."""
        return self.next_with(block, [])[0]

    def next_with(self, block: float, commands: Sequence[tuple[Any, ...]]) -> tuple[Sequence[Change], list[Any]]:
        """Return also what these commands, which change nothing, answer at the moment when the wait is over."""
        wait = max(1, int(min(block, BLOCK) * 1000))
        read = ("XREAD", "COUNT", 100, "BLOCK", wait, "STREAMS", self._stream, self._after)
        answer, *answers = self._record.read([read, *commands])
        return self._changes(answer), answers

    def _changes(self, answer: Any) -> Sequence[Change]:
        changes: list[Change] = []
        if not answer:
            return changes
        entries = next(iter(answer.values())) if isinstance(answer, dict) else answer[0][1]
        if entries and isinstance(entries[0], list) and entries and isinstance(entries[0][0], (list, tuple)):
            entries = entries[0]
        for entry_id, fields in entries:
            self._after = text(entry_id)
            facts = fields if isinstance(fields, dict) else dict(zip(fields[::2], fields[1::2], strict=True))
            when = float(facts[b"time"]) / 1000
            for line in text(facts[b"changes"]).split("\n"):
                job_id, state, run = line.rsplit(" ", 2)  # the id of a refused document may hold anything
                changes.append(Change(job_id=job_id, state=state, run=int(run), time=when))
        return changes
