"""The janitor's scripts and the limits: later, prune, reconcile, regrant, limits, bury."""

from __future__ import annotations

import hashlib
import json

import pytest
from conftest import Server
from driver import Driver
from laws import dump, violations

from jobmill.ledger import admission, capacity, dead, launch, listing, upkeep, wish
from jobmill.ledger.record import Record


@pytest.fixture
def driver(server: Server) -> Driver:
    return Driver(Record(server.url))


def test_what_is_begun_is_under_way_no_more(driver: Driver) -> None:
    """A busy starter has always begun something: granted jobs without an entry must be found all the same."""
    driver.admit("a", "b")
    driver.grant()
    assert listing.entries_under_way(driver.record)
    driver.begun(count=1)
    assert listing.entries_under_way(driver.record)
    driver.client.lmove("Granted_Queue", f"Granted_Queue:taken:{driver.starter.name}", "LEFT", "RIGHT")
    assert listing.entries_under_way(driver.record)
    driver.begun()
    assert driver.client.llen(f"Granted_Queue:taken:{driver.starter.name}") == 1
    assert not listing.entries_under_way(driver.record)


def test_what_is_due_waits_again_250_at_a_time(driver: Driver) -> None:
    names = [f"j{i}" for i in range(250)]
    driver.admit(*names, place="later", due=1)
    driver.admit("more", "later", place="later", due=1)
    driver.admit("future", place="later", due=3e9)
    assert upkeep.wake_due(driver.record) == 250
    assert upkeep.wake_due(driver.record) == 2
    assert upkeep.wake_due(driver.record) == 0
    assert driver.where("Later") == ["future"]
    assert "" in driver.where("Result_Queue")
    assert violations(driver.client) == []


def test_prune_removes_all_of_a_job_and_nothing_else(driver: Driver) -> None:
    driver.start("a", "b", "c", tags=["t"], notify=["ended"])
    driver.finish("a", state="failed", retry_in=0)
    upkeep.wake_due(driver.record)
    driver.grant()
    driver.begin()
    driver.finish("a", run=2)
    driver.finish("b", state="failed")
    assert upkeep.prune(driver.record, 3600) == 0
    assert upkeep.prune(driver.record, 0) == 2
    left = {k.decode() for k in driver.client.keys("*") if b":a" in k or b":b" in k or b"Jobs:" in k}
    assert left == set()
    assert driver.state("c") == "running"
    assert violations(driver.client) == []


def test_prune_never_takes_what_somebody_waits_for(driver: Driver) -> None:
    driver.start("a", "b")
    driver.admit("d", depends_on=["a"])
    driver.finish("a")
    driver.finish("b")
    assert upkeep.prune(driver.record, 0) == 1
    assert driver.state("a") == "done"
    driver.resolve()
    assert driver.where("Waiting:local:ann") == ["d"]
    assert upkeep.prune(driver.record, 0) == 1
    assert violations(driver.client) == []


def test_prune_reaches_all_states_past_those_that_it_keeps(driver: Driver) -> None:
    for i in range(2):
        names = [f"{i}-{n}" for n in range(200)]
        driver.admit(*names)
        wish.cancel(driver.record, names, who="ann", why="")
    driver.client.hset("Capacity", "LocalJobs", 500)
    driver.start(*[f"k{n}" for n in range(30)], *[f"f{n}" for n in range(100)])
    driver.admit(*[f"d{n}" for n in range(30)], depends_on=[f"k{n}" for n in range(30)])
    for n in range(30):
        driver.finish(f"k{n}")
    for n in range(100):
        driver.finish(f"f{n}", state="failed")
    assert upkeep.prune(driver.record, 0, count=20) == 500
    assert driver.client.zcard("Jobs:done") == 30
    assert violations(driver.client) == []


def test_one_prune_call_touches_no_more_than_it_is_told(driver: Driver) -> None:
    driver.start("a", "b", "c", "d")
    for name, state in zip("abcd", ["done", "failed", "cancelled", "lost"], strict=True):
        driver.finish(name, state=state)
    driver.record.run("prune", 0, 1, 0, "failed")
    assert [driver.state(i) for i in "abcd"] == ["done", "", "cancelled", "lost"]


def test_reconcile_removes_members_without_a_right_and_rings(driver: Driver) -> None:
    driver.start("a", "b", needs="LocalJobs User:ann")
    driver.client.sadd("LocalJobs", "ghost", *[f"g{i}" for i in range(600)])
    driver.client.sadd("User:ann", "ghost")
    driver.client.delete("Result_Queue")
    repaired = driver.reconcile("LocalJobs", "User:ann", "Nobody")
    assert len(repaired["LocalJobs"]) == 601
    assert repaired["User:ann"] == ["ghost"]
    assert driver.members("LocalJobs") == {"a", "b"}
    assert driver.client.llen("Result_Queue") >= 1
    driver.client.delete("Result_Queue")
    assert driver.reconcile("LocalJobs", "User:ann") == {}
    assert driver.client.llen("Result_Queue") == 0
    assert violations(driver.client) == []


def test_regrant_pushes_anew_and_the_old_entry_is_void(driver: Driver) -> None:
    driver.start("runs")
    driver.admit("a", "b")
    driver.grant()
    assert [sorted(page.granted) for page in upkeep.reconcile(driver.record, ["LocalJobs"])] == [["a", "b"]]
    assert upkeep.regrant(driver.record, ["a"], 60) == []
    assert upkeep.regrant(driver.record, ["a", "nobody"], 0) == ["a"]
    assert violations(driver.client) == []
    assert sorted(i for i, _, _ in driver.begin()) == ["a", "b"]
    assert driver.field("a", "fence") == "2"
    assert upkeep.regrant(driver.record, ["a"], 0) == []
    assert violations(driver.client) == []


