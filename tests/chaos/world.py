"""A pipeline to be broken: server, workers and disks of its own, each worker behind a network of its own.

It keeps alive what dies, as a supervisor does, and otherwise helps nobody.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from redis import Redis

from jobmill.client import Client
from jobmill.daemon.server import EmbeddedServer
from jobmill.errors import JobmillError
from jobmill.systems.fake_cluster import FakeCluster
from tests.chaos import processes
from tests.chaos.disk import Disk, available
from tests.chaos.evidence import Evidence, Line
from tests.chaos.points import Points
from tests.chaos.proxy import Proxy

LEASE = 5.0  # seconds: the least that the configuration allows, so that a run is short
SLOTS = 4
ANN = 2  # jobs of the user ann at once
MIB = 400  # of the spool's disk, and of the server's
REPAIRS = (
    "members that do not hold it",
    "had no list entry",
    "entry of Exit_Queue",
    "runner did not understand",
    "entry broke its reader",
)


class World:
    """One pipeline on disks, links and clocks that can fail. Every call is for the chaos program's threads."""

    def __init__(
        self,
        *,
        system: str = "local",
        seed: int = 0,
        starters: int = 2,
        disks: bool | None = None,
        server: Path | None = None,
        plant: Callable[[Path], None] | None = None,
    ) -> None:
        """Make folders, disks and links, and start the server.

        ``system``: local or fake; ``disks``: None: where this user may mount; ``server``: another server program;
        ``plant``: changes the copy of the package that the workers run."""
        self.folder = Path(tempfile.mkdtemp(prefix="chaos-"))
        try:
            self._make(system, seed, starters, disks, server, plant)
        except BaseException:
            if self.server is not None:
                self.server.stop()
            self._remove()
            raise

    def _make(
        self,
        system: str,
        seed: int,
        starters: int,
        disks: bool | None,
        server: Path | None,
        plant: Callable[[Path], None] | None,
    ) -> None:
        self.system = system
        self.draw = random.Random(f"world {seed}")
        self.record = ""  # its identity, once it has one
        if available() if disks is None else disks:
            self.server_disk = Disk(self.folder / "state", MIB)
            self.spool_disk = Disk(self.folder / "spool", MIB)
        self.spool = self.folder / "spool"
        self.cluster = FakeCluster(self.spool / "fake" / "fake") if system == "fake" else None
        self.evidence = Evidence(self.folder / "evidence")
        self.points = Points(self.folder / "points")
        if plant is not None:
            plant(self.points.package)
        self.log = self.folder / "log"
        self.config = self.folder / "jobmill.yaml"
        self.config.write_text(self._configuration())
        self.server = EmbeddedServer(self.folder / "state", binary=server)
        self.server.start()
        self.proxy = Proxy(self.server.socket, self.folder)
        self.names = [
            f"{role}-{n}"
            for role, many in (("manager", 2), ("starter", starters), ("fetcher", 2))
            for n in range(1, many + 1)
        ]
        self.workers: dict[str, subprocess.Popen[bytes]] = {}
        for name in [*self.names, "client"]:
            self.proxy.open(name)
        self.client = Client(self.proxy.links["client"].url)
        self.direct = Client(self.server.url)  # what the checker looks through: never broken, but by a dead server
        self.crashed: list[str] = []
        self.arming = threading.Lock()  # held: one crash point is armed at a time
        self.keeping = threading.Lock()  # held: nothing is brought back to life
        self.server_down = threading.Event()  # set: the server stays down
        self._over = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="keeper", daemon=True)

    def _configuration(self) -> str:
        more = "" if self.cluster is None else ", limit: 16, poll_interval: 0.5"
        system = f"{self.system}: {{kind: {self.system}, slots: {SLOTS}{more}}}"
        return (
            f"state: {self.folder / 'state'}\nspool: {self.spool}\nsystems: {{{system}}}\n"
            f"capacities: {{User:ann: {ANN}}}\nlimits: {{lease: {LEASE:g}s}}\n"
        )

    server_disk: Disk | None = None
    spool_disk: Disk | None = None
    server: EmbeddedServer = None  # type: ignore[assignment]  # from the constructor's middle on

    @property
    def limits(self) -> Mapping[str, int]:
        """What may run at once, by the names that plans use."""
        return {"slots": SLOTS, "User:ann": ANN}

    @property
    def redis(self) -> Redis:
        """Return the direct connection to the server."""
        return self.direct.record.client

    def start(self) -> None:
        """Start all workers, and keep them alive from now on."""
        for name in self.names:
            self._spawn(name)
        self._keeper.start()

    def _spawn(self, name: str) -> None:
        env = (
            os.environ
            | self.points.env
            | {
                "JOBMILL_STATE": str(self.folder / "state"),
                "JOBMILL_CONFIG": str(self.config),
                "JOBMILL_REDIS_URL": self.proxy.links[name].url,
            }
        )
        with self.log.open("ab") as log:
            self.workers[name] = subprocess.Popen(
                [sys.executable, "-m", f"jobmill.scripts.{name.partition('-')[0]}"],
                env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def _keep(self) -> None:
        """Bring back what died, a moment later."""
        while not self._over.wait(0.05):
            with self.keeping:
                if self._over.is_set():
                    return
                self._keep_server()
                for name, worker in list(self.workers.items()):
                    status = worker.poll()
                    if status is None:
                        continue
                    if status != -signal.SIGKILL:
                        self.crashed.append(f"{name}[{worker.pid}] ended with status {status}")
                    self._spawn(name)

    def _keep_server(self) -> None:
        if self.server_down.is_set() or self.server.poll() is None:
            return
        with contextlib.suppress(JobmillError):  # its disk is full: again in a moment
            self.server.start()

    def pids(self, role: str) -> list[int]:
        """Return the living processes of a role: manager, starter, fetcher, guard, runner."""
        if role == "guard":
            return processes.guards(self.spool)
        if role == "runner":
            return processes.runners(self.spool)
        return [w.pid for name, w in self.workers.items() if name.startswith(role) and w.poll() is None]

    def reboot(self, lose_unsynced: float = 0.0) -> None:
        """Let the machine go down and come up again: every process gone, another boot id, the disks as they were.

        ``lose_unsynced``: what was written to the spool in the last so many seconds may be gone, wholly or in part.
        """
        with self.keeping:
            record = self.identity()
            mine = [*self.pids("guard"), *self.pids("runner"), *(w.pid for w in self.workers.values())]
            for pid in mine:  # first those who might see others die
                processes.send(pid, signal.SIGKILL)
            while left := processes.bodies(record) if record else {}:
                for pid in left:
                    processes.send(pid, signal.SIGKILL)
                time.sleep(0.01)
            self.server.kill()
            while self.server.poll() is None:
                time.sleep(0.01)
            for worker in self.workers.values():
                worker.wait()
            if lose_unsynced:
                self._forget(lose_unsynced)
            self.points.reboot()
            self._keep_server()
            for name in self.names:
                self._spawn(name)

    def _forget(self, seconds: float) -> None:
        """Lose recent writes of the spool as a power cut does: a file is whole, cut, empty, or was never there."""
        since = time.time() - seconds
        for path in sorted(self.spool.glob("jobs/*/run.*/*")):
            if path.is_file() and not path.is_symlink() and path.stat().st_mtime > since:
                fate = self.draw.choice(["whole", "cut", "empty", "gone"])
                if fate == "cut":
                    os.truncate(path, self.draw.randrange(path.stat().st_size + 1))
                elif fate == "empty":
                    os.truncate(path, 0)
                elif fate == "gone":
                    path.unlink()

    def identity(self) -> str:
        """Return the record's identity; empty as long as there is none."""
        with contextlib.suppress(JobmillError):
            self.record = self.record or self.direct.record.identity()
        return self.record

    def leaks(self, within: float) -> list[str]:
        """Stop the workers warm; return the processes that are left of the pipeline or of its jobs after a while."""
        record = self.identity()
        self._over.set()
        self._keeper.join(10)
        for worker in self.workers.values():
            processes.send(worker.pid, signal.SIGTERM)
        found: list[str] = []
        for name, worker in self.workers.items():
            try:
                status = worker.wait(timeout=within)
                if status:
                    self.crashed.append(f"{name}[{worker.pid}] ended with {status} when it was told to stop")
            except subprocess.TimeoutExpired:
                found.append(f"{name}[{worker.pid}] does not stop")
                worker.kill()
        deadline = time.monotonic() + within
        while True:
            left = [f"process {pid} of {token}" for pid, token in processes.bodies(record).items()]
            left += [f"guard {pid}" for pid in self.pids("guard")] + [f"runner {pid}" for pid in self.pids("runner")]
            if not left or time.monotonic() > deadline:
                return found + left
            time.sleep(0.1)

    def lines(self) -> list[Line]:
        """Return what happened by the word of those to whom it happened: the bodies, or the cluster's own journal."""
        if self.cluster is None:
            return self.evidence.lines()
        found: list[tuple[tuple[float, int, int, int], Line]] = []
        for it in self.cluster.launches():
            _, job_id, run = it.token.rsplit(":", 2)
            how = signal.Signals(it.signal).name[3:] if it.signal else str(it.exit)
            if it.started is not None:
                begin = Line(kind="start", job_id=job_id, run=int(run), how=how, at=it.started, pid=it.number)
                found.append(((it.started, 1, it.number, 0), begin))
                if it.ended is not None:  # ends make room for starts of their moment
                    moment = (it.ended, int(it.ended == it.started), it.number, 1)
                    kind = "killed" if it.killed or it.over else "end"
                    found.append((moment, replace(begin, kind=kind, at=it.ended)))
        return [line for _, line in sorted(found, key=lambda one: one[0])]

    def started(self) -> int:
        """Return how many bodies have started."""
        if self.cluster is None:
            return self.evidence.started()
        return sum(1 for it in self.cluster.launches() if it.started is not None)

    def strays(self) -> list[str]:
        """Return what the cluster still has."""
        return [] if self.cluster is None else [f"{it.token} ({it.state})" for it in self.cluster.look().alive.values()]

    def log_size(self) -> int:
        """Return how much the workers have logged, bytes."""
        return self.log.stat().st_size if self.log.exists() else 0

    def logged(self, since: int = 0) -> str:
        """Return what the workers have logged since it was so large."""
        if not self.log.exists():
            return ""
        with self.log.open("rb") as log:
            log.seek(since)
            return log.read().decode(errors="replace")

    def repairs(self) -> list[str]:
        """Return the log lines of a worker that mended, or threw away, what should never have been wrong."""
        return [line for line in self.logged().splitlines() if any(words in line for words in REPAIRS)]

    def tracebacks(self) -> list[str]:
        """Return the last line of every traceback that a process wrote; guards and runners have files of their own."""
        found, inside = [], False
        texts = [self.logged(), *(f.read_text(errors="replace") for f in self.spool.glob("guards/*/errors"))]
        for line in "\n".join(texts).splitlines():
            if "Traceback (most recent call last)" in line:
                inside = True
            elif inside and line and not line.startswith((" ", "\t")):
                found.append(line)
                inside = False
        return found

    def log_tail(self, word: str = "", lines: int = 30) -> str:
        """Return the end of the workers' log, of the lines that hold a word."""
        text = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return "\n".join([line for line in text if word in line][-lines:])

    def close(self, *, keep: bool = False) -> None:
        """End everything, whatever state it is in; ``keep``: leave the folder to be looked at."""
        self._over.set()
        with contextlib.suppress(RuntimeError):
            self._keeper.join(10)
        record = self.identity()
        for worker in self.workers.values():
            processes.send(worker.pid, signal.SIGCONT)
            worker.kill()
            worker.wait()
        for pid in [*self.pids("guard"), *self.pids("runner"), *(processes.bodies(record) if record else {})]:
            processes.send(pid, signal.SIGKILL)
        for disk in (self.server_disk, self.spool_disk):
            if disk is not None:
                disk.free()
        self.server.stop()
        self.proxy.close()
        self.client.close()
        self.direct.close()
        self.points.close()
        if not keep:
            self._remove()

    def _remove(self) -> None:
        for disk in (self.server_disk, self.spool_disk):
            if disk is not None:
                disk.unmount()
        shutil.rmtree(self.folder, ignore_errors=True)
