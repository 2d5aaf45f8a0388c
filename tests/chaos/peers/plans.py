"""Seeded jobs that any system understands: a command that takes a while and ends with a value."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from tests.chaos.checker import Plan

SET = "bodies"  # what a body holds while it runs


@dataclass(frozen=True, kw_only=True)
class Job:
    """One job, and how to judge it."""

    plan: Plan
    seconds: float


def jobs(seed: int, count: int, retries: int, scale: float = 1.0) -> Sequence[Job]:
    """Return jobs that depend on the seed alone: nine of ten end with 0, short ones as in the main program."""
    draw = random.Random(f"peer jobs {seed}")
    made = []
    for number in range(count):
        how = "0" if draw.random() < 0.9 else str(draw.choice([1, 3, 42, 255]))
        seconds = draw.choice([0.0, 0.01, 0.05, 0.1, 0.3]) * draw.uniform(0.5, 1.5)
        if draw.random() < 0.05:
            seconds = draw.uniform(1, 4)
        may = frozenset({"done" if how == "0" else "failed"})
        plan = Plan(job_id=f"p{seed}-{number}", how=how, holds={SET: 1}, may=may, retries=retries)
        made.append(Job(plan=plan, seconds=round(seconds * scale, 3)))
    return made
