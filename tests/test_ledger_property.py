"""Whatever happens in whatever order: the laws hold, and the record agrees with a small model of it.

Two managers, starters and fetchers act, replies are cut (the same turn is sent again), processes die at any point and
act on after their recovery. JOBMILL_EXAMPLES=2000 looks longer, and makes what it finds small.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from conftest import Server
from driver import DONE, FAILED, Driver, entry
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from laws import violations

from jobmill.errors import Evicted
from jobmill.jobs.states import ALLOWED, ENDED, LAUNCHED, POLLED, State
from jobmill.ledger import admission, capacity, ending, launch, membership, poll, upkeep, wish
from jobmill.ledger.admission import Batch
from jobmill.ledger.keys import launch_name
from jobmill.ledger.membership import Membership
from jobmill.ledger.record import Record

IDS = [f"j{i}" for i in range(7)]
NEEDS = ["LocalJobs", "LocalJobs User:ann", "LocalJobs local.cpus=2", "local.cpus=3 LocalJobs User:ann"]
LIMITS = {"LocalJobs": 3, "User:ann": 1, "local.cpus": 3}

ids = st.sampled_from(IDS)
cuts = st.booleans()
either = st.sampled_from([0, 1])
few = st.sampled_from([frozenset[str]()] * 3) | st.frozensets(ids, max_size=2)
some_end = st.sampled_from([State.DONE, State.FAILED, State.CANCELLED, State.LOST])


ACTS: dict[str, tuple[int, dict[str, st.SearchStrategy[Any]]]] = {}  # name -> how often, what it is called with


def act(weight: int, **words: st.SearchStrategy[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Enter a method as something that may happen."""

    def enter(method: Callable[..., None]) -> Callable[..., None]:
        ACTS[method.__name__] = (weight, words)
        return method

    return enter


@dataclass
class Job:
    """What the model knows of a job."""

    state: State
    needs: str
    after: str
    depends: frozenset[str]
    run: int = 1
    fence: int = 0
    blocked: int = 0
    wish: bool = False
    owner: str = ""
    retries: int = 0
    arrival: str = ""


@dataclass
class Model:
    """The laws in a few lines: what each act has to answer, and what becomes of the job."""

    jobs: dict[str, Job] = field(default_factory=dict)
    dependents: dict[str, set[str]] = field(default_factory=dict)
    wishes: set[str] = field(default_factory=set)

    def of_launch(self, name: str) -> Job | None:
        """Return the job of a launch, named id@arrival."""
        job_id, _, arrival = name.partition("@")
        job = self.jobs.get(job_id)
        return job if job and job.arrival == arrival else None

    def met(self, after: str, state: State) -> bool:
        return after == "any" or (state == State.DONE if after == "ok" else state in (State.FAILED, State.LOST))

    def admit(self, name: str, job: Job) -> str:
        if name in self.jobs:
            return "same" if self.jobs[name].depends == job.depends and self.jobs[name].needs == job.needs else "dead"
        failed = False
        for other in job.depends:
            known = self.jobs.get(other)
            if known and known.state in ENDED:
                failed = failed or not self.met(job.after, known.state)
            else:
                job.blocked += 1
                self.dependents.setdefault(other, set()).add(name)
        self.jobs[name] = job
        if name in self.wishes:
            self.wishes.discard(name)
            job.wish, job.state = True, State.CANCELLED
            return "cancelled"
        if failed:
            job.state = State.NOT_RUN
            return "not_run"
        return "admitted"

    def resolve(self) -> None:
        again = True
        while again:
            again = False
            for other, waiters in list(self.dependents.items()):
                known = self.jobs.get(other)
                if known is None or known.state not in ENDED:
                    continue
                for name in list(waiters):
                    waiters.discard(name)
                    job = self.jobs.get(name)
                    if job and job.blocked and job.state not in ENDED:
                        if self.met(job.after, known.state):
                            job.blocked -= 1
                        else:
                            job.state, again = State.NOT_RUN, True
                del self.dependents[other]

    def commit(self, name: str, run: int, fence: int, state: State) -> str:
        job = self.of_launch(name)
        if job is None or (job.run, job.fence) != (run, fence):
            return "stale"
        if job.state in ENDED:
            return "ended"
        if job.state not in LAUNCHED:
            return "stale"
        if job.state in (State.STARTING, State.UNKNOWN) and state in ALLOWED[job.state]:
            job.state = state
        return "wish" if job.wish else "ok"

    def finish(self, name: str, run: int, state: State, retry: bool, pushed: bool) -> str:
        job = self.of_launch(name)
        if job is None or job.run != run:
            return "stale"
        if job.state in ENDED:
            return "again"
        if state not in ALLOWED[job.state]:
            return "stale"
        if pushed and job.wish:  # a poll has to prove first that nothing of it is left
            job.state = State.COLLECTING
            return "wished"
        if retry and not job.wish and State.LATER in ALLOWED[job.state]:
            job.state, job.run, job.fence = State.LATER, job.run + 1, job.fence + 1
            return "later"
        job.state = state
        return "ended"

    def give_back(self, name: str, run: int, fence: int, states: frozenset[State], new_run: bool) -> str:
        """Abort and seal."""
        job = self.of_launch(name)
        if job is None or (job.run, job.fence) != (run, fence) or job.state not in states:
            return "stale"
        if job.wish:
            job.state = State.CANCELLED
            return "cancelled"
        job.state, job.fence, job.run = State.WAITING, job.fence + 1, job.run + new_run
        return "waiting"

    def cancel(self, name: str) -> str:
        job = self.jobs.get(name)
        if job is None:
            self.wishes.add(name)
            return "unknown"
        if job.state in ENDED:
            return job.state
        job.wish = True
        if job.state in LAUNCHED:
            return "wished"
        job.state, job.fence = State.CANCELLED, job.fence + 1
        return "cancelled"

    def hold(self, name: str) -> str:
        job = self.jobs.get(name)
        if job is None:
            return "unknown"
        if job.state != State.HELD and State.HELD in ALLOWED[job.state]:
            job.state, job.fence = State.HELD, job.fence + 1
        return job.state

    def unhold(self, name: str) -> str:
        job = self.jobs.get(name)
        if job is None:
            return "unknown"
        if job.state == State.HELD:
            job.state = State.WAITING
        return job.state

    def retry(self, name: str) -> str:
        job = self.jobs.get(name)
        if job is None:
            return "unknown"
        if job.state in ENDED:
            job.state, job.run, job.fence, job.blocked, job.wish = State.WAITING, job.run + 1, job.fence + 1, 0, False
        return job.state

    def prune(self) -> None:
        for name, job in list(self.jobs.items()):
            if job.state in ENDED and not self.dependents.get(name):
                del self.jobs[name]
                for waiters in self.dependents.values():
                    waiters.discard(name)
        # a set that became empty is gone: what it kept may go at the next call, as in the record


