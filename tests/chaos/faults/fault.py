"""The contract of a fault: one thing that goes wrong, and is over when the call returns."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from tests.chaos.world import World


class Missed(Exception):
    """There was nothing to hit: it is not counted, and another fault takes its place."""


Hold = Callable[[float], None]  # waits so many seconds, less when the run is over
Inject = Callable[[World, random.Random, Hold], None]


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One kind of fault. What it draws, it draws from the generator that it is given, so that a seed replays it."""

    name: str
    inject: Inject
    loses: bool = False  # after it some ends cannot be known: they are told as lost
    forgets: float = 0.0  # seconds before it of which something may be gone as well
    kills: str = ""  # guard or runner: together, or the runner of a dead guard, they take ends with them
    systems: frozenset[str] = frozenset({"local", "fake"})  # that it makes sense for
    disk: bool = False  # needs disks of limited size
    weight: int = 2  # how often it is drawn

    @property
    def words(self) -> str:
        """Say in one line what it does."""
        return (self.inject.__doc__ or "").splitlines()[0].rstrip(".")
