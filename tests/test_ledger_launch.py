"""Launches: begin once, commit or be refused, give back, and after a crash: investigate and seal."""

from __future__ import annotations

import json
import time

import pytest
from conftest import Server
from driver import Driver
from laws import dump, violations

from jobmill.errors import Evicted
from jobmill.ledger import dead, launch, listing, membership, poll, wish
from jobmill.ledger.launch import Commitment
from jobmill.ledger.record import Record
from jobmill.systems import launch_token


@pytest.fixture
def driver(server: Server) -> Driver:
    return Driver(Record(server.url))


def commit(driver: Driver, name: str, fence: int, *, run: int = 1, state: str = "running", **more: str) -> str:
    return launch.commit(
        driver.record, [Commitment(job_id=name, run=run, fence=fence, state=state, poll_in=5, **more)]
    )[0]


def test_begin_moves_to_starting_with_a_lease_an_owner_and_the_handle(driver: Driver) -> None:
    driver.admit("a")
    driver.grant()
    assert driver.begin(lease=30) == [("a", 1, 1)]
    assert driver.state("a") == "starting"
    assert driver.field("a", "owner") == driver.starter.name
    arrival = launch.standings(driver.record, ["a"])["a"].arrival
    assert driver.field("a", "handle") == f"here/{launch_token.life(driver.starter.identity, arrival)}:a:1"
    lease = driver.client.zscore("Starting_Queue", "a") / 1000 - membership.server_time(driver.record)
    assert 28 < lease <= 30
    assert violations(driver.client) == []


def test_begin_of_the_same_turn_gives_the_same_answer_and_changes_nothing(driver: Driver) -> None:
    driver.admit("a", "b", "c")
    driver.grant()
    first = driver.begun(turn=0, count=2)
    assert (first.went, first.turn, first.cut) == ([True, True], 1, True)
    before = dump(driver.client)
    again = driver.begun(turn=0, count=2)
    assert (again.entries, again.went, again.turn, again.cut) == (first.entries, first.went, 1, True)
    assert dump(driver.client) == before


def test_what_was_begun_stands_there_until_the_next_turn(driver: Driver) -> None:
    driver.admit("a", "b")
    driver.grant()
    mine = f"Granted_Queue:taken:{driver.starter.name}"
    assert driver.begun(count=1).went == [True]
    assert len(driver.where(mine)) == 1
    assert driver.begun(count=1).went == [True]
    assert [json.loads(entry)["id"] for entry in driver.where(mine)] == ["b"]
    assert driver.begun(count=0).turn == 2  # lets go and takes nothing
    assert driver.where(mine) == []
    driver.admit("c")
    driver.grant()
    assert driver.begun(count=0).cut and driver.where(mine) == []
    assert driver.begin() == [("c", 1, 1)]


def test_a_turn_that_is_over_or_unknown_begins_nothing_and_tells_the_one_that_counts(driver: Driver) -> None:
    """As an old call that arrives late; and as after a record was restored from a copy."""
    driver.admit("a", "b", "c")
    driver.grant()
    driver.begin(count=1)
    driver.begin(count=1)
    before = dump(driver.client)
    for turn in (0, 3, 50):
        told = driver.begun(turn=turn)
        assert (told.entries, told.turn, told.cut) == ([], 2, True)
    assert dump(driver.client) == before


def test_many_bytes_are_begun_in_several_turns(driver: Driver) -> None:
    driver.admit(*"abcd")
    driver.grant()
    first = driver.begun(most=200)
    assert (len(first.entries), first.cut) == (2, True)
    rest = driver.begun(most=10_000)
    assert [json.loads(e)["id"] for e in [*first.entries, *rest.entries]] == list("abcd") and not rest.cut
    assert violations(driver.client) == []


def test_begin_is_void_for_another_process(driver: Driver) -> None:
    driver.admit("a")
    driver.grant()
    (line,) = driver.where("Granted_Queue")
    driver.begin()
    driver.client.rpush("Granted_Queue", line)  # the entry came back, as after a recovery
    assert driver.begin(driver.member("starter")) == []
    assert driver.field("a", "owner") == driver.starter.name
    assert driver.client.llen("Granted_Queue") == 0
    assert violations(driver.client) == []


def test_an_entry_that_stands_there_twice_starts_one_launch(driver: Driver) -> None:
    driver.admit("a")
    driver.grant()
    (line,) = driver.where("Granted_Queue")
    driver.client.rpush("Granted_Queue", line)
    assert driver.begun(turn=0).went == [True, False]
    assert driver.begun().went == [True, False]
    driver.client.rpush("Granted_Queue", line)
    assert driver.begin() == []


