"""Systems that do not answer: what their workers found out, so that nothing is granted to them and people are told.

The hash `Endpoints` holds for each such system ``<next try> <since> <why>`` (server's time, ms). The word is advice: a
lost or late one costs a submission that is given back, never more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jobmill.ledger.membership import server_time
from jobmill.ledger.record import Record, text

OLD = 15.0  # seconds after the next try was due: who said this waits for the system no more
WHY = 200  # characters of a reason


@dataclass(frozen=True, kw_only=True)
class Outage:
    """A system does not answer."""

    until: float  # no verb is called before (the server's Unix time, seconds)
    since: float
    now: float  # when this was looked at
    why: str

    def told(self, system: str) -> str:
        """Return ``fake does not answer since 12 s (connection refused), next try in 3 s``."""
        left = self.until - self.now
        soon = f"in {left:.0f} s" if left >= 0.5 else "now"
        return f"{system} does not answer since {max(0.0, self.now - self.since):.0f} s ({self.why}), next try {soon}"


def tell(record: Record, system: str, *, pause: float, age: float, why: str) -> None:
    """Record that a system has not answered for ``age`` seconds and is not asked for ``pause`` seconds."""
    now = server_time(record) * 1000
    word = f"{now + max(0.0, pause) * 1000:.0f} {now - age * 1000:.0f} {' '.join(why.split())[:WHY]}"
    record.call("HSET", record.keys("Endpoints"), system, word)


def clear(record: Record, systems: list[str]) -> None:
    """Record that these systems answer."""
    if systems:
        record.call("HDEL", record.keys("Endpoints"), *systems)


def outages(record: Record, *, old: bool = False) -> Mapping[str, Outage]:
    """Return the systems that do not answer, by name; with ``old`` also words that nobody repeats any more."""
    now = server_time(record)
    row = record.call("HGETALL", record.keys("Endpoints"))
    facts = row if isinstance(row, dict) else dict(zip(row[::2], row[1::2], strict=True))
    found = {text(name): _read(text(word), now) for name, word in facts.items()}
    return {name: outage for name, outage in found.items() if old or outage.until + OLD > now}


def _read(word: str, now: float) -> Outage:
    until, since, why = [*word.split(" ", 2), "", "", ""][:3]
    if not (until.isdecimal() and since.isdecimal()):  # somebody else has written here
        return Outage(until=0.0, since=0.0, now=now, why=word)
    return Outage(until=float(until) / 1000, since=float(since) / 1000, now=now, why=why)
