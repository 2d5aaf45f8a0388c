"""What the record takes in a server's memory, all in all and by kind of key."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from jobmill.ledger.record import Record, text

SAMPLE = 300  # keys of a kind that are looked at
PAGE = 5000  # keys that one SCAN looks at


@dataclass(frozen=True, kw_only=True)
class Kind:
    """All keys whose names begin alike: ``Job``, ``Spec``, ``Waiting`` …"""

    name: str
    keys: int
    bytes: int  # estimated from a sample where there are many keys


def used(record: Record) -> tuple[int, int]:
    """Return the bytes that the server has allocated, and those that its process has in memory."""
    facts = record.call("INFO", "memory")
    return int(facts["used_memory"]), int(facts["used_memory_rss"])


def by_kind(record: Record) -> list[Kind]:
    """Return all kinds, the largest first: MEMORY USAGE of a sample of each, its values looked at whole."""
    counts: Counter[str] = Counter()
    samples: dict[str, list[Any]] = {}
    cursor: Any = 0
    while True:
        cursor, page = record.call("SCAN", cursor, "COUNT", PAGE)
        for key in page:
            name = text(key).removeprefix(record.keys.prefix).partition(":")[0]
            counts[name] += 1
            some = samples.setdefault(name, [])
            if len(some) < SAMPLE:
                some.append(key)
        if int(cursor) == 0:
            break
    found = []
    for name, keys in samples.items():
        sizes = record.read([("MEMORY", "USAGE", key, "SAMPLES", 0) for key in keys])
        found.append(
            Kind(name=name, keys=counts[name], bytes=round(sum(n or 0 for n in sizes) / len(keys) * counts[name]))
        )
    return sorted(found, key=lambda kind: -kind.bytes)


def main_table(record: Record) -> int:
    """Return the bytes of the table of all keys; MEMORY USAGE counts its entries again, as each server does it."""
    facts = record.call("MEMORY", "STATS")
    rows = facts if isinstance(facts, dict) else dict(zip(facts[::2], facts[1::2], strict=True))
    known = {text(name): value for name, value in rows.items()}
    table = known.get("db.0", {})
    values = table if isinstance(table, dict) else dict(zip(table[::2], table[1::2], strict=True))
    return sum(int(v) for name, v in values.items() if text(name) == "overhead.hashtable.main")
