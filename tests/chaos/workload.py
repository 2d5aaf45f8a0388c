"""Seeded jobs of every sort that the laws speak of, each with what may become of it."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.chaos.checker import Plan
from tests.chaos.evidence import Evidence

OWN = frozenset({"done", "failed"})
CANCELLED = frozenset({"done", "failed", "cancelled"})  # a wish may come too late
ANN = "User:ann"  # a user who may run few at once


@dataclass(frozen=True, kw_only=True)
class Job:
    """One job to be submitted, and how to judge it."""

    spec: dict[str, Any]
    plan: Plan
    cancel_after: float | None = None  # seconds after its submit at which its owner changes his mind


def jobs(seed: int, count: int, evidence: Evidence, *, mean: float = 0.2, fake: bool = False) -> list[Job]:
    """Return jobs that depend on the arguments alone.

    ``mean``: seconds that most take; ``fake``: for a system that is told by `env` what a job does.
    """
    draw = random.Random(f"jobs {seed}")
    made: list[Job] = []
    for number in range(count):
        make = draw.choices([sort for sort, _ in SORTS], [weight for _, weight in SORTS])[0]
        made.append(make(draw, f"c{seed}-{number}", Body(evidence, fake, mean), made))
    return made


@dataclass(frozen=True)
class Body:
    """Says in a spec what the job does."""

    evidence: Evidence
    fake: bool
    mean: float

    def some(self, draw: random.Random) -> float:
        """Return how long one of many bodies takes, seconds."""
        return round(self.mean * draw.choice([0.0, 0.1, 0.5, 1.0, 3.0]) * draw.uniform(0.5, 1.5), 3)

    def of(self, seconds: float, how: str = "0") -> dict[str, Any]:
        """Return the part of a spec that makes a body take so long and end like this."""
        if not self.fake:
            return {"command": self.evidence.command(seconds, how), "workdir": "/tmp"}
        ends = {"FAKE_EXIT": how} if how.isdigit() else {"FAKE_SIGNAL": str(int(signal.Signals[f"SIG{how}"]))}
        return {"command": ["body", how], "env": {"FAKE_SECONDS": f"{seconds:g}", **ends}}


def _holds(cpus: int = 1, **more: int) -> dict[str, int]:
    return {"slots": cpus, **more}


def plain(draw: random.Random, job_id: str, body: Body, _: list[Job]) -> Job:
    """Ends with 0; a lost one may run again."""
    spec = {"id": job_id, **body.of(body.some(draw))}
    retries = draw.choice([0, 0, 0, 3])
    if retries:
        spec["retry"] = {"max": retries, "on": ["lost"], "delay": "0s"}
    return Job(spec=spec, plan=Plan(job_id=job_id, holds=_holds(), retries=retries))


def failing(draw: random.Random, job_id: str, body: Body, _: list[Job]) -> Job:
    """Ends with a value of its own."""
    how = str(draw.choice([1, 2, 3, 42, 126, 127, 139, 255]))
    plan = Plan(job_id=job_id, how=how, holds=_holds(), may=frozenset({"failed"}))
    return Job(spec={"id": job_id, **body.of(body.some(draw), how)}, plan=plan)


def signalled(draw: random.Random, job_id: str, body: Body, _: list[Job]) -> Job:
    """Dies of a signal."""
    how = draw.choice(["KILL", "TERM", "SEGV", "ABRT"])
    plan = Plan(job_id=job_id, how=how, holds=_holds(), may=frozenset({"failed"}))
    return Job(spec={"id": job_id, **body.of(body.some(draw), how)}, plan=plan)


def wide(draw: random.Random, job_id: str, body: Body, _: list[Job]) -> Job:
    """Takes two slots."""
    spec = {"id": job_id, "resources": {"cpus": 2}, **body.of(body.some(draw))}
    return Job(spec=spec, plan=Plan(job_id=job_id, holds=_holds(2)))


def of_ann(draw: random.Random, job_id: str, body: Body, _: list[Job]) -> Job:
    """Belongs to a user who may run few at once."""
    spec = {"id": job_id, "user": "ann", **body.of(body.some(draw))}
    return Job(spec=spec, plan=Plan(job_id=job_id, holds=_holds(**{ANN: 1})))


def retried(draw: random.Random, job_id: str, body: Body, _: list[Job]) -> Job:
    """Fails each time, and runs again as often as its spec says."""
    most = draw.choice([1, 2])
    retry = {"max": most, "on": ["failed", "lost"], "delay": f"{draw.choice([0, 0.2])}s"}
    plan = Plan(job_id=job_id, how="9", holds=_holds(), may=frozenset({"failed"}), retries=most)
    return Job(spec={"id": job_id, "retry": retry, **body.of(body.some(draw), "9")}, plan=plan)


def timed(draw: random.Random, job_id: str, body: Body, _: list[Job]) -> Job:
    """Runs into its walltime."""
    spec = {"id": job_id, "resources": {"walltime": "1s"}, **body.of(60)}
    may, reasons = frozenset({"failed"}), frozenset({"timeout"})
    return Job(spec=spec, plan=Plan(job_id=job_id, holds=_holds(), may=may, reasons=reasons, starts=True))


def cancelled(draw: random.Random, job_id: str, body: Body, _: list[Job]) -> Job:
    """Its owner changes his mind at any moment."""
    seconds = draw.choice([0.05, 0.5, 30])
    plan = Plan(job_id=job_id, holds=_holds(), may=CANCELLED if seconds < 30 else frozenset({"cancelled"}))
    return Job(spec={"id": job_id, **body.of(seconds)}, plan=plan, cancel_after=draw.choice([0.0, 0.1, 0.5, 2.0]))


def dependent(draw: random.Random, job_id: str, body: Body, before: list[Job]) -> Job:
    """Waits for earlier jobs; runs only when these ended as it wants."""
    if not before:
        return plain(draw, job_id, body, before)
    waits_for = [job.plan.job_id for job in draw.sample(before[-20:], min(2, len(before[-20:])))]
    after = draw.choice(["ok", "any"])
    spec = {"id": job_id, "depends_on": waits_for, "after": after, **body.of(body.some(draw))}
    may = frozenset({"done"}) if after == "any" else frozenset({"done", "not_run"})
    waits = tuple(waits_for)
    return Job(spec=spec, plan=Plan(job_id=job_id, holds=_holds(), may=may, waits_for=waits, after=after))


Sort = Callable[[random.Random, str, Body, list[Job]], Job]
SORTS: tuple[tuple[Sort, int], ...] = (
    (plain, 56),
    (failing, 9),
    (signalled, 4),
    (wide, 7),
    (of_ann, 8),
    (retried, 4),
    (timed, 2),
    (cancelled, 5),
    (dependent, 5),
)
