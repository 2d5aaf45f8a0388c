"""Dead_Queue: entries that could not become jobs, each whole and with its reason."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jobmill.ledger.record import Record, text


@dataclass(frozen=True, kw_only=True)
class DeadEntry:
    """One entry; ``position`` and ``digest`` name it for `requeue` and `drop`."""

    position: int
    digest: str  # SHA-1 of the whole entry
    reason: str
    queue: str
    time: float  # Unix time, seconds
    job_id: str
    entry: bytes  # as it was pushed


def entries(record: Record, first: int = 0, last: int = -1) -> list[DeadEntry]:
    """Return the dead entries from ``first`` to ``last``, oldest first."""
    found = []
    for i, whole in enumerate(record.call("LRANGE", record.keys("Dead_Queue"), first, last)):
        header, raw = _parted(whole)
        found.append(
            DeadEntry(
                position=first + i,
                digest=hashlib.sha1(whole, usedforsecurity=False).hexdigest(),
                reason=str(header["reason"]),
                queue=str(header.get("queue", "")),
                time=float(header.get("time", 0)),
                job_id=str(header.get("id", "")),
                entry=raw,
            )
        )
    return found


def _parted(whole: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the header and the entry below it; whoever can push may push here what has no header of ours."""
    head, _, raw = whole.partition(b"\n")
    try:
        header = json.loads(head.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        header = None
    if isinstance(header, dict) and "reason" in header:
        when = header.get("time", 0)
        if isinstance(when, int | float) and abs(when) < 1e12:  # not so for NaN
            return header, raw
    return {"reason": "pushed here by hand"}, whole


def requeue(record: Record, chosen: Sequence[DeadEntry]) -> int:
    """Push entries back onto Job_Queue, unchanged; return how many were still there."""
    return _move(record, "requeue", chosen)


def drop(record: Record, chosen: Sequence[DeadEntry]) -> int:
    """Remove entries for good; return how many were still there."""
    return _move(record, "drop", chosen)


def count(record: Record) -> int:
    """Return how many entries are dead."""
    return int(text(record.call("LLEN", record.keys("Dead_Queue"))))


def _move(record: Record, verb: str, chosen: Sequence[DeadEntry]) -> int:
    values: list[str | int] = []
    for e in chosen:
        values += [e.position, e.digest]
    return int(record.run("bury", verb, *values)) if values else 0
