"""Polls of endpoints: one fetcher asks, once an interval, and writes what changed; whoever dies, no end is lost."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Server
from driver import Driver
from fakeworld import World, dying, frozen
from laws import dump, violations

from jobmill.fetcher.fetcher import Fetcher
from jobmill.fetcher.poller import PATIENCE, Poller
from jobmill.ledger import ending, poll, polls, upkeep
from jobmill.ledger.explanation import Explainer
from jobmill.ledger.membership import server_time
from jobmill.ledger.poll import Seen
from jobmill.ledger.record import Record
from jobmill.systems.fake import FakeSystem
from jobmill.systems.system import ExecutionSystem, NativeState, Observation

Make = Callable[..., World]
QUERIES = ("status", "survey", "exit_info", "inventory", "settle")


@pytest.fixture
def world(valkey: Server, tmp_path: Path) -> Make:
    return lambda **options: World(valkey.url, tmp_path, **options)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count the queries that any fake system is asked."""
    counts: Counter[str] = Counter()

    def counted(verb: str) -> Callable[..., Any]:
        right = getattr(FakeSystem, verb)

        def call(self: FakeSystem, *args: Any, **more: Any) -> Any:
            counts[verb] += 1
            return right(self, *args, **more)

        return call

    for verb in QUERIES:
        monkeypatch.setattr(FakeSystem, verb, counted(verb))
    return counts


def poller_of(fetcher: Fetcher) -> Poller:
    (found,) = fetcher._pollers
    return found


def later(world: World, seconds: float) -> None:
    """Let time pass for the polls of endpoints: the next one is due so much earlier."""
    for name, due in polls.due(world.record).items():
        score = f"{(due - seconds) * 1000:.0f}"
        world.redis.zadd("Polls", {name: score})
        for fetcher in [world.fetcher, *getattr(world, "others", [])]:
            if poller_of(fetcher)._held == f"{due * 1000:.0f}":
                poller_of(fetcher)._held = score


# The record.


@pytest.fixture
def driver(server: Server) -> Driver:
    return Driver(Record(server.url))


def test_a_poll_is_taken_by_one_and_left_to_the_same(driver: Driver) -> None:
    record = driver.record
    mine, wait = polls.take(record, "slurm", "", lease=30, patience=5)
    assert mine and wait == 0
    held, wait = polls.take(record, "slurm", "", lease=30, patience=5)
    assert (held, round(wait)) == ("", 35)
    longer = polls.keep(record, "slurm", mine, 60)
    assert float(longer) > float(mine)
    assert polls.keep(record, "slurm", mine, 60) == ""  # no one holds it by this any more
    left = polls.keep(record, "slurm", longer, 0)
    assert polls.take(record, "slurm", "", lease=30, patience=5)[0] == ""  # due, and left to another for a while
    again, _ = polls.take(record, "slurm", left, lease=30, patience=5)
    assert again
    assert list(polls.due(record)) == ["slurm"]
    assert 29 < polls.due(record)["slurm"] - server_time(record) <= 30


def test_a_poll_whose_fetcher_died_is_made_by_another_when_its_lease_has_run_out(driver: Driver) -> None:
    polls.take(driver.record, "slurm", "", lease=0, patience=0)
    taken, _ = polls.take(driver.record, "slurm", "5", lease=10, patience=0)
    assert taken


def commit(driver: Driver, *job_ids: str, poll_in: float = poll.FAR, **spec: object) -> None:
    driver.admit(*job_ids, **spec)  # type: ignore[arg-type]
    driver.grant()
    rows = driver.begin()
    driver.commit(*rows, state="submitted", poll_in=poll_in)


def left(driver: Driver, since: str = polls.ALL, count: int = 250) -> list[str]:
    """Return the ids of all pages."""
    found: list[str] = []
    while since:
        _, since, rows = polls.left(driver.record, "", "local", since, count)
        found += [row.job_id for row in rows]
    return found


