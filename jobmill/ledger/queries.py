"""Queries that all processes together put to an endpoint, so that polls keep to its budget; counted by the record.

The hash `Queries` holds for each such system ``<minute> <in it> <in the one before> <budget>``. The last minute is
taken from both: what came in the minute before counts by the share of it that is not yet a minute ago.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jobmill.ledger.membership import server_time
from jobmill.ledger.record import Record, text


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What an endpoint was asked in the last minute."""

    last_minute: float
    budget: float  # a minute


def spend(record: Record, system: str, count: int, budget: float) -> float:
    """Add queries; return how many there were in the last minute."""
    return float(record.run("spend", system, count, f"{budget:g}"))


def spent(record: Record) -> Mapping[str, Spent]:
    """Return for each system that has a budget what was spent of it; what is no such word is left out."""
    now = server_time(record)
    row = record.call("HGETALL", record.keys("Queries"))
    facts = row if isinstance(row, dict) else dict(zip(row[::2], row[1::2], strict=True))
    found = {text(name): _read(text(word), now) for name, word in facts.items()}
    return {name: it for name, it in found.items() if it is not None}


def _read(word: str, now: float) -> Spent | None:
    try:
        minute, these, before, budget = map(float, word.split())
    except ValueError:  # somebody else has written here
        return None
    age = now // 60 - minute
    if age == 1:
        these, before = 0.0, these
    elif age != 0:
        these = before = 0.0
    return Spent(last_minute=these + before * (1 - now % 60 / 60), budget=budget)
