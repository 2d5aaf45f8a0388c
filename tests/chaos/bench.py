"""A small pipeline on the instrumented copy, for the sweep: what dies is started again at once."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from jobmill.client import Client
from jobmill.daemon.server import EmbeddedServer
from jobmill.errors import JobmillError
from jobmill.ledger import listing
from jobmill.systems import process_tree
from tests.chaos import processes
from tests.chaos.checker import ENDED, Plan, Told
from tests.chaos.instrument import PACKAGE
from tests.chaos.points import Points
from tests.laws import violations

WORKERS = ("manager", "starter", "fetcher")
LEASE = 5.0  # seconds: the least that the configuration allows
SLOTS = 4
FAR_SYSTEM = Path(__file__).parents[1] / "far_system.py"  # a site's plug-in
SHARED_MEMORY = Path("/dev/shm")  # what a sweep waits for is to be the pipeline, not the disk


class Bench:
    """One pipeline: server, systems `local`, `fake` and `far`, and ``many`` workers of each kind."""

    def __init__(self, many: int = 1, package: Path = PACKAGE) -> None:
        memory = SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else None
        self.folder = Path(tempfile.mkdtemp(prefix="points-", dir=memory))
        self.points = Points(self.folder / "points", package)
        self.spool = self.folder / "spool"
        self.there = self.folder / "there"  # the spool of `far`, which shares no files with us
        (self.there / "hooks").mkdir(parents=True)
        self.config = self.folder / "jobmill.yaml"
        self.configure()
        plugins = self.folder / "plugins" / "systems"
        plugins.mkdir(parents=True)
        shutil.copy(FAR_SYSTEM, plugins)
        self.log = self.folder / "log"
        self.server = EmbeddedServer(self.folder / "state")
        self.server.start()
        self.client = Client(self.server.url)
        self.crashed: list[str] = []  # processes that ended by a fault of their own
        self._workers: list[tuple[str, subprocess.Popen[bytes]]] = []
        self._extra: list[subprocess.Popen[bytes]] = []
        self._lock = threading.Lock()
        self._over = False
        for role in WORKERS * many:
            self._start(role)
        self._keeper = threading.Thread(target=self._keep, daemon=True)
        self._keeper.start()

    def configure(self, **capacities: int) -> None:
        """Write the configuration; workers read it when they start, or at a HUP."""
        here = {"slots": SLOTS, "kill_grace": 0.5}
        far = {"kind": "far", "folder": str(self.there), **here}
        systems = {"local": {"kind": "local", **here}, "fake": {"kind": "fake", "slots": 50}, "far": far}
        text = {"spool": str(self.spool), "state": str(self.folder / "state"), "systems": systems}
        routes = [{"name": "all", "rules": [{"tag_is": ["local"]}], "system": "local"}]
        more = {
            "routes": routes,
            "limits": {"lease": f"{LEASE:g}s", "keep_ended": "60s"},
            "capacities": {"User:ann": 2, **capacities},
        }
        self.config.write_text(json.dumps(text | more))

    @property
    def redis(self) -> Redis:
        """Return the connection to the server."""
        return self.client.record.client

    def pids(self, role: str) -> list[int]:
        """Return the living processes of a role."""
        if role in ("guard", "runner"):
            look = processes.guards if role == "guard" else processes.runners
            found = [*look(self.spool), *look(self.there)]
            # a child between fork and exec still shows its parent's words
            return [pid for pid in found if (it := process_tree.process(pid)) and it.parent not in found]
        with self._lock:
            return [w.pid for name, w in self._workers if name == role and w.poll() is None]

    def signal(self, role: str, number: signal.Signals = signal.SIGKILL) -> list[int]:
        """Signal all processes of a role; return their pids."""
        return [pid for pid in self.pids(role) if processes.send(pid, number)]

    def hook(self, name: str, text: str = "") -> None:
        """Make `far` sick (`tests.far_system`)."""
        (self.there / "hooks" / name).write_text(text)

    def unhook(self) -> None:
        """Let `far` be well again."""
        for hook in (self.there / "hooks").glob("*.*"):
            hook.unlink(missing_ok=True)

    def extra(self, role: str) -> int:
        """Start one more worker of a role and return its pid; `dismiss` lets all of these go."""
        with self._lock:
            self._extra.append(self._start(role))
            return self._extra[-1].pid

    def dismiss(self) -> None:
        """Stop the extra workers."""
        with self._lock:
            for worker in self._extra:
                processes.send(worker.pid, signal.SIGTERM)

    def kill(self, pid: int) -> None:
        """Kill one process."""
        processes.send(pid, signal.SIGKILL)

    def thaw(self, pid: int) -> None:
        """Let a frozen process go on."""
        processes.send(pid, signal.SIGCONT)

    def kill_server(self) -> None:
        """Kill the server and start it again on the same data."""
        self.server.kill()
        self.until(lambda: self.server.poll() is not None, 10)
        self.server.start()

    def reboot(self) -> None:
        """Let every process die and come up in another boot of the machine."""
        with self._lock:
            for _, worker in self._workers:
                worker.kill()
                worker.wait()
            self._end_strays()
            self.points.reboot()

    def until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Wait until something is true; return False when it has not become so."""
        deadline = time.monotonic() + seconds
        while True:
            with suppress(JobmillError, RedisError, OSError):  # the server is away: part of the scenario
                if condition():
                    return True
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)

    def ended(self, ids: Iterable[str]) -> bool:
        """Tell whether all these jobs have ended."""
        return all(state in ENDED for state in listing.states(self.client.record, list(ids)))

    def told(self, plans: Sequence[Plan]) -> dict[str, Told]:
        """Return what the record says of jobs."""
        found = {}
        for row in listing.jobs(self.client.record, [plan.job_id for plan in plans]):
            value, number, reason = (row.exit.get(key) for key in ("exit_value", "term_sig", "reason"))
            earlier = [
                {"run": r["run"], "reason": r.get("reason") or r.get("exit", {}).get("reason")}
                for r in self.client.runs(row.id)
            ]
            found[row.id] = Told(
                state=str(row.state), run=row.run, exit_value=value, term_sig=number, reason=reason, earlier=earlier
            )
        return found

    def violations(self, seconds: float) -> list[str]:
        """Return what contradicts the laws at rest after at most so many seconds."""
        found: list[str] = []

        def rests() -> bool:
            with suppress(KeyError):  # a record was pruned while it was read
                found[:] = violations(self.redis, at_rest=True)
                return not found
            return False

        self.until(rests, seconds)
        return found

    def tracebacks(self) -> list[str]:
        """Return the last lines of the tracebacks that the workers wrote."""
        found, inside = [], False
        for line in self.log.read_text(errors="replace").splitlines():
            if "Traceback (most recent call last)" in line:
                inside = True
            elif inside and line and not line.startswith((" ", "\t")):
                found.append(line)
                inside = False
        return found

    def log_tail(self, lines: int = 25) -> str:
        """Return the end of the workers' log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def close(self) -> None:
        """End every process and remove the folder."""
        with self._lock:
            self._over = True
            for _, worker in self._workers:
                worker.kill()
                worker.wait()
        self._keeper.join()
        self._end_strays()
        self.client.close()
        self.server.stop()
        self.points.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _end_strays(self) -> None:
        record = ""
        with suppress(JobmillError):
            record = self.client.record.identity()
        while left := [*self.pids_of_host(), *(processes.bodies(record) if record else ())]:
            for pid in left:
                processes.send(pid, signal.SIGKILL)
            time.sleep(0.01)

    def pids_of_host(self) -> list[int]:
        """Return guards and runners."""
        spools = (self.spool, self.there)
        return [pid for spool in spools for pid in (*processes.guards(spool), *processes.runners(spool))]

    def _start(self, role: str) -> subprocess.Popen[bytes]:
        env = os.environ | self.points.env | {"JOBMILL_CONFIG": str(self.config)}
        env.pop("JOBMILL_REDIS_URL", None)
        command = [sys.executable, "-m", f"jobmill.scripts.{role}"]
        with self.log.open("ab") as log:
            worker = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._workers.append((role, worker))
        return worker

    def _keep(self) -> None:
        while not self._over:
            with self._lock:
                for role, worker in [] if self._over else list(self._workers):
                    status = worker.poll()
                    if status is not None:
                        self._workers.remove((role, worker))
                        if status > 0:
                            self.crashed.append(f"{role}[{worker.pid}] exited with status {status}")
                        if worker not in self._extra:
                            self._start(role)
            time.sleep(0.01)