def test_what_is_left_to_an_endpoint_is_read_once_and_in_pages(driver: Driver) -> None:
    driver.apply({"LocalJobs": 500})
    ids = [f"j{n}" for n in range(60)]
    for at in range(0, 60, 20):  # each twenty have one due time
        commit(driver, *ids[at : at + 20])
    assert sorted(left(driver)) == sorted(left(driver, count=7)) == sorted(left(driver, count=20)) == sorted(ids)
    now, _, rows = polls.left(driver.record, "", "local", polls.ALL, 250)
    known = rows[0]
    number = ids.index(known.job_id) + 1  # admitted in this order
    handle = driver.field(known.job_id, "handle")
    assert known == polls.Left(known.job_id, 1, number, "submitted", handle, "", "", True)
    assert left(driver, polls.after(now + 60_000)) == []
    commit(driver, "new")
    assert "new" in left(driver, polls.after(now))
    assert polls.left(driver.record, "", "other", polls.ALL, 250)[2] == []
    assert violations(driver.client) == []


def test_who_is_cancelled_killed_or_missing_has_polls_of_its_own(driver: Driver) -> None:
    commit(driver, "a", "b", "c")
    touched = [
        Seen(job_id=i, run=1, state="", poll_in=9, fields={name: "now"})
        for i, name in (("a", "absent"), ("b", "killed"))
    ]
    assert poll.touch(driver.record, touched) == ["ok", "ok"]
    driver.client.hset("Job:c", "wish", "{}")
    assert left(driver) == []
    assert [job.disturbed for job in poll.facts(driver.record, ["a", "b", "c"]) if job] == [True] * 3


def test_a_touch_may_leave_state_and_due_time_as_they_are(driver: Driver) -> None:
    commit(driver, "a")
    before = dump(driver.client)
    assert poll.touch(driver.record, [Seen(job_id="a", run=1, state="", poll_in=None)]) == ["ok"]
    assert dump(driver.client) == before
    score = driver.client.zscore("Running_Queue", "a")
    assert poll.touch(driver.record, [Seen(job_id="a", run=1, state="running", poll_in=None)]) == ["ok"]
    assert (driver.state("a"), driver.client.zscore("Running_Queue", "a")) == ("running", score)


def test_facts_move_nothing(driver: Driver) -> None:
    commit(driver, "a")
    before = dump(driver.client)
    job, nobody = poll.facts(driver.record, ["a", "nobody"])
    assert job is not None and nobody is None
    assert (job.job_id, job.run, job.state, job.retries, job.seals, job.terms) == ("a", 1, "submitted", 0, 0, True)
    assert dump(driver.client) == before
    driver.finish("a")
    (job,) = poll.facts(driver.record, ["a"])
    assert job is not None and job.state == "done"


# What it costs.


def test_one_query_an_interval_and_no_write_where_nothing_changed(world: Make, asked: Counter[str]) -> None:
    w = world(seconds=3600, poll_interval=60)
    w.push(*[f"j{n}" for n in range(300)])
    w.start()
    w.poll()
    assert {w.state(f"j{n}")[0] for n in range(300)} == {"running"}
    assert asked == {"survey": 1}
    before = dump(w.redis, ignore=["Polls"])
    for _ in range(5):
        w.poll()
        w.fetcher.tick(w.now)
    assert asked == {"survey": 1}  # its next poll is not due
    for _ in range(3):
        later(w, 60)
        w.poll()
    assert asked == {"survey": 4}
    ignored = set(w.redis.keys("Process*"))
    after = dump(w.redis, ignore=["Polls"])
    assert {k: v for k, v in after.items() if k.encode() not in ignored} == {
        k: v for k, v in before.items() if k.encode() not in ignored
    }
    due = polls.due(w.record)["fake"] - server_time(w.record)
    assert 58 < due <= 60


