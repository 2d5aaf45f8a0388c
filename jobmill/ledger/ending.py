"""Ends: what a starter pushes, and the one script that ends, frees, notifies and tells (law 8)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from jobmill.jobs.identifier import ID_PATTERN
from jobmill.ledger.admission import Batch
from jobmill.ledger.keys import lane_suffix, launch_name
from jobmill.ledger.membership import Membership
from jobmill.ledger.record import Record, batches, text

_ID = re.compile(ID_PATTERN.encode())


@dataclass(frozen=True, kw_only=True)
class RunEnd:
    """The end of one run, judged."""

    job_id: str
    run: int
    state: str  # done | failed | cancelled | not_run | lost
    exit: str  # one line of JSON
    retry_in: float | None = None  # seconds until the next run; None: this is the job's end
    wall: float | None = None  # seconds
    arrival: int = 0  # under which the job was admitted; 0: not known
    uncommitted: bool = False  # it holds only as long as nobody has committed the launch


def push(record: Record, lane: str, ends: Sequence[str]) -> None:
    """Hand ends (lines of JSON: id, run, arrival, exit) to the fetchers; pushed twice they are still one end each."""
    for some in batches(ends):
        record.run("push", "Exit_Queue" + lane_suffix(lane), *some)


def finish(record: Record, ends: Sequence[RunEnd], *, taken: tuple[Membership, Batch] | None = None) -> list[str]:
    """End runs; with ``taken``, pushed ones: the entries of that batch leave the private list in the same script.

    A pushed end of a job that somebody wishes to end is not recorded ('wished'): a poll has to prove that nothing of it
    is left, and is due now.
    """
    member, batch = taken if taken else (None, None)
    values: list[str | int | float] = [
        member.name if member else "",
        batch.queue if batch else "",
        batch.turn if batch else "",
        len(batch.entries) if batch else 0,
    ]
    for e in ends:
        again = "" if e.retry_in is None else int(e.retry_in * 1000)
        wall = "" if e.wall is None else round(e.wall * 1000, 3)
        name = launch_name(e.job_id, e.arrival)
        values += [name, e.run, e.state, e.exit, again, wall, "new" if e.uncommitted else "unwished" if taken else ""]
    return [text(a) for a in record.run("finish", *values)]


def resolve(member: Membership, batch: Batch) -> int:
    """Drive the dependents of ended jobs from the head of the private list; return how many ends were looked at."""
    ids = [e for e in batch.entries if _ID.fullmatch(e)]  # '' rings only; anything else is not ours, and names no job
    left: Sequence[bytes] = ids
    while True:
        left = member.record.run("resolve", member.name, batch.queue, batch.turn, len(batch.entries), *left)
        if not left:
            return len(ids)