def test_begin_is_void_for_an_old_fence_a_cancelled_and_a_held_job(driver: Driver) -> None:
    driver.admit("a", "b", "c")
    driver.grant()
    wish.hold(driver.record, ["a"])
    wish.unhold(driver.record, ["a"])
    driver.grant()  # a stands twice in the list now: one entry of them is void
    wish.cancel(driver.record, ["b"], who="ann", why="")
    wish.hold(driver.record, ["c"])
    begun = driver.begun()
    assert [json.loads(e)["id"] for e in begun.entries] == ["a", "b", "c", "a"]
    assert begun.went == [False, False, False, True]
    assert [driver.state(i) for i in "abc"] == ["starting", "cancelled", "held"]
    assert violations(driver.client) == []


NO_GRANTED_JOBS = [
    "nonsense",
    '{"id":"a","fence":1,"run":1,"arrival":1,"system":"local"}',
    '{"id":"a b","fence":1,"run":1,"arrival":1,"system":"local","spec":{}}',
    '{"id":"a","fence":"1","run":1,"arrival":1,"system":"local","spec":{}}',
    '{"id":"a","fence":1,"run":null,"arrival":1,"system":"local","spec":{}}',
    '{"id":["a"],"fence":1,"run":1,"arrival":1,"system":"local","spec":{}}',
    '{"id":"a","fence":1,"run":1,"arrival":1,"system":7,"spec":{}}',
    "[" * 2000 + ',"spec":{}}',
    '"x","spec":{}}',
]


@pytest.mark.parametrize("text", NO_GRANTED_JOBS)
def test_begin_buries_what_is_no_granted_job_once(driver: Driver, text: str) -> None:
    driver.client.rpush("Granted_Queue", text)
    for _ in range(2):
        begun = driver.begun(turn=0)
        assert (begun.entries, begun.went) == ([b""], [False])
    membership.recover(driver.record, driver.starter.name, ["Granted_Queue"], proved=True)
    assert driver.begin(driver.member("starter")) == []
    (one,) = dead.entries(driver.record)
    assert one.entry == text.encode()
    assert driver.where("Granted_Queue") == []


def test_a_record_that_is_not_whole_is_void_and_stops_no_other(driver: Driver) -> None:
    driver.admit(*"abcd")
    driver.grant()
    driver.client.hdel("Job:a", "score")
    driver.client.hdel("Job:b", "system")
    driver.client.delete("Job:c")
    driver.client.rpush("Job:c", "x")
    assert driver.begin() == [("d", 1, 1)]


def test_a_long_odd_entry_costs_no_more_than_its_length(driver: Driver) -> None:
    driver.client.rpush("Granted_Queue", ',"spec":' * 100_000)
    began = time.monotonic()
    assert driver.begin() == []
    assert time.monotonic() - began < 0.5


def test_large_entries_are_moved_only_as_they_are_begun(driver: Driver) -> None:
    driver.admit("a")
    driver.grant()
    (line,) = driver.where("Granted_Queue")
    driver.client.rpush("Granted_Queue", *[line + " " * 1_000_000 + "}"] * 60)
    begun = driver.begun(most=4_000_000)
    assert (begun.went[0], len(begun.entries), begun.cut) == (True, 5, True)
    assert driver.client.llen(f"Granted_Queue:taken:{driver.starter.name}") < 20


def test_begin_by_an_evicted_starter_is_refused(driver: Driver) -> None:
    driver.admit("a")
    driver.grant()
    driver.client.lmove("Granted_Queue", f"Granted_Queue:taken:{driver.starter.name}", "LEFT", "RIGHT")
    membership.recover(driver.record, driver.starter.name, ["Granted_Queue"], proved=True)
    with pytest.raises(Evicted):
        driver.begun()
    assert driver.begin(driver.member("starter")) == [("a", 1, 1)]


def test_what_a_dead_starter_had_begun_comes_back_void(driver: Driver) -> None:
    driver.admit("a")
    driver.grant()
    driver.begun()
    membership.recover(driver.record, driver.starter.name, ["Granted_Queue"], proved=True)
    assert len(driver.where("Granted_Queue")) == 1
    assert driver.begin(driver.member("starter")) == []
    assert (driver.state("a"), driver.field("a", "owner")) == ("starting", driver.starter.name)
    assert violations(driver.client) == []


