"""This side of a far host's desk: questions with a deadline, over one channel that is opened when it is needed."""

from __future__ import annotations

import base64
import contextlib
import json
import select
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any

from jobmill.errors import SystemUnavailable
from jobmill.systems import far_words
from jobmill.systems.far_guard import Open
from jobmill.systems.greeting import Greeting, command

PART = 1 << 16  # bytes
TURN = 64  # parts that are read before it is another desk's turn
ANSWER_MOST = 64 << 20  # bytes of one answer
DEADLINE = 4.0  # seconds for a question; a worker must get back to its heartbeat
LATE = 0.3  # seconds, where the last question was not answered in time: an outage must not cost that much each time
GIVEN_UP = 60.0  # seconds without a byte after which another channel is opened


class Desk:
    """Asks one far host. Not shared between threads.

    A deadline that is over leaves the channel as it is: a slow host goes on to greet us, or to answer, meanwhile. It
    is asked nothing new before it has answered: else questions would gather there faster than it deals with them.
    """

    def __init__(self, name: str, open_: Open, *, python: str, greeting: Callable[[], Greeting]) -> None:
        self.facts: dict[str, Any] = {}  # what the host said of itself at the last opening
        self.late = False  # the last question was not answered in time
        self._name, self._open, self._make_greeting = name, open_, greeting
        self._python = python
        self._link: socket.socket | None = None
        self._greeting: Greeting | None = None  # until the desk there is ready
        self._read = bytearray()
        self._seen = 0  # bytes of it in which there is no line break
        self._heard = 0.0  # time.monotonic() of the last byte
        self._number = 0  # of the last question
        self._line = b""  # that question
        self._owed = 0  # the number of a question that was sent and not answered; 0: there is none
        self._fresh = False  # the link was opened for this question
        self._once = False  # this question may reach it once at most
        self.sent = False  # of the last question: it may have reached the desk
        self._answer: Any = None

    def ask(self, verb: str, *, deadline: float = DEADLINE, **values: Any) -> Any:
        """Return the answer to one question; raise SystemUnavailable after ``deadline`` seconds or when the link ends.

        A question may have had its effect all the same: every verb that is asked so may be repeated.
        """
        try:
            return self.file(verb, deadline=deadline, **values)
        except OSError as error:
            raise self._unavailable(f"its desk could not answer: {error.strerror or error}") from None

    def file(self, verb: str, *, deadline: float = DEADLINE, **values: Any) -> Any:
        """Ask something about a file; raise OSError with the host's own number as well."""
        self.put(verb, **values)
        return self.wait(deadline)

    def wait(self, deadline: float) -> Any:
        """Return the answer to what was put; raise as `file` does."""
        until = time.monotonic() + deadline
        while not self.turn():
            if not _wait([self], until):
                raise self.give_up()
        return self.take()

    def read(self, token: str, stream: str, offset: int, limit: int, *, deadline: float = DEADLINE) -> bytes:
        """Return a part of a file of a run folder."""
        found = self.ask("read", deadline=deadline, token=token, stream=stream, offset=offset, limit=limit)
        try:
            return base64.b64decode(found, validate=True)[:limit]
        except (ValueError, TypeError):
            raise self._unavailable("its desk answers nonsense instead of a part of a file") from None

    def close(self) -> None:
        """Hang up."""
        if self._link is not None:
            with contextlib.suppress(OSError):
                self._link.close()
        self._link = self._greeting = None
        self._read.clear()
        self._seen = self._owed = 0

    # One question among others: `put`, `turn` until it is True, `take`; or `give_up`.

    def put(self, verb: str, *, once: bool = False, **values: Any) -> None:
        """Put a question, in the place of one before it; ``once``: it is never sent again, over another link.

        From `sent` on nobody knows whether such a one has had its effect, but by the answer.
        """
        self._number += 1
        self._line = json.dumps({"n": self._number, "verb": verb, **values}).encode("ascii") + b"\n"
        self._answer = None
        self._once, self.sent = once, False
        waits = self._owed or self._greeting is not None
        if self._link is not None and waits and time.monotonic() - self._heard > GIVEN_UP:
            self.close()
        self._fresh = self._link is None

    @property
    def ready(self) -> bool:
        """Tell whether there is a link, over which the desk has spoken."""
        return self._link is not None and self._greeting is None

    def fileno(self) -> int:
        """Return what becomes readable when `turn` has something to do; -1 without a link."""
        return -1 if self._link is None else self._link.fileno()

    def turn(self) -> bool:
        """Do what can be done without waiting; True: there is an answer, or none will come."""
        while True:
            try:
                return self._go_on()
            except ConnectionError as error:
                self.close()
                if self._fresh or (self._once and self.sent):
                    self._answer = self._unavailable(str(error) or type(error).__name__)
                    return True
                self._fresh = True  # the link of an earlier question has ended meanwhile

    def take(self) -> Any:
        """Return the answer that has come; raise SystemUnavailable, or OSError with the host's own number."""
        answer, self._answer = self._answer, None
        if isinstance(answer, SystemUnavailable):
            raise answer
        number, words = answer.get("errno"), str(answer.get("error", ""))[:1000]
        if type(number) is int:
            raise OSError(number, words)
        if words or "answer" not in answer:
            raise self._unavailable(f"its desk could not answer: {words or 'it says neither answer nor error'}")
        return answer["answer"]

    def give_up(self) -> SystemUnavailable:
        """Wait no longer; return why."""
        self.late = True
        if self._greeting is not None:
            return self._unavailable("the connection is being made")
        earlier = self._owed and self._owed != self._number
        return self._unavailable("no answer yet" + (" to an earlier question" if earlier else ""))

    def _go_on(self) -> bool:
        if self._link is None:
            self._begin()
        assert self._link is not None
        for _ in range(TURN):
            if self._greeting is None:
                if self._take_line():
                    return True
                if not self._owed:
                    self._look()
                    self.sent = True  # from its first byte on
                    self._write(self._line)
                    self._owed = self._number
            try:
                data = self._link.recv(PART)
            except BlockingIOError:
                return False
            except OSError as error:
                raise ConnectionError(str(error)) from error
            if not data:
                greeting = self._greeting
                raise ConnectionError("the connection was lost" if greeting is None else greeting.ended(self._python))
            self._heard = time.monotonic()
            self._feed(data)
        return False

    def _look(self) -> None:
        """Find out whether the link of an earlier question has ended meanwhile: then this one was not sent over it."""
        assert self._link is not None
        try:
            ended = not self._link.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return
        except OSError as error:
            raise ConnectionError(str(error)) from error
        if ended:
            raise ConnectionError("the connection was lost")

    def _begin(self) -> None:
        """Open a channel; it is greeted by and by."""
        try:
            self._link = self._open(command(self._python))
        except OSError as error:
            raise ConnectionError(str(error)) from error
        except SystemUnavailable as error:
            raise ConnectionError(str(error)) from error
        self._heard = time.monotonic()
        self._greeting = self._make_greeting()
        with contextlib.suppress(ConnectionError):  # what was said before the end says why
            self._write(self._greeting.opening)

    def _feed(self, data: bytes) -> None:
        greeting = self._greeting
        if greeting is None:
            self._read += data
            if len(self._read) > ANSWER_MOST:
                raise ConnectionError(f"its desk says more than {ANSWER_MOST >> 20} MiB at once")
            return
        answer, rest = greeting.feed(data)
        if greeting.error:
            raise ConnectionError(greeting.error)
        if answer:
            self._write(answer)
        self._read += rest
        if greeting.facts is not None:
            self.facts, self._greeting, self.late = dict(greeting.facts), None, False

    def _take_line(self) -> bool:
        """Take lines until one answers the question."""
        while (end := self._read.find(b"\n", self._seen)) >= 0:
            line = bytes(self._read[:end])
            del self._read[: end + 1]
            self._seen = 0
            try:
                found = far_words.parsed(line)
            except ValueError as error:
                raise ConnectionError(f"its desk answers nonsense: {error}") from None
            if not self._owed or found.get("n") != self._owed:
                continue
            answers, self._owed, self.late = self._owed == self._number, 0, False
            if answers:
                self._answer = found
                return True
        self._seen = len(self._read)
        return False

    def _write(self, data: bytes) -> None:
        """Write all of it: one question and the payload have room in the socket's buffer."""
        assert self._link is not None
        self._link.settimeout(DEADLINE)
        try:
            self._link.sendall(data)
        except OSError as error:  # after a time-out nobody knows how much of it went
            raise ConnectionError(str(error)) from error
        finally:
            self._link.setblocking(False)

    def _unavailable(self, words: str) -> SystemUnavailable:
        return SystemUnavailable(words if words.startswith(f"{self._name}: ") else f"{self._name}: {words}")


