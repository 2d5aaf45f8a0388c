"""A line on the terminal that says what is waited for, is written over, and leaves nothing behind."""

from __future__ import annotations

import sys
from shutil import get_terminal_size
from types import TracebackType
from typing import TextIO

from jobmill.screen import terminal
from jobmill.screen.table import shortened

SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"


class StatusLine:
    """To standard error; nothing where that is no terminal."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._live = terminal.is_terminal(self._stream)
        self._turn = 0
        self._shown = False

    def show(self, words: str) -> None:
        """Write over the line; words that are too long for the terminal are cut."""
        if self._live:
            self._turn += 1
            columns = get_terminal_size((80, 24)).columns
            sign = terminal.paint(SPINNER[self._turn % len(SPINNER)], "cyan", self._stream)
            self._write(f"\r\x1b[K{sign} {shortened(terminal.clean(words), max(1, columns - 3))}")
            self._shown = True

    def clear(self) -> None:
        """Take the line away, so that the answer can be written."""
        if self._shown:
            self._write("\r\x1b[K")
            self._shown = False

    def __enter__(self) -> StatusLine:
        return self

    def __exit__(self, kind: type[BaseException] | None, it: BaseException | None, trace: TracebackType | None) -> None:
        self.clear()

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
