"""Grants: all sets or none, never over a limit, fair among users, nothing starves and nothing sleeps for ever."""

from __future__ import annotations

import json
import threading

import pytest
from conftest import Server
from driver import Driver
from laws import violations

from jobmill.ledger import admission, capacity, listing, wish
from jobmill.ledger.record import Record


@pytest.fixture
def driver(server: Server) -> Driver:
    return Driver(Record(server.url))


def granted(driver: Driver) -> list[str]:
    return [json.loads(e)["id"] for e in driver.where("Granted_Queue")]


def test_a_grant_fills_the_set_to_its_limit_and_no_further(driver: Driver) -> None:
    driver.admit(*"abcdef")
    assert driver.grant() == 4
    assert driver.grant() == 0
    assert driver.members("LocalJobs") == set("abcd")
    assert driver.where("Waiting:local:ann") == ["e", "f"]
    assert violations(driver.client) == []


def test_limit_0_pauses_and_a_higher_one_goes_on(driver: Driver) -> None:
    driver.admit("a", "b")
    capacity.set_limit(driver.record, "LocalJobs", 0)
    assert driver.grant() == 0
    capacity.set_limit(driver.record, "LocalJobs", 1)
    assert driver.grant() == 1
    assert violations(driver.client) == []


def test_lowering_a_limit_evicts_nobody(driver: Driver) -> None:
    driver.start(*"abcd")
    capacity.set_limit(driver.record, "LocalJobs", 1)
    driver.admit("e")
    for name in "abc":
        assert driver.grant() == 0
        driver.finish(name)
    assert driver.grant() == 0
    driver.finish("d")
    assert driver.grant() == 1
    assert violations(driver.client) == []


def test_a_system_without_a_limit_is_closed_and_any_other_set_without_one_is_open(driver: Driver) -> None:
    driver.client.hdel("Capacity", "LocalJobs")
    driver.admit("a", needs="LocalJobs User:ann local.cpus=4")
    assert driver.grant() == 0
    capacity.set_limit(driver.record, "LocalJobs", 1)
    assert driver.grant() == 1
    assert driver.field("a", "holds") == "LocalJobs User:ann local.cpus=4"
    assert driver.members("User:ann") == {"a"}
    assert driver.client.hget("Used", "local.cpus") == b"4"
    assert violations(driver.client) == []


def test_all_sets_or_none(driver: Driver) -> None:
    driver.apply({"Licence:x": 1, "local.cpus": 8})
    driver.admit("a", needs="LocalJobs Licence:x local.cpus=6")
    driver.admit("b", needs="LocalJobs local.cpus=2 Licence:x")
    driver.admit("c", needs="LocalJobs local.cpus=4")
    assert driver.grant() == 1
    assert driver.members("LocalJobs") == driver.members("Licence:x") == {"a"}
    assert driver.client.hget("Used", "local.cpus") == b"6"
    assert driver.where("Full:Licence:x") == ["b"]
    assert driver.where("Full:local.cpus") == ["c"]
    assert violations(driver.client) == []
    driver.begin()
    driver.finish("a")
    assert driver.grant() == 2
    assert driver.client.hget("Used", "local.cpus") == b"6"
    assert violations(driver.client) == []
    driver.begin()
    driver.finish("b")
    driver.finish("c")
    assert driver.client.hget("Used", "local.cpus") == b"0"
    assert violations(driver.client, at_rest=True) == []


def test_an_end_rings_when_somebody_waits_for_room(driver: Driver) -> None:
    driver.apply({"User:ann": 1})
    driver.admit("a", "b", needs="LocalJobs User:ann")
    driver.grant()
    driver.begin()
    driver.resolve()
    assert driver.where("Full:User:ann") == ["b"]
    driver.finish("a")
    assert driver.where("Result_Queue") == [""]
    assert driver.grant() == 1
    assert violations(driver.client) == []


