"""Polls: a claim is a lease, two fetchers never get the same job, what was seen changes only the run it was seen of."""

from __future__ import annotations

import json
import threading
import time

import pytest
from conftest import Server
from driver import Driver
from laws import dump, violations

from jobmill.ledger import listing, membership, poll, wish
from jobmill.ledger.poll import Seen
from jobmill.ledger.record import Record


@pytest.fixture
def driver(server: Server) -> Driver:
    return Driver(Record(server.url))


def touch(driver: Driver, state: str = "running", poll_in: float = 60, run: int = 1, **fields: str) -> str:
    return poll.touch(driver.record, [Seen(job_id="a", run=run, state=state, poll_in=poll_in, fields=fields)])[0]


def test_a_claim_is_a_lease_after_which_another_gets_the_job(driver: Driver) -> None:
    driver.start("a")
    (due,) = driver.claim(lease=0.05)
    assert (due.job_id, due.run, due.fence, due.state, due.system) == ("a", 1, 1, "running", "local")
    assert (due.handle, due.owner, due.wish, due.absent) == (driver.field("a", "handle"), driver.starter.name, "", 0)
    assert driver.claim() == []
    time.sleep(0.06)
    assert [d.job_id for d in driver.claim()] == ["a"]
    assert violations(driver.client) == []


def test_a_claim_takes_what_is_due_longest_first_and_no_more_than_asked(driver: Driver) -> None:
    driver.start(*"abcd")
    now = membership.server_time(driver.record) * 1000
    driver.client.zadd("Running_Queue", {"a": now - 10, "b": now - 40, "c": now - 20, "d": now + 60000})
    assert [d.job_id for d in driver.claim(2)] == ["b", "c"]
    assert [d.job_id for d in driver.claim(2)] == ["a"]


def test_many_fetchers_never_get_the_same(driver: Driver) -> None:
    driver.client.hset("Capacity", "LocalJobs", 250)
    driver.start(*[f"j{i}" for i in range(250)])
    found: list[str] = []

    def work() -> None:
        record = Record(driver.record.url)
        while dues := poll.claim(record, "", 7, 30):
            found.extend(d.job_id for d in dues)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(20)
    assert len(found) == len(set(found)) == 250


def test_a_claim_drops_what_is_not_polled_any_more(driver: Driver) -> None:
    driver.start("a")
    driver.finish("a")
    driver.client.zadd("Running_Queue", {"a": 0, "nobody": 0})
    assert driver.claim() == []
    assert driver.where("Running_Queue") == []


def test_touch_records_state_fields_and_the_next_poll(driver: Driver) -> None:
    driver.admit("a")
    driver.grant()
    driver.commit(*driver.begin(), state="submitted")
    assert touch(driver, host="n1", native_state="R", absent="now") == "ok"
    (row,) = listing.jobs(driver.record, ["a"])
    assert (row.state, row.facts["host"], row.facts["native_state"]) == ("running", "n1", "R")
    assert abs(row.times["started"] - time.time()) < 5
    first = row.facts["absent"]
    assert driver.claim() == []
    time.sleep(0.002)
    assert touch(driver, absent="now") == "ok"  # since when: the first look stays
    assert driver.field("a", "absent") == first
    touch(driver, absent="", host="")
    facts = listing.jobs(driver.record, ["a"])[0].facts
    assert "absent" not in facts
    assert "host" not in facts
    assert violations(driver.client) == []


def test_touch_again_is_the_same(driver: Driver) -> None:
    driver.start("a")
    touch(driver, state="unknown", absent="now")
    before = dump(driver.client, ignore=["Running_Queue"])
    assert touch(driver, state="unknown", absent="now") == "ok"
    assert dump(driver.client, ignore=["Running_Queue"]) == before
    assert driver.where("Running_Queue") == ["a"]


def test_touch_of_another_run_or_of_an_ended_job_changes_nothing(driver: Driver) -> None:
    driver.start("a")
    before = dump(driver.client)
    assert touch(driver, run=2) == "stale"
    assert dump(driver.client) == before
    driver.finish("a")
    before = dump(driver.client)
    assert touch(driver, state="unknown") == "stale"
    assert dump(driver.client) == before


@pytest.mark.parametrize("state", ["starting", "done", "lost", "waiting", "nonsense"])
def test_touch_goes_to_polled_states_only(driver: Driver, state: str) -> None:
    driver.admit("a")
    driver.grant()
    launches = driver.begin()
    before = dump(driver.client)
    assert touch(driver, state=state) == "stale"
    assert dump(driver.client) == before
    driver.commit(*launches)
    assert touch(driver, state=state) == "stale"
    assert violations(driver.client) == []


def test_a_cancel_makes_the_job_due_now_and_the_claim_tells_the_wish(driver: Driver) -> None:
    driver.start("a")
    touch(driver, poll_in=3600)
    assert driver.claim() == []
    assert wish.cancel(driver.record, ["a"], who="ann", why="typo") == {"a": "wished"}
    (due,) = driver.claim()
    assert json.loads(due.wish)["who"] == "ann"


def test_a_cancel_between_claim_and_touch_is_not_put_off(driver: Driver) -> None:
    driver.start("a")
    driver.claim()
    wish.cancel(driver.record, ["a"], who="ann", why="")
    assert touch(driver, poll_in=3600) == "ok"  # by the fetcher that claimed it before the wish
    (due,) = driver.claim()
    assert due.wish
    assert touch(driver, poll_in=3600, killed="now") == "ok"  # its killing has begun: polled at its own pace
    assert driver.claim() == []
    assert violations(driver.client) == []


def test_250_jobs_in_one_touch(driver: Driver) -> None:
    driver.client.hset("Capacity", "LocalJobs", 250)
    driver.start(*[f"j{i}" for i in range(250)])
    seen = [
        Seen(job_id=f"j{i}", run=1, state="collecting", poll_in=1, fields={"progress": "7/9 ü", "host": "n"})
        for i in range(250)
    ]
    assert poll.touch(driver.record, seen) == ["ok"] * 250
    assert driver.field("j7", "progress") == "7/9 ü"
    assert violations(driver.client) == []
