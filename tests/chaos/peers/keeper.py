"""Keeps servers and workers alive, as systemd or supervisord would: what ends is started again a moment later."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from jobmill.daemon.server import EmbeddedServer
from jobmill.errors import JobmillError

PAUSE = 0.3  # seconds before a worker is started again


class Keeper:
    """Some equal workers and the Redis server that they use; ``down`` set: the server stays down."""

    def __init__(
        self, server: EmbeddedServer, command: Sequence[str | Path], env: Mapping[str, str], many: int, log: Path
    ) -> None:
        self.down = threading.Event()
        self.restarts = 0
        self._server, self._log = server, log
        self._command, self._env = [str(word) for word in command], dict(env)
        self._over = threading.Event()
        self._workers = [self._spawn() for _ in range(many)]
        self._threads = [
            threading.Thread(target=self._keep_server, name="keep server", daemon=True),
            *(threading.Thread(target=self._keep, args=(n,), name=f"keep {n}", daemon=True) for n in range(many)),
        ]
        for thread in self._threads:
            thread.start()

    def pids(self) -> list[int]:
        """Return the living workers."""
        return [worker.pid for worker in self._workers if worker.poll() is None]

    def stop(self) -> None:
        """Bring nothing back any more, and kill the workers."""
        self._over.set()
        for thread in self._threads:
            thread.join(10)
        for worker in self._workers:
            worker.kill()
            worker.wait()

    def _keep(self, number: int) -> None:
        while not self._over.wait(0.05):
            if self._workers[number].poll() is not None and not self._over.wait(PAUSE):
                self._workers[number] = self._spawn()
                self.restarts += 1

    def _keep_server(self) -> None:
        while not self._over.wait(0.05):
            if not self.down.is_set() and self._server.poll() is not None:
                with contextlib.suppress(JobmillError):  # again in a moment
                    self._server.start()

    def _spawn(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(
                self._command,
                env=os.environ | self._env,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
