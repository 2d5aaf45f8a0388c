"""The janitor's scripts: what was put off and is due, what is old, and the recount of sets."""

from __future__ import annotations

from collections.abc import Sequence

from jobmill.jobs.states import ENDED, State
from jobmill.ledger.record import BATCH, Record, batches, text


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


def reconcile(record: Record, sets: Sequence[str]) -> dict[str, list[str]]:
    """Recount sets against the live records; return the members that had no right to be there, by set."""
    repaired: dict[str, list[str]] = {}
    for name in sets:
        cursor = "0"
        while True:
            cursor, *gone = (text(a) for a in record.run("reconcile", name, cursor))
            if gone:
                repaired.setdefault(name, []).extend(gone)
            if cursor == "0":
                break
    return repaired


def regrant(record: Record, job_ids: Sequence[str], age: float) -> list[str]:
    """Push granted jobs anew whose list entry is gone; entries with an older fence are void."""
    found: list[str] = []
    for some in batches(job_ids):
        found += [text(a) for a in record.run("regrant", int(age * 1000), *some)]
    return found


def granted(record: Record, sets: Sequence[str], count: int = BATCH) -> list[str]:
    """Return up to ``count`` granted jobs among the members of sets."""
    found: list[str] = []
    for name in sets:
        for job_id in record.members(record.keys(name)):
            if text(record.call("HGET", record.keys.job(job_id), "state") or "") == State.GRANTED:
                found.append(job_id)
                if len(found) >= count:
                    return found
    return found
