"""Listings of many jobs: in order, each once, a page a question, whatever moves meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from conftest import Server
from driver import Driver

from jobmill.jobs.states import ENDED, LIVE, State
from jobmill.ledger import listing
from jobmill.ledger.pages import pages
from jobmill.ledger.recent import recent
from jobmill.ledger.record import Record
from jobmill.ledger.selection import Selection, select


@pytest.fixture
def record(server: Server) -> Iterator[Record]:
    found = Record(server.url)
    yield found
    found.close()


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("newest", [False, True])
def test_pages_hold_every_member_once_and_in_order(record: Record, size: int, newest: bool) -> None:
    scores = [-4398046511103.0, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 2.0, 1795266622623.0, 1795266622623.0]
    for number, score in enumerate(scores):
        record.call("ZADD", "Line", score, f"j{number}")
    found = [one for page in pages(record, "Line", newest=newest, size=size) for one in page]
    assert sorted(member for member, _ in found) == [f"j{n}" for n in range(len(scores))]
    assert [score for _, score in found] == sorted(scores, reverse=newest)


def test_a_member_that_stays_is_not_passed_over_when_those_before_it_go(record: Record) -> None:
    for number in range(20):
        record.call("ZADD", "Line", number, f"j{number}")
    found = []
    for page in pages(record, "Line", size=5):
        found += [member for member, _ in page]
        record.call("ZREMRANGEBYRANK", "Line", 0, 2)
        record.call("ZADD", "Line", -1, f"new{len(found)}")
    assert set(found) >= {f"j{n}" for n in range(20)} - {"j0", "j1", "j2"}


def test_empty_set_has_no_page(record: Record) -> None:
    assert list(pages(record, "Nothing")) == []


def test_jobs_are_found_in_order_wherever_they_stand(record: Record) -> None:
    driver = Driver(record, limit=9)
    ids = [f"j{n:02}" for n in range(20)]
    driver.start(*ids[:2])
    driver.admit(*ids[2:14])
    driver.grant()
    driver.admit(*ids[14:], user="bob")
    for size in (1, 3, 1000):
        walked = list(dict.fromkeys(i for page in listing.walk(record, LIVE, size=size) for i in page))
        assert set(walked) == set(ids)
        assert set(walked[:2]) == set(ids[:2]), "what runs comes first"
        assert set(walked[2:9]) == set(ids[2:9]), "then what is granted"
        assert walked[9:] == ids[9:]
    assert listing.find(record, {State.WAITING}, 3) == ids[9:12]
    assert listing.find(record, {State.GRANTED}, 3) == ids[2:5]
    assert [i for page in listing.walk(record, {State.WAITING}, user="bob") for i in page] == ids[14:]


def test_recent_shows_live_ones_and_then_what_ended_last(record: Record) -> None:
    driver = Driver(record, limit=100)
    ids = [f"j{n:02}" for n in range(12)]
    driver.start(*ids[:6], tags=["odd"])
    for job_id in ids[:6]:
        driver.finish(job_id, state="failed" if job_id in ids[:2] else "done")
        driver.client.zadd(f"Jobs:{driver.state(job_id)}", {job_id: 1000 + ids.index(job_id)})  # one a millisecond
        driver.client.zadd("Jobs:by-tag:odd", {job_id: 1000 + ids.index(job_id)})
    driver.admit(*ids[6:9])
    driver.admit(*ids[9:], user="bob")

    def shown(limit: int, **more: Any) -> tuple[list[str], bool]:
        rows, others = recent(record, Selection(**more), limit)
        return [row.id for row in rows], others

    newest = list(reversed(ids[:6]))
    assert shown(100) == (ids[6:] + newest, False)
    assert shown(8) == ((ids[6:] + newest)[:8], True)
    assert shown(12) == (ids[6:] + newest, False)
    assert shown(100, words=("all",)) == (ids[6:] + newest, False)
    assert shown(2, states=frozenset(ENDED)) == (newest[:2], True)
    assert shown(9, states=frozenset({State.FAILED})) == (["j01", "j00"], False)
    assert shown(9, user="bob") == (ids[9:], False)
    assert shown(4, tag="odd") == (newest[:4], True)
    assert shown(4, tag="odd", states=frozenset({State.FAILED})) == (["j01", "j00"], False)
    assert shown(9, words=("j00", "j07")) == (["j00", "j07"], False)


def test_selection_narrows_what_was_written_out_and_what_was_not(record: Record) -> None:
    driver = Driver(record, limit=100)
    driver.start("sim-1", "sim-2", "other")
    driver.finish("sim-1")
    driver.admit("sim-3", user="bob")
    driver.admit("sim-4", tags=["x"])
    done = frozenset({State.DONE})
    live = frozenset(LIVE)
    assert sorted(select(record, Selection(words=("sim-*",), states=live))) == ["sim-2", "sim-3", "sim-4"]
    assert select(record, Selection(words=("sim-1", "sim-2"), states=done)) == ["sim-1"]
    assert select(record, Selection(words=("last",), states=done)) == []
    assert select(record, Selection(user="bob")) == ["sim-3"]
    assert select(record, Selection(words=("all",), tag="x")) == ["sim-4"]
    assert select(record, Selection(states=done)) == ["sim-1"]


def test_a_listing_of_very_many_asks_for_what_it_shows(record: Record) -> None:
    driver = Driver(record, limit=0)
    pipe = record.client.pipeline(transaction=False)
    for number in range(30_000):
        pipe.hset(f"Job:j{number}", mapping={"state": "waiting", "system": "local", "user": "ann", "score": number})
        pipe.zadd("Waiting:local:ann", {f"j{number}": number})
    pipe.zadd("Waiting:local", {"ann": 0})
    pipe.execute()
    driver.admit("mine", user="bob")

    def asked() -> int:
        facts = record.call("INFO", "commandstats")
        return sum(one["calls"] for name, one in facts.items() if name.startswith("cmdstat_"))

    for wanted in (Selection(), Selection(states=frozenset({State.WAITING})), Selection(user="bob")):
        before = asked()
        rows, _ = recent(record, wanted, 20)
        assert rows[-1].user == (wanted.user or "ann")
        assert asked() - before < 120
    assert len(listing.find(record, {State.WAITING}, 10**9)) == 30_001
