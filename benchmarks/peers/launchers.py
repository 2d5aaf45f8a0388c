"""Programs that run commands for a Python client: what their latency is, each in an environment of its own."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import ClassVar

from benchmarks.child import answer
from benchmarks.contender import COMMAND, Contender
from benchmarks.latencies import RATE, Latencies
from benchmarks.peers import hyperqueue
from benchmarks.peers.environment import provide


class Launcher(Contender[Latencies]):
    """A peer with a client program in ``clients/``, which starts whatever it needs before its clock."""

    requirement: ClassVar[str]
    client: ClassVar[str]

    def prepare(self) -> None:
        """Install it into an environment of its own."""
        self._python = provide(self.name, self.requirement)
        self.version = self.requirement.partition("==")[2]

    def round(self, jobs: int) -> Latencies:
        """Let the client program run both loops in a new folder."""
        with tempfile.TemporaryDirectory(prefix=f"{self.name}-") as folder:
            words = (folder, str(jobs), str(RATE), COMMAND)
            return Latencies.read(answer(self.name, self._python, self.client, *words, folder=Path(folder)))


class Psij(Launcher):
    """PSI/J (https://exaworks.org/psij), its local executor: a child of the client for each job, no slots."""

    name = "psij"
    durability = "none: jobs are children of the client and known to it alone"
    requirement = "psij-python==0.9.11"
    client = "latency_of_psij.py"


class Parsl(Launcher):
    """Parsl (https://parsl-project.org): HighThroughputExecutor, one block of two workers on this machine."""

    name = "parsl"
    durability = "none as started here: jobs and results are in the memory of client, interchange and workers"
    requirement = "parsl==2026.10.26"
    client = "latency_of_parsl.py"


class HyperQueueLatency(Launcher):
    """HyperQueue with a client that looks each millisecond: its own wait looks once a second."""

    name = "hyperqueue"
    durability = hyperqueue.HyperQueue.durability
    share = 2
    requirement = hyperqueue.REQUIREMENT
    client = "latency_of_hyperqueue.py"
