"""What makes a text no document, and the bounds that hold for JSON and YAML alike."""

from __future__ import annotations

MAX_DEPTH = 64  # nesting of mappings and lists
MAX_VALUES = 100_000  # keys and values: about two seconds of work; a manager that is silent for ten counts as dead
MOST = 600  # characters of what is said about a text
TOO_DEEP = f"mappings and lists are nested more than {MAX_DEPTH} deep; make it flatter"
TOO_MANY = (
    f"more than {MAX_VALUES:,} keys and values; put data into files and name them, push a long stream in several parts"
)


class Unfit(Exception):
    """A text that is refused; ``words`` say why and what to do, ``line`` (from 1) where, as far as it is known."""

    def __init__(self, line: int | None, words: str) -> None:
        super().__init__(line, words)
        # they may quote what was written, and go to logs and terminals
        told = "".join(char if char.isprintable() else "?" for char in words[:MOST])
        self.line, self.words = line, told if len(words) <= MOST else f"{told} …"


class Twice(Unfit):
    """A key that stands twice in one mapping."""

    def __init__(self, line: int | None, key: str) -> None:
        super().__init__(line, f"{key}: this key stands twice in one mapping; keep one")


def line_at(text: str, offset: int) -> int:
    """Return the line, from 1, of a place in ``text``."""
    return text.count("\n", 0, offset) + 1
