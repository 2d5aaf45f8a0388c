"""Aligned columns: cut to the width of a terminal, whole in a pipe."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from jobmill.screen import terminal


@dataclass(frozen=True)
class Cell:
    """A text with its colour."""

    text: str
    style: str = ""


@dataclass(frozen=True)
class Column:
    """One column; of those that may give way, the widest is cut first."""

    title: str
    right: bool = False
    cut: bool = False  # may be cut to fit a terminal
    least: int = 8  # columns that are left of it


def cells(text: str) -> int:
    """Return how many columns of a terminal a text takes: wide characters two, combining ones none."""
    if text.isascii():
        return len(text)
    return sum(
        0
        if unicodedata.combining(c) or c in "\u200b\u200c\u200d\ufe0e\ufe0f"
        else 2
        if unicodedata.east_asian_width(c) in "WF"
        else 1
        for c in text
    )


def shortened(text: str, most: int) -> str:
    """Return a text cut to so many columns, with an ellipsis where something is missing."""
    if cells(text) <= most:
        return text
    kept, taken = [], 0
    for char in text:
        taken += cells(char)
        if taken > most - 1:
            break
        kept.append(char)
    return "".join(kept) + "…"


def lines(columns: Sequence[Column], rows: Sequence[Sequence[Cell | str]], *, head: bool = True) -> list[str]:
    """Return the lines of a table: head and rows, two blanks between columns."""
    table = [[_cell(value) for value in row] for row in rows]
    widths = [
        max([cells(column.title) if head else 0] + [cells(row[i].text) for row in table])
        for i, column in enumerate(columns)
    ]
    room = terminal.width()
    while sum(widths) + 2 * (len(widths) - 1) > room:
        spare = [i for i, c in enumerate(columns) if c.cut and widths[i] > c.least]
        if not spare:
            break
        widest = max(spare, key=lambda i: widths[i])
        over = sum(widths) + 2 * (len(widths) - 1) - room
        others = [widths[i] for i in spare if i != widest]
        floor = max([columns[widest].least] + [w for w in others if w < widths[widest]])
        widths[widest] -= max(1, min(over, widths[widest] - floor))
    told = [[Cell(c.title, "dim") for c in columns]] if head else []
    return [_line(columns, widths, row) for row in told + table]


def show(columns: Sequence[Column], rows: Sequence[Sequence[Cell | str]], *, head: bool = True) -> None:
    """Write a table."""
    for line in lines(columns, rows, head=head):
        terminal.say(line)


def _cell(value: Cell | str) -> Cell:
    cell = value if isinstance(value, Cell) else Cell(value)
    return Cell(terminal.clean(cell.text), cell.style)


def _line(columns: Sequence[Column], widths: Sequence[int], row: Sequence[Cell]) -> str:
    parts = []
    for column, wide, cell in zip(columns, widths, row, strict=True):
        text = shortened(cell.text, wide)
        blanks = " " * (wide - cells(text))
        painted = terminal.paint(text, cell.style)
        parts.append(blanks + painted if column.right else painted + blanks)
    return "  ".join(parts).rstrip()


def bar(used: float, limit: float | None, size: int = 20) -> str:
    """Return a bar of used/limit: ``████████░░░░``; nothing where there is no limit."""
    if not limit:
        return ""
    full = min(size, round(size * used / limit)) if used < limit else size
    return "█" * full + "░" * (size - full)