def test_regrant_of_a_job_whose_spec_is_gone_ends_it_and_frees_its_slot(driver: Driver) -> None:
    driver.admit("a", "b")
    driver.grant()
    driver.resolve()
    driver.client.delete("Granted_Queue", "Spec:a")
    assert upkeep.regrant(driver.record, ["a", "b"], 0) == ["b"]
    (row,) = listing.jobs(driver.record, ["a"])
    assert row.state == "failed" and row.exit["reason"] == "spec_missing"
    assert driver.members("LocalJobs") == {"b"}
    assert driver.where("Result_Queue") == [""]
    assert violations(driver.client) == []


def test_regrant_of_a_lost_list(driver: Driver) -> None:
    driver.admit("a")
    driver.grant()
    (old,) = driver.where("Granted_Queue")
    driver.client.delete("Granted_Queue")
    upkeep.regrant(driver.record, ["a"], 0)
    (new,) = driver.where("Granted_Queue")
    assert json.loads(new) == json.loads(old) | {"fence": 2}
    assert new.replace('"fence":2', '"fence":1') == old


def test_limits_are_applied_only_when_the_file_changes_its_word(driver: Driver) -> None:
    assert capacity.apply(driver.record, {"LocalJobs": 4, "User:ann": 2}) == ["User:ann"]
    capacity.set_limit(driver.record, "LocalJobs", 9)
    assert capacity.apply(driver.record, {"LocalJobs": 4, "User:ann": 2}) == []  # a restart
    assert capacity.limits(driver.record)["LocalJobs"] == 9
    assert capacity.apply(driver.record, {"LocalJobs": 5, "User:ann": 2}) == ["LocalJobs"]
    assert capacity.limits(driver.record) == {"LocalJobs": 5, "User:ann": 2}
    assert capacity.apply(driver.record, {"LocalJobs": 5}) == ["User:ann"]  # no longer in the file: open again
    assert capacity.limits(driver.record) == {"LocalJobs": 5}
    capacity.apply(driver.record, {"LocalJobs": 5, "User:ann": 2})
    capacity.apply(driver.record, {"LocalJobs": 5, "User:ann": None})
    assert capacity.limits(driver.record) == {"LocalJobs": 5}
    capacity.set_limit(driver.record, "Licence:x", 1)
    capacity.apply(driver.record, {"LocalJobs": 5, "Licence:x": None})  # the file never had a word on it
    assert capacity.limits(driver.record)["Licence:x"] == 1


def test_usage_tells_sets_amounts_and_limits(driver: Driver) -> None:
    driver.apply({"local.cpus": 8, "local.slots": 2, "Licence:x": 1})
    driver.start("a", needs="LocalJobs local.cpus=3")
    found = {u.name: (u.used, u.limit) for u in capacity.usage(driver.record, ["LocalJobs", "Open"])}
    assert found == {"LocalJobs": (1, 4), "local.cpus": (3, 8), "Licence:x": (0, 1), "Open": (0, None)}


def refuse(driver: Driver, *texts: str) -> None:
    driver.push(*texts)
    batch = admission.take(driver.manager, "Job_Queue", 250)
    admission.admit(driver.manager, batch, [admission.Refusal(reason="because: " + t) for t in texts], 0)


def test_dead_entries_go_back_unchanged_or_away(driver: Driver) -> None:
    refuse(driver, "a\nb: 1\n", "same", "same", "d")
    entries = dead.entries(driver.record)
    assert [e.entry for e in entries] == [b"a\nb: 1\n", b"same", b"same", b"d"]
    assert dead.requeue(driver.record, [entries[0], entries[2]]) == 2
    assert driver.client.lrange("Job_Queue", 0, -1) == [b"a\nb: 1\n", b"same"]
    assert [e.entry for e in dead.entries(driver.record)] == [b"same", b"d"]
    assert dead.requeue(driver.record, [entries[0]]) == 0  # it is not there any more
    assert dead.drop(driver.record, dead.entries(driver.record)) == 2
    assert dead.count(driver.record) == 0
    assert driver.client.llen("Job_Queue") == 2


def test_an_entry_that_moved_is_not_mistaken_for_another(driver: Driver) -> None:
    refuse(driver, "a", "b", "c")
    a, _, c = dead.entries(driver.record)
    assert dead.drop(driver.record, [a]) == 1
    assert dead.drop(driver.record, [c]) == 0
    assert [e.entry for e in dead.entries(driver.record)] == [b"b", b"c"]


def test_naming_an_entry_twice_requeues_it_once(driver: Driver) -> None:
    refuse(driver, "a", "b")
    a, _ = dead.entries(driver.record)
    assert dead.requeue(driver.record, [a, a]) == 1
    assert driver.client.lrange("Job_Queue", 0, -1) == [b"a"]


def test_what_was_pushed_to_dead_queue_by_hand_is_shown(driver: Driver) -> None:
    driver.client.rpush("Dead_Queue", b"\xff plain")
    (one,) = dead.entries(driver.record)
    assert one.entry == b"\xff plain"
    assert one.digest == hashlib.sha1(b"\xff plain").hexdigest()
    assert dead.drop(driver.record, [one]) == 1


def test_a_poisoned_system_ends_in_later_and_not_in_a_loop(driver: Driver) -> None:
    """Aborts count, so that whoever reads the record sees why a job does not start."""
    for n in range(3):
        if n == 0:
            driver.admit("a")
        driver.grant()
        launches = driver.begin()
        launch.abort(driver.record, launches, delay=0.0, why="limit")
    assert driver.field("a", "aborts") == "3"
    before = dump(driver.client, ignore=["Result_Queue", "Events"])
    assert before["Job:a"][b"run"] == b"1"  # type: ignore[index]
