"""Looks at the record all the time: no set over its limit, no fence, run or end that goes backwards."""

from __future__ import annotations

import random
import threading
from collections.abc import Collection, Mapping

from redis.exceptions import RedisError

from tests.chaos.checker import ENDED
from tests.chaos.world import World

LOOK = 0.05  # seconds between looks at the sets
SAMPLE = 100  # jobs that a look at fences takes
FENCES = 8  # looks at the sets between two looks at fences


class Watcher:
    """A thread that sees the record between what others do to it."""

    def __init__(self, world: World, ids: Collection[str], seed: int) -> None:
        self.over_capacity: dict[str, str] = {}  # set -> what was seen
        self.backwards: list[str] = []
        self.looks = 0
        self._world, self._ids = world, sorted(ids)
        self._draw = random.Random(f"watcher {seed}")
        self._seen: dict[str, tuple[int, int, str]] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="watcher", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._over.set()
        self._thread.join()

    def _serve(self) -> None:
        while not self._over.wait(LOOK):
            try:
                self._sets()
                if self.looks % FENCES == 0:
                    self._fences()
                self.looks += 1
            except (RedisError, OSError):
                continue

    def _sets(self) -> None:
        """One moment: every set and amount against its limit."""
        redis = self._world.redis
        limits: Mapping[bytes, bytes] = redis.hgetall("Capacity")
        sets = [name for name in limits if b"." not in name]
        with redis.pipeline(transaction=True) as pipe:
            pipe.hgetall("Used")
            for name in sets:
                pipe.scard(name)
            used, *counts = pipe.execute()
        held = dict(zip(sets, counts, strict=True)) | {name: int(amount) for name, amount in used.items()}
        for name, count in held.items():
            if name in limits and count > int(limits[name]):
                self.over_capacity[name.decode()] = f"{name.decode()}: {count} in the record, limit {int(limits[name])}"

    def _fences(self) -> None:
        redis = self._world.redis
        ids = self._draw.sample(self._ids, min(SAMPLE, len(self._ids)))
        with redis.pipeline(transaction=False) as pipe:
            for job_id in ids:
                pipe.hmget(f"Job:{job_id}", "run", "fence", "state")
            rows = pipe.execute()
        for job_id, (run, fence, state) in zip(ids, rows, strict=True):
            before = self._seen.get(job_id)
            if state is None:
                if before is not None:
                    self.backwards.append(f"{job_id}: its record was there and is gone")
                continue
            now = (int(run), int(fence), state.decode())
            if before is not None and (now[0] < before[0] or now[1] < before[1]):
                self.backwards.append(f"{job_id}: run {before[0]}, fence {before[1]} became {now[0]}, {now[1]}")
            if before is not None and before[2] in ENDED and now != before:
                self.backwards.append(f"{job_id}: had ended {before[2]}, and became {now[2]} (run {now[0]})")
            self._seen[job_id] = now
