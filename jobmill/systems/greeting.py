"""The first words with a far host: what stands before our program there is a login's, and is left out."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jobmill.systems import far_words
from jobmill.systems.far_payload import payload

BOOT = (Path(__file__).with_name("far_boot.py")).read_bytes()
SAID = 300  # characters of it that are shown
BANNER = 4096  # bytes of what a login printed that are kept: it says why where no Python answers
# Good in any login shell (sh, csh, fish): one line in single quotes, without `!` and line breaks.
COMMAND = """%s -I -S -c 'import os;exec(b"".join(iter(lambda:os.read(0,1)or os._exit(3),b"\\n")))'"""


def command(python: str) -> str:
    """Return the shell command that waits for our first words; ``python``: a plain path, checked by the caller."""
    return COMMAND % python


class Greeting:
    """One opened channel, until the program at its far end speaks, or says why it cannot."""

    def __init__(self, folder: str, program: str, spool: str, words: Sequence[str]) -> None:
        """``folder``: ours at the far end, absolute or relative to the home there; ``spool``: which one in it."""
        digest, self._payload = payload()
        self._nonce = secrets.token_hex(8).encode()
        arguments = (self._nonce.decode(), folder, digest, len(self._payload), program, spool, list(words))
        source = base64.b64encode(BOOT + f"\nmain(*{arguments!a})\n".encode())
        self.opening = b'exec(__import__("base64").b64decode(b"%s"))\n' % source
        self.facts: Mapping[str, Any] | None = None  # once the program has begun
        self.error = ""  # why it cannot; there is nothing more to come then
        self.permanent = False  # it cannot until somebody changes something
        self._linked = False  # the link's own answer was read
        self._sent = False  # the payload
        self._partial = b""
        self._banner = b""

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Take what was read; return what is to be sent, and what the program itself has said already."""
        self._partial += data
        while not self.error and self.facts is None:
            line, found, rest = self._partial.partition(b"\n")
            if not found:
                self._partial = self._partial[-far_words.LINE_MOST :]  # a login may print without end
                return b"", b""
            self._partial = rest
            if wanted := self._take(line):
                return wanted, b""
        rest, self._partial = self._partial, b""
        return b"", rest

    def _take(self, line: bytes) -> bytes:
        if not self._linked:
            self._linked = True
            answer = json.loads(line)
            self.error, self.permanent = str(answer.get("error", "")), bool(answer.get("permanent"))
            return b""
        word, _, rest = line.partition(b" ")
        nonce, _, text = rest.partition(b" ")
        if nonce.strip() == self._nonce:
            if word == b"jobmill-wants":
                wanted = b"" if self._sent else self._payload
                self._sent = True
                return wanted
            if word == b"jobmill-ready":
                try:
                    self.facts = far_words.host_facts(text)
                except ValueError as error:
                    self.error = f"what it says of itself makes no sense: {error}"
            elif word == b"jobmill-error":
                self.error, self.permanent = text.decode(errors="replace").strip()[:SAID], True
        else:
            self._banner = (self._banner + line + b"\n")[-BANNER:]
        return b""

    def ended(self, python: str) -> str:
        """Return why the channel ended before the program began, by what was said instead."""
        if self.error:
            return self.error
        if not self._linked:
            return "the connection was lost before it was made"
        lines = (self._banner + self._partial).decode(errors="replace").splitlines()
        words = " | ".join(line.strip() for line in lines if line.strip())[-SAID:]
        return f"{python} did not answer there: {words or 'it ended without a word'}; set `python` if that is why"