@pytest.mark.parametrize("freed", ["cancel", "hold", "abort", "limit", "no limit", "reconcile"])
def test_whatever_makes_room_rings_and_lets_the_full_return(driver: Driver, freed: str) -> None:
    from jobmill.ledger import launch

    driver.apply({"User:ann": 1})
    if freed == "reconcile":
        driver.client.sadd("User:ann", "ghost")
        driver.admit("b", needs="LocalJobs User:ann")
    else:
        driver.admit("a", "b", needs="LocalJobs User:ann")
    driver.grant()
    assert driver.where("Full:User:ann") == ["b"]
    driver.resolve()
    if freed == "cancel":
        wish.cancel(driver.record, ["a"], who="ann", why="")
    elif freed == "hold":
        wish.hold(driver.record, ["a"])
    elif freed == "abort":
        launches = driver.begin()
        launch.abort(driver.record, launches, delay=60, why="limit")
    elif freed == "limit":
        capacity.set_limit(driver.record, "User:ann", 2)
    elif freed == "no limit":
        driver.apply({"User:ann": None})
    else:
        assert driver.reconcile("User:ann") == {"User:ann": ["ghost"]}
    assert "" in driver.where("Result_Queue")
    assert driver.grant() == 1
    assert driver.state("b") == "granted"
    assert not driver.client.exists("Full:User:ann")
    assert violations(driver.client) == []


def test_full_jobs_return_as_many_as_there_is_room_for_and_in_order(driver: Driver) -> None:
    driver.apply({"local.cpus": 4, "LocalJobs": 10})
    driver.start("a", needs="LocalJobs local.cpus=4")
    driver.admit("b", "c", "d", needs="LocalJobs local.cpus=2")
    driver.grant()
    assert driver.where("Full:local.cpus") == ["b", "c", "d"]
    driver.finish("a")
    assert driver.grant() == 2
    assert granted(driver) == ["b", "c"]
    assert driver.where("Full:local.cpus") == ["d"]
    assert violations(driver.client) == []


def test_a_large_job_reserves_against_those_after_it(driver: Driver) -> None:
    """Small jobs that keep coming must not starve a large one; those that do not need what it waits for pass it."""
    driver.apply({"local.cpus": 4, "LocalJobs": 100})
    driver.start("s0", "s1", needs="LocalJobs local.cpus=2")
    driver.admit("large", needs="LocalJobs local.cpus=4")
    driver.grant()
    for i in range(2):
        driver.finish(f"s{i}")
        driver.admit(f"n{i}", needs="LocalJobs local.cpus=2")
        driver.admit(f"free{i}")
        driver.grant()
        assert driver.state(f"free{i}") == "granted"
        assert violations(driver.client) == []
    assert driver.state("large") == "granted"
    assert driver.where("Full:local.cpus") == ["n0", "n1"]
    driver.begin()
    driver.finish("large")
    assert driver.grant() == 2
    assert violations(driver.client) == []


def test_a_job_of_higher_priority_passes_a_large_one(driver: Driver) -> None:
    driver.apply({"local.cpus": 4, "LocalJobs": 100})
    driver.start("s0", needs="LocalJobs local.cpus=2")
    driver.admit("large", needs="LocalJobs local.cpus=4")
    driver.grant()
    driver.admit("urgent", needs="LocalJobs local.cpus=2", priority=5)
    driver.admit("small", needs="LocalJobs local.cpus=2")
    assert driver.grant() == 1
    assert driver.state("urgent") == "granted"
    assert driver.where("Full:local.cpus") == ["large", "small"]


def test_a_job_that_can_never_fit_reserves_nothing(driver: Driver) -> None:
    driver.apply({"local.cpus": 8, "LocalJobs": 100})
    driver.start("s0", needs="LocalJobs local.cpus=2")
    driver.admit("never", needs="LocalJobs local.cpus=8")
    driver.grant()
    capacity.set_limit(driver.record, "local.cpus", 4)
    driver.admit("a", "b", needs="LocalJobs local.cpus=2")
    assert driver.grant() == 1
    driver.finish("s0")
    assert driver.grant() == 1
    assert driver.where("Full:local.cpus") == ["never"]
    capacity.set_limit(driver.record, "local.cpus", 8)
    driver.begin()
    driver.finish("a")
    driver.finish("b")
    assert driver.grant() == 1
    assert driver.state("never") == "granted"
    assert violations(driver.client) == []


def test_fair_share_takes_turns_among_users(driver: Driver) -> None:
    capacity.set_limit(driver.record, "LocalJobs", 100)
    driver.admit(*[f"a{i}" for i in range(20)], user="ann")
    driver.grant(10)
    driver.admit(*[f"b{i}" for i in range(20)], user="bob")  # returns at the lowest rank present: no 10 jobs ahead
    driver.grant(8)
    new = granted(driver)[10:]
    assert sorted(i[0] for i in new) == ["a"] * 4 + ["b"] * 4
    assert [i for i in new if i[0] == "a"] == ["a10", "a11", "a12", "a13"]
    assert violations(driver.client) == []


