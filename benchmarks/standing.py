"""What stands by for work: jobmill's pipeline and its peers' workers, each with its server."""

from __future__ import annotations

import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.child import CLIENTS, environment
from benchmarks.contender import COMMAND, SLOTS, WrongResult
from benchmarks.peers.task_queues import TaskQueue
from jobmill.daemon.server import EmbeddedServer

# variables that would make our own processes larger, slower or talk to another pipeline
_OURS = ("PYTHON", "JOBMILL_", "MALLOC_", "COVERAGE_")


def clean_environment(python: Path) -> dict[str, str]:
    """Return the environment of a user who has set nothing, with the Python's own commands found first."""
    return {key: value for key, value in environment(python).items() if not key.startswith(_OURS)}


@contextmanager
def jobmill(python: Path, folder: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Keep ``jobmill up`` of an environment up; give its process id, and the environment in which commands find it.

    One job has run when it is given, so that each process has loaded what it needs for its work.
    """
    config = folder / "jobmill.yaml"
    config.write_text(
        f"state: {folder}/state\nspool: {folder}/spool\nsystems: {{local: {{kind: local, slots: {SLOTS}}}}}\n"
    )
    env = clean_environment(python) | {"JOBMILL_CONFIG": str(config)}
    program = python.with_name("jobmill")
    with (
        (folder / "up.log").open("wb") as log,
        subprocess.Popen([program, "up"], cwd=folder, env=env, stdout=log, stderr=log) as up,
    ):
        try:
            deadline = time.monotonic() + 60
            while not (folder / "state" / "redis.sock").exists():
                if up.poll() is not None or time.monotonic() > deadline:
                    raise WrongResult(f"jobmill up did not start: {(folder / 'up.log').read_text()[-500:]}")
                time.sleep(0.05)
            job = folder / "job.yaml"
            job.write_text(f"command: [{COMMAND}]\n")
            ran = subprocess.run(
                [program, "submit", "--wait", job], env=env, cwd=folder, capture_output=True, text=True, timeout=120
            )
            if ran.returncode != 0:
                raise WrongResult(f"a job did not end well: {ran.stderr.strip()[-500:]}")
            yield up.pid, env
        finally:
            up.terminate()
            try:
                up.wait(timeout=60)
            except subprocess.TimeoutExpired:
                up.kill()


@contextmanager
def peer(queue: TaskQueue, python: Path) -> Iterator[list[int]]:
    """Keep a task queue's server and workers up; give their process ids, the server's first."""
    with tempfile.TemporaryDirectory(prefix=f"{queue.name}-") as name:
        folder = Path(name)
        server = EmbeddedServer(folder / "state")
        server.start()
        env = clean_environment(python) | {"BENCHMARK_SOCKET": str(server.socket), "PYTHONPATH": str(CLIENTS)}
        workers: list[subprocess.Popen[bytes]] = []
        try:
            with (folder / "workers.log").open("wb") as log:
                for command in queue.commands(server.socket):
                    words = [python.with_name(command[0]), *command[1:]]
                    workers.append(subprocess.Popen(words, cwd=folder, env=env, stdout=log, stderr=log))
            time.sleep(5)  # they come up in steps, with pauses between
            gone = [worker for worker in workers if worker.poll() is not None]
            if gone or server.pid is None:
                raise WrongResult(f"{queue.name} did not start: {(folder / 'workers.log').read_text()[-500:]}")
            yield [server.pid, *(worker.pid for worker in workers)]
        finally:
            for worker in workers:
                worker.terminate()
            for worker in workers:
                try:
                    worker.wait(timeout=30)
                except subprocess.TimeoutExpired:
                    worker.kill()
                    worker.wait()
            server.stop()


def role(line: str) -> str:
    """Return a short name for a command line: what jobmill's documentation calls its processes, else the program."""
    if line.startswith("jobmill up"):
        return "supervisor"
    for pattern in (r"^jobmill-(\w+)", r"systems\.(guard|runner) import"):
        if found := re.search(pattern, line):
            return found[1]
    words = line.split()
    if words[0].endswith("-server"):
        return "server"
    return " ".join(Path(word).name for word in words[:3] if not word.startswith("-"))[:40]