def test_commit_writes_what_the_system_said(driver: Driver) -> None:
    driver.admit("a")
    driver.grant()
    driver.begin()
    assert commit(driver, "a", 1, state="submitted", handle="new", native="4711") == "ok"
    assert (driver.state("a"), driver.field("a", "handle"), driver.field("a", "native")) == ("submitted", "new", "4711")
    assert driver.where("Starting_Queue") == []
    assert violations(driver.client) == []


def test_commit_again_is_ok_and_does_not_undo_the_news_of_a_poll(driver: Driver) -> None:
    driver.admit("a")
    driver.grant()
    driver.begin()
    commit(driver, "a", 1, state="submitted", handle="x")
    poll.touch(driver.record, [poll.Seen(job_id="a", run=1, state="running", poll_in=60)])
    before = dump(driver.client)
    assert commit(driver, "a", 1, state="submitted", handle="x") == "ok"
    assert dump(driver.client) == before
    assert driver.state("a") == "running"


def test_commit_after_the_investigators_unknown_is_taken(driver: Driver) -> None:
    driver.admit("a")
    driver.grant()
    driver.begin()
    poll.touch(driver.record, [poll.Seen(job_id="a", run=1, state="unknown", poll_in=60)])
    assert commit(driver, "a", 1, handle="x") == "ok"
    assert (driver.state("a"), driver.field("a", "handle")) == ("running", "x")
    assert violations(driver.client) == []


def test_commit_returns_the_wish_and_makes_the_job_due_now(driver: Driver) -> None:
    driver.admit("a")
    driver.grant()
    driver.begin()
    assert wish.cancel(driver.record, ["a"], who="ann", why="typo") == {"a": "wished"}
    assert json.loads(commit(driver, "a", 1))["why"] == "typo"
    (due,) = driver.claim()
    assert json.loads(due.wish)["who"] == "ann"
    assert violations(driver.client) == []


def test_commit_is_refused_for_another_run_fence_or_nobody(driver: Driver) -> None:
    driver.admit("a", "g")
    driver.grant()
    driver.begin(count=1)
    before = dump(driver.client)
    assert [commit(driver, "a", 2), commit(driver, "a", 1, run=2), commit(driver, "x", 1)] == ["stale"] * 3
    assert commit(driver, "g", 1) == "stale"  # granted: nobody began it
    assert dump(driver.client) == before


def test_an_end_may_come_before_its_commit(driver: Driver) -> None:
    driver.admit("a", "r")
    driver.grant()
    driver.begin()
    assert driver.finish("a") == "ended"
    assert commit(driver, "a", 1) == "ended"
    assert driver.finish("r", state="failed", retry_in=60) == "later"
    assert commit(driver, "r", 1) == "stale"
    assert (driver.state("a"), driver.state("r")) == ("done", "later")
    assert violations(driver.client) == []


def test_abort_gives_everything_back_and_costs_neither_run_nor_retry(driver: Driver) -> None:
    driver.admit("a", "b", needs="LocalJobs local.cpus=2")
    driver.grant()
    (a, b) = driver.begin()
    assert launch.abort(driver.record, [a], delay=60, why="QOSMaxSubmit") == ["later"]
    assert launch.abort(driver.record, [b], delay=0, why="x") == ["waiting"]
    (row, _) = listing.jobs(driver.record, ["a", "b"])
    assert (row.state, row.run, row.fence, row.facts["why"]) == ("later", 1, 2, "QOSMaxSubmit")
    assert "retries" not in row.facts
    assert driver.client.hget("Used", "local.cpus") == b"0"
    assert violations(driver.client) == []
    before = dump(driver.client, ignore=["Result_Queue"])
    assert launch.abort(driver.record, [a, b], delay=0, why="again") == ["stale", "stale"]
    assert dump(driver.client, ignore=["Result_Queue"]) == before


def test_abort_of_a_job_with_a_wish_cancels_it(driver: Driver) -> None:
    driver.admit("a")
    driver.grant()
    launches = driver.begin()
    wish.cancel(driver.record, ["a"], who="ann", why="typo")
    assert launch.abort(driver.record, launches, delay=0, why="") == ["cancelled"]
    assert driver.state("a") == "cancelled"
    assert violations(driver.client) == []


def test_a_lease_that_ran_out_is_investigated_by_one(driver: Driver) -> None:
    driver.admit("a", "b")
    driver.grant()
    driver.begin(count=1, lease=0)
    driver.begin(count=1, lease=30)
    (found,) = launch.expired(driver.record, "", 250, 30)
    assert (found.job_id, found.run, found.fence, found.system) == ("a", 1, 1, "local")
    assert (found.owner, found.handle, found.seals) == (driver.starter.name, driver.field("a", "handle"), 0)
    assert launch.expired(driver.record, "", 250, 30) == []
    assert driver.state("a") == "starting"
    assert violations(driver.client) == []


