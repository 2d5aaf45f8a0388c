"""Admission: a turn is applied once, an id is one job, wishes and dependencies from before admission count."""

from __future__ import annotations

import json
import time

import pytest
from conftest import Server
from driver import Driver, entry
from laws import dump, violations

from jobmill.jobs import identifier
from jobmill.jobs.identifier import new_id
from jobmill.ledger import admission, dead, listing, upkeep, wish
from jobmill.ledger.record import Record


@pytest.fixture
def driver(server: Server) -> Driver:
    return Driver(Record(server.url))


def test_admission_puts_a_job_in_line_and_clears_the_private_list(driver: Driver) -> None:
    assert driver.admit("a", "b") == ["admitted", "admitted"]
    assert driver.where("Waiting:local:ann") == ["a", "b"]
    assert not driver.client.exists(f"Job_Queue:taken:{driver.manager.name}")
    assert listing.last(driver.record) == "b"
    assert violations(driver.client) == []


def test_the_moment_is_written_only_where_the_id_does_not_tell_it(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn, now = new_id(), time.time_ns()
    with monkeypatch.context() as patch:  # an id that was drawn long before it is admitted, or by a clock that is wrong
        patch.setattr(identifier, "_last", (0, 0))
        patch.setattr(time, "time_ns", lambda: now - 60_000_000_000)
        early = new_id()
        patch.setattr(identifier, "_last", (0, 0))
        patch.setattr(time, "time_ns", lambda: now + 60_000_000_000)
        ahead = new_id()
    named = (drawn[:6] + "-sample-1234")[:17]
    driver.admit(drawn, early, ahead, named, "a")
    assert [bool(driver.field(i, "since")) for i in (drawn, early, ahead, named, "a")] == [False, *[True] * 4]
    for row in listing.jobs(driver.record, [drawn, early, ahead, named, "a"]):
        assert now / 1e9 - 3 < row.times["submitted"] < time.time() + 1
        assert "since" not in row.facts


def test_the_same_turn_again_changes_nothing(driver: Driver) -> None:
    driver.push("x", "y")
    batch = admission.take(driver.manager, "Job_Queue", 1)
    assert admission.admit(driver.manager, batch, [entry("x")], 0) == ["admitted"]
    before = dump(driver.client)
    assert admission.admit(driver.manager, batch, [entry("x")], 0) == ["again"]
    assert dump(driver.client) == before
    assert driver.where("Job_Queue") == ["y"]


def test_a_late_duplicate_of_an_old_turn_changes_nothing(driver: Driver) -> None:
    driver.push("x", "y", "z")
    old = admission.take(driver.manager, "Job_Queue", 1)
    for name in ("x", "y"):
        batch = admission.take(driver.manager, "Job_Queue", 1)
        admission.admit(driver.manager, batch, [entry(name)], 0)
    admission.take(driver.manager, "Job_Queue", 1)
    before = dump(driver.client)
    assert admission.admit(driver.manager, old, [entry("other")], 0) == ["refused"]
    assert dump(driver.client) == before


def test_the_same_id_with_the_same_spec_is_a_no_op_in_any_state(driver: Driver) -> None:
    driver.start("a")
    before = driver.client.hgetall("Job:a")
    assert driver.admit("a") == ["same"]
    driver.finish("a")
    assert driver.admit("a") == ["same"]
    assert driver.state("a") == "done"
    assert before[b"fence"] == driver.client.hget("Job:a", "fence")
    assert violations(driver.client) == []


def test_twice_in_one_batch_is_one_job(driver: Driver) -> None:
    assert driver.admit("a", "a") == ["admitted", "same"]
    assert violations(driver.client) == []


def test_the_same_id_with_another_spec_goes_to_dead_queue_whole(driver: Driver) -> None:
    driver.admit("a")
    driver.push("id: a\ncommand: [other, 'ünï']  # comment")
    batch = admission.take(driver.manager, "Job_Queue", 1)
    assert admission.admit(driver.manager, batch, [entry("a", spec='{"id":"a","command":"x"}')], 0) == ["dead"]
    (one,) = dead.entries(driver.record)
    assert one.entry.decode() == "id: a\ncommand: [other, 'ünï']  # comment"
    assert one.job_id == "a"
    assert "taken by another job" in one.reason
    assert listing.spec(driver.record, "a") == entry("a").spec
    assert violations(driver.client) == []


def test_a_refusal_goes_to_dead_queue_whole_with_its_reason(driver: Driver) -> None:
    driver.push("id: [", "good")
    batch = admission.take(driver.manager, "Job_Queue", 2)
    refusal = admission.Refusal(reason="line 1: not YAML\nreally", job_id="some thing")
    assert admission.admit(driver.manager, batch, [refusal, entry("good")], 12.5) == ["dead", "admitted"]
    (one,) = dead.entries(driver.record)
    assert (one.entry, one.reason, one.queue, one.time) == (b"id: [", "line 1: not YAML\nreally", "Job_Queue", 12.5)
    assert violations(driver.client) == []


def test_a_wish_from_before_admission_cancels_at_admission(driver: Driver) -> None:
    assert wish.cancel(driver.record, ["a"], who="ann", why="typo") == {"a": "unknown"}
    assert 86000 < driver.client.ttl("Wish:a") <= 86400
    assert driver.admit("a") == ["cancelled"]
    assert driver.state("a") == "cancelled"
    (row,) = listing.jobs(driver.record, ["a"])
    assert row.wish["why"] == "typo"
    assert row.exit["reason"] == "cancelled"
    assert not driver.client.exists("Wish:a")
    assert violations(driver.client) == []


@pytest.mark.parametrize(
    ("after", "ends", "word"),
    [
        ("ok", "done", "admitted"),
        ("ok", "failed", "not_run"),
        ("any", "failed", "admitted"),
        ("failed", "failed", "admitted"),
        ("failed", "done", "not_run"),
    ],
)
def test_a_dependency_that_has_ended_is_judged_at_once(driver: Driver, after: str, ends: str, word: str) -> None:
    driver.start("a")
    driver.finish("a", state=ends)
    assert driver.admit("b", depends_on=["a"], after=after) == [word]
    assert driver.state("b") == ("waiting" if word == "admitted" else "not_run")
    if word == "not_run":
        (row,) = listing.jobs(driver.record, ["b"])
        assert row.exit["reason"] == "dependency_failed"
        assert "a" in row.exit["message"]
    assert violations(driver.client) == []


def test_a_dependency_that_is_not_known_yet_blocks_until_it_ends(driver: Driver) -> None:
    driver.admit("b", depends_on=["a"])
    assert driver.where("Blocked") == ["b"]
    driver.start("a")
    assert driver.state("b") == "waiting"
    driver.finish("a")
    driver.resolve()
    assert driver.where("Waiting:local:ann") == ["b"]
    assert violations(driver.client) == []


def test_a_dependency_that_is_named_twice_is_one(driver: Driver) -> None:
    driver.admit("a")
    driver.admit("b", depends_on=["a", "a"])
    assert driver.field("b", "blocked") == "1"
    driver.grant()
    driver.begin()
    driver.finish("a")
    driver.resolve()
    assert driver.where("Waiting:local:ann") == ["b"]
    assert violations(driver.client) == []


def test_who_is_cancelled_at_admission_takes_dependents_along(driver: Driver) -> None:
    driver.admit("b", depends_on=["a"])
    wish.cancel(driver.record, ["a"], who="ann", why="")
    driver.admit("a")
    driver.resolve()
    assert driver.state("b") == "not_run"
    assert violations(driver.client) == []


def test_held_and_later_stand_where_their_state_says(driver: Driver) -> None:
    driver.admit("h", place="held")
    driver.admit("l", place="later", due=time.time() + 3600)
    driver.admit("d", place="later", due=time.time() - 1)
    assert [driver.state(i) for i in "hld"] == ["held", "later", "later"]
    assert upkeep.wake_due(driver.record) == 1
    assert driver.state("d") == "waiting"
    assert driver.grant() == 1
    assert violations(driver.client) == []


def test_priority_orders_a_users_own_jobs_then_arrival(driver: Driver) -> None:
    for name, priority in [("p0", 0), ("low", -1000), ("high", 1000), ("p1", 1), ("p0b", 0)]:
        driver.admit(name, priority=priority)
    assert driver.where("Waiting:local:ann") == ["high", "p1", "p0", "p0b", "low"]


def test_arrival_order_survives_large_numbers(driver: Driver) -> None:
    driver.client.set("Arrivals", 3_000_000_000_000)
    for i in range(4):
        driver.admit(f"h{i}", priority=1000)
        driver.admit(f"l{i}", priority=-1000)
    assert driver.where("Waiting:local:ann") == ["h0", "h1", "h2", "h3", "l0", "l1", "l2", "l3"]
    driver.grant(1)
    assert driver.where("Waiting:local:ann")[0] == "h1"


def test_admission_takes_250_entries_with_everything_on(driver: Driver) -> None:
    more = {"tags": ["t1", "t2"], "notify": ["ended"], "depends_on": [f"d{i}" for i in range(20)], "after": "any"}
    words = driver.admit(*[f"j{i}" for i in range(250)], name="n" * 60, priority=3, **more)
    assert words == ["admitted"] * 250
    assert driver.client.zcard("Blocked") == 250
    assert violations(driver.client) == []


def test_events_of_refused_documents_with_any_id_can_be_read(driver: Driver) -> None:
    from jobmill.ledger.events import Events

    events = Events(driver.record)
    events.look()
    driver.push("x")
    batch = admission.take(driver.manager, "Job_Queue", 1)
    admission.admit(driver.manager, batch, [admission.Refusal(reason="id", job_id="my own job")], 0)
    (change,) = events.next(0.5)
    assert (change.job_id, change.state) == ("my own job", "refused")


def test_what_is_admitted_reaches_granted_queue_byte_for_byte(driver: Driver) -> None:
    value = {
        "id": "b",
        "empty": [],
        "object": {},
        "text": 'Grüße \u2028 \U0001f9ec " \\ / \x7f',
        "max": 2**63 - 1,
        "min": -(2**63),
        "float": 0.1,
        "null": None,
        "nested": [[], [{}], {"a": []}],
        "percent": "%s %d %%",
    }
    spec = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    driver.push("x")
    batch = admission.take(driver.manager, "Job_Queue", 1)
    admission.admit(driver.manager, batch, [entry("b", spec=spec)], 0)
    driver.grant()
    (line,) = driver.client.lrange("Granted_Queue", 0, -1)
    assert line.decode() == '{"id":"b","fence":1,"run":1,"arrival":1,"system":"local","spec":' + spec + "}"
    assert json.loads(line)["spec"] == value
    assert listing.spec(driver.record, "b") == spec


def test_ids_at_the_limit_of_64_characters(driver: Driver) -> None:
    job_id = "A" + "b-._9" * 12 + "xyz"
    assert len(job_id) == 64
    driver.start(job_id)
    assert driver.finish(job_id) == "ended"
    assert violations(driver.client, at_rest=True) == []


def test_dead_entries_are_requeued_in_the_order_in_which_they_stood(driver: Driver) -> None:
    driver.client.rpush("Dead_Queue", *[f'{{"reason":"r"}}\n{n}' for n in range(12)])
    assert dead.requeue(driver.record, list(reversed(dead.entries(driver.record)))) == 12
    assert driver.where("Job_Queue") == [str(n) for n in range(12)]
    assert dead.count(driver.record) == 0