def test_one_users_full_set_does_not_stop_another(driver: Driver) -> None:
    driver.apply({"User:ann": 1, "LocalJobs": 100})
    driver.admit(*[f"a{i}" for i in range(50)], needs="LocalJobs User:ann", user="ann")
    driver.admit("b0", "b1", needs="LocalJobs User:bob", user="bob")
    assert driver.grant() == 3
    assert driver.client.zcard("Full:User:ann") == 49
    assert violations(driver.client) == []


def test_without_slots_or_pace_nothing_is_granted_ahead(driver: Driver) -> None:
    driver.apply({"LocalJobs": 100, "local.slots": 2})
    driver.admit(*[f"j{i}" for i in range(50)])
    assert driver.grant() == 2


@pytest.mark.parametrize(("pace", "ahead"), [(1.0, 64), (50.0, 2), (10.0, 10), (101.0, 0)])
def test_ahead_of_slots_goes_what_starts_within_50_ms(driver: Driver, pace: float, ahead: int) -> None:
    driver.apply({"LocalJobs": 1000, "local.slots": 2})
    driver.client.hset("Pace", "local", str(pace))
    driver.admit(*[f"j{i}" for i in range(80)])
    assert driver.grant() == 2 + ahead
    assert violations(driver.client) == []


def test_the_sets_limit_stands_above_what_may_go_ahead(driver: Driver) -> None:
    driver.apply({"LocalJobs": 3, "local.slots": 2})
    driver.client.hset("Pace", "local", "1")
    driver.admit(*[f"j{i}" for i in range(80)])
    assert driver.grant() == 3


@pytest.mark.parametrize("needs", ["LocalJobs local.cpus=1", "LocalJobs Licence:x"])
def test_what_holds_amounts_or_named_sets_never_goes_ahead_of_a_slot(driver: Driver, needs: str) -> None:
    driver.apply({"LocalJobs": 1000, "local.slots": 2})
    driver.client.hset("Pace", "local", "1")
    driver.admit(*[f"j{i}" for i in range(10)], needs=needs)
    assert driver.grant() == 2


def test_finish_teaches_the_pace(driver: Driver) -> None:
    from jobmill.ledger import ending

    def end(name: str, wall: float) -> None:
        ending.finish(
            driver.record, [ending.RunEnd(job_id=name, run=1, state="done", exit='{"evidence":"r"}', wall=wall)]
        )

    driver.start("a", "b")
    end("a", 2.0)
    assert float(driver.client.hget("Pace", "local")) == 2000
    end("b", 1.0)
    assert float(driver.client.hget("Pace", "local")) == 1900


def test_many_clients_at_once_never_go_over_a_limit(driver: Driver) -> None:
    driver.apply({"LocalJobs": 17, "local.cpus": 20, "User:ann": 11})
    for n in range(3):
        driver.admit(*[f"p{n}-{i}" for i in range(30)])
        driver.admit(*[f"c{n}-{i}" for i in range(30)], needs="LocalJobs local.cpus=3 User:ann")
    seen: list[str] = []
    over: list[tuple[int, int, int]] = []
    stop = threading.Event()

    def watch() -> None:
        client = Record(driver.record.url).client
        while not stop.is_set():
            pipe = client.pipeline(transaction=True)
            row = pipe.scard("LocalJobs").hget("Used", "local.cpus").scard("User:ann").execute()
            if row[0] > 17 or int(row[1] or 0) > 20 or row[2] > 11:
                over.append((row[0], int(row[1]), row[2]))

    def work() -> None:
        mine = Driver(Record(driver.record.url), limits=driver.limits)
        for _ in range(200):
            admission.grant(mine.record, "local", "LocalJobs", 5)
            for job_id, run, _fence in mine.begin(count=3):
                mine.finish(job_id, run)
                seen.append(job_id)
            if len(seen) >= 180:
                break

    watcher = threading.Thread(target=watch)
    watcher.start()
    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(30)
    stop.set()
    watcher.join(5)
    assert over == []
    assert sorted(seen) == sorted(set(seen))
    assert len(seen) == 180
    assert violations(driver.client) == []
    assert driver.client.hget("Used", "local.cpus") == b"0"


