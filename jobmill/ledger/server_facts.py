"""What the server says of itself: kind, version, settings that matter."""

from __future__ import annotations

from collections.abc import Mapping

from jobmill.errors import JobmillError
from jobmill.ledger.raw_reply import ask
from jobmill.ledger.record import Record, text

WANTED = {  # the supported setting (design, section 5): the value, and what it is worth
    "appendonly": ("yes", "without it a restart forgets every job"),
    "appendfsync": ("always", "`everysec` loses acknowledged jobs when the machine dies"),
    "maxmemory-policy": ("noeviction", "any other policy throws records away"),
}
UNREAD = "?"  # this user may not read it


def server_kind(record: Record) -> tuple[str, str]:
    """Return (``Valkey`` or ``Redis``, its version)."""
    lines = text(ask(record, ["INFO", "server"])).splitlines()
    facts = dict(line.split(":", 1) for line in lines if ":" in line)
    if facts.get("server_name") == "valkey" or "valkey_version" in facts:
        return "Valkey", facts.get("valkey_version", facts.get("redis_version", "0.0"))
    return "Redis", facts.get("redis_version", "0.0")


def settings(record: Record) -> Mapping[str, str]:
    """Return the values of the settings that matter; `UNREAD` where the server does not tell."""
    found = {}
    for name in WANTED:
        try:
            answer = ask(record, ["CONFIG", "GET", name])
            found[name] = text(answer[1]) if answer else UNREAD
        except JobmillError:  # an ACL, or a provider's server without CONFIG
            found[name] = UNREAD
    return found
