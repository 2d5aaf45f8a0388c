"""The one log of a pipeline: what the supervisor does, and whatever the workers write to their stderr."""

from __future__ import annotations

import codecs
import json
import os
import re
import time
from pathlib import Path
from typing import TextIO

_SIGNED = re.compile(r"""(?:[-0-9]+ [:.0-9]+ |jobmill-|\{.*"process": ")([a-z]+)[:\[]|([a-z]+)\[[0-9]+\]""")
LIMIT = 64 << 20  # bytes; a longer log is put aside when a supervisor starts


class Journal:
    """A file to which several processes append whole lines, and which can be followed on a terminal.

    The workers write to the file itself and not through a pipe of the supervisor's: it may be killed, they go on.
    """

    def __init__(self, path: Path, *, echo: TextIO | None = None, as_json: bool = False) -> None:
        """Open the file, private to this user; ``echo`` gets what is appended from now on.

        ``as_json``: lines are JSON, as the workers' are when they are told so.
        """
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size > LIMIT:
            path.replace(path.with_name(path.name + ".1"))
        self.path = path
        self.descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.echoes = echo is not None
        self._echo, self._as_json = echo, as_json
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")  # a chunk may end within a character
        self._shown = os.fstat(self.descriptor).st_size

    def line(self, text: str) -> None:
        """Append one line in the form of the workers' lines; a full disk is no reason to stop supervising."""
        now, who = time.time(), f"supervisor[{os.getpid()}]"
        if self._as_json:
            words = json.dumps({"time": round(now, 3), "level": "info", "process": who, "message": text})
        else:
            stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now))
            words = f"{stamp}.{int(now % 1 * 1000):03d} {who} info: {text}"
        try:
            os.write(self.descriptor, f"{words}\n".encode(errors="replace"))
        except OSError:
            return

    def size(self) -> int:
        """Return where the next line begins."""
        return os.fstat(self.descriptor).st_size

    def last_line(self, since: int, *, of: str) -> str:
        """Return the last line after the offset ``since`` that no other process than ``of`` signed, or an empty string.

        What a worker says when it cannot start is signed ``jobmill-manager: …`` or not at all.
        """
        start = max(since, self.size() - 65536)
        lines = os.pread(self.descriptor, 65536, start).decode(errors="replace").splitlines()
        for line in map(str.strip, reversed(lines)):
            signed = _SIGNED.match(line)
            if line and (signed is None or of in signed.groups()):
                return line
        return ""

    def follow(self) -> None:
        """Show what was appended since the last call; give up showing when the terminal is gone."""
        if self._echo is None:
            return
        try:
            while chunk := os.pread(self.descriptor, 65536, self._shown):
                self._shown += len(chunk)
                self._echo.write(self._decoder.decode(chunk))
            self._echo.flush()
        except (OSError, ValueError):
            self._echo, self.echoes = None, False

    def close(self) -> None:
        """Show the rest and close the file."""
        self.follow()
        os.close(self.descriptor)