def test_an_index_entry_that_nothing_stands_behind_is_dropped(driver: Driver) -> None:
    driver.admit("a", "b")
    driver.client.unlink("Job:a")
    assert driver.grant() == 1
    assert granted(driver) == ["b"]
    assert violations(driver.client) == []


def test_who_stood_back_for_a_job_that_then_waits_for_another_set_is_granted_at_once(driver: Driver) -> None:
    driver.apply({"User:ann": 1, "local.cpus": 3})
    driver.start("x", needs="LocalJobs local.cpus=3")
    driver.admit("a", "b", needs="LocalJobs local.cpus=3 User:ann")
    driver.grant()
    driver.admit("c", needs="LocalJobs local.cpus=3")
    driver.grant()
    assert driver.where("Full:local.cpus") == ["a", "b", "c"]
    driver.client.sadd("User:ann", "somebody")
    driver.finish("x")
    assert driver.grant() == 1  # a and b have room for their cpus, and wait for ann: c does not wait for them
    assert driver.state("c") == "granted"
    assert driver.where("Full:User:ann") == ["a", "b"]


def test_jobs_that_can_never_fit_do_not_keep_others_from_being_granted(driver: Driver) -> None:
    driver.apply({"local.cpus": 8})
    driver.start("x", needs="LocalJobs local.cpus=8")
    for some in "mn":
        driver.admit(*[f"{some}{i}" for i in range(250)], needs="LocalJobs local.cpus=8")
        driver.grant()
    assert len(driver.where("Full:local.cpus")) == 500
    driver.apply({"local.cpus": 4})
    driver.finish("x")
    driver.admit("plain")
    driver.admit("small", needs="LocalJobs local.cpus=2")
    assert driver.grant() == 2
    assert {driver.state("plain"), driver.state("small")} == {"granted"}


def test_the_census_counts_all_that_wait(driver: Driver) -> None:
    driver.apply({"User:ann": 0})
    driver.admit("a", "b", needs="LocalJobs User:ann")
    driver.admit("c", depends_on=["a"])
    driver.admit("d", user="bob")
    driver.grant(0)
    assert listing.waiting(driver.record) == 4
    driver.grant()
    assert listing.waiting(driver.record) == 3
    assert driver.client.zcard("Full:User:ann") == 2


def test_250_grants_in_one_call(driver: Driver) -> None:
    capacity.set_limit(driver.record, "LocalJobs", 1000)
    driver.admit(*[f"j{i}" for i in range(250)], needs="LocalJobs User:ann local.cpus=2 local.memory=9007199254740")
    driver.admit(*[f"k{i}" for i in range(250)])
    assert driver.grant(250) == 250
    assert driver.client.hget("Used", "local.memory") == str(250 * 9007199254740).encode()
    assert driver.grant(250) == 250
    assert violations(driver.client) == []


def test_a_job_whose_spec_is_gone_ends_and_tells_it_and_the_others_are_granted(driver: Driver) -> None:
    driver.admit("a", "b", "c", tags=("t",))
    driver.admit("after-b", depends_on=("b",))
    driver.client.delete("Spec:b")
    assert driver.grant() == 2
    assert granted(driver) == ["a", "c"]
    (row,) = listing.jobs(driver.record, ["b"])
    assert row.state == "not_run" and row.exit["reason"] == "spec_missing" and "Spec:b" in row.exit["message"]
    assert driver.where("Jobs:not_run") == driver.where("Jobs:by-tag:t") == ["b"]
    assert violations(driver.client) == []
    driver.resolve()
    assert driver.state("after-b") == "not_run"
    assert driver.members("LocalJobs") == {"a", "c"}
    assert violations(driver.client) == []


def test_large_specs_are_granted_in_several_calls_and_the_caller_knows(driver: Driver) -> None:
    large = json.dumps({"command": "true", "env": {"X": "x" * (5 << 20)}})
    names = ["large-1", "large-2", "large-3", "large-4", "small"]
    driver.apply({"LocalJobs": 9})
    driver.admit(*names[:4], spec=large)
    driver.admit("huge", spec=large.replace("xxx", "xxxxxxxxxxxx"))
    driver.admit("small")
    answers = []
    while True:
        answers.append(admission.grant(driver.record, "local", "LocalJobs", 250))
        assert violations(driver.client) == []
        if not answers[-1].cut:
            break
    assert [(a.jobs, a.cut) for a in answers] == [(3, True), (1, True), (1, True), (1, False)]
    assert granted(driver) == [*names[:4], "huge", "small"]
