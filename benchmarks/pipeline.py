"""jobmill itself under measurement, whole: embedded server, one manager, one starter, one fetcher."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jobmill
from benchmarks.contender import COMMAND, SLOTS, Contender, WrongResult
from jobmill.client import Client
from jobmill.daemon.server import EmbeddedServer
from jobmill.daemon.supervisor import Supervisor
from jobmill.daemon.worker import workers
from jobmill.jobs.states import ENDED, State

LOOK = 0.02  # seconds between looks at the number of ended jobs: what the clock may be late by


class Jobmill(Contender):
    """All that `jobmill up` starts; specs go in by the Python client, ends are read from the record."""

    name = "jobmill"
    durability = "every push, state and end is on disk (fsync) before it is acknowledged; an exit record for each job"
    version = jobmill.__version__

    def __init__(self, spool: Path) -> None:
        """``spool``: a folder for state and run folders, on the file system to measure."""
        self._spool = spool
        self._kept: tempfile.TemporaryDirectory[str] | None = None

    def prepare(self) -> None:
        """Make the folder; nothing is installed."""
        self._spool.mkdir(parents=True, exist_ok=True)
        self._kept = tempfile.TemporaryDirectory(prefix="jobmill-", dir=self._spool)

    def round(self, jobs: int) -> float:
        """Clock from the first push to the moment when the record has all ends; then look at each of them.

        Nothing is removed between rounds: for some minutes after many files were removed, ext4 looks long for inodes
        that were not used lately, and a round would measure that (`recently_deleted` in the kernel's ialloc.c).
        """
        assert self._kept is not None
        return jobmill_round(jobs, Path(tempfile.mkdtemp(prefix="round-", dir=self._kept.name)))

    def close(self) -> None:
        """Remove all rounds' folders."""
        if self._kept is not None:
            self._kept.cleanup()


def jobmill_round(jobs: int, folder: Path) -> float:
    """Run so many jobs through a fresh pipeline in ``folder``; return the seconds they took; raise WrongResult."""
    with _pipeline(folder) as client:
        client.wait(client.submit({"command": [COMMAND]}), timeout=60)  # all three work when it is done
        specs = [{"command": [COMMAND]} for _ in range(jobs)]
        begin = time.perf_counter()
        ids = client.submit_many(specs)
        deadline = begin + 60 + jobs / 10
        while _ended(client) <= jobs:
            if time.perf_counter() > deadline:
                raise WrongResult(
                    f"jobmill has recorded {_ended(client) - 1} of {jobs} ends; it hangs, or is very slow"
                )
            time.sleep(LOOK)
        seconds = time.perf_counter() - begin
        rows = client.wait(ids, timeout=60)
        wrong = [i for i in ids if rows[i].state is not State.DONE or rows[i].exit.get("exit_value") != 0]
        if wrong or len(set(ids)) != jobs or any(rows[i].run != 1 for i in ids):
            raise WrongResult(
                f"jobmill: {len(wrong)} of {jobs} jobs did not exit with 0 in their first run: {wrong[:5]}"
            )
    return seconds


def _ended(client: Client) -> int:
    record = client.record
    return sum(record.read([("ZCARD", record.keys.ended(state)) for state in ENDED]))


@contextmanager
def _pipeline(folder: Path) -> Iterator[Client]:
    """Run a pipeline with two local slots for the length of a block."""
    config = folder / "jobmill.yaml"
    config.write_text(
        f"state: {folder}/state\nspool: {folder}/spool\nsystems: {{local: {{kind: local, slots: {SLOTS}}}}}\n"
    )
    server = EmbeddedServer(folder / "state")
    supervisor = Supervisor(workers("--config", str(config)), folder=folder / "state", server=server)
    thread = threading.Thread(target=supervisor.run, kwargs={"signals": False})
    thread.start()
    try:
        deadline = time.monotonic() + 30
        while not server.socket.exists():
            if time.monotonic() > deadline or not thread.is_alive():
                raise WrongResult(f"jobmill did not start: {supervisor.failure or 'see ' + str(folder)}")
            time.sleep(0.01)
        client = Client(server.url)
        yield client
        client.close()
    except TimeoutError as error:
        raise WrongResult(f"jobmill: {error}; {supervisor.failure}") from error
    finally:
        supervisor.stop()
        thread.join()
