"""What is measured: a program that runs N times /bin/true on two slots and can prove that each exited with 0."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

COMMAND = "/bin/true"
SLOTS = 2


class WrongResult(Exception):
    """A round whose results are not N exits with 0: it counts for nothing."""


class Contender(ABC):
    """One program under measurement."""

    name: ClassVar[str]
    durability: ClassVar[str]  # what is left of finished and waiting work when the machine dies, in a few words
    version: str = ""

    @abstractmethod
    def prepare(self) -> None:
        """Install what is needed; outside of the clock."""

    @abstractmethod
    def round(self, jobs: int) -> float:
        """Run so many jobs and return the seconds from the first submission to the last recorded end.

        What serves for longer than one batch (servers, workers) starts before the clock. Raises WrongResult.
        """

    def close(self) -> None:
        """Remove what the rounds left; outside of the clock."""
