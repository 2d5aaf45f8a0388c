"""What the dead leave: run folders of others, markers without a pid, launches that nobody committed."""

from __future__ import annotations

from jobmill.ledger import launch
from jobmill.systems import launch_token
from tests.chaos.batch import Batch
from tests.chaos.scenarios.scenario import ANY, Scenario

SEALED = 'sealed 1 {"exit_status":"aborted_before_running","reason":"not_started","evidence":"exit record"} end\n'


def marked(batch: Batch) -> None:
    """Run folders that hold what others left: another record's job, an earlier job of the id, a sealed launch."""
    _leave(batch, batch.add(), "other.5")
    _leave(batch, batch.add(), _life(batch, 0))
    sealed = batch.add(hold=True)
    batch.push()
    client = batch.bench.client
    found: list[launch.Standing] = []

    def numbered() -> bool:
        found[:] = launch.standings(client.record, [sealed]).values()
        return bool(found)

    if batch.bench.until(numbered, 10):
        _leave(batch, sealed, _life(batch, found[0].arrival), SEALED)
    batch.bench.until(lambda: client.release([sealed])[sealed] == "waiting", 15)


def marked_and_settled(batch: Batch) -> None:
    """The starter dies between begin and launch, and another record's job stands in the run folder."""
    batch.bench.points.arm("starter.starter:Starter._prepare:kind", "starter")
    _leave(batch, batch.add(), "other.5")
    batch.push()


def _life(batch: Batch, arrival: int) -> str:
    return launch_token.life(batch.bench.client.record.identity(), arrival)


def _leave(batch: Batch, job_id: str, life: str, more: str = "") -> None:
    folder = batch.bench.spool / "jobs" / job_id / "run.1"
    folder.mkdir(parents=True)
    (folder / "run").write_text(f"jobmill 1 {life}:{job_id}:1 host=h boot=b ns=1 guard=- time=1.0\n{more}")


def _caught(role: str, name: str, *victims: str, fake: bool = False) -> Scenario:
    """Return a scenario in which a process freezes at a point, and dies there together with others."""

    def scenario(batch: Batch) -> None:
        points = batch.bench.points
        points.arm(name, role, "STOP")
        for how in ("0", "3", "0"):
            batch.add(0.3, how, plan={"may": ANY})
            if fake:
                batch.fake(0.3, how, may=list(ANY))
        batch.push()
        caught: list[int] = []

        def fired() -> bool:
            caught[:] = [f.pid for f in points.firings() if (f.role, f.name) == (role, name)]
            return bool(caught)

        if not batch.bench.until(fired, 10) and not points.take_back(name, role):  # else it would freeze for ever
            batch.bench.until(fired, 1)
        for victim in victims:
            batch.bench.signal(victim)
        for pid in caught:
            batch.bench.kill(pid)

    scenario.__doc__ = f"{role} at {name} dies, and so do {victims}."
    return scenario


TAKEN, SPAWNED = "systems.runner:Runner._take:run_folder.take", "systems.spawn:plain:_spawn"
CAUGHT: dict[str, Scenario] = {
    "marker-taken": _caught("runner", TAKEN),
    "spawned": _caught("runner", SPAWNED),
    "marker-taken-guard-too": _caught("runner", TAKEN, "guard"),
    "spawned-guard-too": _caught("runner", SPAWNED, "guard"),
    "marker-taken-all": _caught("runner", TAKEN, "starter", "guard"),
    "spawned-all": _caught("runner", SPAWNED, "starter", "guard"),
    "submitted": _caught("starter", "starter.starter:Starter._submit:system.submit", fake=True),
    "committed": _caught("starter", "starter.starter:Starter._release:launch.commit", fake=True),
}
SCENARIOS: dict[str, Scenario] = {"marked": marked, "marked-and-settled": marked_and_settled, **CAUGHT}
