"""Pieces of the page: a table, a picture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(heads: Sequence[str], rows: Iterable[Sequence[object]], *, words: int = 1) -> str:
    """Return a table whose first ``words`` columns are text, the others numbers."""
    marks = ["---" if n < words else "---:" for n in range(len(heads))]
    lines = [heads, marks, *([str(cell) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def image(name: str, words: str) -> str:
    """Return the picture of a name, with the words for whom it is not shown."""
    return f"![{words}](pictures/{name}.svg)"