def test_a_heartbeat_renews_the_leases_of_its_own_launches_only(driver: Driver) -> None:
    driver.admit("a")
    driver.grant()
    driver.begin(lease=0)
    other = driver.member("starter")
    other.beat(starting=["a"], lease=30)
    assert driver.client.zscore("Starting_Queue", "a") / 1000 < membership.server_time(driver.record) + 1
    driver.starter.beat(starting=["a", "nobody"], lease=30)
    assert launch.expired(driver.record, "", 250, 30) == []


def test_the_launches_of_a_dead_owner_expire_at_once(driver: Driver) -> None:
    driver.admit("a", "b")
    driver.grant()
    other = driver.member("starter")
    driver.begin(count=1)
    driver.begin(other, count=1)
    assert launch.expire(driver.record, "", other.name) == 1
    assert [e.job_id for e in launch.expired(driver.record, "", 250, 30)] == ["b"]


def test_seal_waits_again_under_the_next_run_without_a_retry(driver: Driver) -> None:
    driver.admit("a")
    driver.grant()
    launches = driver.begin(lease=0)
    assert launch.seal(driver.record, launches, "the marker was free") == ["waiting"]
    (row,) = listing.jobs(driver.record, ["a"])
    assert (row.state, row.run, row.fence, row.facts["seals"]) == ("waiting", 2, 2, "1")
    assert "retries" not in row.facts
    assert "handle" not in row.facts
    (run,) = listing.runs(driver.record, "a")
    assert (run["run"], run["reason"], run["evidence"]) == (1, "sealed", "the marker was free")
    assert violations(driver.client) == []
    before = dump(driver.client, ignore=["Result_Queue"])
    assert launch.seal(driver.record, launches, "again") == ["stale"]
    assert dump(driver.client, ignore=["Result_Queue"]) == before
    # the zombie that began it
    assert commit(driver, "a", 1) == "stale"
    assert driver.finish("a", 1) == "stale"
    driver.grant()
    assert driver.begin(driver.member("starter")) == [("a", 2, 3)]
    assert violations(driver.client) == []


def test_seal_forgets_what_was_seen_of_the_old_run(driver: Driver) -> None:
    """Else the next run would count as absent since the old one was, and be lost at its first poll."""
    driver.admit("a")
    driver.grant()
    launches = driver.begin()
    seen = {"absent": "now", "host": "n1", "native_state": "PD", "progress": "1/2"}
    poll.touch(driver.record, [poll.Seen(job_id="a", run=1, state="unknown", poll_in=0, fields=seen)])
    launch.seal(driver.record, launches, "cancelled while held")
    driver.grant()
    driver.commit(*driver.begin())
    (due,) = driver.claim()
    assert (due.run, due.absent, due.killed) == (2, 0, 0)
    assert not set(seen) & set(listing.jobs(driver.record, ["a"])[0].facts)


def test_seal_of_a_job_with_a_wish_cancels_it_with_the_evidence(driver: Driver) -> None:
    driver.admit("a")
    driver.grant()
    launches = driver.begin(lease=0)
    wish.cancel(driver.record, ["a"], who="ann", why="typo")
    (found,) = launch.expired(driver.record, "", 250, 30)
    assert json.loads(found.wish)["why"] == "typo"
    assert launch.seal(driver.record, launches, "marker taken") == ["cancelled"]
    (row,) = listing.jobs(driver.record, ["a"])
    assert row.exit["evidence"] == "marker taken"
    assert commit(driver, "a", 1) == "ended"
    assert violations(driver.client) == []


def test_an_expired_entry_whose_job_moved_on_is_dropped(driver: Driver) -> None:
    driver.start("a")
    driver.client.zadd("Starting_Queue", {"a": 0, "nobody": 0})
    assert launch.expired(driver.record, "", 250, 30) == []
    assert driver.where("Starting_Queue") == []


def test_250_launches_in_one_call(driver: Driver) -> None:
    driver.client.hset("Capacity", "LocalJobs", 250)
    launches = driver.start(*[f"j{i}" for i in range(250)])
    assert len(launches) == 250
    assert len(driver.claim()) == 250
    assert launch.seal(driver.record, launches, "x") == ["waiting"] * 250
    assert violations(driver.client) == []
