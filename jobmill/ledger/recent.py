"""The jobs that people look for first: live ones from the end of the pipeline, then the ended, newest first."""

from __future__ import annotations

from jobmill.jobs.states import ENDED, LIVE, State
from jobmill.ledger import listing
from jobmill.ledger.listing import JobRow
from jobmill.ledger.record import Record
from jobmill.ledger.selection import Selection, matches, rows, select


def recent(record: Record, wanted: Selection, limit: int) -> tuple[list[JobRow], bool]:
    """Return up to ``limit`` jobs that fit, and whether there are more of them.

    Costs what is shown, not what is there, unless a tag or user is asked for.
    """
    if wanted.words:
        found = rows(record, select(record, wanted))
        return found[:limit], len(found) > limit
    states = wanted.states or frozenset(State)
    reach = limit + 1 if not (wanted.tag or wanted.user) else 1_000_000
    live = [r for r in rows(record, listing.find(record, states & LIVE, reach)) if matches(r, wanted)]
    if wanted.tag:
        ids = listing.tagged(record, wanted.tag, reach)
    else:
        ids = [i for state in sorted(states & ENDED) for i in listing.find(record, {state}, reach)]
    over = [r for r in rows(record, ids) if r.state in ENDED and matches(r, wanted)]
    over.sort(key=lambda row: row.times.get("ended", 0.0), reverse=True)
    found = live[:limit] + over[: max(0, limit - len(live))]
    return found, len(live) + len(over) > len(found)
