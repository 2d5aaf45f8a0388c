"""One pipeline on the fake system, in hand: manager, starters and fetchers as objects, stepped and stopped at will."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from jobmill.client import Client
from jobmill.config import load
from jobmill.fetcher.fetcher import Fetcher
from jobmill.ledger.membership import Membership, recover
from jobmill.ledger.record import Record
from jobmill.manager.manager import Manager
from jobmill.starter.starter import Starter
from jobmill.systems.fake_cluster import FakeCluster
from jobmill.worker.work import Work


class Died(BaseException):
    """The process is gone: nothing that it would have done after this happens."""


class World:
    """Time passes by calls: what is due is polled at once, leases run out when a test says so."""

    def __init__(self, url: str, folder: Path, **options: Any) -> None:
        settings = {"kind": "fake", "limit": 1000, "poll_interval": 0, **options}
        file = folder / "jobmill.yaml"
        file.write_text(json.dumps({"state": str(folder), "systems": {"fake": settings}}))
        self.config = load(file, environ={"HOME": str(folder)})
        self.record = Record(url)
        self.redis = self.record.client
        self.client = Client(url)
        self.manager = self.enter(Manager(self.record, self.config))
        self.starter = self.new_starter()
        self.fetcher = self.new_fetcher()
        self.cluster = FakeCluster(folder / "spool" / "fake" / "fake")
        self.now = 0.0  # that of loops; only ever later

    def enter(self, work: Any) -> Any:
        assert isinstance(work, Work)
        member = Membership(record=self.record, role=work.role)
        member.register()
        work.enter(member)
        return work

    def new_starter(self) -> Starter:
        starter = self.enter(Starter(self.record, self.config))
        assert isinstance(starter, Starter)
        return starter

    def bury_starter(self) -> None:
        """Recover the lists of the starter, which is dead, and have another one."""
        member = self.starter._member
        assert member is not None
        recover(self.record, member.name, ["Granted_Queue"], proved=True)
        self.starter = self.new_starter()

    def new_fetcher(self) -> Fetcher:
        fetcher = self.enter(Fetcher(self.record, self.config))
        assert isinstance(fetcher, Fetcher)
        return fetcher

    def push(self, *job_ids: str, **spec: Any) -> None:
        """Push, admit and grant jobs."""
        self.redis.rpush("Job_Queue", *[json.dumps({"id": i, "command": "x"} | spec) for i in job_ids])
        self.manage()

    def manage(self) -> None:
        """Admit what was pushed, grant what waits."""
        while self.manager.ring("Job_Queue"):
            pass
        while self.manager.ring("Result_Queue"):
            pass
        self.manager.tick(0)

    def start(self, starter: Starter | None = None) -> None:
        """Launch what is granted."""
        starter = starter or self.starter
        while starter.ring("Granted_Queue"):
            pass
        starter.flush(time.monotonic())

    def poll(self, fetcher: Fetcher | None = None) -> None:
        """Poll what is due, finish what was pushed."""
        fetcher = fetcher or self.fetcher
        self.now += 100
        fetcher.ring("Exit_Queue")
        fetcher.flush(self.now)

    def expire(self) -> None:
        """Let the leases of launches under way run out."""
        for job_id in self.redis.zrange("Starting_Queue", 0, -1):
            self.redis.zadd("Starting_Queue", {job_id: 0})

    def settle(self, fetcher: Fetcher | None = None) -> None:
        """Let the leases run out, and the janitor investigate."""
        self.expire()
        (fetcher or self.fetcher)._janitor._settle()

    def sweep(self, fetcher: Fetcher | None = None) -> None:
        """Let the janitor look for strays."""
        (fetcher or self.fetcher)._janitor._strays.sweep()

    def due(self) -> None:
        """Let everything that waits for a time be due."""
        for queue in ("Later", "Running_Queue", "Polls"):
            for job_id in self.redis.zrange(queue, 0, -1):
                self.redis.zadd(queue, {job_id: 0})

    def round(self) -> None:
        """Let everybody do everything once."""
        self.due()
        self.fetcher._janitor.tick(self.now)
        self.manage()
        self.start()
        self.poll()

    def until(self, condition: Callable[[], bool], timeout: float = 20.0) -> None:
        """Let everybody work until something is true."""
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, {i: self.facts(i) for i in self.jobs()}
            self.round()

    def jobs(self) -> list[str]:
        return [k.decode()[4:] for k in self.redis.keys("Job:*") if k.count(b":") == 1]

    def facts(self, job_id: str) -> dict[str, str]:
        return {k.decode(): v.decode(errors="replace") for k, v in self.redis.hgetall(f"Job:{job_id}").items()}

    def state(self, job_id: str) -> tuple[str, int]:
        """Return state and run."""
        facts = self.facts(job_id)
        return facts["state"], int(facts.get("run", 1))

    def ended(self, *job_ids: str) -> bool:
        return all(self.state(i)[0] in ("done", "failed", "cancelled", "lost", "not_run") for i in job_ids)

    def submissions(self, job_id: str) -> list[tuple[int, bool, bool]]:
        """Return (run, released, started) of each submission of a job, in order."""
        return [
            (int(it.token.split(":")[2]), it.released is not None, it.started is not None)
            for it in self.cluster.launches()
            if it.token.split(":")[1] == job_id
        ]

    def doubled(self) -> list[str]:
        """Return the launches (job and run) of which more than one submission was released or started."""
        released = Counter(it.token for it in self.cluster.launches() if it.released is not None)
        return [token for token, times in released.items() if times > 1]

    def left(self) -> list[str]:
        """Return the tokens of what the cluster still has."""
        return [it.token for it in self.cluster.look().alive.values()]


@contextmanager
def dying(monkeypatch: pytest.MonkeyPatch, thing: Any, verb: str, *, after: bool = False) -> Iterator[None]:
    """Let whoever calls ``thing.verb`` die there, before or after its effect; fail when nobody calls it."""

    def last_words(*args: Any, **more: Any) -> Any:
        if after:
            verb_of(*args, **more)
        raise Died

    verb_of = getattr(thing, verb)
    with monkeypatch.context() as patch, pytest.raises(Died):
        patch.setattr(thing, verb, last_words)
        yield


@contextmanager
def frozen(
    monkeypatch: pytest.MonkeyPatch, thing: Any, verb: str, meanwhile: Callable[[], object], *, after: bool = False
) -> Iterator[None]:
    """Let whoever calls ``thing.verb`` sleep there while ``meanwhile`` happens, and then go on as if nothing was."""

    def asleep(*args: Any, **more: Any) -> Any:
        patch.undo()
        if not after:
            meanwhile()
        answer = verb_of(*args, **more)
        if after:
            meanwhile()
        slept.append(verb)
        return answer

    slept: list[str] = []
    verb_of = getattr(thing, verb)
    with monkeypatch.context() as patch:
        patch.setattr(thing, verb, asleep)
        yield
    assert slept == [verb]
