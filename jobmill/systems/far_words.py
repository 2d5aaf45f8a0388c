"""What a far host says of itself and of launches, read as the words of a stranger.

A host may be broken, or somebody else's by now; and a job, here or there, can write to its own run folder. Whatever
they say, no more comes of it than wrong news of their own launches: everything here raises ValueError for what makes no
sense, and returns plain values of known types and sizes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from jobmill.systems.system import ExitInfo, ExitStatus, NativeState

LINE_MOST = 1 << 20  # bytes of a line, but for those with files in them
TEXT_MOST = 1 << 16  # characters of one value
SETTLED = ("adopt", "not_started", "unknown", "lost")
_TEXTS = ("home", "folder", "spool", "library", "python", "version", "host", "user", "path")
_RECORD = ("reason", "native_id", "native_state", "host", "evidence", "message")
_LOOK = ("native_state", "reason", "host", "progress")
_FLAGS = ("alive", "orphan", "overdue", "sealed", "bare")


def parsed(text: str | bytes) -> dict[str, Any]:
    """Return a JSON object."""
    try:
        values = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(values, dict):
        raise ValueError("it is no JSON object")
    return values


def host_facts(text: str | bytes) -> dict[str, Any]:
    """Return what a program there says of its host before it begins."""
    values = parsed(text)
    facts: dict[str, Any] = {name: _text(values.get(name)) for name in _TEXTS}
    return {**facts, "cores": int(_number(values.get("cores"), 1, 1e6))}


def load(values: Any) -> dict[str, Any]:
    """Return what its desk answers to `facts`."""
    found = _mapping(values)
    return {
        "staged": found.get("staged") is True,
        "free": int(_number(found.get("free"), 0, 1e15)),
        "cores": int(_number(found.get("cores"), 1, 1e6)),
        "load": _number(found.get("load"), 0, 1e9),
        "up": _number(found.get("up"), 0, 1e12),
    }


def look(values: Any) -> dict[str, Any]:
    """Return the fields of an Observation, and whether the launch is sealed there."""
    found = _mapping(values)
    seen: dict[str, Any] = {"state": NativeState(_text(found.get("state"))).value}
    seen.update({name: _text(found[name]) for name in _LOOK if found.get(name) is not None})
    seen.update({name: True for name in _FLAGS if found.get(name) is True})
    return seen


def word(value: Any) -> str:
    """Return an answer to `settle`."""
    if value not in SETTLED:
        raise ValueError(f"{str(value)[:80]!r} is no answer to what became of a launch")
    return str(value)


def command(values: Any) -> dict[str, Any]:
    """Return what `command_call.call` does."""
    found = _mapping(values)
    if "code" in found:
        texts = {name: _whole(found.get(name)) for name in ("out", "err")}
        return {"code": int(_number(found["code"], -256, 256)), **texts}
    return {name: _text(found[name]) for name in ("missing", "refused") if name in found}


def texts(values: Any) -> dict[str, str]:
    """Return a mapping of texts."""
    return {_text(name): _text(text) for name, text in _mapping(values).items()}


def text_or_none(value: Any) -> str | None:
    """Return a text, or None."""
    return None if value is None else _text(value)


def words(value: Any, count: int) -> list[str]:
    """Return a list of so many texts."""
    if not isinstance(value, list) or len(value) != count:
        raise ValueError(f"{str(value)[:80]!r} are not {count} words")
    return [_text(it) for it in value]


def record(text: Any) -> str:
    """Return an exit record as ExitInfo JSON text, and in the place of one that cannot be read one that says so."""
    try:
        return _exit_info(text).to_json()
    except (ValueError, TypeError) as error:
        words = f"the exit record there cannot be read: {str(error)[:200]}"
        info = ExitInfo(exit_status=ExitStatus.UNDETERMINED, reason="lost", evidence="exit record", message=words)
        return info.to_json()


def _exit_info(text: Any) -> ExitInfo:
    if not isinstance(text, str) or len(text) > TEXT_MOST:
        raise ValueError("it is no text, or too long")
    found = parsed(text)
    fields: dict[str, Any] = {name: _text(found[name]) for name in _RECORD if found.get(name) is not None}
    for name, most in (("exit_value", 255), ("term_sig", 127)):
        if found.get(name) is not None:
            fields[name] = int(_number(found[name], 0, most))
    for name in ("started", "ended"):
        if found.get(name) is not None:
            fields[name] = _number(found[name], 0, 1e12)
    usage = _mapping({} if found.get("resource_usage") is None else found["resource_usage"])
    fields["resource_usage"] = {_text(name)[:64]: _number(usage[name], 0, 1e15) for name in list(usage)[:32]}
    return ExitInfo(exit_status=ExitStatus(_text(found.get("exit_status"))), **fields)


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{str(value)[:80]!r} is no JSON object")
    return value


def _whole(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{str(value)[:80]!r} is no text")
    return value.encode("utf-8", "replace").decode()


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{str(value)[:80]!r} is no text")
    return value[:TEXT_MOST].encode("utf-8", "replace").decode()  # what is no character would stop who writes it on


def _number(value: Any, least: float, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:  # nor is NaN
        raise ValueError(f"{str(value)[:80]!r} is no number from {least:g} to {most:g}")
    return value