class Pipeline(RuleBasedStateMachine):
    """The record under everything that can happen to it."""

    server: Server

    def __init__(self) -> None:
        super().__init__()
        self.record = Record(self.server.url)
        self.record.client.flushall()
        self.driver = Driver(self.record, limit=LIMITS["LocalJobs"])
        capacity.apply(self.record, LIMITS)
        self.lowered: set[str] = set()
        self.model = Model()
        roles = ("manager", "starter", "fetcher")
        self.members = {role: [self.driver.member(role) for _ in range(2)] for role in roles}
        self.launches: list[tuple[str, int, int]] = []
        self.zombies: list[Callable[[], object]] = []
        self.fences: dict[str, int] = {}
        for name, needs in zip(IDS, NEEDS, strict=False):  # a pipeline at work: what is rare else happens often
            self.admit(name, 0, False, needs, frozenset(), "ok", "waiting", 0)
        self.grant(250)
        self.begin(0, 250, False, True)

    def teardown(self) -> None:
        self.record.close()

    # the manager

    @act(
        4, name=ids, which=either, cut=cuts, needs=st.sampled_from(NEEDS), depends=few,
        after=st.sampled_from(["ok", "any", "failed"]), place=st.sampled_from(["waiting"] * 4 + ["held", "later"]),
        priority=st.sampled_from([0, 0, 5]),
    )  # fmt: skip
    def admit(
        self, name: str, which: int, cut: bool, needs: str, depends: frozenset[str], after: str, place: str,
        priority: int,
    ) -> None:  # fmt: skip
        depends = depends - {name}
        manager = self.members["manager"][which]
        spec = json.dumps({"id": name, "depends": sorted(depends), "needs": needs})
        self.record.client.rpush("Job_Queue", spec)
        batch = admission.take(manager, "Job_Queue", 250)
        assert list(batch.entries) == [spec.encode()]
        one = entry(
            name, spec=spec, needs=needs, depends_on=sorted(depends), after=after, place=place, due=1.0,
            priority=priority,
        )  # fmt: skip
        expected = self.model.admit(name, Job(state=State(place), needs=needs, after=after, depends=depends))
        assert admission.admit(manager, batch, [one], 0) == [expected]
        self.model.jobs[name].arrival = str(launch.standings(self.record, [name])[name].arrival)
        if cut:
            assert admission.admit(manager, batch, [one], 0) == ["again"]
        self.zombies.append(lambda: admission.admit(manager, batch, [one], 0))

    @act(2, which=either)
    def resolve(self, which: int) -> None:
        self.driver.manager = self.members["manager"][which]
        self.driver.resolve()
        self.model.resolve()

    @act(5, count=st.sampled_from([1, 2, 250, 250]))
    def grant(self, count: int) -> None:
        number = self.driver.grant(count)
        granted = []
        for name, job in self.model.jobs.items():
            if self.driver.state(name) == State.GRANTED and job.state != State.GRANTED:
                assert job.state == State.WAITING
                assert job.blocked == 0
                job.state, job.fence = State.GRANTED, job.fence + 1
                granted.append(name)
        assert len(granted) == number
        if count == 250:
            self.nothing_sleeps()

    def nothing_sleeps(self) -> None:
        """After a whole grant every job that waits has a reason that is true now."""
        limits, client = capacity.limits(self.record), self.record.client
        used = {n: client.scard(n) + int(client.hget("Used", n) or 0) for n in limits}
        if used["LocalJobs"] < limits["LocalJobs"]:
            assert not client.exists("Waiting:local:ann"), "in line although the set has room"
        for name in limits:
            for waiter in self.driver.where("Full:" + name):
                needs = dict(t.partition("=")[::2] for t in self.model.jobs[waiter].needs.split())
                want = int(needs.get(name, "") or 1)
                if want > limits[name]:
                    continue  # can never fit, and stands in nobody's way
                assert want > limits[name] - used[name], f"{waiter} stands in Full:{name}, which has room"
                break  # those behind it stand behind it

    # the starter

    @act(6, which=either, count=st.sampled_from([1, 250]), cut=cuts, proceed=st.sampled_from([True, True, False]))
    def begin(self, which: int, count: int, cut: bool, proceed: bool) -> None:
        starter = self.members["starter"][which]
        if not proceed:  # moved and not begun: it dies now, or goes on later
            self.record.client.lmove("Granted_Queue", f"Granted_Queue:taken:{starter.name}", "LEFT", "RIGHT")
            return
        turn = self.driver.turns.get(starter.name, 0)
        self.zombies.append(lambda: self.driver.begun(starter, turn=turn, count=count, lease=0))
        if cut:
            lost = self.driver.begun(starter, turn=turn, count=count, lease=0)
        begun = self.driver.begun(starter, count=count, lease=0)
        if cut:
            assert (lost.entries, lost.went, lost.turn) == (begun.entries, begun.went, begun.turn)
        for row, went in zip(map(json.loads, begun.entries), begun.went, strict=True):
            name = launch_name(row["id"], row["arrival"])
            job = self.model.of_launch(name)
            go = job is not None and job.state == State.GRANTED and (job.run, job.fence) == (row["run"], row["fence"])
            assert went == go
            if job is not None and go:
                job.state, job.owner = State.STARTING, starter.name
                self.launches.append((name, row["run"], row["fence"]))

    @act(6, state=st.sampled_from([State.SUBMITTED, State.RUNNING]), cut=cuts)
    def commit(self, data: st.DataObject, state: State, cut: bool) -> None:
        name, run, fence = self.any_launch(data)
        for _ in range(1 + cut):
            expected = self.model.commit(name, run, fence, state)
            word = self.driver.commit((name, run, fence), state=state)[0]
            assert ("wish" if word.startswith("{") else word) == expected

    @act(1, cut=cuts)
    def abort(self, data: st.DataObject, cut: bool) -> None:
        one = self.any_launch(data)
        for _ in range(1 + cut):
            expected = self.model.give_back(*one, frozenset({State.STARTING, State.GRANTED}), False)
            assert launch.abort(self.record, [one], delay=0, why="x") == [expected]

    # the fetcher

    @act(2, count=st.sampled_from([1, 250]))
    def claim(self, count: int) -> None:
        polled = {n for n, j in self.model.jobs.items() if j.state in POLLED}
        dues = self.driver.claim(count, lease=0)
        assert {d.job_id for d in dues} <= polled
        if count == 250:
            assert {d.job_id for d in dues} >= {n for n in polled if self.model.jobs[n].wish}
        for due in dues:
            job = self.model.jobs[due.job_id]
            assert (due.run, due.fence, due.state, bool(due.wish)) == (job.run, job.fence, job.state, job.wish)

    @act(5, state=st.sampled_from(sorted(POLLED)))
    def touch(self, data: st.DataObject, state: State) -> None:
        name, run, _ = self.any_launch(data)
        job = self.model.of_launch(name)
        good = job is not None and job.run == run and job.state in LAUNCHED
        assert job is None or not good or state == job.state or state in ALLOWED[job.state]
        seen = poll.Seen(job_id=name, run=run, state=state, poll_in=0, fields={"absent": "now", "host": "n"})
        assert poll.touch(self.record, [seen]) == ["ok" if good else "stale"]
        if job is not None and good:
            job.state = state

    @act(5, state=some_end, retry=st.booleans(), pushed=st.booleans(), cut=cuts, which=either)
    def finish(self, data: st.DataObject, state: State, retry: bool, pushed: bool, cut: bool, which: int) -> None:
        name, run, _ = self.any_launch(data)
        fetcher = self.members["fetcher"][which]
        ending.push(self.record, "", [json.dumps({"id": name, "run": run})])
        batch = admission.take(fetcher, "Exit_Queue", 250)
        exit_text = DONE if state == State.DONE else FAILED
        end = ending.RunEnd(job_id=name, run=run, state=state, exit=exit_text, retry_in=0 if retry else None, wall=0.01)
        for _ in range(1 + cut):
            expected = self.model.finish(name, run, state, retry, pushed)
            taken = (fetcher, batch) if pushed else None
            assert ending.finish(self.record, [end], taken=taken) == [expected]
        if not pushed:
            ending.finish(self.record, [], taken=(fetcher, batch))
        assert list(admission.take(fetcher, "Exit_Queue", 250).entries) == []

    @act(1, cut=cuts)
    def investigate(self, cut: bool) -> None:
        starting = {n for n, j in self.model.jobs.items() if j.state == State.STARTING}
        found = launch.expired(self.record, "", 250, 0)
        assert {f.job_id for f in found} == starting
        for f in found[:2]:
            for _ in range(1 + cut):
                one = (launch_name(f.job_id, f.arrival), f.run, f.fence)
                expected = self.model.give_back(*one, LAUNCHED, True)
                assert launch.seal(self.record, [one], "sealed") == [expected]

    @act(1)
    def seal_late(self, data: st.DataObject) -> None:
        one = self.any_launch(data)
        assert launch.seal(self.record, [one], "x") == [self.model.give_back(*one, LAUNCHED, True)]

    @act(2)
    def wake(self) -> None:
        upkeep.wake_due(self.record)
        for job in self.model.jobs.values():
            if job.state == State.LATER:
                job.state = State.WAITING

    @act(1)
    def prune(self) -> None:
        for name in [n for n, w in self.model.dependents.items() if not w]:
            del self.model.dependents[name]
        pruned = {n for n, j in self.model.jobs.items() if j.state in ENDED and not self.model.dependents.get(n)}
        assert upkeep.prune(self.record, 0) >= len(pruned)
        before = -1
        while before != len(self.model.jobs):
            before = len(self.model.jobs)
            self.model.prune()
            upkeep.prune(self.record, 0)
        for name in list(self.fences):
            if name not in self.model.jobs:
                del self.fences[name]

    @act(1)
    def regrant(self) -> None:
        granted = [n for n, j in self.model.jobs.items() if j.state == State.GRANTED]
        assert upkeep.regrant(self.record, IDS, 0) == [n for n in IDS if n in granted]
        for name in granted:
            self.model.jobs[name].fence += 1

    @act(1)
    def reconcile(self) -> None:
        pages = upkeep.reconcile(self.record, ["LocalJobs", "User:ann"])
        assert [page.gone for page in pages if page.gone] == []

    # users

    @act(4, name=ids, verb=st.sampled_from(["cancel", "hold", "unhold", "unhold", "retry", "retry"]))
    def ask(self, name: str, verb: str) -> None:
        expected: str = getattr(self.model, verb)(name)
        more = {"who": "ann", "why": "x"} if verb == "cancel" else {}
        assert getattr(wish, verb)(self.record, [name], **more) == {name: expected}

    @act(2, name=st.sampled_from(sorted(LIMITS)), limit=st.sampled_from([0, 1, 2, 3, 4, 4]))
    def limit(self, name: str, limit: int) -> None:
        capacity.set_limit(self.record, name, limit)
        self.lowered.add(name)  # until what it held has shrunk to it

    # crashes

    @act(1, role=st.sampled_from(["manager", "starter", "fetcher"]), which=either)
    def die(self, role: str, which: int) -> None:
        queues = ["Job_Queue", "Result_Queue", "Granted_Queue", "Exit_Queue"]
        old = self.members[role][which]
        membership.recover(self.record, old.name, queues, proved=True)
        self.members[role][which] = Membership(record=self.record, role=role)
        self.members[role][which].register()
        acts = [lambda: self.driver.begun(old, count=1), lambda: old.beat(starting=IDS)]
        for act in acts:
            with pytest.raises(Evicted):
                act()
        assert membership.recover(self.record, old.name, queues, proved=True) == 0

    @act(2)
    def an_old_call_arrives_late(self, data: st.DataObject) -> None:
        """Whoever sends a turn again long after: nothing changes (the laws and the model are looked at after this)."""
        if not self.zombies:
            return
        act = data.draw(st.integers(0, len(self.zombies) - 1), label="zombie")
        turns = {m.name: self.record.client.hgetall(f"Process:{m.name}") for ms in self.members.values() for m in ms}
        if self.is_current(act):
            return
        with contextlib.suppress(Evicted):
            self.zombies[act]()
        after = {m.name: self.record.client.hgetall(f"Process:{m.name}") for ms in self.members.values() for m in ms}
        assert turns == after

    def is_current(self, act: int) -> bool:
        """The newest begin of a starter may still be its current turn: then it is no late call but the call itself."""
        closure = {
            n: c.cell_contents
            for n, c in zip(self.zombies[act].__code__.co_freevars, self.zombies[act].__closure__ or (), strict=True)
        }
        member = closure.get("starter") or closure["manager"]
        assert isinstance(member, Membership)
        queue, turn = ("Granted_Queue", closure["turn"]) if "turn" in closure else self._of(closure["batch"])
        known = self.record.client.hmget(f"Process:{member.name}", f"turn:{queue}", "evicted")
        return known[1] is None and int(known[0] or 0) == turn

    def _of(self, batch: object) -> tuple[str, int]:
        assert isinstance(batch, Batch)
        return batch.queue, batch.turn

    def any_launch(self, data: st.DataObject) -> tuple[str, int, int]:
        """Return a launch that was begun once: a live one, or one that a zombie still believes in."""
        live = [one for one in self.launches if (job := self.model.of_launch(one[0])) and job.state in LAUNCHED]
        return data.draw(st.sampled_from(live[-3:] * 2 + self.launches[-6:] or [("nobody@1", 1, 1)]), label="launch")

    # the laws

    @rule(data=st.data(), name=st.sampled_from([n for n, (weight, _) in ACTS.items() for _ in range(weight)]))
    def step(self, data: st.DataObject, name: str) -> None:
        """Do one thing: one rule for all, because the engine switches whole rules off at random."""
        words = {word: data.draw(strategy, label=word) for word, strategy in ACTS[name][1].items()}
        if "data" in inspect.signature(getattr(self, name)).parameters:
            words["data"] = data
        getattr(self, name)(**words)

    @invariant()
    def the_record_agrees(self) -> None:
        client = self.record.client
        limits = capacity.limits(self.record)
        for name in list(self.lowered):
            if client.scard(name) + int(client.hget("Used", name) or 0) <= limits[name]:
                self.lowered.discard(name)
        assert violations(client, lowered=self.lowered) == []
        pipe = client.pipeline(transaction=False)
        for name in IDS:
            pipe.hmget(f"Job:{name}", "state", "run", "fence", "blocked")
        for name, (state, run, fence, blocked) in zip(IDS, pipe.execute(), strict=True):
            job = self.model.jobs.get(name)
            assert (state is None) == (job is None), name
            if job is not None:
                run, fence = int(run or 1), int(fence or 0)
                found = (state.decode(), run, fence, int(blocked or 0) if job.state not in ENDED else 0)
                assert found == (job.state, job.run, job.fence, job.blocked if job.state not in ENDED else 0), name
                assert fence >= self.fences.get(name, 0)
                self.fences[name] = fence


@pytest.fixture
def machine(valkey: Server) -> Iterator[type[Pipeline]]:
    Pipeline.server = valkey
    yield Pipeline


@pytest.mark.timeout(1800 if os.environ.get("JOBMILL_EXAMPLES") else 120)
def test_the_laws_hold_whatever_happens(machine: type[Pipeline]) -> None:
    longer = os.environ.get("JOBMILL_EXAMPLES")
    # making a counterexample small takes minutes: a short run shows it as it was found
    phases = [Phase.reuse, Phase.generate] + ([Phase.shrink] if longer else [])
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine,
        settings=settings(
            max_examples=int(longer or 60), stateful_step_count=50, deadline=None, phases=phases,
            suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip
