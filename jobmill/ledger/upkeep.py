"""The janitor's scripts: what was put off and is due, what is old, and the recount of sets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from jobmill.jobs.states import ENDED
from jobmill.ledger.record import BATCH, Record, batches, text


@dataclass(frozen=True, kw_only=True)
class Recounted:
    """A part of a set, recounted."""

    name: str
    gone: Sequence[str]  # members that had no right to be there
    granted: Sequence[str]  # those whose job is granted and not begun


def wake_due(record: Record, count: int = BATCH) -> int:
    """Let jobs whose delay is over wait again; return how many."""
    return int(record.run("later", count))


def prune(record: Record, age: float, count: int = BATCH) -> int:
    """Remove ended records older than ``age`` seconds that nobody waits for; return how many."""
    total = 0
    for state in sorted(ENDED):
        skip = 0
        while True:
            removed, kept = record.run("prune", int(age * 1000), count, skip, state)
            total += int(removed)
            skip += int(kept)
            if int(removed) + int(kept) < count:
                break
    return total


def reconcile(record: Record, sets: Sequence[str]) -> Iterator[Recounted]:
    """Recount sets against the live records, some 250 members at a time."""
    for name in sets:
        cursor = "0"
        while True:
            cursor, count, *ids = (text(a) for a in record.run("reconcile", name, cursor))
            yield Recounted(name=name, gone=ids[: int(count)], granted=ids[int(count) :])
            if cursor == "0":
                break


def regrant(record: Record, job_ids: Sequence[str], age: float) -> list[str]:
    """Push granted jobs anew whose list entry is gone; entries with an older fence are void."""
    found: list[str] = []
    for some in batches(job_ids):
        found += [text(a) for a in record.run("regrant", int(age * 1000), *some)]
    return found
