"""Ends: one script frees, ends, notifies and tells (law 8); a retry belongs to the end of its run (law 10)."""

from __future__ import annotations

import json

import pytest
from conftest import Server
from driver import DONE, FAILED, Driver
from laws import dump, violations

from jobmill.ledger import admission, ending, listing, membership, poll, upkeep, wish
from jobmill.ledger.ending import RunEnd
from jobmill.ledger.record import Record


@pytest.fixture
def driver(server: Server) -> Driver:
    return Driver(Record(server.url))


def test_an_end_leaves_the_queue_frees_and_is_indexed(driver: Driver) -> None:
    driver.start("a", "b", needs="LocalJobs User:ann local.cpus=3", tags=["t1", "t2"])
    assert driver.finish("a") == "ended"
    assert driver.where("Jobs:done") == driver.where("Jobs:by-tag:t1") == driver.where("Jobs:by-tag:t2") == ["a"]
    assert driver.members("User:ann") == driver.members("LocalJobs") == {"b"}
    assert driver.client.hget("Used", "local.cpus") == b"3"
    (row,) = listing.jobs(driver.record, ["a"])
    assert row.exit["exit_value"] == 0
    assert row.times["ended"] > 0
    assert violations(driver.client) == []


def test_an_end_again_is_a_no_op_whatever_it_says(driver: Driver) -> None:
    driver.start("a", "b")
    driver.finish("a")
    before = dump(driver.client)
    assert driver.finish("a") == "again"
    assert driver.finish("a", state="failed") == "again"
    assert driver.finish("a", state="failed", retry_in=5) == "again"
    assert dump(driver.client) == before


def test_an_end_frees_exactly_what_the_job_holds(driver: Driver) -> None:
    driver.start("a", needs="LocalJobs local.cpus=3")
    driver.client.hset("Job:a", "needs", "LocalJobs User:x local.cpus=9")  # holds is what counts
    driver.finish("a")
    assert driver.client.hgetall("Used") == {b"local.cpus": b"0"}
    assert violations(driver.client) == []


@pytest.mark.parametrize("state", ["starting", "submitted", "running", "unknown", "collecting"])
@pytest.mark.parametrize("ends", ["done", "failed", "cancelled", "lost"])
def test_any_live_state_of_the_same_run_may_end(driver: Driver, state: str, ends: str) -> None:
    driver.admit("a")
    driver.grant()
    launches = driver.begin()
    if state != "starting":
        driver.commit(*launches, state="running" if state != "submitted" else state)
        poll.touch(driver.record, [poll.Seen(job_id="a", run=1, state=state, poll_in=1)])
    assert driver.state("a") == state
    assert driver.finish("a", state=ends) == "ended"
    assert driver.where("Jobs:" + ends) == ["a"]
    assert violations(driver.client, at_rest=True) == []


def test_an_end_of_another_run_is_stale(driver: Driver) -> None:
    driver.start("a")
    before = dump(driver.client)
    assert driver.finish("a", run=2) == "stale"
    assert driver.finish("nobody") == "stale"
    assert dump(driver.client) == before


def test_what_never_ran_cannot_be_done(driver: Driver) -> None:
    driver.admit("a")
    assert driver.finish("a") == "stale"
    driver.grant()
    assert driver.finish("a") == "stale"
    assert driver.finish("a", state="failed") == "ended"  # it could not be prepared
    assert driver.begin() == []
    assert violations(driver.client, at_rest=True) == []


def test_a_retry_belongs_to_the_end_of_its_run(driver: Driver) -> None:
    driver.admit("dependent", depends_on=["a"])
    driver.start("a", needs="LocalJobs local.cpus=2", notify=["ended", "failed"], tags=["t"])
    driver.resolve()
    poll.touch(driver.record, [poll.Seen(job_id="a", run=1, state="running", poll_in=0, fields={"absent": "now"})])
    assert driver.finish("a", state="failed", retry_in=0.0) == "later"
    (row,) = listing.jobs(driver.record, ["a"])
    assert (row.state, row.run, row.facts["retries"]) == ("later", 2, "1")
    assert not {"handle", "native", "absent", "owner", "holds"} & set(row.facts)
    assert row.exit == {}
    (run,) = listing.runs(driver.record, "a")
    assert (run["run"], run["state"], run["exit"]) == (1, "failed", json.loads(FAILED))
    # nobody ever sees the interim end
    assert not driver.client.exists("Jobs:failed", "Outbox", "Jobs:by-tag:t")
    driver.resolve()
    assert driver.state("dependent") == "waiting"
    assert violations(driver.client) == []
    assert driver.finish("a", run=1, state="failed", retry_in=0.0) == "stale"  # the reply was cut
    assert len(listing.runs(driver.record, "a")) == 1
    upkeep.wake_due(driver.record)
    driver.grant()
    launches = driver.begin()
    assert launches == [("a", 2, 3)]
    driver.commit(*launches)
    assert driver.finish("a", run=2) == "ended"
    assert driver.where("Outbox") == ["a:2:done"]
    driver.resolve()
    assert driver.grant() == 1
    assert violations(driver.client) == []


def test_a_retry_keeps_its_place_among_its_users_jobs(driver: Driver) -> None:
    driver.start("a")
    driver.admit("b")
    driver.finish("a", state="failed", retry_in=0)
    upkeep.wake_due(driver.record)
    assert driver.where("Waiting:local:ann") == ["a", "b"]


def test_a_wish_ends_the_retries(driver: Driver) -> None:
    driver.start("a")
    wish.cancel(driver.record, ["a"], who="ann", why="")
    assert driver.finish("a", state="failed", retry_in=5) == "ended"
    assert driver.state("a") == "failed"
    assert driver.where("Exit_Queue") == [""]  # the cancel rang: there is something to kill
    driver.client.delete("Exit_Queue")
    assert violations(driver.client, at_rest=True) == []


