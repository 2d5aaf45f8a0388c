"""Which jobs a user means: ids, `last`, `all`, prefixes, patterns, ranges; by tag, state and user."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice

from jobmill.errors import UnknownName, UsageError, nearest
from jobmill.jobs.states import ENDED, LIVE, State
from jobmill.ledger import listing
from jobmill.ledger.listing import JobRow
from jobmill.ledger.record import Record, batches

MOST = 1_000_000  # ids that one selection looks at
_RANGE = re.compile(r"(.*?)(\d{1,9})\.\.(\d{1,9})", re.ASCII)
_GROUPS = {"live": LIVE, "ended": ENDED, "queued": frozenset({State.WAITING}), "all": frozenset(State)}


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What was asked for; words and filters together narrow it."""

    words: Sequence[str] = ()  # ids, unambiguous beginnings of ids, `last`, `all`, sim-*, sim-1..20
    tag: str | None = None
    states: frozenset[State] = frozenset()  # empty: any
    user: str | None = None

    @property
    def empty(self) -> bool:
        """True when nothing at all was asked for."""
        return not (self.words or self.tag or self.states or self.user)


def parse_states(words: Iterable[str]) -> frozenset[State]:
    """Return the states of ``running,failed``, ``live``, ``ended``; raise UnknownName."""
    found: set[State] = set()
    for word in (w.strip().lower().replace("-", "_") for text in words for w in text.split(",")):
        if word in _GROUPS:
            found |= _GROUPS[word]
        elif word in [s.value for s in State]:
            found.add(State(word))
        elif word:
            known = [s.value for s in State] + ["live", "ended"]
            raise UnknownName(f"unknown state {word!r}{nearest(word, known)}; known: {', '.join(known)}")
    return frozenset(found)


def select(record: Record, wanted: Selection, *, within: frozenset[State] = frozenset(State)) -> list[str]:
    """Return the ids that are meant, in order, each once.

    ``within``: the states that the caller's verb is for; ``all``, patterns and filters without ids mean only these.
    An id that is written out is taken whatever its state. Raises UnknownName for one that nobody knows, UsageError
    when nothing was asked for.
    """
    if wanted.empty:
        raise UsageError("name the jobs: ids, `last`, `all`, a pattern such as 'sim-*', --tag, --state or --user")
    within = within & wanted.states if wanted.states else within
    found: dict[str, None] = {}
    check = bool(wanted.tag or wanted.user)  # what was written out may be in any state
    for word in wanted.words or ("all",):
        if word == "last":
            last = listing.last(record)
            if not last:
                raise UnknownName("there is no last job: none was ever admitted here")
            found[last] = None
            check = check or bool(wanted.states)
        elif word == "all":
            found.update(dict.fromkeys(_all(record, within, wanted)))
        elif any(sign in word for sign in "*?["):
            found.update(dict.fromkeys(fnmatch.filter(_all(record, within, wanted), word)))
        else:
            found.update(dict.fromkeys(_written_out(record, word)))
            check = check or bool(wanted.states)
    return [row.id for row in rows(record, list(found)) if matches(row, wanted)] if check else list(found)


def rows(record: Record, ids: Sequence[str]) -> Iterator[JobRow]:
    """Go through the records of any number of jobs, in order, without those that are gone; read as they are taken."""
    for some in batches(ids):
        yield from listing.jobs(record, some)


def matches(row: JobRow, wanted: Selection) -> bool:
    """Tell whether a job passes the filters."""
    return (
        (not wanted.states or row.state in wanted.states)
        and (not wanted.user or row.user == wanted.user)
        and (not wanted.tag or wanted.tag in row.facts.get("tags", "").split())
    )


def _all(record: Record, within: frozenset[State], wanted: Selection) -> list[str]:
    pages = listing.walk(record, within, user=wanted.user or "")
    return list(islice(dict.fromkeys(chain.from_iterable(pages)), MOST))


def _written_out(record: Record, word: str) -> list[str]:
    """Return the job of this id, else those of a range, else the one whose id begins so."""
    if listing.states(record, [word])[0]:
        return [word]
    if match := _RANGE.fullmatch(word):
        first, last = int(match[2]), int(match[3])
        if not first <= last <= first + 100_000:
            raise UsageError(f"{word!r}: a range goes from a number up to a larger one, at most 100,000 away")
        width = len(match[2]) if match[2].startswith("0") else 0
        ids = [f"{match[1]}{number:0{width}d}" for number in range(first, last + 1)]
        states = [state for some in batches(ids) for state in listing.states(record, some)]
        if known := [i for i, state in zip(ids, states, strict=True) if state]:
            return known
        raise UnknownName(f"no job of the range {word} is in the record (jobmill list)")
    # a few thousand of the newest ids: enough for what people have on their screen
    known = listing.find(record, frozenset(State), 5000)
    begun = [i for i in known if i.startswith(word)] if len(word) >= 3 else []
    if len(begun) == 1:
        return begun
    if begun:
        raise UnknownName(
            f"{len(begun)} jobs begin with {word!r}: {', '.join(begun[:3])} …; write more of it, or {word}*"
        )
    return [word]  # perhaps still in Job_Queue: the verb says what it knows of it