def ask_all(
    questions: Sequence[tuple[Desk, dict[str, Any]]], verb: str, *, deadline: float = DEADLINE
) -> list[Any | SystemUnavailable]:
    """Ask many hosts beside one another; return the answers, the SystemUnavailable of each that has none.

    None waits for another: neither for its connection nor for its answer. One that was late is waited for only shortly.
    """
    answers: list[Any | SystemUnavailable] = [None] * len(questions)
    until: dict[int, float] = {}
    for i, (desk, values) in enumerate(questions):
        until[i] = time.monotonic() + (min(deadline, LATE) if desk.late else deadline)
        desk.put(verb, **values)
    while until:
        for i in list(until):
            desk = questions[i][0]
            if desk.turn():
                try:
                    answers[i] = desk.take()
                except SystemUnavailable as error:
                    answers[i] = error
                except OSError as error:
                    answers[i] = SystemUnavailable(f"its desk could not answer: {error.strerror or error}")
                del until[i]
            elif time.monotonic() >= until[i]:
                answers[i] = desk.give_up()
                del until[i]
        if until:
            _wait([questions[i][0] for i in until], min(until.values()))
    return answers


def _wait(desks: Sequence[Desk], until: float) -> bool:
    """Wait until one of them has something to read; False: the time is over."""
    left = until - time.monotonic()
    if left <= 0:
        return False
    poll = select.poll()
    for desk in desks:
        poll.register(desk.fileno(), select.POLLIN)
    poll.poll(left * 1000 + 1)
    return True
