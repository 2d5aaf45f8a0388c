"""Looks at the record all the time: no set over its limit, no fence, run or end that goes backwards."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Collection, Mapping

from redis.exceptions import RedisError

from tests.chaos import processes
from tests.chaos.checker import ENDED, Plan
from tests.chaos.world import World

LOOK = 0.05  # seconds between looks at the sets
SAMPLE = 100  # jobs that a look at fences takes
FENCES = 8  # looks at the sets between two looks at fences and bodies


class Watcher:
    """A thread that sees the record between what others do to it."""

    def __init__(self, world: World, plans: Collection[Plan], seed: int) -> None:
        self.over_capacity: dict[str, str] = {}  # set -> what was seen
        self.doubled: dict[str, str] = {}  # job -> what was seen
        self.backwards: list[str] = []
        self.failed: list[str] = []  # a fault of this program
        self.looks = 0
        self._world, self._plans = world, {plan.job_id: plan for plan in plans}
        self._ids = sorted(self._plans)
        self._limits: dict[bytes, bytes] = {}  # as first seen: nobody changes them
        self._draw = random.Random(f"watcher {seed}")
        self._seen: dict[str, tuple[int, int, str]] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="watcher", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Look at everything once more, and then no more."""
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join()
        try:
            self._sets()
            self._fences(self._ids)
        except (RedisError, OSError) as error:
            self.failed.append(f"watcher: its last look failed: {error!r}")

    def _serve(self) -> None:
        while not self._over.wait(LOOK):
            try:
                self._sets()
                if self.looks % FENCES == 0:
                    self._fences(self._draw.sample(self._ids, min(SAMPLE, len(self._ids))))
                    self._bodies()
                self.looks += 1
            except (RedisError, OSError):
                continue
            except Exception as error:  # told at the end, and the run counts as failed
                self.failed.append(f"watcher: {error!r}")
                return

    def _sets(self) -> None:
        """One moment: every set and amount against its limit."""
        redis = self._world.redis
        limits: Mapping[bytes, bytes] = redis.hgetall("Capacity")
        for name in self._limits.keys() | limits.keys():
            if self._limits.setdefault(name, limits.get(name, b"")) != limits.get(name):
                was, now = self._limits[name].decode(), limits.get(name, b"gone").decode()
                self.over_capacity[f"limit {name.decode()}"] = f"limit {name.decode()}: it was {was}, it is {now}"
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

    def _bodies(self) -> None:
        """One moment: the first processes of all jobs that run, also of those that are killed later on."""
        record = self._world.identity()
        live = processes.leaders(record) if record and self._world.cluster is None else {}
        used: Counter[str] = Counter()
        jobs: Counter[str] = Counter()
        for token in live.values():
            job_id = token.split(":")[1]
            jobs[job_id] += 1
            if job_id in self._plans:
                used.update(self._plans[job_id].holds)
        for name, limit in self._world.limits.items():
            widest = max((self._plans[j].holds.get(name, 0) for j in jobs if j in self._plans), default=0)
            if used[name] > max(limit, widest):
                self.over_capacity[f"bodies {name}"] = f"{name}: {used[name]} by the bodies that live, limit {limit}"
        for job_id in (job_id for job_id, many in jobs.items() if many > 1):
            tokens = sorted(token for token in live.values() if token.split(":")[1] == job_id)
            self.doubled[job_id] = f"{job_id}: lives {jobs[job_id]} times at once: {', '.join(tokens)}"

    def _fences(self, ids: Collection[str]) -> None:
        redis = self._world.redis
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
            now = (int(run or 1), int(fence or 0), state.decode())
            if before is not None and (now[0] < before[0] or now[1] < before[1]):
                self.backwards.append(f"{job_id}: run {before[0]}, fence {before[1]} became {now[0]}, {now[1]}")
            if before is not None and before[2] in ENDED and now != before:
                self.backwards.append(f"{job_id}: had ended {before[2]}, and became {now[2]} (run {now[0]})")
            self._seen[job_id] = now