def test_ends_are_found_by_the_next_poll_and_cost_one_query_more(world: Make, asked: Counter[str]) -> None:
    w = world(seconds=3600, poll_interval=60)
    w.push("a", "b", "c")
    w.push("out", outputs=["nothing"], env={"FAKE_SECONDS": "0"})
    w.start()
    w.poll()
    assert asked == {"survey": 1, "exit_info": 1}
    assert (w.state("out")[0], w.client.job("out").exit["reason"]) == ("failed", "missing_output")
    w.cluster.kill([w.facts("b")["handle"]], 9)  # by somebody else
    later(w, 60)
    w.poll()
    assert [w.state(i)[0] for i in "abc"] == ["running", "failed", "running"]
    assert w.client.job("b").exit["term_sig"] == 9
    assert asked == {"survey": 2, "exit_info": 2}
    assert violations(w.redis) == []


def test_a_retry_follows_from_the_poll_and_the_next_run_is_polled(world: Make) -> None:
    w = world(poll_interval=60)
    w.push("a", env={"FAKE_EXIT": "3"}, retry={"max": 1, "delay": "0s", "on": ["failed"]})
    w.start()
    w.poll()
    assert w.state("a") == ("later", 2)
    w.until(lambda: w.ended("a"))
    assert (w.state("a"), w.submissions("a")) == (("failed", 2), [(1, True, True), (2, True, True)])


def test_a_wish_does_not_wait_for_the_poll(world: Make) -> None:
    w = world(seconds=3600, poll_interval=600)
    w.push("a", "b")
    w.start()
    w.poll()
    w.client.cancel(["a"])
    w.poll()
    assert [w.state(i)[0] for i in "ab"] == ["cancelled", "running"]


def test_what_is_due_by_itself_and_in_order_is_left_to_the_poll(world: Make, asked: Counter[str]) -> None:
    """As after an hour, or when somebody does not know what became of a job: no query is made for it alone."""
    w = world(seconds=3600, poll_interval=60)
    w.push("a")
    w.start()
    w.poll()
    w.redis.zadd("Running_Queue", {"a": 0})
    w.redis.hset("Job:a", "state", "unknown")
    w.poll()
    assert asked == {"survey": 1}
    score = w.redis.zscore("Running_Queue", "a")
    assert score is not None and score > (server_time(w.record) + poll.FAR - 60) * 1000
    later(w, 60)
    w.poll()
    assert (w.state("a")[0], asked["survey"], asked["status"]) == ("running", 2, 0)


# Who polls.


def test_two_fetchers_make_one_poll_an_interval_and_both_do_the_rest(world: Make, asked: Counter[str]) -> None:
    w = world(seconds=3600, poll_interval=60)
    w.push("a", "b")
    w.start()
    first, second = w.fetcher, w.new_fetcher()
    w.others = [second]  # type: ignore[attr-defined]
    for _ in range(3):
        w.poll(second)
        w.poll(first)
        assert asked["survey"] == 1
    later(w, 60)
    w.poll(first)  # due, and the other one's for a while
    assert asked["survey"] == 1
    w.poll(second)
    assert asked["survey"] == 2
    w.client.cancel(["a"])
    w.poll(first)
    assert w.state("a")[0] == "cancelled"
    later(w, 60 + PATIENCE)
    w.cluster.kill([w.facts("b")["handle"]], 9)
    w.poll(first)  # the other one is late
    assert asked["survey"] == 3
    assert w.state("b")[0] == "failed"
    later(w, 60)
    w.poll(second)
    assert asked["survey"] == 3  # it has lost it
    w.poll(first)
    assert asked["survey"] == 4


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("verb", ["survey", "exit_info", "finish", "touch", "left"])
def test_no_end_is_lost_when_the_poller_dies(
    world: Make, monkeypatch: pytest.MonkeyPatch, verb: str, after: bool
) -> None:
    w = world(poll_interval=60)
    w.push("ends", env={"FAKE_EXIT": "4"})
    w.push("runs", env={"FAKE_SECONDS": "3600"})
    w.start()
    things: dict[str, Any] = {"finish": ending, "touch": poll, "left": polls}
    with dying(monkeypatch, things.get(verb, FakeSystem), verb, after=after):
        w.poll()
    w.fetcher = w.new_fetcher()
    w.poll()
    assert w.state("ends") == (
        ("failed" if (verb, after) in (("finish", True), ("touch", False), ("touch", True)) else "submitted"),
        1,
    )
    later(w, w.fetcher.lease + PATIENCE + 1)
    w.poll()
    assert [w.state(i) for i in ("ends", "runs")] == [("failed", 1), ("running", 1)]
    assert w.client.job("ends").exit["exit_value"] == 4
    assert violations(w.redis) == []


