"""Task queues on Redis that run Python functions: RQ, Celery, dramatiq, on a server with jobmill's own settings."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from benchmarks.child import CLIENTS, answer, environment
from benchmarks.contender import SLOTS, Contender
from benchmarks.peers.environment import provide
from jobmill.daemon.server import EmbeddedServer


class TaskQueue(Contender[float]):
    """A peer with two worker processes and a client program in ``clients/``; a server of its own in each round."""

    requirement: ClassVar[str]
    client: ClassVar[str]
    home: ClassVar[str] = ""  # its environment's name, where that is not its own

    def __init__(self, spool: Path) -> None:
        """``spool``: a folder on the file system to measure, for the server's append-only file."""
        self._spool = spool

    def prepare(self) -> None:
        """Install it into an environment of its own."""
        self._python = provide(self.home or self.name, self.requirement)
        self.version = self.requirement.partition("==")[2]

    @abstractmethod
    def commands(self, socket: Path) -> Sequence[Sequence[str]]:
        """Return the commands that start its workers: programs of its environment."""

    def round(self, jobs: int) -> float:
        """Start server and workers; let the client program submit, wait and look at each result."""
        self._spool.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f"{self.name}-", dir=self._spool) as name:
            folder = Path(name)
            server = EmbeddedServer(folder / "state")
            server.start()
            try:
                env = {"BENCHMARK_SOCKET": str(server.socket), "PYTHONPATH": str(CLIENTS)}
                with self._workers(server.socket, folder, env):
                    words = (str(server.socket), str(jobs), str(SLOTS))
                    found = answer(self.name, self._python, self.client, *words, folder=folder, env=env)
            finally:
                server.stop()
        return float(found["seconds"])

    @contextlib.contextmanager
    def _workers(self, socket: Path, folder: Path, env: Mapping[str, str]) -> Iterator[None]:
        env = {**environment(self._python), **env}
        with contextlib.ExitStack() as stack, (folder / "workers.log").open("wb") as log:
            for command in self.commands(socket):
                program = self._python.with_name(command[0])
                started = subprocess.Popen([program, *command[1:]], cwd=folder, env=env, stdout=log, stderr=log)
                stack.callback(_stop, started)
            yield


def _stop(worker: subprocess.Popen[bytes]) -> None:
    worker.terminate()
    try:
        worker.wait(timeout=20)
    except subprocess.TimeoutExpired:
        worker.kill()
        worker.wait()


class Rq(TaskQueue):
    """RQ (https://python-rq.org), its quickest worker: two SimpleWorkers, which run jobs in their own process."""

    name = "rq"
    share = 5
    durability = (
        "queue and results are on disk (fsync) before they are acknowledged; the job of a killed worker is told as "
        "failed after minutes (abandoned), and run again only if it was given a Retry"
    )
    requirement = "rq==2.12.0"
    client = "throughput_of_rq.py"
    worker: ClassVar[str] = "rq.SimpleWorker"

    def commands(self, socket: Path) -> Sequence[Sequence[str]]:
        """Return two workers that log warnings only."""
        return [("rq", "worker", "--url", f"unix://{socket}", "--quiet", "-w", self.worker, "default")] * SLOTS


class RqFork(Rq):
    """RQ with its default worker, which forks a process for each job."""

    name = "rq_fork"
    share = 20
    home = "rq"
    worker = "rq.Worker"


class CeleryQueue(TaskQueue):
    """Celery (https://docs.celeryq.dev): one worker, prefork with two processes; acks_late."""

    name = "celery"
    durability = (
        "queue and results are on disk (fsync) before they are acknowledged; what a killed worker had taken is "
        "delivered again after the visibility timeout (an hour), so it may run twice"
        "; a killed pool process fails its job"
    )
    requirement = "celery[redis]==5.7.0"
    client = "throughput_of_celery.py"

    def commands(self, socket: Path) -> Sequence[Sequence[str]]:
        """Return one worker with a pool of two."""
        return [("celery", "--app", "noop_of_celery", "worker", "--concurrency", str(SLOTS), "--pool", "prefork")]


class Dramatiq(TaskQueue):
    """dramatiq (https://dramatiq.io): two processes with its default of eight threads each."""

    name = "dramatiq"
    durability = (
        "queue and results are on disk (fsync) before they are acknowledged; what a killed worker had taken is "
        "delivered again after its heartbeat has been missing for a minute, so it may run twice"
    )
    requirement = "dramatiq[redis]==2.2.1"
    client = "throughput_of_dramatiq.py"

    def commands(self, socket: Path) -> Sequence[Sequence[str]]:
        """Return one master of two processes."""
        return [("dramatiq", "noop_of_dramatiq", "--processes", str(SLOTS))]
