"""Polls of endpoints: systems that answer for all their launches at once are asked by one fetcher, once an interval.

The zset `Polls` holds for each such system when its next poll is due (ms, the server's time). Who makes a poll moves it
to the end of a lease first, and to the next one when all that was seen is recorded. Which jobs it stands for follows
from `Running_Queue`: they have a due time of their own, far away (`poll.FAR`), and so stand there in the order in which
they were left to the poll.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from sys import intern
from typing import NamedTuple

from jobmill.ledger.poll import FAR
from jobmill.ledger.record import Record, text

SLACK = 2000  # ms that are read again: the server's clock may have been set back a little
ALL = "(0"  # what is due at 0 has a poll of its own


class Left(NamedTuple):
    """A launch that was left to the poll of its endpoint."""

    job_id: str
    run: int
    arrival: int  # under which the job was admitted
    state: str
    handle: str
    native_state: str
    progress: str
    terms: bool  # its spec may say something that the judge of its end has to know


def take(record: Record, system: str, left: str, *, lease: float, patience: float) -> tuple[str, float]:
    """Begin the poll of a system where it is due; return what to hold it by (empty: not now), and seconds to wait.

    ``left``: what `keep` returned when this process made the last one; another's is taken ``patience`` seconds late.
    """
    held, wait = record.run("polls", system, left, int(lease * 1000), int(patience * 1000))
    return text(held), int(wait) / 1000


def keep(record: Record, system: str, held: str, seconds: float) -> str:
    """Move a poll in hand to ``seconds`` from now: a lease, or the next one; empty where another has taken it over."""
    return text(record.run("polls", system, held, int(seconds * 1000), "")[0])


def left(record: Record, lane: str, system: str, since: str, count: int) -> tuple[int, str, list[Left]]:
    """Return the server's time (ms), where to go on (empty: this is all), and about ``count`` launches.

    ``since``: `ALL`, where the last page ended, or `after` the last look.
    """
    answer: Sequence[bytes] = record.run("committed", lane, system, since, count)
    now, more, *v = map(text, answer)
    it = iter(v)
    rows = [
        Left(job_id, int(run), int(arrival), intern(state), handle, intern(native), progress, bool(terms))
        for job_id, run, arrival, state, handle, native, progress, terms in zip(
            it, it, it, it, it, it, it, it, strict=True
        )
    ]
    return int(now), more, rows


def after(now: int) -> str:
    """Return where a look begins that finds what was left since ``now`` (ms, the server's time of the last one)."""
    return str(now + int(FAR * 1000) - SLACK)


def due(record: Record) -> Mapping[str, float]:
    """Return when each endpoint is polled next (the server's Unix time, seconds)."""
    rows = record.call("ZRANGE", record.keys("Polls"), 0, -1, "WITHSCORES")
    pairs = rows if rows and isinstance(rows[0], (list, tuple)) else zip(rows[::2], rows[1::2], strict=True)
    return {text(name): float(score) / 1000 for name, score in pairs}
