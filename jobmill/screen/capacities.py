"""Limits and what is used of them."""

from __future__ import annotations

import re

from jobmill.errors import UnknownName, UsageError, nearest
from jobmill.ledger import capacity
from jobmill.ledger.record import Record
from jobmill.screen import terminal
from jobmill.screen.table import Cell, Column, bar, show

_OWN = re.compile(r"(User|Project|Queue|Host|Licence):\S{1,128}")
AMOUNTS = ("slots", "cpus", "memory", "gpus")


def show_capacities(record: Record, name: str | None, *, as_json: bool) -> int:
    """Write use and limits; raise UnknownName for a name that nothing is known of."""
    limits = capacity.limits(record)
    found = {u.name: (u.used, u.limit) for u in capacity.usage(record, capacity.set_names(record))}
    told: dict[str, tuple[int | None, int | None]] = dict(found)
    told |= {n: (None, limit) for n, limit in limits.items() if n.endswith(".slots")}
    if name is not None:
        if name not in told:
            raise UnknownName(
                f"no set or amount {name!r}{nearest(name, told)}; known: {', '.join(sorted(told)) or 'none'}"
            )
        told = {name: told[name]}
    if as_json:
        terminal.say_json({n: {"used": used, "limit": limit} for n, (used, limit) in sorted(told.items())}, whole=True)
        return 0
    if not told:
        terminal.note("no limits yet: no manager has run here (jobmill up)")
        return 0
    rows = [
        (
            n,
            "-" if used is None else str(used),
            "open" if limit is None else str(limit),
            Cell(bar(used or 0, limit) if used is not None else "", "yellow" if limit and used == limit else "green"),
        )
        for n, (used, limit) in sorted(told.items())
    ]
    show((Column("NAME"), Column("USED", right=True), Column("LIMIT", right=True), Column("")), rows)
    return 0


def change(record: Record, name: str, limit: int | None) -> int:
    """Set a limit; raise UnknownName for a name that no job could ever hold."""
    before = capacity.limits(record)
    systems = capacity.systems(record)
    amounts = [f"{system}.{amount}" for system in systems for amount in AMOUNTS]
    known = {*before, *capacity.set_names(record), *amounts}
    if name not in known and not _OWN.fullmatch(name):
        likely = ", ".join(sorted({*before, *capacity.set_names(record)}))
        raise UnknownName(
            f"no set or amount {name!r}{nearest(name, known)}; known: {likely}, and User:ann, Queue:long …"
        )
    if limit is None and name in capacity.system_sets(record):
        raise UsageError(f"{name} is the set of a system, which is closed without a limit; 0 pauses it")
    capacity.set_limit(record, name, limit)
    old = before.get(name)
    new = "open" if limit is None else f"{limit}{'  (paused)' if limit == 0 else ''}"
    terminal.say(f"{name}  {'open' if old is None else old} → {new}")
    return 0
