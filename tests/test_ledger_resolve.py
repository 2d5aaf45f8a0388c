"""Dependents are driven from Result_Queue: chains, conditions, many, and none is left behind."""

from __future__ import annotations

import pytest
from conftest import Server
from driver import Driver
from laws import dump, violations

from jobmill.errors import Evicted
from jobmill.ledger import admission, ending, listing, membership, upkeep, wish
from jobmill.ledger.record import Record


@pytest.fixture
def driver(server: Server) -> Driver:
    return Driver(Record(server.url))


def test_a_job_waits_for_all_of_its_dependencies(driver: Driver) -> None:
    driver.admit("d", depends_on=["a", "b", "c"])
    driver.start("a", "b", "c")
    for name, rest in [("b", "2"), ("a", "1"), ("c", "0")]:
        assert driver.where("Blocked") == ["d"]
        driver.finish(name)
        driver.resolve()
        assert driver.field("d", "blocked") == rest
        assert violations(driver.client) == []
    assert driver.grant() == 1
    assert not driver.client.keys("Job:*:dependents")


@pytest.mark.parametrize(
    ("after", "ends", "state"),
    [("ok", "done", "waiting"), ("ok", "failed", "not_run"), ("any", "failed", "waiting"), ("any", "done", "waiting"),
     ("failed", "failed", "waiting"), ("failed", "lost", "waiting"), ("failed", "done", "not_run"),
     ("ok", "cancelled", "not_run"), ("failed", "cancelled", "not_run"), ("any", "cancelled", "waiting")],
)  # fmt: skip
def test_conditions(driver: Driver, after: str, ends: str, state: str) -> None:
    driver.admit("d", depends_on=["a"], after=after)
    driver.start("a")
    driver.finish("a", state=ends)
    driver.resolve()
    assert driver.state("d") == state
    if state == "not_run":
        (row,) = listing.jobs(driver.record, ["d"])
        assert row.exit["reason"] == "dependency_failed"
        assert "a" in row.exit["message"]
        assert ends in row.exit["message"]
    assert violations(driver.client) == []


def test_a_chain_falls_to_its_end(driver: Driver) -> None:
    for i in range(1, 30):
        driver.admit(f"c{i}", depends_on=[f"c{i - 1}"])
    driver.start("c0")
    driver.finish("c0", state="failed")
    driver.resolve()
    assert {driver.state(f"c{i}") for i in range(1, 30)} == {"not_run"}
    assert violations(driver.client, at_rest=True) == []
    assert not driver.client.keys("Job:*:dependents")


@pytest.mark.parametrize("parked", ["held", "later"])
def test_parked_dependents_are_resolved_where_they_are(driver: Driver, parked: str) -> None:
    driver.admit("d", "f", depends_on=["a"], place=parked, due=1)
    driver.admit("e", depends_on=["b"], place=parked, due=1)
    driver.start("a", "b")
    driver.finish("a")
    driver.finish("b", state="failed")
    driver.resolve()
    assert [driver.state(i) for i in "dfe"] == [parked, parked, "not_run"]
    assert violations(driver.client) == []
    if parked == "held":
        wish.unhold(driver.record, ["d", "f"])
    else:
        upkeep.wake_due(driver.record)
    assert driver.grant() == 2
    assert violations(driver.client) == []


def test_more_than_250_dependents_take_several_calls_and_end_in_one_turn(driver: Driver) -> None:
    names = [f"d{i}" for i in range(700)]
    for i in range(0, 700, 250):
        driver.admit(*names[i : i + 250], depends_on=["a", "b"])
    driver.start("a", "b")
    driver.resolve()
    driver.finish("a")
    driver.finish("b")
    batch = admission.take(driver.manager, "Result_Queue", 250)
    args = (driver.manager.name, "Result_Queue", batch.turn, len(batch.entries), *batch.entries)
    left = driver.record.run("resolve", *args)
    # one call looked at 250 at most, and the entries stay until all is done: a manager that dies here loses nothing
    touched = 1400 - driver.client.scard("Job:a:dependents") - driver.client.scard("Job:b:dependents")
    assert touched == 250
    assert left
    assert admission.take(driver.manager, "Result_Queue", 250) == batch
    assert violations(driver.client) == []
    assert ending.resolve(driver.manager, batch) == 2
    assert driver.client.zcard("Waiting:local:ann") == 700
    assert driver.client.llen("Result_Queue") == 0
    assert not driver.client.exists(f"Result_Queue:taken:{driver.manager.name}")
    assert violations(driver.client) == []


def test_the_same_turn_again_drops_nothing_else(driver: Driver) -> None:
    driver.admit("d", depends_on=["a"])
    driver.start("a")
    driver.resolve()
    driver.finish("a")
    driver.client.rpush("Result_Queue", "next")
    batch = admission.take(driver.manager, "Result_Queue", 1)
    ending.resolve(driver.manager, batch)
    assert list(admission.take(driver.manager, "Result_Queue", 1).entries) == [b"next"]
    before = dump(driver.client)
    ending.resolve(driver.manager, batch)
    assert dump(driver.client) == before


def test_an_evicted_manager_resolves_nothing_and_its_entries_are_resolved_by_another(driver: Driver) -> None:
    driver.admit("d", depends_on=["a"])
    driver.start("a")
    driver.finish("a")
    batch = admission.take(driver.manager, "Result_Queue", 250)
    membership.recover(driver.record, driver.manager.name, ["Result_Queue"], proved=True)
    with pytest.raises(Evicted):
        ending.resolve(driver.manager, batch)
    assert driver.where("Blocked") == ["d"]
    driver.manager.register()
    driver.resolve()
    assert driver.where("Waiting:local:ann") == ["d"]


def test_an_end_that_was_retried_by_hand_before_it_was_resolved_is_no_end(driver: Driver) -> None:
    driver.admit("d", depends_on=["a"])
    driver.start("a")
    driver.finish("a", state="failed")
    wish.retry(driver.record, ["a"])
    driver.resolve()
    assert driver.where("Blocked") == ["d"]
    driver.grant()
    driver.begin()
    driver.finish("a", run=2)
    driver.resolve()
    assert driver.where("Waiting:local:ann") == ["d"]
    assert violations(driver.client) == []


def test_a_dependent_that_ended_and_was_pruned_does_not_release_another_of_its_id(driver: Driver) -> None:
    driver.start("a")
    driver.admit("d", depends_on=["a"])
    wish.cancel(driver.record, ["d"], who="ann", why="")
    driver.resolve()
    assert upkeep.prune(driver.record, 0) == 1
    driver.admit("d", depends_on=["c"])
    driver.finish("a")
    driver.resolve()
    assert driver.where("Blocked") == ["d"]
    assert driver.field("d", "blocked") == "1"
    assert violations(driver.client) == []


def test_names_that_nobody_knows_and_rings_are_passed_over(driver: Driver) -> None:
    driver.client.rpush("Result_Queue", "", "nobody", "", "x y")
    driver.resolve()
    assert driver.client.llen("Result_Queue") == 0
    assert driver.client.hget(f"Process:{driver.manager.name}", "turn:Result_Queue") == b"1"
