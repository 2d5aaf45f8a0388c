"""The contract of a peer: another system that is broken as jobmill is, and judged by the same checker."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import ClassVar

from tests.chaos.checker import Told
from tests.chaos.evidence import Evidence
from tests.chaos.faults.fault import Fault
from tests.chaos.peers import tree
from tests.chaos.peers.plans import Job


class NotAcknowledged(Exception):
    """A submit that was not answered: it may have been done; the user says it again, under the same id."""


class Peer(ABC):
    """One system on a folder and servers of its own. Faults get at it by what they need (`pids`, `server`, `redis`)."""

    name: ClassVar[str]
    version: str = ""
    slots: int = 2  # bodies that may run at once
    says_lost: bool = False  # it tells an end that nobody could know by a word of its own, not as a failure
    retries: int = 0  # further runs that each job allows
    pace: float = 2.5  # seconds over which jobs are submitted for each fault, so that faults meet jobs
    scale: float = 1.0  # how much longer its jobs take than those of others, so that it is busy all that time

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.seed = folder, seed
        self.evidence = Evidence(folder / "evidence")
        self.closing = ExitStack()  # what `start` has to be undone by, the last first
        self.closing.callback(tree.end, folder)

    @property
    @abstractmethod
    def faults(self) -> Sequence[Fault]:
        """Return what can be done to it."""

    @abstractmethod
    def start(self) -> None:
        """Install what is needed and start everything; from now on it is kept alive as its users would."""

    @abstractmethod
    def submit(self, jobs: Sequence[Job]) -> None:
        """Hand jobs over; raise NotAcknowledged when that was not answered. The same jobs again do no harm."""

    @abstractmethod
    def told(self, ids: Sequence[str]) -> Mapping[str, Told]:
        """Return what it says of each job that it knows; raise NotAcknowledged when it cannot be asked now.

        ``run`` is None where it numbers no runs. An end that is not the body's own, as of a job whose process it saw
        die, is ``lost`` with its words as the reason.
        """

    @abstractmethod
    def patience(self) -> float:
        """Return how many seconds without any change say that nothing more will come.

        Longer than each of its own timers that may still run: it has had its chance. Infinite while something of its
        own keeps it from all work; the time counts from the end of that.
        """

    @abstractmethod
    def pids(self, role: str) -> list[int]:
        """Return its living processes of a role, as the faults name them."""

    def recover(self) -> None:
        """Do by hand what its users have to do for work to go on after a fault; called again and again."""

    def note(self, words: str) -> None:
        """Write down what was done to it, with the time as bodies tell it (`--keep` leaves the file ``faults``)."""
        up = Path("/proc/uptime").read_text().split()[0]
        with (self.folder / "faults").open("a") as file:
            file.write(f"{up} {words}\n")

    def words(self) -> Mapping[str, int]:
        """Return how often its own log told of what, for the report."""
        return {}

    def close(self) -> None:
        """End all of its processes, whatever state they are in."""
        self.closing.close()
