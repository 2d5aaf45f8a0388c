"""Launches: begin, commit, abort; and after a crash: expired, seal, and what the record knows of them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from jobmill.ledger.admission import Batch
from jobmill.ledger.exchange import Call
from jobmill.ledger.keys import launch_name
from jobmill.ledger.membership import Membership
from jobmill.ledger.record import BATCH, Record, text

MOST = 16 << 20  # bytes of entries that are begun at once
ARRIVALS = 2**42  # a job's score is its arrival, less its priority times this (`SPAN` in the scripts)


@dataclass(frozen=True, kw_only=True)
class Begun(Batch):
    """Granted jobs that were taken and begun in one. ``turn``: what to expect next; ``cut``: there are more."""

    went: Sequence[bool] = ()  # an entry: True, launch it; False: it is void


@dataclass(frozen=True, kw_only=True)
class Commitment:
    """One launch that its system knows."""

    job_id: str
    run: int
    fence: int
    state: str  # submitted | running
    handle: str = ""
    native: str = ""
    poll_in: float = 10.0  # seconds
    arrival: int = 0


@dataclass(frozen=True, kw_only=True)
class Expired:
    """A launch whose lease ran out, to be investigated."""

    job_id: str
    run: int
    fence: int
    system: str
    handle: str
    wish: str
    seals: int
    owner: str
    arrival: int


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What the record says of a job's launch at this moment."""

    state: str
    run: int
    handle: str
    arrival: int


def beginning(
    member: Membership,
    queue: str,
    turn: int,
    lease: float,
    *,
    handles: Mapping[str, str] = MappingProxyType({}),
    count: int = BATCH,
    most: int = MOST,
) -> Call[Begun]:
    """Return the call of `begin`: take from a queue, and begin, up to ``count`` jobs and about ``most`` bytes.

    ``turn``: what the last answer said (at first 0). A turn that is asked for again, because its answer did not come,
    gives the same answer; the next turn lets go of it. ``handles``: by system, what stands in front of the token in a
    handle, where a handle is known beforehand.
    """
    known = [value for pair in handles.items() for value in pair]

    def read(answer: Sequence[bytes]) -> Begun:
        told, more, *rows = answer
        went = [word == b"go" for word in rows[::2]]
        return Begun(queue=queue, turn=int(told), entries=rows[1::2], cut=bool(more), went=went)

    return Call(name="begin", args=(member.name, queue, turn, count, most, int(lease * 1000), *known), read=read)


def commit(record: Record, commitments: Sequence[Commitment]) -> list[str]:
    """Record that the launches are known; answers: ok, stale (kill it), ended, or the wish that stands."""
    values: list[str | int] = []
    for c in commitments:
        name = launch_name(c.job_id, c.arrival)
        values += [name, c.run, c.fence, c.state, c.handle, c.native, int(c.poll_in * 1000)]
    return [text(a) for a in record.run("commit", *values)] if values else []


def abort(record: Record, launches: Sequence[tuple[str, int, int]], *, delay: float, why: str) -> list[str]:
    """Give back launches (name, run, fence) that certainly did not happen; names as `launch_name` makes them.

    ``delay``: seconds until they wait again; a fifth more or less for each, so that they do not come back as one herd.
    """
    values: list[str | int] = []
    for name, run, fence in launches:
        values += [name, run, fence, int(delay * random.uniform(0.8, 1.2) * 1000), why]
    return [text(a) for a in record.run("abort", *values)] if values else []


def expired(record: Record, lane: str, count: int, lease: float) -> list[Expired]:
    """Claim launches whose lease ran out, for an investigation of at most ``lease`` seconds."""
    v = [text(a) for a in record.run("expired", lane, count, int(lease * 1000), "")]
    return [
        Expired(
            job_id=v[i],
            run=int(v[i + 1]),
            fence=int(v[i + 2]),
            system=v[i + 3],
            handle=v[i + 4],
            wish=v[i + 5],
            seals=int(v[i + 6]),
            owner=v[i + 7],
            arrival=int(v[i + 8]),
        )
        for i in range(0, len(v), 9)
    ]


def expire(record: Record, lane: str, owner: str, count: int = 250) -> int:
    """Let the leases of a dead owner run out now; return how many."""
    return len(record.run("expired", lane, count, 0, owner))


def overdue(record: Record, lane: str, owner: str, launches: Sequence[tuple[str, int, int]]) -> int:
    """Let the leases of launches (name, run, fence) run out now: their owner does not know what became of them."""
    values = [value for launch in launches for value in launch]
    return len(record.run("expired", lane, 0, 0, owner, *values)) if values else 0


def seal(
    record: Record, launches: Sequence[tuple[str, int, int | None]], evidence: str, *, uncommitted: bool = False
) -> list[str]:
    """Record that the launches (name, run, fence) never start: the jobs wait again under the next run number.

    A fence of None: whatever it is; the run number alone names the launch. ``uncommitted``: it never starts because
    nobody has committed it, so one that was committed meanwhile is left alone.
    """
    values: list[str | int] = []
    for name, run, fence in launches:
        values += [name, run, "" if fence is None else fence, evidence, "1" if uncommitted else ""]
    return [text(a) for a in record.run("seal", *values)] if values else []


def standings(record: Record, job_ids: Sequence[str]) -> dict[str, Standing]:
    """Return how the launch of each job stands now; a job that the record does not have is left out."""
    answers = record.read([("HMGET", record.keys.job(i), "state", "run", "handle", "score") for i in job_ids])
    return {
        job_id: Standing(
            state=text(state), run=int(run or 1), handle=text(handle) if handle else "", arrival=int(score) % ARRIVALS
        )
        for job_id, (state, run, handle, score) in zip(job_ids, answers, strict=True)
        if state
    }
