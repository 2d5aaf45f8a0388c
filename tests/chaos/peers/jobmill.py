"""jobmill itself, under the faults that its peers have: the same jobs, the same code of faults, the same verdict.

``python -m tests.chaos`` does far more to it (networks, clocks, crash points, disks, reboots).
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

import jobmill
from jobmill.daemon.server import EmbeddedServer
from jobmill.errors import JobmillError
from jobmill.ledger import listing
from tests.chaos.checker import Told
from tests.chaos.faults.fault import Fault
from tests.chaos.peers.contract import NotAcknowledged, Peer
from tests.chaos.peers.faults import freeze, kill, of_server
from tests.chaos.peers.plans import Job
from tests.chaos.world import LEASE, SLOTS, World

ROLES = ("manager", "starter", "fetcher", "guard", "runner")


class Jobmill(Peer):
    """The main program's pipeline, of two managers, starters and fetchers."""

    name = "jobmill"
    version = jobmill.__version__
    slots = SLOTS
    says_lost = True

    def __init__(self, folder: Path, seed: int) -> None:
        super().__init__(folder, seed)
        self._world = World(seed=seed, disks=False)
        self.closing.callback(self._world.close)

    def start(self) -> None:
        """Start it."""
        self._world.start()

    @property
    def server(self) -> EmbeddedServer:
        """Its server."""
        return self._world.server

    @property
    def redis(self) -> Redis:
        """A connection to it."""
        return self._world.redis

    @property
    def server_down(self) -> threading.Event:
        """Set: the server is not brought back."""
        return self._world.server_down

    @property
    def faults(self) -> Sequence[Fault]:
        """Return what can be done to its processes and its server."""
        kills = [kill(role, f"a {role}", weight=2) for role in ROLES]
        freezes = [freeze(role, f"a {role}", 2, 2 * LEASE + 2) for role in ROLES]
        return (*kills, *freezes, *of_server())

    def pids(self, role: str) -> list[int]:
        """Return its processes of a role."""
        return self._world.pids(role)

    def submit(self, jobs: Sequence[Job]) -> None:
        """Push specs."""
        try:
            self._world.client.submit_many(
                [
                    {
                        "id": job.plan.job_id,
                        "command": self.evidence.command(job.seconds, job.plan.how),
                        "workdir": "/tmp",
                    }
                    for job in jobs
                ]
            )
        except (JobmillError, RedisError, OSError) as error:
            raise NotAcknowledged(str(error)) from error

    def told(self, ids: Sequence[str]) -> Mapping[str, Told]:
        """Return what its record tells."""
        try:
            rows = [
                row
                for n in range(0, len(ids), 200)
                for row in listing.jobs(self._world.direct.record, ids[n : n + 200])
            ]
        except (JobmillError, RedisError, OSError) as error:
            raise NotAcknowledged(str(error)) from error
        return {
            row.id: Told(
                state=str(row.state),
                run=row.run,
                exit_value=row.exit.get("exit_value"),
                term_sig=row.exit.get("term_sig"),
                reason=row.exit.get("reason"),
            )
            for row in rows
        }

    def patience(self) -> float:
        """Return the 30 s of everybody: its leases are shorter."""
        return 30.0
