"""Entries that nobody of ours writes, for the other lists that anybody who reaches the server can push to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from random import Random
from typing import Any

NOISE = (
    *[
        b"",
        b" ",
        b"\0",
        b"\xff\xfe",
        b"null",
        b"true",
        b"1",
        b"NaN",
        b'"x"',
        b"[]",
        b"{}",
        b"[" * 100_000,
        b'{"a":' * 50_000,
    ],
    *[
        b"9" * 5000,
        b"x" * 100_000,
        b"a-1:runs",
        b"a-1:dependents",
        b"\xed\xa0\x80",
        b"{" + b"}" * 9,
        b'{"id":1}',
        b"..",
        b"\n",
    ],
)
ODD: tuple[Any, ...] = (
    *[
        None,
        True,
        -1,
        0,
        1.5,
        10**400,
        2**63,
        float("nan"),
        float("inf"),
        "",
        "x",
        "1",
        "\ud800",
        "a:dependents",
        "a:runs",
    ],
    *["../../x", "x" * 5000, "a b", "é", "\0", [], {}, [1], {"a": 1}],
)
EXIT = {"exit_status": "finished_regularly", "exit_value": 0, "evidence": "fuzz"}
FORMS: Mapping[str, Mapping[str, Any]] = {
    "Granted_Queue": {"id": "ghost", "fence": 1, "run": 1, "system": "fake", "spec": {"command": "true"}},
    "Exit_Queue": {
        "id": "ghost", "run": 1, "exit": EXIT,
        "judge": {"outputs": [["*", True]], "workdir": "/tmp", "retry": {"max": 1, "on": ["any"], "delay": 0}},
    },
    "Result_Queue": {},
}  # fmt: skip


def entries(queue: str, draw: Random, victim: str) -> list[bytes]:
    """Return hostile entries for a list; some are about a job that exists."""
    found = [*NOISE, *(victim.encode() + tail for tail in (b":runs", b":dependents", b":x", b"\0", b" ", b""))]
    form = dict(FORMS[queue])
    for job_id in ("ghost", victim) if form else ():
        whole = form | {"id": job_id}
        for path in _paths(whole):
            found += [_line(_with(whole, path, odd)) for odd in draw.sample(ODD, 8)]
            found.append(_line(_with(whole, path, None, gone=True)))
        for odd in ODD:
            found.append(_line(_with(whole, ("id",), odd)))
            found.append(_line(_with(whole, ("run",), odd)))
        text = _line(whole)
        found += [text[: draw.randrange(len(text))] for _ in range(10)] + [text + b"x", text * 2]
        if queue == "Exit_Queue":
            more = ({"resource_usage": odd} for odd in ODD)
            wall = ({"resource_usage": {"wall": odd}} for odd in ODD)
            rest = ({key: odd} for key in ("reason", "term_sig", "started", "message", "evidence") for odd in ODD)
            found += [_line(whole | {"exit": EXIT | part}) for part in (*more, *wall, *rest)]
            globs = ("a**b", ".", "/etc/*", "x" * 300, "a/" * 2000, "", "[", "**/" * 30)
            found += [_line(_with(whole, ("judge", "outputs"), [[g, True]])) for g in globs]
    return found


def _line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()  # as the scripts write it


def _paths(value: Mapping[str, Any]) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for key, inner in value.items():
        found.append((key,))
        if isinstance(inner, Mapping):
            found += [(key, *rest) for rest in _paths(inner)]
    return found


def _with(whole: Mapping[str, Any], path: tuple[str, ...], value: Any, *, gone: bool = False) -> dict[str, Any]:
    fresh = dict(whole)
    if len(path) > 1:
        fresh[path[0]] = _with(whole[path[0]], path[1:], value, gone=gone)
    elif gone:
        fresh.pop(path[0])
    else:
        fresh[path[0]] = value
    return fresh
