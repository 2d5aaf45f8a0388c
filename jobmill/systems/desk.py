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
DEADLINE = 4.0  # seconds for a question; a worker must get back to its heartbeat
GIVEN_UP = 60.0  # seconds without a byte after which another channel is opened


class Desk:
    """Asks one far host. Not shared between threads.

    A deadline that is over leaves the channel as it is: a slow host goes on to greet us, or to answer, meanwhile.
    """

    def __init__(self, name: str, open_: Open, *, python: str, greeting: Callable[[], Greeting]) -> None:
        self.facts: dict[str, Any] = {}  # what the host said of itself at the last opening
        self._name, self._open, self._make_greeting = name, open_, greeting
        self._python = python
        self._link: socket.socket | None = None
        self._greeting: Greeting | None = None  # until the desk there is ready
        self._read = bytearray()
        self._heard = 0.0  # time.monotonic() of the last byte
        self._number = 0
        self._strict = False  # errors of files are the caller's business

    def ask(self, verb: str, *, deadline: float = DEADLINE, **values: Any) -> Any:
        """Return the answer to one question; raise SystemUnavailable after ``deadline`` seconds or when the link ends.

        A question may have had its effect all the same: every verb may be repeated.
        """
        self.send(verb, deadline=deadline, **values)
        return self.answer(deadline=deadline)

    def send(self, verb: str, *, deadline: float = DEADLINE, **values: Any) -> None:
        """Put a question; `answer` reads what comes. So many hosts are asked beside one another."""
        until = time.monotonic() + deadline
        self._number += 1
        line = json.dumps({"n": self._number, "verb": verb, **values}).encode("ascii") + b"\n"
        if self._link is not None and time.monotonic() - self._heard > GIVEN_UP and not self._alive():
            self.close()
        fresh = self._link is None
        try:
            self._greet(until)
            self._write(line, until)
        except ConnectionError as error:
            self.close()
            if fresh:
                raise self._unavailable(error) from None
            try:  # the link of an earlier question has ended meanwhile
                self._greet(until)
                self._write(line, until)
            except ConnectionError as again:
                self.close()
                raise self._unavailable(again) from None

    def answer(self, *, deadline: float = DEADLINE) -> Any:
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
        except (ConnectionError, ValueError, KeyError, TypeError) as error:
            self.close()
            raise self._unavailable(error) from None
        if found.get("errno") and self._strict:
            raise OSError(found["errno"], found["error"])
        if "error" in found:
            raise SystemUnavailable(f"{self._name}: its desk could not answer: {found['error']}")
        return found["answer"]

    def file(self, verb: str, *, deadline: float = DEADLINE, **values: Any) -> Any:
        """Ask something about a file; raise OSError with the host's own number as well."""
        self._strict = True
        try:
            return self.ask(verb, deadline=deadline, **values)
        finally:
            self._strict = False

    def read(self, token: str, stream: str, offset: int, limit: int, *, deadline: float = DEADLINE) -> bytes:
        """Return a part of a file of a run folder."""
        found = self.ask("read", deadline=deadline, token=token, stream=stream, offset=offset, limit=limit)
        return base64.b64decode(found)

    def close(self) -> None:
        """Hang up."""
        if self._link is not None:
            with contextlib.suppress(OSError):
                self._link.close()
        self._link = self._greeting = None
        self._read.clear()

    def _alive(self) -> bool:
        """Tell whether the quiet link is only that: nothing was asked of it for long."""
        assert self._link is not None
        self._link.setblocking(False)
        try:
            return self._greeting is None and bool(self._link.recv(1, socket.MSG_PEEK))
        except BlockingIOError:
            return self._greeting is None
        except OSError:
            return False

    def _greet(self, until: float) -> None:
        """Open a channel where there is none, and wait until the desk there is ready."""
        if self._link is None:
            self._read.clear()
            try:
                self._link = self._open(command(self._python))
            except OSError as error:
                raise ConnectionError(str(error)) from error
            self._heard = time.monotonic()
            self._greeting = self._make_greeting()
            with contextlib.suppress(ConnectionError):  # what was said before the end says why
                self._write(self._greeting.opening, until)
        while (greeting := self._greeting) is not None:
            try:
                data = self._receive(until)
            except ConnectionError:
                raise ConnectionError(greeting.ended(self._python)) from None
            answer, rest = greeting.feed(data)
            if greeting.error:
                raise ConnectionError(greeting.error)
            if answer:
                self._write(answer, until)
            self._read += rest
            if greeting.facts is not None:
                self.facts, self._greeting = dict(greeting.facts), None

    def _write(self, data: bytes, until: float) -> None:
        assert self._link is not None
        self._link.settimeout(max(0.01, until - time.monotonic()))
        try:
            self._link.sendall(data)
        except TimeoutError:  # nobody knows how much of it went
            self.close()
            raise self._unavailable(TimeoutError("it takes no more questions")) from None
        except OSError as error:
            raise ConnectionError(str(error)) from error

    def _receive(self, until: float) -> bytes:
        if self._link is None:
            raise ConnectionError("nothing was asked")
        self._link.settimeout(max(0.01, until - time.monotonic()))
        try:
            data = self._link.recv(PART)
        except TimeoutError:
            words = "no answer yet" if self._greeting is None else "the connection is being made"
            raise self._unavailable(TimeoutError(words)) from None
        except OSError as error:
            raise ConnectionError(str(error)) from error
        if not data:
            raise ConnectionError("the connection was lost")
        self._heard = time.monotonic()
        return data

    def _unavailable(self, error: Exception) -> SystemUnavailable:
        words = str(error) or type(error).__name__
        return SystemUnavailable(words if words.startswith(f"{self._name}: ") else f"{self._name}: {words}")


def ask_all(
    questions: Sequence[tuple[Desk, dict[str, Any]]], verb: str, *, deadline: float = DEADLINE
) -> list[Any | SystemUnavailable]:
    """Ask many hosts beside one another; return the answers, the SystemUnavailable of each that has none."""
    until = time.monotonic() + deadline
    answers: list[Any | SystemUnavailable] = []
    for desk, values in questions:
        try:
            desk.send(verb, deadline=max(0.01, until - time.monotonic()), **values)
            answers.append(None)
        except SystemUnavailable as error:
            answers.append(error)
    for i, (desk, _) in enumerate(questions):
        if answers[i] is None:
            try:
                answers[i] = desk.answer(deadline=max(0.01, until - time.monotonic()))
            except SystemUnavailable as error:
                answers[i] = error
    return answers
