"""Drives the record's scripts by hand, one process at a time, as the workers do."""

from __future__ import annotations

import json
import time

from jobmill.ledger import admission, capacity, ending, launch, poll, upkeep
from jobmill.ledger.admission import Entry, Refusal
from jobmill.ledger.membership import Membership
from jobmill.ledger.record import Record

DONE = '{"exit_status":"finished_regularly","exit_value":0,"evidence":"exit record"}'
FAILED = '{"exit_status":"finished_regularly","exit_value":1,"evidence":"exit record"}'


def spec(job_id: str) -> str:
    """Return the canonical text that the driver admits a job with."""
    return json.dumps({"id": job_id, "command": "true", "outputs": []}, separators=(",", ":"))


def entry(job_id: str, **more: object) -> Entry:
    """Return an entry of the system `local` with what a test does not care for filled in."""
    facts: dict[str, object] = {"spec": spec(job_id), "system": "local", "user": "ann", "needs": "LocalJobs"}
    return Entry(job_id=job_id, **{**facts, **more})  # type: ignore[arg-type]


class Driver:
    """One manager, starter and fetcher in hand."""

    def __init__(
        self, record: Record, *, limit: int = 4, lane: str = "", limits: dict[str, int | None] | None = None
    ) -> None:
        self.record = record
        self.client = record.client
        self.lane = lane
        self.suffix = f":{lane}" if lane else ""
        self.manager = self.member("manager")
        self.starter = self.member("starter")
        self.fetcher = self.member("fetcher")
        self.turns: dict[str, int] = {}  # starter -> what its next begin expects
        self.limits: dict[str, int | None] = {}
        self.apply(limits or {"LocalJobs": limit})
        capacity.declare(record, {"local": lane}, {"local": "{}"})

    def member(self, role: str) -> Membership:
        member = Membership(record=self.record, role=role)
        member.register()
        return member

    def apply(self, limits: dict[str, int | None]) -> None:
        """Apply a configuration that says this as well."""
        self.limits |= limits
        capacity.apply(self.record, self.limits)

    def push(self, *texts: str) -> None:
        self.client.rpush(self.record.keys("Job_Queue"), *texts)

    def admit(self, *job_ids: str, needs: str = "LocalJobs", user: str = "ann", **more: object) -> list[str]:
        """Push and admit jobs of these ids."""
        self.push(*[json.dumps({"id": i}) for i in job_ids])
        batch = admission.take(self.manager, "Job_Queue", 250)
        assert len(batch.entries) == len(job_ids)
        entries: list[Entry | Refusal] = [entry(i, needs=needs, user=user, **more) for i in job_ids]
        return admission.admit(self.manager, batch, entries, time.time())

    def grant(self, count: int = 250) -> int:
        return admission.grant(self.record, "local", "LocalJobs", count).jobs

    def begin(
        self, member: Membership | None = None, count: int = 250, lease: float = 30
    ) -> list[tuple[str, int, int]]:
        """Take and begin, and let go of the entries; return (id, run, fence) of what may go."""
        begun = self.begun(member, count=count, lease=lease)
        self.begun(member, count=0)
        rows = [json.loads(e) for e, go in zip(begun.entries, begun.went, strict=True) if go]
        return [(r["id"], r["run"], r["fence"]) for r in rows]

    def begun(
        self, member: Membership | None = None, *, turn: int | None = None, lease: float = 30, **more: int
    ) -> launch.Begun:
        """Take and begin, in the turn that follows the last one or in another."""
        member = member or self.starter
        asked = self.turns.get(member.name, 0) if turn is None else turn
        prefix = f"here/{member.identity}"
        begun = self.record.do(
            launch.beginning(member, "Granted_Queue" + self.suffix, asked, lease, handles={"local": prefix}, **more)
        )
        if turn is None:
            self.turns[member.name] = begun.turn
        return begun

    def commit(self, *launches: tuple[str, int, int], state: str = "running", poll_in: float = 0) -> list[str]:
        return launch.commit(
            self.record,
            [launch.Commitment(job_id=i, run=r, fence=f, state=state, poll_in=poll_in) for i, r, f in launches],
        )

    def start(self, *job_ids: str, **more: object) -> list[tuple[str, int, int]]:
        """Bring jobs to running."""
        self.admit(*job_ids, **more)  # type: ignore[arg-type]
        self.grant()
        launches = self.begin()
        self.commit(*launches)
        return launches

    def finish(self, job_id: str, run: int = 1, state: str = "done", retry_in: float | None = None) -> str:
        exit_text = DONE if state == "done" else FAILED
        end = ending.RunEnd(job_id=job_id, run=run, state=state, exit=exit_text, retry_in=retry_in, wall=0.01)
        return ending.finish(self.record, [end])[0]

    def claim(self, count: int = 250, lease: float = 30) -> list[poll.Due]:
        return poll.claim(self.record, self.suffix, count, lease)

    def reconcile(self, *sets: str) -> dict[str, list[str]]:
        """Recount sets; return the members that had to leave, by set."""
        repaired: dict[str, list[str]] = {}
        for page in upkeep.reconcile(self.record, sets):
            if page.gone:
                repaired.setdefault(page.name, []).extend(page.gone)
        return repaired

    def state(self, job_id: str) -> str:
        value = self.client.hget(self.record.keys.job(job_id), "state")
        return value.decode() if value else ""

    def field(self, job_id: str, name: str) -> str:
        value = self.client.hget(self.record.keys.job(job_id), name)
        return value.decode() if value else ""

    def where(self, key: str) -> list[str]:
        """Return the members of a sorted set in order, or the entries of a list."""
        key = self.record.keys(key)
        kind = self.client.type(key)
        found = self.client.zrange(key, 0, -1) if kind == b"zset" else self.client.lrange(key, 0, -1)
        return [f.decode() for f in found]

    def members(self, name: str) -> set[str]:
        return {m.decode() for m in self.client.smembers(self.record.keys(name))}

    def resolve(self) -> int:
        """Drive dependents from Result_Queue until it is empty."""
        looked = 0
        while (batch := admission.take(self.manager, "Result_Queue", 250)).entries:
            looked += ending.resolve(self.manager, batch)
        return looked
