"""The contract of a guard as its channel sees it: two descriptors, and whether anybody is at their other end."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

from jobmill.systems import run_folder


class Guarded(ABC):
    """One guard, from its start to its last word."""

    lingers: ClassVar[bool] = False  # its runner may go on to start what it was sent after we lost it
    events: int  # descriptor, does not block
    commands: int  # descriptor, does not block; -1 once it is closed
    env: Mapping[str, str]  # the constant part of every job's environment; known when `ready`

    def __init__(self) -> None:
        self.host = run_folder.HOST  # where it is
        self.preface = bytearray()  # goes out before any command
        self.outgoing = bytearray()  # commands; they wait until it is `ready`
        self.partial = b""
        self.ready = False  # it takes commands
        self.failed = False  # it left by itself; it should not have, as long as we are here
        self.why = ""  # what it said about that

    @property
    def pending(self) -> bytearray:
        """Return what may be written now."""
        return self.preface or (self.outgoing if self.ready else bytearray())

    def descriptors(self) -> Sequence[int]:
        """Return what else becomes readable when it dies."""
        return ()

    def feed(self, data: bytes) -> Sequence[bytes]:
        """Take what was read; return the event lines that are whole now."""
        lines = (self.partial + data).split(b"\n")
        self.partial = lines.pop()
        return lines

    def end(self) -> None:
        """Nobody writes events any more."""

    @abstractmethod
    def dead(self) -> bool:
        """Tell whether the guard is gone, or out of reach for ever."""

    def close_commands(self) -> None:
        """Give the runner the end of its input."""
        if self.commands >= 0:
            os.close(self.commands)
            self.commands = -1
        self.preface.clear()
        self.outgoing.clear()

    def leave(self) -> None:
        """Let go of everything; what runs goes on."""
        self.close_commands()
        os.close(self.events)
