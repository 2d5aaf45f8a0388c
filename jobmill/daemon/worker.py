"""A worker under supervision: its command, and its process through all its deaths."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from jobmill.daemon.backoff import HEALTHY, Backoff


@dataclass(frozen=True, kw_only=True)
class Worker:
    """One worker to keep running."""

    name: str  # what it is called in the log; two of a kind need two names
    argv: Sequence[str]  # its command; ``--parent-fd N`` is added


def workers(*arguments: str, kinds: Sequence[str] = ("manager", "starter", "fetcher")) -> list[Worker]:
    """Return the pipeline's workers, each by its command with these arguments, by the Python that runs now."""
    return [
        Worker(name=kind, argv=(sys.executable, "-P", "-m", f"jobmill.scripts.{kind}", *arguments)) for kind in kinds
    ]


class WorkerProcess:
    """The process of one worker: started, watched, signalled; knows when it is to be started again."""

    def __init__(
        self, worker: Worker, *, clock: Callable[[], float], spawn: Callable[..., subprocess.Popen[bytes]]
    ) -> None:
        """Prepare; the first start is due at once."""
        self.worker = worker
        self.process: subprocess.Popen[bytes] | None = None
        self.due: float | None = clock()  # when to start it; None: it runs, or is to stay away
        self.proven = False  # it has lived long enough once: its configuration cannot be all wrong
        self.log_start = 0  # where in the log its words begin
        self._clock, self._spawn = clock, spawn
        self._backoff = Backoff()
        self._started = 0.0

    def start(self, *, env: Mapping[str, str], log: int, parent: int) -> None:
        """Start it; raise OSError when the system cannot (then call `died`)."""
        self.due = None
        self._started = self._clock()
        self.process = self._spawn(
            [*self.worker.argv, "--parent-fd", str(parent)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=env,
            pass_fds=(parent,),
            start_new_session=True,  # Ctrl-C is for the supervisor, which tells the workers in order
        )

    def status(self) -> int | None:
        """Return its exit status when it has just been seen to end, else None."""
        return self.process.poll() if self.process is not None else None

    def died(self) -> float:
        """Take note of its end; return the seconds until it is due again."""
        lived = self._clock() - self._started
        self.proven = self.proven or lived >= HEALTHY
        self.process = None
        delay = self._backoff.died(lived=lived)
        self.due = self._clock() + delay
        return delay

    def send(self, number: signal.Signals) -> None:
        """Signal it if it lives."""
        if self.process is not None:
            self.process.send_signal(number)  # Popen knows whether the number is still its own

    def watch(self) -> int | None:
        """Return a descriptor that becomes readable when it ends, or None where the system has no such thing."""
        return pidfd(self.process.pid) if self.process is not None else None


def pidfd(pid: int | None) -> int | None:
    """Return a descriptor that becomes readable when the process ends (pidfd_open(2), Linux 5.3), else None."""
    if pid is None or not hasattr(os, "pidfd_open"):
        return None
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None


def ending(status: int) -> str:
    """Say an exit status in words: ``exited with status 1``, ``was killed by SIGKILL``."""
    if status >= 0:
        return f"exited with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"
