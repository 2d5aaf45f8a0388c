"""What users ask: cancel is a wish that stands (law 7), hold, release, retry by hand."""

from __future__ import annotations

import json

import pytest
from conftest import Server
from driver import Driver
from laws import dump, violations

from jobmill.ledger import launch, listing, poll, upkeep, wish
from jobmill.ledger.record import Record


@pytest.fixture
def driver(server: Server) -> Driver:
    return Driver(Record(server.url))


PARKED = ["held", "later", "waiting", "blocked", "full"]
STATES = [*PARKED, "granted", "taken", "starting", "submitted", "running", "unknown", "collecting", "done", "failed"]


def bring(driver: Driver, state: str) -> list[tuple[str, int, int]]:
    """Bring job `a`, on whose end `d` waits, to this state."""
    needs = "LocalJobs User:ann local.cpus=2"
    driver.admit("d", depends_on=["a"])
    if state == "full":
        driver.apply({"User:ann": 0})
    more: dict[str, object] = {"depends_on": ["other"]} if state == "blocked" else {}
    place = state if state in ("held", "later") else "waiting"
    driver.admit("a", needs=needs, place=place, due=2e9, tags=["t"], **more)
    if state in ("held", "later", "waiting", "blocked"):
        return []
    driver.grant()
    if state in ("full", "granted"):
        return []
    if state == "taken":
        from jobmill.ledger import admission

        admission.take(driver.starter, "Granted_Queue", 250)
        return []
    launches = driver.begin()
    if state == "starting":
        return launches
    driver.commit(*launches, state="submitted")
    if state in ("running", "unknown", "collecting"):
        poll.touch(driver.record, [poll.Seen(job_id="a", run=1, state=state, poll_in=3600)])
    elif state in ("done", "failed"):
        driver.finish("a", state=state)
    return launches


@pytest.mark.parametrize("state", STATES)
def test_cancel_in_every_state(driver: Driver, state: str) -> None:
    launches = bring(driver, state)
    fence = int(driver.field("a", "fence") or 0)
    driver.client.delete("Result_Queue")
    (told,) = wish.cancel(driver.record, ["a"], who="ann", why="typo").values()
    assert violations(driver.client) == []
    if state in ("held", "later", "waiting", "blocked", "full", "granted", "taken"):
        assert told == "cancelled"
        (row,) = listing.jobs(driver.record, ["a"])
        assert row.exit["reason"] == "cancelled"
        assert "typo" in row.exit["message"]
        assert row.wish["who"] == "ann"
        assert row.fence == fence + 1
        driver.resolve()
        assert driver.state("d") == "not_run"
        driver.grant()
        assert driver.begin() == []
        # again: nothing new
        before = dump(driver.client, ignore=["Result_Queue"])
        assert wish.cancel(driver.record, ["a"], who="bob", why="") == {"a": "cancelled"}
        assert dump(driver.client, ignore=["Result_Queue"]) == before
    elif state in ("done", "failed"):
        assert told == state
        assert driver.field("a", "wish") == ""
    else:
        assert told == "wished"
        assert driver.state("a") == state
        assert driver.members("User:ann") == {"a"}
        wish.cancel(driver.record, ["a"], who="bob", why="second")  # the first wish stands
        assert json.loads(driver.field("a", "wish"))["who"] == "ann"
        if state == "starting":
            assert list(driver.starter.beat(starting=["a"])) == ["a"]
            assert "typo" in launch.commit(
                driver.record, [launch.Commitment(job_id="a", run=1, fence=launches[0][2], state="running")]
            )[0]  # fmt: skip
        assert [d.job_id for d in driver.claim()] == ["a"]
        assert driver.finish("a", state="cancelled") == "ended"
        driver.resolve()
        assert driver.state("d") == "not_run"
    assert violations(driver.client) == []


