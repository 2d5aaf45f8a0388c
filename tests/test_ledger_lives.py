"""Whatever was known of a job is void for the next one of its id: runs and fences begin anew, arrivals do not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from conftest import Server
from driver import DONE, Driver

from jobmill.ledger import ending, launch, poll, polls, upkeep
from jobmill.ledger.ending import RunEnd
from jobmill.ledger.keys import launch_name
from jobmill.ledger.launch import Commitment
from jobmill.ledger.poll import Seen
from jobmill.ledger.record import Record


@pytest.fixture
def driver(server: Server) -> Driver:
    return Driver(Record(server.url))


def arrival(driver: Driver) -> int:
    return launch.standings(driver.record, ["a"])["a"].arrival


def pruned(driver: Driver) -> int:
    """Let job `a` live and go; return its arrival."""
    assert driver.start("a") == [("a", 1, 1)]
    number = arrival(driver)
    assert driver.finish("a") == "ended" and upkeep.prune(driver.record, 0) == 1
    return number


def test_arrivals_only_grow_and_priorities_do_not_touch_them(driver: Driver) -> None:
    numbers = []
    for priority in (0, 1000, -1000, 1):
        driver.admit("a", priority=priority)
        numbers.append(arrival(driver))
        driver.grant()
        (entry,) = driver.where("Granted_Queue")
        assert f'"arrival":{numbers[-1]},' in entry
        assert driver.begin() == [("a", 1, 1)]
        launch.expire(driver.record, "", driver.starter.name)
        (expired,) = launch.expired(driver.record, "", 9, 9)
        assert expired.arrival == numbers[-1]
        driver.commit(("a", 1, 1))
        (due,) = driver.claim()
        (fact,) = poll.facts(driver.record, ["a"])
        _, _, (left,) = polls.left(driver.record, "", "local", polls.ALL, 9)
        assert fact is not None and due.arrival == fact.arrival == left.arrival == numbers[-1]
        driver.finish("a")
        upkeep.prune(driver.record, 0)
    assert numbers == [1, 2, 3, 4]


def test_arrivals_are_told_of_large_numbers_too(driver: Driver) -> None:
    driver.client.set("Arrivals", 3_000_000_000_000)
    driver.admit("a", priority=-1000)
    assert arrival(driver) == 3_000_000_000_001
    driver.grant()
    (entry,) = driver.where("Granted_Queue")
    assert '"arrival":3000000000001,' in entry


def commit(driver: Driver, number: int) -> list[str]:
    return launch.commit(
        driver.record, [Commitment(job_id="a", run=1, fence=1, state="running", handle="old", arrival=number)]
    )


def abort(driver: Driver, number: int) -> list[str]:
    return launch.abort(driver.record, [(launch_name("a", number), 1, 1)], delay=0, why="late")


def seal(driver: Driver, number: int) -> list[str]:
    return launch.seal(driver.record, [(launch_name("a", number), 1, 1)], "late")


def seal_any(driver: Driver, number: int) -> list[str]:
    return launch.seal(driver.record, [(launch_name("a", number), 1, None)], "late")


def touch(driver: Driver, number: int) -> list[str]:
    return poll.touch(driver.record, [Seen(job_id="a", run=1, state="unknown", poll_in=9, arrival=number)])


def touch_as_it_is(driver: Driver, number: int) -> list[str]:
    return poll.touch(driver.record, [Seen(job_id="a", run=1, state="", poll_in=None, arrival=number)])


def finish(driver: Driver, number: int) -> list[str]:
    return ending.finish(driver.record, [RunEnd(job_id="a", run=1, state="done", exit=DONE, arrival=number)])


CALLS: dict[str, tuple[Callable[[Driver, int], list[str]], str]] = {
    "commit": (commit, "ok"),
    "abort": (abort, "waiting"),
    "seal": (seal, "waiting"),
    "seal any fence": (seal_any, "waiting"),
    "touch": (touch, "ok"),
    "touch as it is": (touch_as_it_is, "ok"),
    "finish": (finish, "ended"),
}


@pytest.mark.parametrize("name", CALLS)
def test_late_news_of_an_earlier_life_is_stale(driver: Driver, name: str) -> None:
    call, good = CALLS[name]
    old = pruned(driver)
    driver.admit("a")
    driver.grant()
    assert driver.begin() == [("a", 1, 1)]  # run and fence say nothing
    if name.startswith("touch"):
        driver.commit(("a", 1, 1))
    before = driver.client.hgetall("Job:a")
    assert call(driver, old) == ["stale"]
    assert driver.client.hgetall("Job:a") == before
    assert call(driver, arrival(driver)) == [good]


def test_a_granted_entry_of_an_earlier_life_launches_nothing(driver: Driver) -> None:
    driver.admit("a")
    driver.grant()
    entry = driver.where("Granted_Queue")[0]
    assert driver.begin() == [("a", 1, 1)]
    driver.finish("a")
    upkeep.prune(driver.record, 0)
    driver.admit("a")
    driver.grant()
    driver.client.lpush("Granted_Queue", entry)  # from the list of a process that was dead for long
    assert driver.begin(count=1) == []
    assert driver.state("a") == "granted"
    assert driver.begin() == [("a", 1, 1)]


def test_a_lease_of_an_earlier_life_cannot_be_cut_short(driver: Driver) -> None:
    old = pruned(driver)
    driver.admit("a")
    driver.grant()
    driver.begin()
    late = [(launch_name("a", old), 1, 1)]
    assert launch.overdue(driver.record, "", driver.starter.name, late) == 0
    late = [(launch_name("a", arrival(driver)), 1, 1)]
    assert launch.overdue(driver.record, "", driver.starter.name, late) == 1


def test_what_an_older_version_wrote_names_the_job_by_its_id_alone(driver: Driver) -> None:
    driver.admit("a")
    driver.grant()
    driver.client.delete("Granted_Queue")
    driver.client.rpush("Granted_Queue", '{"id":"a","fence":1,"run":1,"system":"local","spec":{}}')
    assert driver.begun().went == [True]
    assert driver.field("a", "handle").endswith(f"/{driver.starter.identity}:a:1")
    assert commit(driver, 0) == ["ok"]
    assert finish(driver, 0) == ["ended"]


def test_a_regranted_entry_tells_its_life(driver: Driver) -> None:
    pruned(driver)
    driver.admit("a")
    driver.grant()
    driver.client.delete("Granted_Queue")
    assert upkeep.regrant(driver.record, ["a"], 0) == ["a"]
    (entry,) = driver.where("Granted_Queue")
    assert f'"arrival":{arrival(driver)},' in entry
    assert driver.begin() == [("a", 1, 2)]


def test_the_facts_of_a_job_that_is_no_more_tell_no_life(driver: Driver) -> None:
    pruned(driver)
    assert poll.facts(driver.record, ["a"]) == [None]


def test_an_end_that_names_its_life_frees_who_waits_for_the_job(driver: Driver) -> None:
    driver.start("a")
    driver.admit("b", depends_on=["a"])
    assert finish(driver, arrival(driver)) == ["ended"]
    assert "a" in driver.where("Result_Queue")


def test_an_entry_of_an_earlier_life_is_void_also_when_it_is_asked_for_again(driver: Driver) -> None:
    old = pruned(driver)
    driver.admit("a")
    driver.grant()
    (line,) = driver.where("Granted_Queue")
    driver.client.lpush("Granted_Queue", line.replace(f'"arrival":{arrival(driver)},', f'"arrival":{old},'))
    turn = driver.turns[driver.starter.name]
    assert [driver.begun(turn=turn).went for _ in range(2)] == [[False, True]] * 2
