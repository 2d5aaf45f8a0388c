"""Limits and what is used of them; the lanes and hosts of systems."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jobmill.ledger.record import Record, text


@dataclass(frozen=True, kw_only=True)
class Usage:
    """One set or amount."""

    name: str
    used: int
    limit: int | None  # None: open


def apply(record: Record, limits: Mapping[str, int | None]) -> list[str]:
    """Apply the configuration's limits where they differ from its last word; return the names that changed."""
    values: list[str | int] = []
    for name, limit in sorted(limits.items()):
        values += [name, "" if limit is None else limit]
    return [text(a) for a in record.run("limits", *values)] if values else []


def set_limit(record: Record, name: str, limit: int | None) -> None:
    """Change a limit now; 0 pauses, None opens (a system without one is closed). Lowering it evicts nobody."""
    if limit is None:
        record.call("HDEL", record.keys("Capacity"), name)
    else:
        record.call("HSET", record.keys("Capacity"), name, limit)
    record.call("RPUSH", record.keys("Result_Queue"), "")


def limits(record: Record) -> dict[str, int]:
    """Return all limits in force."""
    row = record.call("HGETALL", record.keys("Capacity"))
    facts = row if isinstance(row, dict) else dict(zip(row[::2], row[1::2], strict=True))
    return {text(k): int(v) for k, v in facts.items()}


def usage(record: Record, sets: Sequence[str]) -> list[Usage]:
    """Return use and limit of these sets and of every amount and limited set."""
    top = limits(record)
    row = record.call("HGETALL", record.keys("Used"))
    facts = row if isinstance(row, dict) else dict(zip(row[::2], row[1::2], strict=True))
    used = {text(k): int(v) for k, v in facts.items()}
    names = sorted(set(sets) | {n for n in top if not n.endswith(".slots")} | set(used))
    cards = record.read([("SCARD", record.keys(n)) for n in names])
    return [
        Usage(name=n, used=used[n] if n in used else int(c), limit=top.get(n))
        for n, c in zip(names, cards, strict=True)
    ]


def declare(record: Record, lanes: Mapping[str, str], copies: Mapping[str, str]) -> None:
    """Write which lane serves each system, and the copy of its configuration that its live jobs are polled with."""
    if lanes:
        record.call("HSET", record.keys("Lanes"), *[v for pair in lanes.items() for v in pair])
    if copies:
        record.call("HSET", record.keys("Systems"), *[v for pair in copies.items() for v in pair])


def systems(record: Record) -> dict[str, str]:
    """Return the copies of all systems that the record knows, by name (JSON texts)."""
    row = record.call("HGETALL", record.keys("Systems"))
    facts = row if isinstance(row, dict) else dict(zip(row[::2], row[1::2], strict=True))
    return {text(k): text(v) for k, v in facts.items()}


def claim_host(record: Record, system: str, host: str) -> str:
    """Record the host to which a system like `local` belongs, at its first start; return the host it belongs to."""
    record.call("HSETNX", record.keys("Hosts"), system, host)
    return text(record.call("HGET", record.keys("Hosts"), system))


def set_names(record: Record) -> list[str]:
    """Return the names of all sets that jobs may hold: those of systems, and those with a limit; no amounts."""
    return sorted(set(system_sets(record)) | {n for n in limits(record) if "." not in n})


def system_sets(record: Record) -> list[str]:
    """Return the in-queue sets of the systems that the record knows."""
    return sorted({str(json.loads(copy).get("set", "")) for copy in systems(record).values()} - {""})
