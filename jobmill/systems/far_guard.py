"""A guard at a far host: one channel of the connection to it, both directions over one socket."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from jobmill.systems import far_words
from jobmill.systems.greeting import Greeting, command
from jobmill.systems.guarded import Guarded

Open = Callable[[str], socket.socket]  # starts a shell command there; see `ssh_link`


class FarGuard(Guarded):
    """One guard there. It lives on when the channel ends, until what runs has ended, and so does its runner."""

    lingers: ClassVar[bool] = True

    def __init__(
        self, open_: Open, *, python: str, greeting: Greeting, env: Callable[[Mapping[str, Any]], Mapping[str, str]]
    ) -> None:
        """``env``: makes the constant part of the jobs' environment from what the host says of itself."""
        super().__init__()
        self.env = {}
        self.facts: Mapping[str, Any] = {}
        self.permanent = False  # it will not come until somebody changes something
        self._make_env = env
        self._greeting: Greeting | None = greeting
        self._python = python
        self._ended = False
        link = open_(command(python))
        link.setblocking(False)
        self._writing = link.dup()  # epoll wants a descriptor for each direction
        self._writing.setblocking(False)
        self.commands = self._writing.fileno()
        self.events = link.detach()
        self.preface += greeting.opening

    def feed(self, data: bytes) -> Sequence[bytes]:
        """Take what was read; before the guard speaks, see to it that it can."""
        if self._greeting is not None:
            answer, data = self._greeting.feed(data)
            self.preface += answer
            if self._greeting.error:
                self.why, self.permanent = self._greeting.error, self._greeting.permanent
                self._hang_up()
            if self._greeting.facts is None:
                return ()
            self.facts, self._greeting = self._greeting.facts, None
            self.env = self._make_env(self.facts)
            self.host = str(self.facts["host"])
            self.ready = True
        lines = super().feed(data)
        if len(self.partial) > far_words.LINE_MOST:
            self.why, self.partial = "its guard says more than any event has", b""
            self._hang_up()
            return ()
        return [line for line in map(_event, lines) if line]

    def end(self) -> None:
        """Note that the channel has ended."""
        if self._greeting is not None and not self.why:
            self.why = self._greeting.ended(self._python)
        elif not self.why:
            self.why = "the connection was lost"
        self._ended = self.failed = True

    def dead(self) -> bool:
        """Tell whether the channel has ended: nothing more can be said to this guard."""
        return self._ended

    def close_commands(self) -> None:
        """Give the runner the end of its input, where it can still be reached."""
        if self.commands >= 0:
            with contextlib.suppress(OSError):  # the link may be gone
                self._writing.shutdown(socket.SHUT_WR)
            self._writing.close()
            self.commands = -1
        self.preface.clear()
        self.outgoing.clear()

    def _hang_up(self) -> None:
        """Read an end next, whether the host closes or not."""
        if self.commands >= 0:
            with contextlib.suppress(OSError):
                self._writing.shutdown(socket.SHUT_RDWR)

    def leave(self) -> None:
        """Let go; what runs there goes on."""
        self.close_commands()
        os.close(self.events)


def _event(line: bytes) -> bytes:
    """Return an event with nothing in it but what it may hold, b"" for what is none.

    Its record is spliced into an entry of ours: who could write on after the record's end could end others' jobs.
    """
    word, _, rest = line.partition(b" ")
    token, _, value = rest.partition(b" ")
    if word in (b"end", b"void"):
        return b"%s %s %s" % (word, token, far_words.record(value.decode(errors="replace")).encode("ascii"))
    if word == b"start":
        return line if value.isdigit() and len(value) < 20 else b""
    if word == b"restarted":
        return line if token.isdigit() and len(token) < 20 else b""
    return line[:1000]
