"""What the dead leave: run folders of others, markers without a pid, launches that nobody committed."""

from __future__ import annotations

from tests.chaos.batch import Batch
from tests.chaos.scenarios.scenario import ANY, Scenario


def marked(batch: Batch) -> None:
    """Run folders that hold what others left: another record's job, a launch that was sealed, and one long running."""
    _leave(batch, "jobmill 1 other:{id}:1 host=h boot=b ns=1 guard=- time=1.0\n")
    sealed = 'sealed 1 {{"exit_status":"aborted_before_running","reason":"not_started","evidence":"exit record"}} end\n'
    _leave(batch, "jobmill 1 {record}:{id}:1 host=h boot=b ns=1 guard=- time=1.0\n" + sealed)
    batch.push()


def marked_and_settled(batch: Batch) -> None:
    """The starter dies between begin and launch, and another record's job stands in the run folder."""
    batch.bench.points.arm("ledger.launch:begin:member.record.run", "starter")
    _leave(batch, "jobmill 1 other:{id}:1 host=h boot=b ns=1 guard=- time=1.0\n")
    batch.push()


def _leave(batch: Batch, text: str) -> None:
    job_id = batch.add()
    folder = batch.bench.spool / "jobs" / job_id / "run.1"
    folder.mkdir(parents=True)
    record = batch.bench.client.record.identity()
    (folder / "run").write_text(text.format(id=job_id, record=record))


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

        batch.bench.until(fired, 10)
        for victim in victims:
            batch.bench.signal(victim)
        for pid in caught:
            batch.bench.kill(pid)

    scenario.__doc__ = f"{role} at {name} dies, and so do {victims}."
    return scenario


TAKEN, SPAWNED = "systems.runner:Runner._take:run_folder.take", "systems.spawn:start:_spawn"
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