@pytest.mark.parametrize("state", STATES)
def test_hold_and_release_in_every_state(driver: Driver, state: str) -> None:
    bring(driver, state)
    fence = int(driver.field("a", "fence") or 0)
    may = state in ("later", "waiting", "blocked", "full", "granted", "taken")
    told = wish.hold(driver.record, ["a"])["a"]
    assert violations(driver.client) == []
    if not may:
        assert told == state
        assert int(driver.field("a", "fence") or 0) == fence
        if state != "held":
            assert wish.unhold(driver.record, ["a"]) == {"a": state}
            return
    else:
        assert told == driver.state("a") == "held"
        assert int(driver.field("a", "fence") or 0) == fence + 1
        assert driver.members("User:ann") == driver.members("LocalJobs") == set()
        assert upkeep.wake_due(driver.record) == 0
        driver.grant()
        assert driver.begin() == []
    assert wish.hold(driver.record, ["a"]) == {"a": "held"}
    assert wish.unhold(driver.record, ["a"]) == {"a": "waiting"}
    assert wish.unhold(driver.record, ["a"]) == {"a": "waiting"}
    driver.apply({"User:ann": 9})
    assert driver.grant() == (0 if state == "blocked" else 1)
    assert violations(driver.client) == []


@pytest.mark.parametrize("state", STATES)
def test_retry_by_hand_is_a_new_run_of_what_has_ended(driver: Driver, state: str) -> None:
    bring(driver, state)
    told = wish.retry(driver.record, ["a"])["a"]
    if state not in ("done", "failed"):
        assert told == driver.state("a")
        assert driver.field("a", "run") in ("", "1")
        assert violations(driver.client) == []
        return
    assert told == "waiting"
    (row,) = listing.jobs(driver.record, ["a"])
    assert (row.run, row.exit, row.wish) == (2, {}, {})
    assert "ended" not in row.times
    (run,) = listing.runs(driver.record, "a")
    assert (run["run"], run["state"]) == (1, state)
    assert run["exit"]["exit_status"] == "finished_regularly"
    assert not driver.client.exists("Jobs:done", "Jobs:failed", "Jobs:by-tag:t")
    assert violations(driver.client) == []
    assert wish.retry(driver.record, ["a"]) == {"a": "waiting"}
    assert driver.field("a", "run") == "2"
    driver.grant()
    launches = driver.begin()
    assert [(i, r) for i, r, _ in launches] == [("a", 2)]
    assert driver.finish("a", run=1) == "stale"
    assert driver.finish("a", run=2) == "ended"
    assert violations(driver.client) == []


def test_retry_of_a_cancelled_job_starts_without_its_wish_and_its_dependencies(driver: Driver) -> None:
    driver.admit("a", depends_on=["x"])
    wish.cancel(driver.record, ["a"], who="ann", why="")
    wish.retry(driver.record, ["a"])
    assert driver.grant() == 1
    driver.commit(*driver.begin())
    assert driver.claim()[0].wish == ""
    driver.admit("x")  # its end must not touch the job that waited for it once
    wish.cancel(driver.record, ["x"], who="ann", why="")
    driver.resolve()
    assert driver.state("a") == "running"
    assert violations(driver.client) == []


def test_nobodys_id(driver: Driver) -> None:
    for ask in (wish.hold, wish.unhold, wish.retry):
        assert ask(driver.record, ["x"]) == {"x": "unknown"}
    assert not driver.client.exists("Job:x")


def test_more_than_250_ids_at_once(driver: Driver) -> None:
    names = [f"j{i}" for i in range(250)]
    driver.admit(*names)
    everyone = [*names, *[f"x{i}" for i in range(300)]]
    assert set(wish.hold(driver.record, names).values()) == {"held"}
    assert set(wish.unhold(driver.record, names).values()) == {"waiting"}
    told = wish.cancel(driver.record, everyone, who="ann", why="")
    assert list(told.values()) == ["cancelled"] * 250 + ["unknown"] * 300
    assert violations(driver.client) == []
    assert set(wish.retry(driver.record, names).values()) == {"waiting"}
    assert violations(driver.client) == []
