"""A full server (maxmemory, noeviction) refuses whole what adds, and still lets every end through."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest
from conftest import Server
from driver import DONE, FAILED, Driver, entry
from laws import dump, violations

from jobmill.errors import ServerFull
from jobmill.ledger import admission, dead, ending, launch, membership, poll, upkeep, wish
from jobmill.ledger.record import Record


@pytest.fixture
def driver(server: Server) -> Iterator[Driver]:
    driver = Driver(Record(server.url))
    driver.client.config_set("maxmemory-policy", "noeviction")
    yield driver
    driver.client.config_set("maxmemory", 0)


def fill(driver: Driver) -> None:
    """Let the server be full from now on."""
    driver.client.config_set("maxmemory", 1)
    with pytest.raises(ServerFull):
        driver.record.call("SET", "x", "y")


def refused(driver: Driver, act: Callable[[], object]) -> None:
    """The call is refused, and the record is as it was."""
    before = dump(driver.client)
    with pytest.raises(ServerFull, match="maxmemory"):
        act()
    assert dump(driver.client) == before


def test_what_adds_is_refused_whole(driver: Driver) -> None:
    driver.apply({"User:ann": 1, "LocalJobs": 9})
    driver.admit("g")
    driver.grant()
    driver.admit("w", "x", "y", needs="LocalJobs User:ann")
    driver.grant()  # x and y stand in Full:User:ann
    driver.begin(count=1)
    driver.start("e", needs="LocalJobs")
    driver.finish("e")
    wish.cancel(driver.record, ["w"], who="ann", why="")
    driver.admit("g2")
    driver.grant(1)
    driver.admit("c")
    driver.grant()
    begun = driver.begin(count=1)
    driver.admit("h")
    driver.push("new", "stream")
    batch = admission.take(driver.manager, "Job_Queue", 250)
    (granted,) = driver.where("Granted_Queue")
    row = json.loads(granted)
    fill(driver)
    commitments = [launch.Commitment(job_id=i, run=r, fence=f, state="running") for i, r, f in begun]
    refused(driver, lambda: admission.admit(driver.manager, batch, [entry("new")], 0))
    refused(driver, lambda: admission.admit(driver.manager, batch, [admission.Refusal(reason="x")], 0))
    refused(driver, lambda: admission.split(driver.manager, batch, ["a", "b"]))
    refused(driver, lambda: driver.grant())
    refused(driver, driver.begun)
    refused(driver, lambda: launch.commit(driver.record, commitments))
    refused(driver, lambda: driver.member("manager"))
    refused(driver, lambda: wish.retry(driver.record, ["e"]))
    refused(driver, lambda: upkeep.regrant(driver.record, [row["id"]], 0))
    refused(driver, lambda: driver.apply({"New": 1}))
    driver.client.config_set("maxmemory", 0)
    assert admission.admit(driver.manager, batch, [entry("new")], 0) == ["admitted"]
    assert driver.begun().went == [True]
    assert violations(driver.client) == []


def test_ends_go_through_from_the_push_to_the_dependents(driver: Driver) -> None:
    driver.client.hset("Capacity", "LocalJobs", 50)
    driver.admit("d", depends_on=["a"])
    driver.start("a", "b", "c", "k", "s", needs="LocalJobs local.cpus=1", tags=["t"], notify=["ended"])
    driver.resolve()
    fill(driver)
    ending.push(driver.record, "", [json.dumps({"id": "a", "run": 1})])
    batch = admission.take(driver.fetcher, "Exit_Queue", 250)
    end = ending.RunEnd(job_id="a", run=1, state="done", exit=DONE, wall=1)
    assert ending.finish(driver.record, [end], taken=(driver.fetcher, batch)) == ["ended"]
    assert driver.client.llen("Exit_Queue") == 0
    driver.resolve()
    assert driver.where("Waiting:local:ann") == ["d"]
    assert driver.finish("b", state="failed", retry_in=0) == "later"
    assert len(driver.claim()) == 3  # polls go on
    assert driver.claim() == []
    assert poll.touch(driver.record, [poll.Seen(job_id="c", run=1, state="unknown", poll_in=0)]) == ["ok"]
    assert wish.cancel(driver.record, ["k"], who="ann", why="") == {"k": "wished"}
    assert driver.finish("k", state="cancelled") == "ended"
    assert driver.client.hget("Used", "local.cpus") == b"2"
    assert violations(driver.client) == []
    assert upkeep.prune(driver.record, 0) == 2


@pytest.mark.parametrize("first", ["a full set with room", "an entry without a record", "a user without jobs"])
def test_a_grant_is_refused_whole_though_it_begins_with_what_a_full_server_allows(driver: Driver, first: str) -> None:
    driver.apply({"User:ann": 1})
    driver.admit("a", "b", needs="LocalJobs User:ann")
    driver.grant()
    if first == "an entry without a record":
        driver.admit("gone")
        driver.client.unlink("Job:gone")
    elif first == "a user without jobs":
        driver.admit("c", user="aaa")
        driver.admit("d", user="zoe")
        wish.hold(driver.record, ["c"])
    driver.admit("e")
    if first == "a full set with room":
        assert driver.where("Full:User:ann") == ["b"]
        wish.cancel(driver.record, ["a"], who="ann", why="")
    fill(driver)
    refused(driver, lambda: driver.grant())
    driver.client.config_set("maxmemory", 0)
    assert driver.grant() >= 1
    assert driver.state("e") == "granted"


@pytest.mark.parametrize("needs", ["LocalJobs local.cpus=2", "local.cpus=2 LocalJobs"])
@pytest.mark.parametrize("state", ["waiting", "granted", "starting", "running"])
def test_cancel_goes_through_in_every_state(driver: Driver, state: str, needs: str) -> None:
    driver.admit("a", needs=needs)
    if state != "waiting":
        driver.grant()
    launches = driver.begin() if state in ("starting", "running") else []
    if state == "running":
        driver.commit(*launches, poll_in=60)
    fill(driver)
    told = wish.cancel(driver.record, ["a"], who="ann", why="")["a"]
    assert told == ("wished" if launches else "cancelled")
    if state == "starting":
        assert launch.abort(driver.record, launches, delay=0, why="") == ["cancelled"]
    elif state == "running":
        assert [d.job_id for d in driver.claim()] == ["a"]
        assert driver.finish("a", state="cancelled") == "ended"
    assert driver.state("a") == "cancelled"
    assert violations(driver.client) == []


@pytest.mark.parametrize("needs", ["LocalJobs local.cpus=2", "local.cpus=2 LocalJobs"])
def test_abort_and_hold_and_the_failure_of_a_granted_job_go_through(driver: Driver, needs: str) -> None:
    driver.admit("a", "h", "f", needs=needs)
    driver.grant()
    fill(driver)
    assert launch.abort(driver.record, [("a", 1, 1)], delay=5, why="limit") == ["later"]
    assert wish.hold(driver.record, ["h"]) == {"h": "held"}
    assert driver.finish("f", state="failed") == "ended"
    assert driver.client.hget("Used", "local.cpus") == b"0"
    assert violations(driver.client) == []


def test_the_living_stay_alive_and_the_dead_are_recovered(driver: Driver) -> None:
    """Else a full server would have every process declared dead, and nobody left to end what runs."""
    driver.start("r")
    driver.admit("a")
    driver.grant()
    other = driver.member("starter")
    driver.begin(other, lease=0)
    driver.admit("b")
    driver.grant()
    admission.take(other, "Granted_Queue", 1)
    driver.push("x")
    fill(driver)
    before = driver.client.zscore("Processes", driver.fetcher.name)
    driver.fetcher.beat("5")
    assert driver.client.zscore("Processes", driver.fetcher.name) >= before
    assert membership.recover(driver.record, other.name, ["Granted_Queue"], proved=True) == 1
    assert launch.expire(driver.record, "", other.name) == 1
    (found,) = launch.expired(driver.record, "", 250, 30)
    assert launch.seal(driver.record, [(found.job_id, found.run, found.fence)], "free") == ["waiting"]
    admission.take(driver.manager, "Job_Queue", 1)
    driver.manager.leave(["Job_Queue"])
    assert driver.where("Job_Queue") == ["x"]
    assert violations(driver.client) == []


def test_dead_entries_can_be_dropped_but_not_requeued(driver: Driver) -> None:
    driver.push("x")
    batch = admission.take(driver.manager, "Job_Queue", 1)
    admission.admit(driver.manager, batch, [admission.Refusal(reason="y")], 0)
    fill(driver)
    refused(driver, lambda: dead.requeue(driver.record, dead.entries(driver.record)))
    assert dead.drop(driver.record, dead.entries(driver.record)) == 1


def test_a_failed_run_goes_to_its_retry_and_waits_until_there_is_room(driver: Driver) -> None:
    driver.start("a")
    fill(driver)
    end = ending.RunEnd(job_id="a", run=1, state="failed", exit=FAILED, retry_in=0)
    assert ending.finish(driver.record, [end]) == ["later"]
    refused(driver, lambda: driver.grant())
    driver.client.config_set("maxmemory", 0)
    upkeep.wake_due(driver.record)
    assert driver.grant() == 1
    assert violations(driver.client) == []