@pytest.mark.parametrize("committed", [False, True])
def test_a_pushed_end_of_a_job_with_a_wish_is_left_to_a_poll(driver: Driver, committed: bool) -> None:
    driver.admit("a", "b")
    driver.grant()
    launches = driver.begin()
    if committed:
        driver.commit(*launches)
    wish.cancel(driver.record, ["a"], who="ann", why="")
    ending.push(driver.record, "", [json.dumps({"id": i, "run": 1, "exit": {}}) for i in "ab"])
    batch = admission.take(driver.fetcher, "Exit_Queue", 250)
    ends = [RunEnd(job_id=i, run=1, state="done", exit=DONE) for i in "ab"]
    for word in ("ended", "again"):  # the second time: its answer was cut
        assert ending.finish(driver.record, ends, taken=(driver.fetcher, batch)) == ["wished", word]
        assert (driver.state("a"), driver.state("b")) == ("collecting", "done")
        assert violations(driver.client) == []
    (due,) = driver.claim()
    assert due.job_id == "a" and json.loads(due.wish)["who"] == "ann"
    assert driver.finish("a", state="cancelled") == "ended"  # nothing of it is left
    assert driver.client.llen("Exit_Queue") == 0
    assert violations(driver.client, at_rest=True) == []


def test_the_outbox_has_one_entry_an_event(driver: Driver) -> None:
    driver.start("a", notify=["ended", "done"])
    driver.start("b", notify=["failed"])
    driver.finish("a")
    driver.finish("b")
    assert driver.where("Outbox") == ["a:1:done"]


def test_entries_of_the_private_list_are_dropped_once(driver: Driver) -> None:
    driver.start("a", "b", "c")
    lines = [json.dumps({"id": i, "run": 1, "exit": {}}) for i in "abc"]
    ending.push(driver.record, "", lines)
    batch = admission.take(driver.fetcher, "Exit_Queue", 2)
    assert [json.loads(e)["id"] for e in batch.entries] == ["a", "b"]
    ends = [RunEnd(job_id=i, run=1, state="done", exit=DONE) for i in "ab"]
    assert ending.finish(driver.record, ends, taken=(driver.fetcher, batch)) == ["ended", "ended"]
    after = admission.take(driver.fetcher, "Exit_Queue", 2)
    assert [json.loads(e)["id"] for e in after.entries] == ["c"]
    assert ending.finish(driver.record, ends, taken=(driver.fetcher, batch)) == ["again", "again"]
    assert list(admission.take(driver.fetcher, "Exit_Queue", 2).entries) == list(after.entries)


def test_ends_of_a_process_that_was_declared_dead_count_but_its_list_is_not_its_own(driver: Driver) -> None:
    driver.start("a")
    ending.push(driver.record, "", ['{"id":"a"}'])
    batch = admission.take(driver.fetcher, "Exit_Queue", 2)
    membership.recover(driver.record, driver.fetcher.name, ["Exit_Queue"], proved=True)
    end = RunEnd(job_id="a", run=1, state="done", exit=DONE)
    assert ending.finish(driver.record, [end], taken=(driver.fetcher, batch)) == ["ended"]
    assert driver.where("Exit_Queue") == ['{"id":"a"}']
    other = driver.member("fetcher")
    batch = admission.take(other, "Exit_Queue", 2)
    assert ending.finish(driver.record, [end], taken=(other, batch)) == ["again"]
    assert driver.client.llen("Exit_Queue") == 0
    assert violations(driver.client, at_rest=True) == []


def test_250_ends_with_dependents_and_more_than_250_pushed(driver: Driver) -> None:
    driver.client.hset("Capacity", "LocalJobs", 250)
    names = [f"j{i}" for i in range(250)]
    driver.admit("d", depends_on=names[:100])
    driver.start(*names, needs="LocalJobs User:ann local.cpus=1", tags=["a", "b"], notify=["ended"])
    ends = [RunEnd(job_id=i, run=1, state="done", exit=DONE, wall=1.5) for i in names]
    assert ending.finish(driver.record, ends) == ["ended"] * 250
    driver.resolve()
    assert driver.client.hget("Used", "local.cpus") == b"0"
    assert driver.client.zcard("Outbox") == 250
    assert driver.where("Waiting:local:ann") == ["d"]
    assert violations(driver.client) == []
    ending.push(driver.record, "", [str(i) for i in range(600)])
    assert driver.where("Exit_Queue") == [str(i) for i in range(600)]


def test_exit_information_survives_byte_for_byte(driver: Driver) -> None:
    text = '{"evidence":"r","resource_usage":{},"list":[],"n":9007199254740993,"m":"ü\\n"}'
    driver.start("a", "b")
    ending.finish(driver.record, [RunEnd(job_id="a", run=1, state="failed", exit=text)])
    assert driver.field("a", "exit") == text
    ending.finish(driver.record, [RunEnd(job_id="b", run=1, state="failed", exit=text, retry_in=1)])
    (line,) = driver.where("Job:b:runs")
    assert line.endswith(',"exit":' + text + "}")


def test_an_end_of_a_job_that_was_given_back_and_waits_for_a_full_set_leaves_no_trace_there(driver: Driver) -> None:
    from jobmill.ledger import capacity, launch

    driver.apply({"User:ann": 1})
    driver.admit("a", needs="LocalJobs User:ann")
    driver.grant()
    launch.abort(driver.record, driver.begin(), delay=0, why="x")
    capacity.set_limit(driver.record, "User:ann", 0)
    driver.grant()
    assert driver.where("Full:User:ann") == ["a"]
    assert driver.finish("a", state="cancelled", retry_in=60) == "later"
    assert violations(driver.client) == []
