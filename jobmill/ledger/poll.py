"""Polls: claim what is due, record what was seen."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from jobmill.ledger.record import Record, text

_VALUES = 10


@dataclass(frozen=True, kw_only=True)
class Due:
    """A job that is due for a poll."""

    job_id: str
    run: int
    fence: int
    state: str
    system: str
    handle: str
    wish: str  # JSON of the cancel that stands, or empty
    owner: str
    absent: float  # since when its system knows nothing of it (Unix time, seconds; 0: not so)
    killed: float  # since when it is being killed
    now: float = 0.0  # the server's time of the claim: the only clock that `absent` and `killed` are compared with


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a poll saw."""

    job_id: str
    run: int
    state: str
    poll_in: float  # seconds
    fields: Mapping[str, str] = field(default_factory=dict)  # '' removes one; 'now' sets the time once


def claim(record: Record, lane: str, count: int, lease: float) -> list[Due]:
    """Claim up to ``count`` due jobs of a lane for ``lease`` seconds."""
    now, *v = (text(a) for a in record.run("claim", lane, count, int(lease * 1000)))
    return [
        Due(
            job_id=v[i],
            run=int(v[i + 1]),
            fence=int(v[i + 2]),
            state=v[i + 3],
            system=v[i + 4],
            handle=v[i + 5],
            wish=v[i + 6],
            owner=v[i + 7],
            absent=float(v[i + 8] or 0) / 1000,
            killed=float(v[i + 9] or 0) / 1000,
            now=float(now) / 1000,
        )
        for i in range(0, len(v), _VALUES)
    ]


def touch(record: Record, seen: Sequence[Seen]) -> list[str]:
    """Record what polls saw; 'stale' where the job has moved on."""
    values: list[str | int] = []
    for s in seen:
        values += [s.job_id, s.run, s.state, int(s.poll_in * 1000), json.dumps(s.fields) if s.fields else ""]
    return [text(a) for a in record.run("touch", *values)] if values else []
