"""One run: jobs and faults by a seed, until everything is at rest; then the verdict."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from redis.exceptions import RedisError

from jobmill.client import Client
from jobmill.errors import JobmillError
from jobmill.ledger import listing
from tests.chaos.checker import ENDED, Findings, Told, check
from tests.chaos.evidence import now
from tests.chaos.faults.fault import Fault
from tests.chaos.nemesis import Nemesis
from tests.chaos.users import Users
from tests.chaos.watcher import Watcher
from tests.chaos.workload import jobs
from tests.chaos.world import SLOTS, World
from tests.laws import violations

PATIENCE = 150.0  # seconds after the last fault until everything must have ended
FAULT = 1.2  # seconds that a fault takes on average, several at once
REST = 60.0  # seconds after the last end until nothing may be left in any set or list


@dataclass(kw_only=True)
class Result:
    """What one run has shown."""

    seed: int
    system: str
    jobs: int
    acknowledged: int = 0
    injected: dict[str, int] = field(default_factory=dict)
    findings: Findings = field(default_factory=Findings)
    seconds: float = 0.0
    missed: int = 0  # faults that found nothing to hit, and are not counted
    settled: float = 0.0  # seconds from the last fault to rest
    looks: int = 0  # at the record, while it ran

    def to_dict(self) -> dict[str, Any]:
        """Return the figures of the run."""
        found = self.findings
        return {
            "seed": self.seed,
            "system": self.system,
            "jobs": self.jobs,
            "acknowledged": self.acknowledged,
            "runs": found.runs,
            "faults": sum(self.injected.values()),
            "injected": dict(sorted(self.injected.items())),
            "missed": self.missed,
            **{kind: len(sentences) for kind, sentences in found.sentences().items()},
            "told_lost": found.told_lost,
            "states": dict(sorted(found.states.items())),
            "seconds": round(self.seconds, 1),
            "settled_in": round(self.settled, 1),
            "looks": self.looks,
        }


def run(
    world: World,
    *,
    seed: int,
    count: int,
    faults: Sequence[Fault],
    injections: int,
    tell: Callable[[str], None],
    patience: float = PATIENCE,
) -> Result:
    """Break a world for a while and judge what came of it; ``tell`` is called with progress.

    ``patience``: seconds after the last fault until everything must have ended.
    """
    began = time.monotonic()
    fake = world.system == "fake"
    lasts = injections * FAULT  # seconds, about; the jobs shall keep every slot busy for as long
    work = jobs(seed, count, world.evidence, mean=lasts * SLOTS / max(1, count), fake=fake)
    result = Result(seed=seed, system=world.system, jobs=len(work))
    plans = [job.plan for job in work]
    nemesis = Nemesis(world, faults, count=injections, seed=seed)
    users = Users(world, work, seed=seed)
    watcher = Watcher(world, plans, seed)
    try:
        watcher.start()
        users.start()
        _until_busy(world)
        nemesis.start()
        while nemesis.busy or users.busy:
            time.sleep(0.5)
            tell(f"{len(users.acknowledged)}/{count} submitted, {sum(nemesis.injected.values())}/{injections} faults")
        nemesis.stop()
        users.stop()
        calm = time.monotonic()
        told = _until_ended(world, sorted(users.acknowledged), tell, patience)
        at_rest = _until_rest(world, min(patience, REST))
        result.settled = time.monotonic() - calm
    finally:  # also when somebody interrupts us: nothing is broken or started any more when the world is closed
        nemesis.stop()
        users.stop()
        watcher.stop()
    result.acknowledged = len(users.acknowledged)
    result.injected = dict(nemesis.injected)
    result.missed = nemesis.missed
    result.looks = watcher.looks
    lines, losses = world.lines(), nemesis.losses
    found = check(
        plans,
        users.acknowledged,
        lines,
        told,
        world.limits,
        may_lose=bool(losses),
        losses=losses,
        answers=users.answers,
    )
    found.over_capacity += watcher.over_capacity.values()
    found.doubled += watcher.doubled.values()
    found.fences += watcher.backwards
    found.leaked += at_rest
    found.leaked += [f"mended by a worker: {line}" for line in world.repairs()]
    found.leaked += world.leaks(within=20)
    found.crashed += [*world.crashed, *(f"traceback: {line}" for line in world.tracebacks())]
    found.crashed += [*nemesis.failed, *users.failed, *watcher.failed]
    if result.acknowledged < count:
        found.crashed.append(f"the users were answered for {result.acknowledged} of {count} jobs")
    if not result.looks:
        found.crashed.append("the watcher has seen nothing")
    result.findings = found
    result.seconds = time.monotonic() - began
    return result


def _until_busy(world: World) -> None:
    """Wait until every slot is taken: a fault in an idle pipeline shows little."""
    deadline = time.monotonic() + 20
    while world.started() < SLOTS and time.monotonic() < deadline:
        time.sleep(0.05)


def _until_ended(world: World, ids: Sequence[str], tell: Callable[[str], None], patience: float) -> Mapping[str, Told]:
    """Wait until every acknowledged job has ended, or for as long as it may take; return what is told of each."""
    deadline = time.monotonic() + patience
    while True:
        try:
            states = listing.states(world.direct.record, ids)
            left = sum(1 for state in states if state not in ENDED)
            tell(f"{left} have not ended")
            if not left or time.monotonic() > deadline:
                return {job_id: one for job_id in ids if (one := _told(world.direct, job_id)) is not None}
        except JobmillError:
            if time.monotonic() > deadline + 30:
                raise
        time.sleep(0.25)


def _told(client: Client, job_id: str) -> Told | None:
    rows = listing.jobs(client.record, [job_id])
    if not rows:
        return None
    row, end = rows[0], rows[0].exit
    boot = time.time() - now()
    return Told(
        state=str(row.state),
        run=row.run,
        exit_value=end.get("exit_value"),
        term_sig=end.get("term_sig"),
        reason=end.get("reason"),
        exit_status=end.get("exit_status"),
        ended=row.times["ended"] - boot if "ended" in row.times else None,
        earlier=[
            {"run": r["run"], "reason": r.get("reason"), "ended": r["time"] - boot} | r.get("exit", {})
            for r in client.runs(job_id)
        ],
    )


def _until_rest(world: World, patience: float) -> list[str]:
    """Wait until the laws hold and nothing is left anywhere; return what contradicts them after all that time."""
    deadline = time.monotonic() + patience
    found: list[str] = ["the server did not answer"]
    while found and time.monotonic() < deadline:
        try:
            found = violations(world.redis, at_rest=True) + [f"the cluster has {it}" for it in world.strays()]
            refused = (entry.partition(b"\n")[0].decode() for entry in world.redis.lrange("Dead_Queue", 0, -1))
            found += [f"refused, though every job is good: {header}" for header in refused]
        except (RedisError, OSError):
            found = ["the server did not answer"]
        time.sleep(0.25)
    return found