@pytest.mark.parametrize("verb", ["survey", "exit_info"])
def test_a_poller_that_sleeps_does_no_harm_when_it_wakes(
    world: Make, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    w = world(poll_interval=60)
    w.push("ends", env={"FAKE_EXIT": "4"}, retry={"max": 1, "delay": "0s", "on": ["failed"]})
    w.push("runs", env={"FAKE_SECONDS": "3600"})
    w.start()
    zombie = w.fetcher

    def others() -> None:
        w.fetcher = w.new_fetcher()
        w.until(lambda: w.ended("ends"))
        w.client.cancel(["runs"])
        w.until(lambda: w.ended("runs"))

    with frozen(monkeypatch, FakeSystem, verb, others, after=True):
        w.poll(zombie)
    w.poll(zombie)
    assert [w.state(i) for i in ("ends", "runs")] == [("failed", 2), ("cancelled", 1)]
    assert violations(w.redis, at_rest=True) == []


@pytest.mark.parametrize("code", ["0", "4"])
@pytest.mark.parametrize("verb", ["exit_info", "finish", "touch"])
def test_a_poller_that_wakes_when_the_id_lives_anew_tells_nothing_of_the_earlier_job(
    world: Make, monkeypatch: pytest.MonkeyPatch, verb: str, code: str
) -> None:
    w = world(poll_interval=60)
    w.push("a", env={"FAKE_EXIT": code, "FAKE_SECONDS": "3600" if verb == "touch" else "0"})
    w.start()
    zombie = w.fetcher
    before: list[dict[str, str]] = []

    def live_anew() -> None:
        w.fetcher = w.new_fetcher()
        w.cluster.kill([w.facts("a")["handle"]], 9)
        w.until(lambda: w.ended("a"))
        assert upkeep.prune(w.record, 0) == 1
        w.push("a", env={"FAKE_SECONDS": "3600"})
        w.start()
        assert w.state("a") == ("submitted", 1)
        before.append(w.facts("a"))

    things: dict[str, Any] = {"finish": ending, "touch": poll}
    with frozen(monkeypatch, things.get(verb, FakeSystem), verb, live_anew, after=verb == "exit_info"):
        w.poll(zombie)
    assert [w.facts("a")] == before
    w.poll(zombie)
    w.until(lambda: w.state("a") == ("running", 1))
    assert w.submissions("a") == [(1, True, True)] * 2
    assert violations(w.redis) == []


def test_a_poll_that_fails_half_way_is_begun_anew_under_its_lease(world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    w = world(poll_interval=60)
    w.push("a")
    w.start()
    with dying(monkeypatch, ending, "finish"):
        w.poll()
    w.poll()  # the same one: nobody has to wait for its lease
    assert w.state("a") == ("done", 1)


def test_a_poller_that_was_overtaken_gives_up(world: Make, asked: Counter[str]) -> None:
    w = world(poll_interval=60)
    w.push("a")
    w.start()
    it = poller_of(w.fetcher)
    it._begin(0.0)
    w.redis.zadd("Polls", {"fake": server_time(w.record) * 1000 + 60_000})  # another has taken it
    it.turn(1e6)  # its lease is over
    assert (it._pieces, asked) == (None, {})
    w.poll()
    assert asked == {}


def test_a_new_poller_compares_all_and_writes_what_differs(world: Make, asked: Counter[str]) -> None:
    w = world(seconds=3600, poll_interval=60)
    w.push(*[f"j{n}" for n in range(300)])
    w.start()
    w.poll()
    w.cluster.kill([w.facts(f"j{n}")["handle"] for n in range(10)], 9)
    w.redis.hset("Job:j11", "state", "submitted")
    before = {i: w.redis.zscore("Running_Queue", i) for i in w.jobs()}
    w.fetcher = w.new_fetcher()
    later(w, 60 + PATIENCE)
    changes = w.redis.xlen("Events")
    w.poll()
    assert [w.state(f"j{n}")[0] for n in range(12)] == ["failed"] * 10 + ["running"] * 2
    assert all(w.redis.zscore("Running_Queue", f"j{n}") == before[f"j{n}"] for n in range(10, 300))
    assert w.redis.xlen("Events") == changes + 2  # the ends, the state
    assert asked["status"] == 0


# Answers that are wrong.


def test_what_is_missing_without_a_record_goes_through_a_grace(world: Make, asked: Counter[str]) -> None:
    w = world(seconds=3600, poll_interval=60)
    w.push("a", "b")
    w.start()
    w.poll()
    w.cluster.faults(empty=1)
    later(w, 60)
    w.poll()
    assert ("absent" in w.facts("a"), w.state("a")[0]) == (True, "running")
    w.cluster.faults(empty=0)
    w.redis.zadd("Running_Queue", {"a": 0, "b": 0})
    w.poll()
    assert ("absent" in w.facts("a"), w.state("a")[0]) == (False, "running")
    later(w, 60)
    w.cluster.kill([w.facts("b")["handle"]], 9)
    w.poll()
    assert [w.state(i)[0] for i in "ab"] == ["running", "failed"]  # left to the poll again
    w.cluster.faults(empty=1)
    later(w, 60)
    w.poll()
    w.redis.hincrby("Job:a", "absent", -11_000)
    w.redis.zadd("Running_Queue", {"a": 0})
    w.poll()
    assert w.state("a")[0] == "lost"


def test_an_answer_that_lacks_most_of_what_was_there_is_asked_again_before_it_is_believed(world: Make) -> None:
    w = world(seconds=3600, poll_interval=60)
    w.push(*[f"j{n}" for n in range(300)])
    w.start()
    w.poll()
    before = dump(w.redis, ignore=["Polls"])
    w.cluster.faults(empty=1)
    later(w, 60)
    w.poll()
    assert dump(w.redis, ignore=["Polls"]) == before
    assert polls.due(w.record)["fake"] - server_time(w.record) < 6
    w.cluster.faults(empty=0)
    later(w, 60)
    w.poll()
    assert dump(w.redis, ignore=["Polls"]) == before
    w.cluster.faults(empty=1)
    for _ in range(2):
        later(w, 60)
        w.poll()
    assert all("absent" in w.facts(f"j{n}") for n in range(300))
    assert {w.state(f"j{n}")[0] for n in range(300)} == {"running"}


def test_an_outage_is_no_news_and_costs_one_try_a_poll(world: Make, asked: Counter[str]) -> None:
    w = world(seconds=3600, poll_interval=60)
    w.push("a")
    w.start()
    w.poll()
    w.cluster.faults(down=True)
    before = dump(w.redis, ignore=["Polls"])
    for _ in range(4):
        later(w, 60)
        w.poll()
    assert dump(w.redis, ignore=["Polls"]) == before
    assert asked["survey"] == 4  # of which the breaker let three through
    assert w.fetcher._endpoints.pause("fake") > 0


def test_a_launch_that_is_seen_overdue_is_killed(world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    w = world(seconds=3600, poll_interval=60)
    w.push("a")
    w.start()
    w.poll()
    handle = w.facts("a")["handle"]
    late = Observation(state=NativeState.RUNNING, alive=True, overdue=True)
    with monkeypatch.context() as patch:
        patch.setattr(FakeSystem, "survey", lambda self, record: {handle: late})
        later(w, 60)
        w.poll()
    assert "killed" in w.facts("a")
    w.poll()
    assert w.state("a")[0] == "failed"
    assert w.left() == []


def test_what_is_held_though_it_was_committed_is_released_unless_somebody_wishes_it_away(
    world: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    w = world(seconds=3600, poll_interval=60)
    w.push("a", "b")
    with monkeypatch.context() as patch:
        patch.setattr(FakeSystem, "release", lambda self, handles: None)
        w.start()
        w.poll()
        assert [w.state(i)[0] for i in "ab"] == ["submitted"] * 2
    w.redis.hset("Job:b", "wish", json.dumps({"who": "ann"}))  # its being due is still on the way
    later(w, 60)
    w.poll()
    assert w.submissions("a") == [(1, True, True)]
    assert w.submissions("b") == [(1, False, False)]


def test_a_job_that_others_ended_and_that_lives_is_found_and_killed(world: Make) -> None:
    w = world(seconds=3600, poll_interval=60)
    w.push("a", "b")
    w.start()
    w.poll()
    end = ending.RunEnd(job_id="a", run=1, state="lost", exit='{"evidence":"x"}')
    assert ending.finish(w.record, [end]) == ["ended"]
    for _ in range(4):
        later(w, 60)
        w.poll()
        w.fetcher._janitor._strays.tick(w.now)
    assert [token.split(":")[1] for token in w.left()] == ["b"]
    assert w.state("b")[0] == "running"


def test_no_inventory_is_taken_as_long_as_nothing_is_strange(world: Make, asked: Counter[str]) -> None:
    w = world(seconds=3600, poll_interval=60)
    w.push("a", "b")
    w.start()
    for _ in range(4):
        w.poll()
        later(w, 60)
        w.fetcher._janitor._strays.tick(w.now)
    assert asked["inventory"] == 0
    w.cluster.submit([(f"{w.record.identity()}:nobody:1", {})])
    for _ in range(3):
        w.poll()
        later(w, 60)
        w.fetcher._janitor._strays.tick(w.now)
    assert asked["inventory"] == 1
    assert sorted(token.split(":")[1] for token in w.left()) == ["a", "b"]


def test_when_the_clock_of_the_server_was_set_back_all_is_read_again(world: Make) -> None:
    w = world(poll_interval=60, seconds=3600)
    w.push("a")
    w.start()
    w.poll()
    it = poller_of(w.fetcher)
    it._since, it._read_at = polls.after(it._read_at + 9_000_000), it._read_at + 9_000_000  # it was so late
    w.push("b")
    w.start()
    later(w, 60)
    w.poll()
    assert w.state("b")[0] == "running"
    assert it._read_at < 9_000_000 + server_time(w.record) * 1000 - 8_000_000


def test_a_system_that_answers_for_single_launches_has_no_survey(world: Make) -> None:
    assert not ExecutionSystem.surveys
    with pytest.raises(NotImplementedError, match="fake answers for single launches only"):
        ExecutionSystem.survey(world().fetcher._systems["fake"], "r")


def test_explain_says_when_the_system_is_asked_next(world: Make) -> None:
    w = world(seconds=3600, poll_interval=60)
    w.push("a")
    w.start()
    w.poll()
    words = Explainer(w.record).reason(w.client.job("a")).why
    assert re.fullmatch(r"running on fake; fake is asked next in (59|60) s", words)


def test_a_slow_cluster_keeps_nobody_from_its_heartbeat(world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    w = world(poll_interval=60)
    w.push("a")
    w.start()
    it = poller_of(w.fetcher)
    moment = iter(range(0, 10_000, 2))
    monkeypatch.setattr(it, "_clock", lambda: float(next(moment)))  # whatever is done takes two seconds
    turns = 0
    while not w.ended("a"):
        due = polls.due(w.record).get("fake", 0.0)
        it.turn(turns * w.fetcher.lease)
        assert polls.due(w.record)["fake"] >= due  # held for another lease, each time
        turns += 1
    assert turns > 3


def test_what_is_held_and_ended_in_the_record_is_not_released(world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    w = world(seconds=3600, poll_interval=60)
    w.push("a")
    with monkeypatch.context() as patch:
        patch.setattr(FakeSystem, "release", lambda self, handles: None)
        w.start()
        w.poll()
    end = ending.RunEnd(job_id="a", run=1, state="lost", exit='{"evidence":"x"}')
    assert ending.finish(w.record, [end]) == ["ended"]
    for _ in range(3):
        later(w, 60)
        w.poll()
        w.fetcher._janitor._strays.tick(w.now)
    assert w.submissions("a") == [(1, False, False)]
    assert w.left() == []  # a stray
