"""Polls of single jobs: claim what is due, record what was seen, tell what the record has of a job."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from jobmill.ledger.keys import launch_name
from jobmill.ledger.record import Record, text

FAR = 3600.0  # seconds to the poll of its own of a job that is polled with its endpoint: a net under that
_VALUES = 16


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
    arrival: int = 0  # under which the job was admitted
    now: float = 0.0  # the server's time of the claim: the only clock that `absent` and `killed` are compared with
    retries: int = 0  # runs that followed a failed one
    seals: int = 0  # launches that never started
    terms: bool = True  # its spec may say something that the judge of its end has to know
    exited: str = ""  # its exit record (JSON) while what it left is brought home
    exited_at: float = 0.0  # since when that goes on

    @property
    def disturbed(self) -> bool:
        """True where it has polls of its own: to be killed, looked for or brought home, or without a known handle."""
        return bool(self.wish or self.killed or self.absent or self.exited or not self.handle)


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a poll saw."""

    job_id: str
    run: int
    state: str  # empty: as it is
    poll_in: float | None  # seconds; None: when it was due before
    arrival: int = 0  # under which the job was admitted; 0: not known
    fields: Mapping[str, str] = field(default_factory=dict)  # '' removes one; 'now' sets the time once


def claim(record: Record, lane: str, count: int, lease: float) -> list[Due]:
    """Claim up to ``count`` due jobs of a lane for ``lease`` seconds."""
    return _dues(record.run("claim", lane, count, int(lease * 1000)))


def facts(record: Record, job_ids: Sequence[str]) -> list[Due | None]:
    """Return what the record has of each job now, whatever its state, None where it has none; nothing is claimed."""
    if not job_ids:
        return []
    return [job if job.state else None for job in _dues(record.run("claim", "", 0, 0, *job_ids))]


def touch(record: Record, seen: Sequence[Seen]) -> list[str]:
    """Record what polls saw; 'stale' where the job has moved on."""
    values: list[str | int] = []
    for s in seen:
        wait = "" if s.poll_in is None else int(s.poll_in * 1000)
        name = launch_name(s.job_id, s.arrival)
        values += [name, s.run, s.state, wait, json.dumps(s.fields) if s.fields else ""]
    return [text(a) for a in record.run("touch", *values)] if values else []


def _dues(answer: Sequence[bytes]) -> list[Due]:
    now, *v = map(text, answer)
    return [
        Due(
            job_id=v[i],
            run=int(v[i + 1] or 0),
            fence=int(v[i + 2] or 0),
            state=v[i + 3],
            system=v[i + 4],
            handle=v[i + 5],
            wish=v[i + 6],
            owner=v[i + 7],
            absent=float(v[i + 8] or 0) / 1000,
            killed=float(v[i + 9] or 0) / 1000,
            arrival=int(v[i + 12] or 0),
            now=float(now) / 1000,
            retries=int(v[i + 10] or 0),
            seals=int(v[i + 11] or 0),
            terms=bool(v[i + 13]),
            exited=v[i + 14],
            exited_at=float(v[i + 15] or 0) / 1000,
        )
        for i in range(0, len(v), _VALUES)
    ]
