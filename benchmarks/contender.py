"""What is measured: a program under load that can prove that each of its jobs ended well."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Generic, TypeVar

COMMAND = "/bin/true"
SLOTS = 2

Measured = TypeVar("Measured", covariant=True)  # seconds (throughput), or the times of single jobs (latency)


class WrongResult(Exception):
    """A round whose results are not those of N jobs that ended well: it counts for nothing."""


class Contender(ABC, Generic[Measured]):
    """One program under measurement."""

    name: ClassVar[str]
    durability: ClassVar[str]  # what is left of finished and waiting work after a crash, in a few words
    share: ClassVar[int] = 1  # it runs one job in so many, where all would take too long
    version: str = ""

    @abstractmethod
    def prepare(self) -> None:
        """Install what is needed; outside of the clock. Raises OSError or SubprocessError when it cannot."""

    @abstractmethod
    def round(self, jobs: int) -> Measured:
        """Run so many jobs; return what the benchmark measures. A throughput: the seconds to the last recorded end.

        What serves for longer than one batch (servers, workers) starts before the clock. Raises WrongResult.
        """

    def close(self) -> None:
        """Remove what the rounds left; outside of the clock."""
