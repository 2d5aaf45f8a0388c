"""Whether a worker of this host beats: for health checks."""

from __future__ import annotations

import socket

from jobmill.ledger.membership import living, processes, server_time
from jobmill.ledger.record import Record


def alive(record: Record, role: str, lane: str) -> tuple[bool, str]:
    """Tell whether the record knows a living process of this role and lane on this host, and in words why.

    It lives as long as it beats, by the server's clock: a process that hangs does not. Raises ServerUnavailable.
    """
    here, now = socket.gethostname(), server_time(record)
    mine = [p for p in processes(record) if (p.role, p.lane, p.host) == (role, lane, here) and not p.left]
    beating = [p for p in mine if living(p, now)]
    if beating:
        newest = max(beating, key=lambda p: p.seen)
        return True, f"{newest.name} has beaten {max(0.0, now - newest.seen):.1f} s ago"
    if mine:
        last = max(mine, key=lambda p: p.seen)
        return False, f"{last.name} is silent since {now - last.seen:.0f} s"
    return False, f"no {role} of {f'lane {lane}' if lane else 'the plain lane'} has registered on host {here}"
