"""A cluster that is slow, away, forgetful, contradicts itself, or did what it says it did not."""

from __future__ import annotations

import random
from typing import Any

from tests.chaos.faults.fault import Fault, Hold
from tests.chaos.world import World

CALM: dict[str, Any] = {
    "delay": 0.0,
    "down": False,
    "refuse": 0.0,
    "limit": None,
    "unclear": 0.0,
    "duplicate": 0.0,
    "empty": 0.0,
    "wrong": 0.0,
    "late": 0.0,
}


def _fault(name: str, words: str, most: float = 5.0, **knobs: Any) -> Fault:
    def inject(world: World, draw: random.Random, hold: Hold) -> None:
        assert world.cluster is not None
        world.cluster.faults(seed=draw.randrange(1 << 30), **knobs)
        try:
            hold(draw.uniform(0.5, most))
        finally:
            world.cluster.faults(**{knob: CALM[knob] for knob in knobs})

    inject.__doc__ = words
    return Fault(name=f"cluster-{name}", inject=inject, systems=frozenset({"fake"}), weight=3)


FAULTS = (
    _fault("slow", "Every answer of the cluster takes 1.5 s.", delay=1.5),
    _fault("down", "The cluster cannot be reached.", most=8.0, down=True),
    _fault("refuses", "The cluster refuses two of three submissions for now.", refuse=0.67),
    _fault("limit", "The cluster takes two submissions at once and no more.", limit=2),
    _fault("unclear", "Two of three submissions are accepted, and time out.", unclear=0.67),
    _fault("duplicates", "Half of the submissions are accepted twice.", duplicate=0.5),
    _fault("empty", "Most queries answer as if the cluster knew nothing.", empty=0.8),
    _fault("wrong", "Half of what the cluster says of jobs is wrong.", wrong=0.5),
    _fault("late", "Exit records appear 3 s after the end.", late=3.0),
)
