"""The jobs that people look for first: live ones from the end of the pipeline, then the ended, newest first."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from jobmill.jobs.states import ENDED, LIVE, State
from jobmill.ledger import listing
from jobmill.ledger.listing import JobRow
from jobmill.ledger.pages import PAGE
from jobmill.ledger.record import Record
from jobmill.ledger.selection import Selection, matches, rows, select


def recent(record: Record, wanted: Selection, limit: int) -> tuple[list[JobRow], bool]:
    """Return up to ``limit`` jobs that fit, and whether there are more of them.

    Costs what is shown, not what is there. Only a tag, and a user outside of his own lines, have to be looked for
    among the records themselves; also then no question keeps the server for more than a page.
    """
    found = list(islice(_fitting(record, wanted, limit + 1), limit + 1))
    return found[:limit], len(found) > limit


def _fitting(record: Record, wanted: Selection, reach: int) -> Iterator[JobRow]:
    if wanted.words and list(wanted.words) != ["all"]:
        yield from rows(record, select(record, wanted))
        return
    seen: set[str] = set()  # a job may move on while it is looked for, and be met twice
    for page in _pages(record, wanted, reach):
        ids = [i for i in page if i not in seen]
        seen.update(ids)
        yield from (row for row in rows(record, ids) if matches(row, wanted))


def _pages(record: Record, wanted: Selection, reach: int) -> Iterator[list[str]]:
    states = wanted.states or frozenset(State)
    size = PAGE if wanted.tag or wanted.user else min(PAGE, reach)
    if states & LIVE:
        yield from listing.walk(record, states & LIVE, user=wanted.user or "", size=size)
    if states & ENDED:
        yield from listing.ended(record, states, tag=wanted.tag or "", size=size)
