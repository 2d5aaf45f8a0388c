"""Replies of the server as redis-cli prints them."""

from __future__ import annotations

from typing import Any

from jobmill.ledger.record import text


def reply_lines(reply: Any, *, formatted: bool) -> list[str]:
    """Return a reply's lines: with types and numbers for people (``formatted``), else bare values."""
    if not formatted:
        return _bare(reply)
    return _formatted(reply, "")


def _bare(reply: Any) -> list[str]:
    if isinstance(reply, list | tuple):
        return [line for item in reply for line in _bare(item)]
    return [""] if reply is None else [text(reply)]


def _formatted(reply: Any, indent: str) -> list[str]:
    if isinstance(reply, list | tuple):
        if not reply:
            return ["(empty array)"]
        found: list[str] = []
        digits = len(str(len(reply)))
        for number, item in enumerate(reply, 1):
            head = f"{number:>{digits}}) "
            first, *rest = _formatted(item, indent + " " * len(head))
            found.append((indent if found else "") + head + first)
            found += rest
        return found
    if reply is None:
        return ["(nil)"]
    if isinstance(reply, int):
        return [f"(integer) {reply}"]
    words = text(reply)
    if words in ("OK", "PONG", "QUEUED"):
        return [words]
    plain = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    escaped = (plain.get(c) or (c if c.isprintable() else f"\\x{ord(c) & 255:02x}") for c in words)
    return ['"' + "".join(escaped) + '"']
