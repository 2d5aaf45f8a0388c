"""A cluster that is slow, away, forgetful, contradicts itself, or did what it says it did not."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from jobmill.errors import SystemUnavailable
from jobmill.systems.fake_cluster import FakeCluster
from jobmill.systems.fake_queue import FakeQueue
from tests.chaos.faults.fault import Fault, Hold, Missed
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


Hit = Callable[[FakeQueue, float, str], bool]  # did it hit? the cluster now, when it began, what was logged since
_changing = threading.Lock()


def _fault(name: str, words: str, hit: Hit, most: float = 5.0, **knobs: Any) -> Fault:
    def inject(world: World, draw: random.Random, hold: Hold) -> None:
        assert world.cluster is not None
        cluster, said = FakeCluster(world.cluster.folder), world.log_size()  # one for each thread
        with _changing:
            if any(getattr(cluster.faults(), knob) != CALM[knob] for knob in knobs):
                raise Missed  # it is so already
            cluster.faults(seed=draw.randrange(1 << 30), **knobs)
        since, found = time.monotonic(), False  # the cluster's own clock
        try:
            for _ in range(1 + int(draw.uniform(0.5, most) / 0.25)):
                hold(0.25)
                with contextlib.suppress(SystemUnavailable):  # whoever has its lock was stopped
                    found = found or hit(cluster.look(), since, world.logged(said))
        finally:
            with _changing:
                cluster.faults(**{knob: CALM[knob] for knob in knobs})
            cluster.close()
        if not found:
            raise Missed

    inject.__doc__ = words
    return Fault(name=f"cluster-{name}", inject=inject, systems=frozenset({"fake"}), weight=3)


def _asked(queue: FakeQueue, since: float, _: str) -> bool:
    """Something has been there for longer than a poll takes to come."""
    return any(it.submitted < queue.now - 1 for it in queue.alive.values()) and queue.now - since > 0.5


def _twice(queue: FakeQueue, since: float, _: str) -> bool:
    counted = Counter(it.token for it in queue.launches.values() if it.submitted >= since)
    return any(many > 1 for many in counted.values())


def _ended(queue: FakeQueue, since: float, _: str) -> bool:
    return any(it.ended is not None and it.ended >= since for it in queue.launches.values())


def _logged(words: str) -> Hit:
    return lambda _queue, _since, log: words in log


FAULTS = (
    _fault("slow", "Every answer of the cluster takes 1.5 s.", _asked, delay=1.5),
    _fault("down", "The cluster cannot be reached.", _logged("connection refused"), most=8.0, down=True),
    _fault(
        "refuses", "The cluster refuses two of three submissions for now.", _logged("nothing was sent"), refuse=0.67
    ),
    _fault("limit", "The cluster takes two submissions at once and no more.", _logged("submit limit"), limit=2),
    _fault("unclear", "Two of three submissions are accepted, and time out.", _logged("unclear whether"), unclear=0.67),
    _fault("duplicates", "Half of the submissions are accepted twice.", _twice, duplicate=0.5),
    _fault("empty", "Most queries answer as if the cluster knew nothing.", _asked, empty=0.8),
    _fault("wrong", "Half of what the cluster says of jobs is wrong.", _asked, wrong=0.5),
    _fault("late", "Exit records appear 3 s after the end.", _ended, late=3.0),
)
