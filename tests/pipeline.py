"""A whole pipeline for tests: a server of its own, the three workers as processes, evidence outside Redis."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from jobmill.client import Client
from jobmill.daemon.server import EmbeddedServer

ROLES = ("manager", "starter", "fetcher")


class Pipeline:
    """Server, manager, starter, fetcher; each can be killed and started again."""

    def __init__(self, folder: Path, *, slots: int = 4, config: str = "", url: str | None = None) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.state.mkdir(parents=True)
        self.config = folder / "jobmill.yaml"
        self.config.write_text(config or f"systems: {{local: {{kind: local, slots: {slots}}}}}\n")
        self.env = os.environ | {"JOBMILL_STATE": str(self.state), "JOBMILL_CONFIG": str(self.config)}
        self.env.pop("JOBMILL_REDIS_URL", None)
        self.server: EmbeddedServer | None = None
        if url is None:
            self.server = EmbeddedServer(self.state)
            self.server.start()
            url = self.server.url
        else:
            self.env["JOBMILL_REDIS_URL"] = url
        self.url = url
        self.client = Client(url)
        self.workers: dict[str, subprocess.Popen[bytes]] = {}
        self.log = folder / "log"

    def start(self, *roles: str) -> None:
        for role in roles or ROLES:
            with self.log.open("ab") as log:
                self.workers[role] = subprocess.Popen(
                    [sys.executable, "-m", f"jobmill.scripts.{role}"],
                    env=self.env,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )

    def kill(self, role: str, number: int = signal.SIGKILL) -> None:
        """Kill one worker, or the guard or runner by its name."""
        if role in ("guard", "runner"):
            for pid in self.pids(role):
                os.kill(pid, number)
            return
        worker = self.workers[role]
        worker.send_signal(number)
        worker.wait(timeout=20)

    def kill_server(self) -> None:
        """Kill the embedded server and start it again on the same data."""
        server = self.server
        assert server is not None
        server.kill()
        self.until(lambda: server.poll() is not None)
        server.start()

    def pids(self, what: str) -> list[int]:
        """Return the guards or runners of this pipeline's spool."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    line = (entry / "cmdline").read_bytes().split(b"\0")
                except OSError:
                    continue
                words = b" ".join(line).decode(errors="replace")
                if str(self.state) in words and f"jobmill.systems.{what}" in words:
                    found.append(int(entry.name))
        return found

    def stop(self) -> None:
        for worker in self.workers.values():
            if worker.poll() is None:
                worker.terminate()
        for worker in self.workers.values():
            try:
                worker.wait(timeout=10)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()
        if self.server is not None:
            self.server.stop()
        self.client.close()

    def until(self, condition: Callable[[], bool], timeout: float = 20.0) -> None:
        """Wait for something to become true; fail with the end of the log."""
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {timeout} s; the log ends:\n{self.log_tail()}")
            time.sleep(0.02)

    def log_tail(self, lines: int = 40) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log.exists() else ""


class Evidence:
    """What job bodies wrote themselves: `start <id> <run>` and `end <id> <run>`, each one synced line."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def command(self, body: str, exit_value: int) -> list[str]:
        """Return argv of a job that tells its start and end, with ``body`` (a shell command) in between."""
        script = (
            f'echo "start $JOBMILL_JOB_ID $JOBMILL_RUN" >> {self.file}; sync {self.file}; {body}; '
            f'echo "end $JOBMILL_JOB_ID $JOBMILL_RUN" >> {self.file}; sync {self.file}; exit {exit_value}'
        )
        return ["/bin/sh", "-c", script]

    def counts(self) -> Counter[tuple[str, str]]:
        """Count (start or end, id) over all runs."""
        rows = [line.split() for line in self.file.read_text().splitlines()]
        return Counter((row[0], row[1]) for row in rows)

    def until_started(self, pipeline: Pipeline, jobs: int) -> None:
        """Wait until so many jobs have started."""
        pipeline.until(lambda: sum(1 for what, _ in self.counts() if what == "start") >= jobs, timeout=30)

    def starts_of_runs(self) -> Counter[tuple[str, str]]:
        """Count the starts of each (id, run)."""
        rows = [line.split() for line in self.file.read_text().splitlines()]
        return Counter((row[1], row[2]) for row in rows if row[0] == "start")


def exits(client: Client, job_ids: Sequence[str]) -> dict[str, int]:
    """Return the exit values that the record tells."""
    return {i: client.job(i).exit.get("exit_value", -1) for i in job_ids}
