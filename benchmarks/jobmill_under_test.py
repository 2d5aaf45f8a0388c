"""jobmill itself under measurement, whole: embedded server, one manager, one starter, one fetcher."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jobmill
from benchmarks.contender import COMMAND, SLOTS, Contender, Measured, WrongResult
from jobmill.client import Client, read
from jobmill.daemon.server import EmbeddedServer
from jobmill.daemon.supervisor import Supervisor
from jobmill.daemon.worker import workers
from jobmill.jobs.states import ENDED, State

LOOK = 0.02  # seconds between looks at the number of ended jobs: what the clock may be late by
LOCAL = f"{{local: {{kind: local, slots: {SLOTS}}}}}"


class Jobmill(Contender[Measured]):
    """All that `jobmill up` starts, with folders of its own."""

    name = "jobmill"
    durability = (
        "every push, state and end is on disk (fsync) before it is acknowledged; an exit record for each job; what a "
        "killed worker held is taken over after its lease (10 s), and a launch that may have happened is never repeated"
    )
    version = jobmill.__version__

    def __init__(self, spool: Path) -> None:
        """``spool``: a folder for state and run folders, on the file system to measure."""
        self._spool = spool
        self._kept: tempfile.TemporaryDirectory[str] | None = None

    def prepare(self) -> None:
        """Make the folder; nothing is installed."""
        self._spool.mkdir(parents=True, exist_ok=True)
        self._kept = tempfile.TemporaryDirectory(prefix="jobmill-", dir=self._spool)

    def folder(self) -> Path:
        """Return a new folder for a round.

        Nothing is removed between rounds: for some minutes after many files were removed, ext4 looks long for inodes
        that were not used lately, and a round would measure that (`recently_deleted` in the kernel's ialloc.c).
        """
        assert self._kept is not None
        return Path(tempfile.mkdtemp(prefix="round-", dir=self._kept.name))

    def close(self) -> None:
        """Remove all rounds' folders."""
        if self._kept is not None:
            self._kept.cleanup()


class JobmillThroughput(Jobmill[float]):
    """Specs, made before, go in by the Python client in one call; ends are read from the record."""

    def __init__(self, spool: Path, *, systems: str = LOCAL, job: Mapping[str, Any] | None = None) -> None:
        """``systems``: of the configuration, as YAML; ``job``: what each of the N jobs is."""
        super().__init__(spool)
        self._systems = systems
        self._job = job or {"command": [COMMAND]}

    def round(self, jobs: int) -> float:
        """Clock from the first push to the moment when the record has all ends; then look at each of them."""
        with pipeline(self.folder(), self._systems) as client:
            client.wait(client.submit(self._job), timeout=60)  # all three work when it is done
            specs = [client.complete(spec) for _ in range(jobs) for spec in read(self._job)]
            begin = time.perf_counter()
            ids = client.send(specs)
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
def pipeline(folder: Path, systems: str = LOCAL) -> Iterator[Client]:
    """Run a pipeline with these systems for the length of a block. Raises WrongResult when it does not start."""
    config = folder / "jobmill.yaml"
    config.write_text(f"state: {folder}/state\nspool: {folder}/spool\nsystems: {systems}\n")
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
