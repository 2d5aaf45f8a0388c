"""RQ (https://python-rq.org): two `rq worker` processes under a supervisor, on a server that loses nothing.

What is fair. RQ promises that a job is run at least once, and again for as long as its `Retry` allows; it numbers no
runs, and promises nothing of how many bodies run at once. So:

* Every job has ``Retry(max=3)``. A body's run number is 1 plus the retries that RQ has accounted when it starts (3 less
  `retries_left`). A further run *after* an earlier one had ended or died is what its user asked for, no finding, even
  if that one had ended with 0 (those are counted apart, as `repeated`).
* Doubled is what no retry explains: two starts under one number (the second answers nothing that happened to the first:
  two copies of the job were in the queue), and a start while an earlier run of the same job still runs.
* A job that RQ tells as failed because its work horse died, was abandoned or was stuck is taken as what jobmill calls
  `lost`: nobody could know. It is untrue only if its last body had ended with 0 by its own word.
* Over capacity is more than two bodies at once: what somebody sees who starts two workers on a machine of two cores.
  The checker tells of the worst moment; every start beyond two is counted apart, as `crowded`.
* Server: jobmill's own settings (`appendfsync always`). Submits have ids and ``unique=True`` and are said again when
  they were not answered; results and failures are kept for ever. A supervisor starts workers that end.

Settings. RQ's defaults make its recovery slow (worker TTL 420 s, maintenance each 600 s, monitoring each 30 s); here it
gets a worker TTL of 20 s (an idle worker wakes each 5 s and does maintenance when due), maintenance each 2 s,
monitoring each 1 s. Not settable, and therefore waited for: an execution counts as abandoned 60 s after the last
heartbeat plus the interval (`BaseWorker.get_heartbeat_ttl`), a job in the intermediate queue as stuck after 60 s
(`IntermediateQueue.should_be_cleaned_up`), and whoever dies during maintenance leaves it locked for 899 s
(`Queue.acquire_maintenance_lock`).
"""

from __future__ import annotations

import math
import re
import threading
from collections import Counter
from collections.abc import Mapping, Sequence

from redis import Redis

from benchmarks.peers.environment import provide
from jobmill.daemon.server import EmbeddedServer
from tests.chaos.checker import Told
from tests.chaos.faults.fault import Fault
from tests.chaos.peers import tree
from tests.chaos.peers.contract import Peer
from tests.chaos.peers.faults import freeze, kill, of_server
from tests.chaos.peers.helper import INSIDE, Helper
from tests.chaos.peers.keeper import Keeper
from tests.chaos.peers.plans import Job

REQUIREMENT = "rq==2.12.0"
SETTINGS = ("--worker-ttl", "20", "--maintenance-interval", "2", "--job-monitoring-interval", "1")
TIMER = 60.0  # seconds: the longest of its timers that cannot be set, but for the lock
TURN = 25.0  # seconds for an idle worker to wake and do its maintenance, before and after that timer
SUSPENDED = 100.0  # seconds: longer than the 61 after which an execution counts as abandoned, and the turn after it
STATES = {"finished": "done", "failed": "failed", "stopped": "cancelled", "canceled": "cancelled"}
LOGGED = {
    "work horse died": "Work-horse terminated unexpectedly",
    "abandoned": "AbandonedJobError",
    "stuck in the intermediate queue": "stuck in intermediate queue",
    "worker quit on an exception": "found an unhandled exception, quitting",
    "worker quit on a timeout": "Redis connection timeout, quitting",
    "end not recorded": "exception during pipeline execute",
}


class Rq(Peer):
    """Two workers, one queue."""

    name = "rq"
    retries = 3

    def start(self) -> None:
        """Install RQ, start server and workers."""
        python = provide(self.name, REQUIREMENT)
        self.version = REQUIREMENT.partition("==")[2]
        self.server = EmbeddedServer(self.folder / "state")
        self.closing.callback(self.server.stop)
        self.server.start()
        self.redis = Redis.from_url(self.server.url, socket_timeout=20)
        self.closing.callback(self.redis.close)
        self._log = self.folder / "log"
        env = {"PYTHONPATH": str(INSIDE), tree.MARK: str(self.folder)}
        client = [python, INSIDE / "rq_client.py", self.server.url]
        self._user, self._observer = (Helper(client, env, self.folder / "client.log") for _ in range(2))
        self.closing.callback(self._user.close)
        self.closing.callback(self._observer.close)
        self._user_lock, self._observer_lock = threading.Lock(), threading.Lock()
        rq = [python.with_name("rq"), "worker", "--url", self.server.url, *SETTINGS, "default"]
        self._keeper = Keeper(self.server, rq, env, self.slots, self._log)
        self.closing.callback(self._keeper.stop)

    @property
    def server_down(self) -> threading.Event:
        """Set: the server is not brought back."""
        return self._keeper.down

    @property
    def faults(self) -> Sequence[Fault]:
        """Return what can be done to workers, work horses and the server."""
        return (
            kill("worker", "a worker alone, as the kernel does when memory runs out; its work horse goes on"),
            kill("horse", "a work horse alone; the body that it started goes on"),
            kill("tree", "a worker, its work horse and the body, as systemd ends a unit"),
            freeze("worker", "a worker; its work horse goes on", 2, 8),
            freeze(
                "tree", "a worker, its work horse and the body, as a machine that pauses", SUSPENDED, SUSPENDED + 10
            ),
            *of_server(),
        )

    def pids(self, role: str) -> list[int]:
        """Return workers, or their work horses."""
        workers = self._keeper.pids()
        return workers if role == "worker" else [horse for worker in workers for horse in tree.children(worker)]

    def submit(self, jobs: Sequence[Job]) -> None:
        """Enqueue."""
        rows = [
            {"id": job.plan.job_id, "argv": self.evidence.command(job.seconds, job.plan.how)} for job in jobs
        ]  # fmt: skip
        with self._user_lock:
            self._user.ask({"do": "submit", "jobs": rows})

    def told(self, ids: Sequence[str]) -> Mapping[str, Told]:
        """Return what `Job.fetch_many` tells."""
        with self._observer_lock:
            rows = self._observer.ask({"do": "told", "ids": list(ids)})
        return {job_id: understood(row["status"], row["why"]) for job_id, row in rows.items()}

    def patience(self) -> float:
        """Return 30 s when RQ has nothing left to do, else what its timers need; infinite while these are locked."""
        with self._observer_lock:
            left = self._observer.ask({"do": "pending"})
        if not (left["queued"] or left["intermediate"] or left["started"]):
            return 30.0
        return math.inf if left["locked"] else TIMER + TURN

    def words(self) -> Mapping[str, int]:
        """Return counts from the workers' log."""
        text = self._log.read_text(errors="replace")
        counts = Counter({words: text.count(mark) for words, mark in LOGGED.items()})
        counts["workers started again"] = self._keeper.restarts
        return +counts


def understood(status: str, why: str) -> Told:
    """Return what a status of RQ and the text of its error mean to a user."""
    state = STATES.get(status, status)
    if state != "failed":
        return Told(state=state, run=None)
    own = re.search(r"BodyFailed: body ended with (-?\d+)", why)
    if own is None:  # not by the body's own end: the last line says why
        return Told(state="lost", run=None, reason=(why.strip().splitlines() or ["no reason"])[-1])
    number = int(own[1])
    if number < 0:
        return Told(state=state, run=None, term_sig=-number, reason="signal")
    return Told(state=state, run=None, exit_value=number, reason="exit_value")
