"""This side of a far host's desk: questions with a deadline, over one channel that is opened when it is needed."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any

from jobmill.errors import SystemUnavailable
from jobmill.systems.far_guard import Open
from jobmill.systems.greeting import Greeting, command

PART = 1 << 16  # bytes


class Desk:
    """Asks one far host. Not shared between threads."""

    def __init__(self, name: str, open_: Open, *, python: str, greeting: Callable[[], Greeting]) -> None:
        self.facts: dict[str, Any] = {}  # what the host said of itself at the last opening
        self._name, self._open, self._greeting = name, open_, greeting
        self._command = command(python)
        self._link: socket.socket | None = None
        self._read = bytearray()
        self._number = 0

    def ask(self, verb: str, *, deadline: float = 20.0, **values: Any) -> Any:
        """Return the answer to one question; raise SystemUnavailable after ``deadline`` seconds or when the link ends.

        A question may have had its effect all the same: every verb may be repeated.
        """
        self.send(verb, deadline=deadline, **values)
        return self.answer(deadline=deadline)

    def send(self, verb: str, *, deadline: float = 20.0, **values: Any) -> None:
        """Put a question; `answer` reads what comes. So many hosts are asked beside one another."""
        until = time.monotonic() + deadline
        self._number += 1
        line = json.dumps({"n": self._number, "verb": verb, **values}).encode("ascii") + b"\n"
        fresh = self._link is None
        try:
            if self._link is None:
                self._begin(until)
            self._write(line, until)
        except (OSError, SystemUnavailable) as error:
            self.close()
            if fresh:
                raise self._unavailable(error) from error
            try:  # the link of an earlier question has ended meanwhile
                self._begin(until)
                self._write(line, until)
            except (OSError, SystemUnavailable) as again:
                self.close()
                raise self._unavailable(again) from again

    def answer(self, *, deadline: float = 20.0) -> Any:
        """Return the answer to the last question; raise SystemUnavailable."""
        until = time.monotonic() + deadline
        try:
            while True:
                while (end := self._read.find(b"\n")) < 0:
                    self._read += self._receive(until)
                line = bytes(self._read[:end])
                del self._read[: end + 1]
                found = json.loads(line)
                if found["n"] == self._number:
                    break
        except (OSError, ValueError, KeyError, SystemUnavailable) as error:
            self.close()
            raise self._unavailable(error) from error
        if "error" in found:
            raise SystemUnavailable(f"{self._name}: its desk could not answer: {found['error']}")
        return found["answer"]

    def read(self, token: str, stream: str, offset: int, limit: int) -> bytes:
        """Return a part of a file of a run folder."""
        return base64.b64decode(self.ask("read", token=token, stream=stream, offset=offset, limit=limit))

    def close(self) -> None:
        """Hang up."""
        if self._link is not None:
            with contextlib.suppress(OSError):
                self._link.close()
            self._link = None
        self._read.clear()

    def _begin(self, until: float) -> None:
        """Open a channel and wait until the desk there is ready."""
        self._read.clear()
        self._link = self._open(self._command)
        greeting = self._greeting()
        self._write(greeting.opening, until)
        while greeting.facts is None:
            try:
                data = self._receive(until)
            except ConnectionError:
                raise SystemUnavailable(greeting.ended(self._command)) from None
            answer, rest = greeting.feed(data)
            if greeting.error:
                raise SystemUnavailable(greeting.error)
            if answer:
                self._write(answer, until)
            self._read += rest
        self.facts = dict(greeting.facts)

    def _write(self, data: bytes, until: float) -> None:
        assert self._link is not None
        self._link.settimeout(max(0.01, until - time.monotonic()))
        self._link.sendall(data)

    def _receive(self, until: float) -> bytes:
        if self._link is None:
            raise ConnectionError("nothing was asked")
        self._link.settimeout(max(0.01, until - time.monotonic()))
        try:
            data = self._link.recv(PART)
        except TimeoutError:
            raise SystemUnavailable("no answer within the deadline") from None
        if not data:
            raise ConnectionError("the connection was lost")
        return data

    def _unavailable(self, error: Exception) -> SystemUnavailable:
        words = str(error) or type(error).__name__
        return SystemUnavailable(words if words.startswith(f"{self._name}: ") else f"{self._name}: {words}")


def ask_all(desks: Sequence[Desk], verb: str, *, deadline: float = 20.0, **values: Any) -> list[Any]:
    """Put one question to many hosts beside one another; return the answers, a SystemUnavailable where one has none."""
    until, answers = time.monotonic() + deadline, list[Any]()
    for desk in desks:
        try:
            desk.send(verb, deadline=max(0.01, until - time.monotonic()), **values)
            answers.append(None)
        except SystemUnavailable as error:
            answers.append(error)
    for i, desk in enumerate(desks):
        if answers[i] is None:
            try:
                answers[i] = desk.answer(deadline=max(0.01, until - time.monotonic()))
            except SystemUnavailable as error:
                answers[i] = error
    return answers
