"""Launches: begin, commit, abort; and after a crash: expired, seal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jobmill.ledger.admission import Batch
from jobmill.ledger.membership import Membership
from jobmill.ledger.record import Record, text


@dataclass(frozen=True, kw_only=True)
class Intent:
    """One launch that is about to happen; an empty id buries an entry that is no granted job."""

    job_id: str
    fence: int
    run: int
    handle: str = ""  # where the system knows it beforehand


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


def begin(member: Membership, batch: Batch, intents: Sequence[Intent], lease: float) -> list[bool]:
    """Begin the launches at the head of the private list; True: go ahead, False: void, drop it. Raise Evicted."""
    values: list[str | int] = []
    for i in intents:
        values += [i.job_id, i.fence, i.run, i.handle]
    answer = member.record.run("begin", member.name, batch.queue, batch.turn, int(lease * 1000), *values)
    if len(answer) != len(intents):
        return [False] * len(intents)
    return [a == b"go" for a in answer]


def commit(record: Record, commitments: Sequence[Commitment]) -> list[str]:
    """Record that the launches are known; answers: ok, stale (kill it), ended, or the wish that stands."""
    values: list[str | int] = []
    for c in commitments:
        values += [c.job_id, c.run, c.fence, c.state, c.handle, c.native, int(c.poll_in * 1000)]
    return [text(a) for a in record.run("commit", *values)] if values else []


def abort(record: Record, launches: Sequence[tuple[str, int, int]], *, delay: float, why: str) -> list[str]:
    """Give back launches (id, run, fence) that certainly did not happen; ``delay`` in seconds."""
    values: list[str | int] = []
    for job_id, run, fence in launches:
        values += [job_id, run, fence, int(delay * 1000), why]
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
        )
        for i in range(0, len(v), 8)
    ]


def expire(record: Record, lane: str, owner: str, count: int = 250) -> int:
    """Let the leases of a dead owner run out now; return how many."""
    return len(record.run("expired", lane, count, 0, owner))


def seal(record: Record, launches: Sequence[tuple[str, int, int | None]], evidence: str) -> list[str]:
    """Record that the launches (id, run, fence) never start: the jobs wait again under the next run number.

    A fence of None: whatever it is; the run number alone names the launch.
    """
    values: list[str | int] = []
    for job_id, run, fence in launches:
        values += [job_id, run, "" if fence is None else fence, evidence]
    return [text(a) for a in record.run("seal", *values)] if values else []
