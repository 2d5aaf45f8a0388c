"""Where output goes: a terminal with a width and colours, or a pipe with plain lines and no limit."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping
from functools import cache
from typing import Any, TextIO

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_CODES = {
    "bold": "1",
    "dim": "2",
    "red": "31",
    "green": "32",
    "yellow": "33",
    "blue": "34",
    "magenta": "35",
    "cyan": "36",
}
COLOUR_OF_STATE = {
    **dict.fromkeys(("done",), "green"),
    **dict.fromkeys(("failed", "lost", "refused"), "red"),
    **dict.fromkeys(("cancelled", "not_run", "unknown"), "magenta"),
    **dict.fromkeys(("running", "starting", "submitted", "collecting"), "cyan"),
    **dict.fromkeys(("waiting", "granted", "later", "held", "queued"), "yellow"),
}


def is_terminal(stream: TextIO | None = None) -> bool:
    """Tell whether a stream (standard output) is a terminal that can move its cursor."""
    stream = stream or sys.stdout
    try:
        return stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb")
    except ValueError:  # closed
        return False


@cache
def coloured(stream: TextIO | None = None) -> bool:
    """Tell whether to colour a stream: a terminal, unless NO_COLOR is set (https://no-color.org)."""
    return is_terminal(stream) and not os.environ.get("NO_COLOR")


def width() -> int:
    """Return the columns of the terminal; in a pipe far more than any line has."""
    if not is_terminal():
        return 1 << 20
    from shutil import get_terminal_size  # it brings the archivers

    return get_terminal_size((100, 24)).columns


def height() -> int:
    """Return the lines of the terminal."""
    from shutil import get_terminal_size

    return get_terminal_size((100, 24)).lines


def clean(value: object) -> str:
    """Return text that cannot move the cursor, colour the screen or break a line."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", str(value).replace("\n", " ").replace("\t", " "))


def clean_lines(value: object) -> list[str]:
    """Return the lines of a text, each clean."""
    return [clean(line.expandtabs()) for line in str(value).splitlines()]


def paint(text: str, style: str, stream: TextIO | None = None) -> str:
    """Return text in a style (``red``, ``bold``, ``dim`` …) where the stream shows colours."""
    code = _CODES.get(style)
    return f"\x1b[{code}m{text}\x1b[0m" if code and text and coloured(stream) else text


def state_text(state: str, stream: TextIO | None = None) -> str:
    """Return a state's word in its colour."""
    return paint(state, COLOUR_OF_STATE.get(state, ""), stream)


def say(text: str = "") -> None:
    """Write a line of the answer."""
    print(text)


def note(text: str) -> None:
    """Write a line that is not the answer: to standard error, so that a pipe stays clean."""
    print(text, file=sys.stderr)


def say_json(value: Mapping[str, Any] | list[Any], *, whole: bool = False) -> None:
    """Write one JSON document: a line, or with ``whole`` an indented one for people as well."""
    print(json.dumps(value, ensure_ascii=False, default=str, indent=2 if whole else None))
