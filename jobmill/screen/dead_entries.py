"""Dead_Queue on the screen, and what is done with its entries by position."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from jobmill.errors import UnknownName, UsageError
from jobmill.ledger import dead, membership
from jobmill.ledger.record import Record
from jobmill.screen import terminal
from jobmill.screen.moment import ago
from jobmill.screen.table import Column, show

AT_ONCE = 250  # entries that one script moves


def show_entries(record: Record, limit: int, *, as_json: bool) -> int:
    """Write the newest entries, the oldest of them first."""
    count = dead.count(record)
    found = dead.entries(record, max(0, count - limit))
    if as_json:
        for e in found:
            entry = e.entry.decode("utf-8", "replace")
            told = {
                "position": e.position,
                "id": e.job_id or None,
                "reason": e.reason,
                "queue": e.queue,
                "time": e.time,
            }
            terminal.say_json(told | {"entry": entry})
        return 0
    if not found:
        terminal.note("Dead_Queue is empty")
        return 0
    now = membership.server_time(record)
    heads = (Column("POSITION", right=True), Column("ID", cut=True), Column("REFUSED"), Column("BYTES", right=True))
    rows = [
        (str(e.position), e.job_id or "-", ago(e.time, now), f"{len(e.entry):,}", "; ".join(e.reason.splitlines()))
        for e in found
    ]
    show((*heads, Column("REASON", cut=True, least=20)), rows)
    if count > len(found):
        terminal.note(f"… and {count - len(found):,} older ones (--limit {count})")
    return 0


def show_whole(record: Record, positions: Sequence[str]) -> int:
    """Write entries as they were pushed; where each stood and why it is here go to standard error."""
    for e in _chosen(record, positions):
        terminal.note(f"# {e.position}: {terminal.clean(e.reason)}")
        sys.stdout.flush()
        sys.stdout.buffer.write(e.entry + (b"" if e.entry.endswith(b"\n") else b"\n"))
        sys.stdout.buffer.flush()
    return 0


def move(record: Record, verb: str, positions: Sequence[str]) -> int:
    """Requeue or drop entries; return 1 when some were gone meanwhile."""
    chosen = sorted(_chosen(record, positions), key=lambda e: -e.position)  # from the end: positions before stay true
    act = dead.requeue if verb == "requeue" else dead.drop
    moved = sum(act(record, chosen[i : i + AT_ONCE]) for i in range(0, len(chosen), AT_ONCE))
    terminal.say(f"{moved:,} {'pushed back onto Job_Queue' if verb == 'requeue' else 'dropped'}")
    if moved < len(chosen):
        terminal.note(f"{len(chosen) - moved:,} were gone meanwhile (jobmill dead list)")
        return 1
    return 0


def _chosen(record: Record, positions: Sequence[str]) -> list[dead.DeadEntry]:
    entries = dead.entries(record)
    if "all" in positions:
        return entries
    found: dict[int, dead.DeadEntry] = {}
    for word in positions:
        first, dash, last = word.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise UsageError(f"{word!r} is no position; write 3, 3-7 or all (jobmill dead list)")
        for number in range(int(first), int(last or first) + 1):
            if number >= len(entries):
                raise UnknownName(f"Dead_Queue has no position {number}; it holds {len(entries):,} (jobmill dead list)")
            found[number] = entries[number]
    return list(found.values())
