"""Soma-Workflow (https://github.com/populse/soma-workflow) in local mode: controller, engine and database server.

The engine's local scheduler runs two bodies at once. Nobody supervises these processes, so a user does by hand what the
manual offers: he starts a new controller (which starts an engine, and that a database server) when the old one is gone;
ends all three and starts them anew when there is no answer for 20 s; and stops and restarts a workflow that is shown as
`warning` (no news for 90 s, fixed in `soma_workflow.engine`) or whose jobs were aborted, up to three times each.

What is fair. It has no retries and numbers no runs: the number of a run is one more than the restarts that its user
asked for (each body reads it from a file when it starts). Doubled is a run that starts twice though its user restarted
nothing in between, and a run that starts while an earlier one of the same job still runs. A job that it tells as
aborted is taken as what jobmill calls `lost`; a job that is `done` with another value than 0 as failed. Jobs here take
16 s at most, so what a dead engine left has ended by the time that a user sees `warning`; longer ones would not have.
"""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.peers.environment import provide
from tests.chaos import processes
from tests.chaos.checker import Told
from tests.chaos.faults.fault import Fault
from tests.chaos.peers import tree
from tests.chaos.peers.contract import NotAcknowledged, Peer
from tests.chaos.peers.faults import freeze, kill
from tests.chaos.peers.helper import INSIDE, Helper
from tests.chaos.peers.plans import Job

REQUIREMENT = "soma-workflow[client]==6.0.13"
RESTARTS = 3  # of a workflow, by its user
ANSWER = 20.0  # seconds after which a user thinks that it hangs
STALE = 90.0  # seconds after which Soma-Workflow shows a workflow without news as `warning`
LOOK = 3.0  # seconds between looks of its user
CALM = 20.0  # seconds that a fault leaves in peace, so that by hand something can be done
MODULES = {"engine": "soma_workflow.start_workflow_engine", "database": "soma_workflow.start_database_server"}
CONFIG = """[chaos]
scheduler_type = local_basic
soma_workflow_dir = {0}/soma
server_name = chaos
server_log_file = {0}/soma/logs/server
server_log_level = WARNING
engine_log_dir = {0}/soma/logs
engine_log_level = WARNING
cluster_address = localhost
submitting_machines = {1}
"""


class SomaWorkflow(Peer):
    """One controller, and what it starts."""

    name = "soma-workflow"
    retries = RESTARTS
    pace = 10.0
    scale = 4.0

    def start(self) -> None:
        """Install it, write its configuration, start a controller."""
        python = provide(self.name, REQUIREMENT)
        self.version = REQUIREMENT.partition("==")[2]
        (self.folder / "soma" / "logs").mkdir(parents=True)
        (self.folder / "generations").mkdir()
        config = self.folder / "soma.cfg"
        config.write_text(CONFIG.format(self.folder, socket.gethostname()))
        limits = (
            f"[{socket.gethostname()}]\nCPU_NB = {self.slots}\nMAX_CPU_NB = {self.slots}\nSCHEDULER_INTERVAL = 0.05\n"
        )
        (self.folder / ".soma-workflow-scheduler.cfg").write_text(limits)
        env = {"HOME": str(self.folder), "SOMA_WORKFLOW_CONFIG": str(config), tree.MARK: str(self.folder)}
        self._controller = Helper([python, INSIDE / "soma_client.py", "chaos"], env, self.folder / "client.log")
        self.closing.callback(self._controller.close)
        self._lock = threading.Lock()
        self._did: Counter[str] = Counter()
        self._restarted: Counter[str] = Counter()
        self._looked = 0.0
        self._seen: dict[str, Any] = {}
        self._ask({"do": "told"})

    @property
    def faults(self) -> Sequence[Fault]:
        """Return what can be done to its three processes."""
        return (
            kill("engine", "the workflow engine; its jobs go on", calm=CALM),
            kill("database", "the database server", calm=CALM),
            kill("controller", "the controller, that is the program that submitted", calm=CALM),
            freeze("engine", "the workflow engine", 2, 15, weight=2),
            freeze("database", "the database server", 2, 15, weight=2),
        )

    def pids(self, role: str) -> list[int]:
        """Return its processes of a role."""
        if role == "controller":
            pid = self._controller.pid
            return [] if pid is None else [pid]
        return [pid for pid in tree.marked(self.folder) if MODULES[role] in tree.words(pid)]

    def submit(self, jobs: Sequence[Job]) -> None:
        """Submit one workflow."""
        name = jobs[0].plan.job_id
        generation = self.folder / "generations" / name
        if not generation.exists():
            generation.write_text("1")
        rows = []
        for job in jobs:
            body = [*self.evidence.command(job.seconds, job.plan.how), job.plan.job_id]
            rows.append(
                {"id": job.plan.job_id, "argv": ["/bin/sh", "-c", f'exec "$@" "$(cat {generation})"', "sh", *body]}
            )
        self._ask({"do": "submit", "name": name, "jobs": rows})

    def told(self, ids: Sequence[str]) -> Mapping[str, Told]:
        """Return what its database says of every job."""
        self._seen = self._ask({"do": "told"})
        rows = (row for flow in self._seen.values() for row in flow["jobs"])
        return {row[0]: _told(*row[1:]) for row in rows}

    def patience(self) -> float:
        """Return the 30 s of everybody when all has ended, else what it takes until a user sees that nothing moves."""
        ended = all(flow["status"] == "workflow_done" for flow in self._seen.values())
        return 30.0 if ended else STALE + 30.0

    def recover(self) -> None:
        """Look every few seconds, and restart workflows that do not move or whose jobs were aborted."""
        if time.monotonic() - self._looked < LOOK:
            return
        self._looked = time.monotonic()
        try:
            flows = self._ask({"do": "told"})
            for name, flow in flows.items():
                stale = flow["status"] == "warning"
                aborted = any(_told(*row[1:]).state == "lost" for row in flow["jobs"])
                if stale or (aborted and flow["status"] == "workflow_done"):
                    self._restart(name, flow["id"], stale)
        except NotAcknowledged:
            return

    def words(self) -> Mapping[str, int]:
        """Return what its user had to do by hand."""
        return self._did

    def _restart(self, name: str, flow_id: int, stop: bool) -> None:
        if self._restarted[name] >= RESTARTS:
            return
        self._restarted[name] += 1
        (self.folder / "generations" / name).write_text(str(1 + self._restarted[name]))
        self._did["workflows stopped and restarted" if stop else "workflows restarted"] += 1
        self._ask({"do": "restart", "id": flow_id, "stop": stop})

    def _ask(self, question: Mapping[str, Any]) -> Any:
        """Ask the controller; end everything when it hangs, so that the next question starts everything anew."""
        with self._lock:
            began = time.monotonic()
            try:
                return self._controller.ask(question, ANSWER)
            except NotAcknowledged:
                if time.monotonic() - began >= ANSWER:
                    self._did["everything ended and started anew, for it hung"] += 1
                    for pid in [*self.pids("engine"), *self.pids("database")]:
                        processes.send(pid, signal.SIGKILL)
                raise


def _told(status: str, exit_status: str | None, value: int | None, term_sig: int | None) -> Told:
    if status not in ("done", "failed"):
        return Told(state=status, run=None)
    if exit_status != "finished_regularly" or value is None:
        return Told(state="lost", run=None, reason=f"{status}, {exit_status}")
    if value == 0:
        return Told(state="done", run=None, exit_value=0)
    if value < 0:
        return Told(state="failed", run=None, term_sig=-value, reason="signal")
    return Told(state="failed", run=None, exit_value=value, reason="exit_value")
