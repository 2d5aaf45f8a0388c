"""Fresh jobs for a bench."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from jobmill.systems.fake_cluster import FakeCluster
from tests.chaos.bench import Bench
from tests.chaos.checker import OWN_ENDS, Plan, Told
from tests.chaos.evidence import Evidence


class Batch:
    """Fresh jobs for a bench: what was asked for, and what their bodies said."""

    def __init__(self, bench: Bench, mark: str) -> None:
        self.bench = bench
        self.mark = mark
        self.evidence = Evidence(bench.folder / f"evidence.{mark}")
        self.plans: list[Plan] = []
        self.fakes: list[Plan] = []  # on the fake system: their bodies say nothing
        self._specs: list[dict[str, Any]] = []
        self._pushed = 0
        self.homes: dict[str, dict[str, str]] = {}  # job id -> files of its run folder here, and what they hold

    def add(self, seconds: float = 0.02, how: str = "0", *, plan: dict[str, Any] | None = None, **spec: Any) -> str:
        """Put one job on this machine in the batch; return its id. ``plan``: what may become of it."""
        job_id = f"{self.mark}-{len(self.plans)}"
        may = {"may": frozenset({"done" if how == "0" else "failed"})}
        self.plans.append(Plan(job_id=job_id, how=how, **(may | (plan or {}))))
        if "steps" not in spec:
            spec = {"command": self.evidence.command(seconds, how)} | spec
        self._specs.append({"id": job_id, "system": "local", "workdir": str(self.bench.folder)} | spec)
        return job_id

    def far(self, seconds: float = 0.02, how: str = "0", *, homes: Mapping[str, str] | None = None, **more: Any) -> str:
        """Put one job on `far` in the batch, in its run folder there; ``homes``: what has to come home."""
        job_id = self.add(seconds, how, **{"system": "far", "workdir": None} | more)
        self.homes[job_id] = dict(homes or {})
        return job_id

    def fake(self, seconds: float = 0.05, how: str = "0", *, may: Sequence[str] = (), **spec: Any) -> str:
        """Put one job on the fake system in the batch; return its id."""
        job_id = f"{self.mark}-f{len(self.fakes)}"
        self.fakes.append(Plan(job_id=job_id, may=frozenset(may or ["done" if how == "0" else "failed"])))
        env = {"FAKE_SECONDS": f"{seconds:g}", "FAKE_EXIT": how}
        self._specs.append({"id": job_id, "system": "fake", "command": "true", "env": env} | spec)
        return job_id

    def push(self, *, as_stream: bool = False) -> None:
        """Push what was added since the last time."""
        specs, self._pushed = self._specs[self._pushed :], len(self._specs)
        texts = [json.dumps(spec) for spec in specs]
        self.redis_push("Job_Queue", *(["\n---\n".join(texts)] if as_stream else texts))

    def redis_push(self, queue: str, *texts: str) -> None:
        """Push entries as they are."""
        self.bench.redis.rpush(queue, *texts)

    def until_started(self, count: int, seconds: float = 15.0) -> None:
        """Wait, with a bound, until so many bodies have started."""
        self.bench.until(lambda: self.evidence.started() >= count, seconds)

    def started_twice(self) -> list[str]:
        """Return runs that started more than once on the cluster, by its own journal."""
        cluster = FakeCluster(self.bench.spool / "fake" / "fake")
        ids = {plan.job_id for plan in self.fakes}
        starts = Counter(it.token for it in cluster.launches() if it.started is not None) if ids else Counter()
        cluster.close()
        return [f"doubled: {t} started {n} times" for t, n in starts.items() if n > 1 and t.split(":")[1] in ids]

    def not_home(self, told: Mapping[str, Told]) -> list[str]:
        """Return what did not come home of jobs that ended by themselves, or not as it was."""
        found = []
        for job_id, files in self.homes.items():
            one = told.get(job_id)
            if one is None or not (one.state == "done" or one.reason in OWN_ENDS):
                continue
            folder = self.bench.spool / "jobs" / job_id / f"run.{one.run}"
            for name, content in {"run": "", **files}.items():
                file = folder / name
                here = file.read_text() if file.is_file() else None
                if here is None or (content and here != content):
                    found.append(f"untrue: {job_id} ended, and {name} at home is {here!r}, not {content!r}")
        return found

    @property
    def ids(self) -> list[str]:
        """Return the ids of all jobs."""
        return [plan.job_id for plan in (*self.plans, *self.fakes)]
