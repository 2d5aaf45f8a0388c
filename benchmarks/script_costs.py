"""The scripts of the record one after the other, as the processes call them: what each costs for a job."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from benchmarks.contender import WrongResult
from benchmarks.whole_run import process_seconds
from jobmill.jobs.identifier import new_id
from jobmill.ledger import admission, capacity, ending, launch, poll
from jobmill.ledger.exchange import Call
from jobmill.ledger.membership import Membership
from jobmill.ledger.record import Record

T = TypeVar("T")

SYSTEM, SET = "fake", "FakeJobs"
SPEC = '{{"id":"{0}","command":["/bin/true"],"user":"ann","workdir":"/home/ann"}}'
# as long as a real one
EXIT = (
    '{"exit_status":"finished_regularly","exit_value":0,"resource_usage":{"wall":0.001,"cpu":0.001,"max_memory":1.7},'
    '"native_id":"12345","host":"host","evidence":"exit record","started":1763730000.123,"ended":1763730000.124}'
)


@dataclass(kw_only=True)
class Cost:
    """Sums over all jobs, in seconds."""

    server: float = 0.0  # processor time of the server, its write to the disk included as far as it computes
    client: float = 0.0  # processor time of the caller
    wall: float = 0.0  # from the call to its answer: with the wait for the disk

    def per_job(self, jobs: int) -> dict[str, float]:
        """Return microseconds a job."""
        values = {"server_us": self.server, "client_us": self.client, "wall_us": self.wall}
        return {name: round(value * 1e6 / jobs, 2) for name, value in values.items()}


class ScriptCosts:
    """One record on which jobs go the whole way, without the processes."""

    def __init__(self, record: Record, server: int) -> None:
        """``server``: process id of the server."""
        self._record, self._server = record, server
        self._costs: dict[str, Cost] = {}
        capacity.declare(record, {SYSTEM: ""}, {SYSTEM: "{}"})
        capacity.set_limit(record, SET, 1 << 30)
        self._turn = 0  # of the starter's next begin
        self._manager, self._starter, self._fetcher = (
            Membership(record=record, role=role) for role in ("manager", "starter", "fetcher")
        )
        for member in (self._manager, self._starter, self._fetcher):
            member.register()

    def measure(self, jobs: int, size: int) -> dict[str, dict[str, float]]:
        """Send so many jobs through in batches of ``size``; return `Cost.per_job` by script.

        Raise WrongResult when a script did not do for each job what it is there for.
        """
        self._costs = {}
        if jobs % size:
            raise ValueError(f"{jobs} jobs do not make whole batches of {size}")
        for _ in range(jobs // size):
            self._way(size)
        return {name: cost.per_job(jobs) for name, cost in self._costs.items()}

    def _timed(self, name: str, call: Callable[[], T]) -> T:
        cost = self._costs.setdefault(name, Cost())
        server, client, wall = process_seconds(self._server), time.process_time(), time.perf_counter()
        answer = call()
        cost.wall += time.perf_counter() - wall
        cost.client += time.process_time() - client
        cost.server += process_seconds(self._server) - server
        return answer

    def _way(self, size: int) -> None:
        record, ids = self._record, [new_id() for _ in range(size)]
        specs = [SPEC.format(job_id) for job_id in ids]
        self._timed("push", lambda: record.call("RPUSH", record.keys("Job_Queue"), *specs))
        batch = self._timed("take", lambda: admission.take(self._manager, "Job_Queue", size))
        entries = [
            admission.Entry(job_id=i, spec=s, system=SYSTEM, user="ann", needs=SET)
            for i, s in zip(ids, specs, strict=True)
        ]
        words = self._timed("admit", lambda: admission.admit(self._manager, batch, entries, time.time()))
        granted = self._timed("grant", lambda: admission.grant(record, SYSTEM, SET, size)).jobs
        beginning = launch.beginning(self._starter, "Granted_Queue", self._turn, 10.0, count=size)
        begun = self._timed("begin", lambda: record.do(beginning))
        self._turn = begun.turn
        rows = [json.loads(entry) for entry in begun.entries]
        known = [
            launch.Commitment(job_id=r["id"], run=r["run"], fence=r["fence"], state="running", handle=f"boot/{r['id']}")
            for r in rows
        ]
        committed = self._timed("commit", lambda: launch.commit(record, known))
        lines = [f'{{"id":"{r["id"]}","run":{r["run"]},"exit":{EXIT}}}' for r in rows]
        self._timed("push end", lambda: ending.push(record, "", lines))
        batch = self._timed("take ends", lambda: admission.take(self._fetcher, "Exit_Queue", size))
        self._timed("facts", lambda: poll.facts(record, ids))
        ends = [ending.RunEnd(job_id=r["id"], run=r["run"], state="done", exit=EXIT, wall=0.001) for r in rows]
        ended = self._timed("finish", lambda: ending.finish(record, ends, taken=(self._fetcher, batch)))
        batch = self._timed("take results", lambda: admission.take(self._manager, "Result_Queue", size))
        self._timed("resolve", lambda: ending.resolve(self._manager, batch))
        told = {"admit": set(words), "begin": set(begun.went), "commit": set(committed), "finish": set(ended)}
        if granted != size or told != {"admit": {"admitted"}, "begin": {True}, "commit": {"ok"}, "finish": {"ended"}}:
            raise WrongResult(f"the scripts did not take {size} jobs the whole way: granted {granted}, {told}")

    def packet(self, rounds: int, size: int) -> dict[str, float]:
        """Return medians of the wall microseconds of what a manager asks for a batch: call by call, and sent together.

        The calls are admit, grant and the next take, as the manager makes them. The jobs stay granted.
        """
        record = self._record
        found: dict[str, list[float]] = {"apart": [], "together": []}
        for number in range(2 * rounds):
            ids = [new_id() for _ in range(size)]
            specs = [SPEC.format(job_id) for job_id in ids]
            record.call("RPUSH", record.keys("Job_Queue"), *specs)
            batch = admission.take(self._manager, "Job_Queue", size)
            entries = [
                admission.Entry(job_id=i, spec=s, system=SYSTEM, user="ann", needs=SET)
                for i, s in zip(ids, specs, strict=True)
            ]
            calls: list[Call[Any]] = [
                admission.admitting(self._manager, batch, entries, time.time()),
                admission.granting(SYSTEM, SET, size),
                admission.taking(self._manager, "Job_Queue", size),
            ]
            begin = time.perf_counter()
            answers = record.send(calls).answers() if number % 2 else [record.do(call) for call in calls]
            found["together" if number % 2 else "apart"].append(time.perf_counter() - begin)
            if answers[1].jobs != size:
                raise WrongResult(f"{answers[1]} were granted, not {size}")
        return {name: round(statistics.median(seconds) * 1e6, 1) for name, seconds in found.items()}
