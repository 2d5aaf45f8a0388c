"""Systems that hand handles out: submit held, commit, release. Whoever dies or sleeps between any two of these, a run
of a job starts at most once, and what nobody knows of is removed.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Server
from fakeworld import Died, World, dying, frozen
from laws import violations

from jobmill.fetcher.janitor import SEALS
from jobmill.fetcher.strays import disowned
from jobmill.ledger import ending, launch, membership, upkeep
from jobmill.ledger.ending import RunEnd
from jobmill.ledger.launch import Commitment, Standing
from jobmill.systems.fake import FakeSystem

Make = Callable[..., World]


@pytest.fixture
def world(valkey: Server, tmp_path: Path) -> Make:
    return lambda **options: World(valkey.url, tmp_path, **options)


def system_of(worker: Any) -> FakeSystem:
    """Return the fake system of a starter or a fetcher."""
    found = (worker._bench.systems if hasattr(worker, "_bench") else worker._systems)["fake"]
    assert isinstance(found, FakeSystem)
    return found


def at_peace(world: World) -> None:
    """Nothing is doubled or left, and the record adds up."""
    world.sweep()
    assert world.doubled() == []
    assert world.left() == []
    assert violations(world.redis, at_rest=True) == []


# A starter that dies.


def test_nobody_dies(world: Make) -> None:
    w = world()
    w.push("a", env={"FAKE_EXIT": "3"})
    w.start()
    assert w.state("a") == ("submitted", 1)
    w.poll()
    assert w.state("a") == ("failed", 1)
    assert w.client.job("a").exit["exit_value"] == 3
    assert w.submissions("a") == [(1, True, True)]
    at_peace(w)


# A starter that leaves, or has missed something.


def test_what_a_look_began_that_nobody_read_waits_again_when_its_starter_leaves(world: Make) -> None:
    """The look travels with the blocking move: it may begin launches at the moment of the farewell."""
    w = world()
    w.push("a", "b")
    w.start()
    w.push("c", "d")
    unread = w.record.do(w.starter.taking("Granted_Queue"))
    assert unread.went == [True, True] and w.state("c") == ("starting", 1)
    w.starter.flush(float("inf"))
    assert [w.state(i) for i in "cd"] == [("waiting", 1)] * 2
    member = w.starter._member
    assert member is not None and w.redis.llen(f"Granted_Queue:taken:{member.name}") == 0
    w.starter.flush(float("inf"))  # once more, as after an outage
    w.manage()
    other = w.new_starter()
    w.start(other)
    assert [w.state(i) for i in "abcd"] == [("submitted", 1)] * 4
    assert w.doubled() == []


def test_a_starter_that_was_declared_dead_tells_what_it_knows_before_it_leaves(world: Make) -> None:
    w = world()
    member = w.starter._member
    assert member is not None
    membership.recover(w.record, member.name, ["Granted_Queue"], proved=True)
    w.starter._push('{"id":"a","run":1,"exit":{}}')
    w.starter.flush(float("inf"))
    assert w.redis.llen("Exit_Queue") == 1


def test_a_turn_that_fell_back_is_found_again(world: Make) -> None:
    """As where a record was restored from an older copy."""
    w = world()
    w.push("a")
    w.start()
    w.push("b")
    w.start()
    member = w.starter._member
    assert member is not None
    w.redis.hset(f"Process:{member.name}", "turn:Granted_Queue", 0)
    w.redis.hdel(f"Process:{member.name}", "begun:Granted_Queue")
    w.push("c")
    w.start()
    assert [w.state(i) for i in "abc"] == [("submitted", 1)] * 3
    assert [run for run, *_ in w.submissions("c")] == [1] and w.doubled() == []


def test_what_was_begun_is_let_go_at_the_next_tick(world: Make) -> None:
    w = world()
    w.push("a")
    w.starter.ring("Granted_Queue")
    member = w.starter._member
    assert member is not None
    assert w.redis.llen(f"Granted_Queue:taken:{member.name}") == 1
    w.starter.tick(0)
    assert w.redis.llen(f"Granted_Queue:taken:{member.name}") == 0
    w.push("b")
    w.start()
    assert w.state("b") == ("submitted", 1)


def test_it_dies_between_begin_and_submit(world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    w = world()
    w.push("a")
    with dying(monkeypatch, system_of(w.starter), "submit"):
        w.start()
    w.settle()
    assert w.state("a") == ("waiting", 2)  # sealed: it cost a run number, and no retry
    w.starter = w.new_starter()
    w.until(lambda: w.ended("a"))
    assert w.state("a") == ("done", 2)
    assert w.submissions("a") == [(2, True, True)]
    at_peace(w)


def test_it_dies_between_submit_and_commit(world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    w = world()
    w.push("a")
    with dying(monkeypatch, launch, "commit"):
        w.start()
    assert w.submissions("a") == [(1, False, False)]
    w.sweep()  # its commit may be coming: it is not touched
    assert len(w.left()) == 1
    w.settle()
    assert w.state("a") == ("submitted", 1)
    assert w.submissions("a") == [(1, True, True)]  # adopted, committed, released
    w.poll()
    assert w.state("a") == ("done", 1)
    at_peace(w)


def test_it_dies_between_commit_and_release(world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    w = world()
    w.push("a")
    with dying(monkeypatch, launch, "commit", after=True):
        w.start()
    assert (w.state("a"), w.submissions("a")) == (("submitted", 1), [(1, False, False)])
    w.sweep()
    w.poll()  # sees it held, and releases it
    assert w.submissions("a") == [(1, True, True)]
    w.poll()
    assert w.state("a") == ("done", 1)
    at_peace(w)


def test_it_dies_after_the_release(world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    w = world()
    w.push("a")
    with dying(monkeypatch, system_of(w.starter), "release", after=True):
        w.start()
    w.poll()
    assert (w.state("a"), w.submissions("a")) == (("done", 1), [(1, True, True)])
    at_peace(w)


@pytest.mark.parametrize("point", ["settle", "commit", "committed", "released"])
def test_the_janitor_that_adopts_dies_too(world: Make, monkeypatch: pytest.MonkeyPatch, point: str) -> None:
    w = world()
    w.push("a")
    with dying(monkeypatch, launch, "commit"):
        w.start()
    places: dict[str, tuple[Any, str]] = {
        "settle": (system_of(w.fetcher), "settle"),
        "commit": (launch, "commit"),
        "committed": (launch, "commit"),
        "released": (system_of(w.fetcher), "release"),
    }
    with dying(monkeypatch, *places[point], after=point not in ("commit",)):
        w.settle()
    w.fetcher = w.new_fetcher()
    w.settle()
    w.poll()
    w.poll()
    assert (w.state("a"), w.submissions("a")) == (("done", 1), [(1, True, True)])
    at_peace(w)


# A starter that sleeps, and goes on when others have done its work.


def finish_elsewhere(w: World) -> Callable[[], object]:
    """Investigate, and bring the job to its end by another starter."""

    def others() -> None:
        w.settle()
        w.starter = w.new_starter()
        w.until(lambda: w.ended("a"))

    return others


def test_it_sleeps_before_submit(world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    w = world()
    w.push("a")
    zombie = w.starter
    with frozen(monkeypatch, system_of(zombie), "submit", finish_elsewhere(w)):
        w.start(zombie)
    assert w.state("a") == ("done", 2)
    assert w.submissions("a") == [(2, True, True), (1, False, False)]
    at_peace(w)  # refused at its commit, and killed


def test_it_sleeps_before_commit_and_its_launch_was_adopted(world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    w = world()
    w.push("a")
    with frozen(monkeypatch, launch, "commit", finish_elsewhere(w)):
        w.start()
    assert (w.state("a"), w.submissions("a")) == (("done", 1), [(1, True, True)])
    at_peace(w)


def test_it_sleeps_before_commit_and_its_launch_was_not_found(world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    w = world()
    w.push("a", env={"FAKE_SECONDS": "60"})

    def others() -> None:
        w.cluster.faults(empty=1)
        w.settle()
        w.cluster.faults(empty=0)
        w.starter = w.new_starter()
        w.until(lambda: w.state("a") == ("running", 2))

    zombie = w.starter
    with frozen(monkeypatch, launch, "commit", others):
        w.start(zombie)
    assert w.state("a") == ("running", 2)
    assert w.submissions("a") == [(1, False, False), (2, True, True)]
    assert len(w.left()) == 1


def test_it_sleeps_before_release_and_the_job_was_cancelled(world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    w = world()
    w.push("a")

    def others() -> None:
        w.client.cancel(["a"])
        w.until(lambda: w.ended("a"))

    with frozen(monkeypatch, launch, "commit", others, after=True):
        w.start()
    assert (w.state("a"), w.submissions("a")) == (("cancelled", 1), [(1, False, False)])
    at_peace(w)


def test_it_sleeps_before_commit_and_the_job_was_cancelled(world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The investigator found nothing, and the wish ended the job under the same run: what is held is killed at once."""
    w = world()
    w.push("a")

    def others() -> None:
        w.client.cancel(["a"])
        w.cluster.faults(empty=1)
        w.settle()
        w.cluster.faults(empty=0)
        assert w.state("a") == ("cancelled", 1)

    with frozen(monkeypatch, launch, "commit", others):
        w.start()
    assert (w.left(), w.submissions("a")) == ([], [(1, False, False)])
    at_peace(w)


def test_it_sleeps_between_settle_and_seal_while_the_starter_commits(
    world: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was not found by the investigator, and committed before it said so, is not sealed: it runs."""
    w = world()
    w.push("a", env={"FAKE_SECONDS": "60"})
    slow = w.new_fetcher()

    def investigate() -> None:
        w.cluster.faults(empty=1)
        w.expire()
        with dying(monkeypatch, launch, "seal"):  # it will say so below
            slow._janitor._settle()
        w.cluster.faults(empty=0)

    with frozen(monkeypatch, launch, "commit", investigate):
        w.start()
    fence = int(w.facts("a")["fence"])
    assert launch.seal(w.record, [("a", 1, fence)], "late", uncommitted=True) == ["stale"]
    assert (w.state("a"), w.submissions("a")) == (("submitted", 1), [(1, True, True)])
    assert violations(w.redis) == []


def test_it_sleeps_before_it_gives_up_a_launch_that_another_adopts(
    world: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last of too many launches was not found by one investigator and found by another: it runs."""
    w = world()
    w.push("a", env={"FAKE_SECONDS": "60"})
    with dying(monkeypatch, launch, "commit"):
        w.start()
    w.redis.hset("Job:a", "seals", SEALS)
    w.cluster.faults(empty=1)

    def others() -> None:
        w.cluster.faults(empty=0)
        w.settle()

    with frozen(monkeypatch, ending, "finish", others):
        w.settle(w.new_fetcher())
    assert (w.state("a"), w.submissions("a")) == (("submitted", 1), [(1, True, True)])
    assert violations(w.redis) == []


def test_a_launch_that_never_happens_is_given_up(world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    w = world()
    w.push("a")
    with dying(monkeypatch, FakeSystem, "submit"):
        w.start()
    w.redis.hset("Job:a", "seals", SEALS)
    w.settle()
    assert w.state("a") == ("failed", 1) and "launch_failed" in w.facts("a")["exit"]
    at_peace(w)


# A cluster that misbehaves.


def test_a_wish_before_the_commit_leaves_it_held_until_it_is_killed(
    world: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    w = world()
    w.push("a")
    with frozen(monkeypatch, launch, "commit", lambda: w.client.cancel(["a"])):
        w.start()
    w.poll()
    assert (w.state("a"), w.submissions("a")) == (("cancelled", 1), [(1, False, False)])
    at_peace(w)


def test_what_is_accepted_twice_starts_once(world: Make) -> None:
    w = world(duplicate=1, seconds=60)
    w.push("a", "b")
    w.start()
    w.poll()
    assert [w.state(i) for i in "ab"] == [("running", 1)] * 2
    assert w.submissions("a") == [(1, True, True), (1, False, False)]
    w.sweep()
    assert len(w.left()) == 2  # the told ones
    assert w.doubled() == []
    w.poll()
    assert [w.state(i) for i in "ab"] == [("running", 1)] * 2


def test_the_second_handle_of_a_launch_is_refused_in_every_state(world: Make) -> None:
    w = world()
    w.push("a")
    w.start()
    first = w.facts("a")["handle"]

    def commit(handle: str) -> str:
        fence = int(w.facts("a")["fence"])
        row = Commitment(job_id="a", run=1, fence=fence, state="submitted", handle=handle)
        return launch.commit(w.record, [row])[0]

    for state in ("submitted", "running", "unknown", "collecting"):
        w.redis.hset("Job:a", "state", state)
        assert (commit("another"), commit(first)) == ("stale", "ok")
        assert w.facts("a")["handle"] == first
    w.redis.hset("Job:a", "state", "submitted")
    w.due()
    w.poll()
    assert (w.state("a"), commit("another")) == (("done", 1), "ended")


def test_a_submission_of_which_it_is_unclear_is_looked_up_at_once(world: Make) -> None:
    w = world(unclear=1)
    w.push("a")
    w.start()
    assert (w.state("a"), w.submissions("a")) == (("starting", 1), [(1, False, False)])
    w.fetcher._janitor._settle()  # its lease has run out already
    w.poll()
    assert (w.state("a"), w.submissions("a")) == (("done", 1), [(1, True, True)])
    assert int(w.facts("a").get("aborts", 0)) == 0
    at_peace(w)


def test_an_unclear_one_that_is_not_found_is_sealed_and_swept(world: Make) -> None:
    w = world(unclear=1)
    w.push("a")
    w.start()
    w.cluster.faults(empty=1, unclear=0)
    w.settle()
    assert w.state("a") == ("waiting", 2)
    w.cluster.faults(empty=0)
    w.manage()
    w.sweep()  # late or not, it was held, and the record is at run 2
    assert w.left() == []
    w.until(lambda: w.ended("a"))
    assert w.submissions("a") == [(1, False, False), (2, True, True)]
    at_peace(w)


def test_what_was_declared_lost_and_lives_is_killed(world: Make) -> None:
    w = world(seconds=60)
    w.push("a")
    w.start()
    w.cluster.faults(empty=1)
    w.poll()
    w.redis.hset("Job:a", "absent", 1)  # long ago
    w.until(lambda: w.ended("a"))
    assert w.state("a") == ("lost", 1)
    w.cluster.faults(empty=0)
    assert len(w.left()) == 1
    w.sweep()
    assert w.left() == []
    at_peace(w)


def test_an_empty_answer_is_no_end(world: Make) -> None:
    w = world(seconds=60)
    w.push("a")
    w.start()
    w.cluster.faults(empty=1)
    for _ in range(20):
        w.due()
        w.poll()
        assert w.state("a")[0] == "submitted"
    w.cluster.faults(empty=0)
    w.due()
    w.poll()
    assert w.state("a") == ("running", 1)
    assert "absent" not in w.facts("a")


@pytest.mark.parametrize("seed", range(5))
def test_wrong_observations_change_no_end(world: Make, seed: int) -> None:
    w = world(seed=seed, wrong=0.5, late=0.05, seconds=0.05)
    w.push("a", "b", "c", env={"FAKE_EXIT": "4"})
    w.until(lambda: w.ended("a", "b", "c"))
    assert [(w.state(i), w.client.job(i).exit["exit_value"]) for i in "abc"] == [(("failed", 1), 4)] * 3
    w.cluster.faults(wrong=0)
    at_peace(w)


def test_a_refusal_costs_neither_a_run_nor_a_retry(world: Make) -> None:
    w = world(refuse=1)
    w.push("a")
    w.start()
    assert w.state("a") == ("later", 1)
    w.cluster.faults(refuse=0, limit=0)
    w.due()
    w.fetcher._janitor.tick(0)
    w.manage()
    w.start()
    assert w.state("a") == ("later", 1)
    assert "submit limit of 0" in w.facts("a")["why"]
    w.cluster.faults(limit=None)
    w.until(lambda: w.ended("a"))
    assert (w.state("a"), w.submissions("a")) == (("done", 1), [(1, True, True)])


def test_jobs_that_were_put_off_do_not_come_back_as_one_herd(world: Make) -> None:
    w = world(refuse=1)
    w.push(*[f"j{i}" for i in range(50)])
    w.start()
    times = [score for _, score in w.redis.zrange("Later", 0, -1, withscores=True)]
    assert max(times) - min(times) > 100  # ms, of 1 s


def test_a_wide_job_takes_its_slots_and_a_full_cluster_lets_it_wait(world: Make) -> None:
    w = world(slots=2)
    w.push("a", "b", env={"FAKE_SECONDS": "60"})
    w.push("c")
    w.start()
    w.poll()
    assert [w.state(i)[0] for i in "abc"] == ["running", "running", "waiting"]
    w.client.cancel(["a"])
    w.until(lambda: w.ended("a", "c"))
    assert (w.state("a")[0], w.state("c")[0], w.state("b")[0]) == ("cancelled", "done", "running")


# What the record disowns.


@pytest.mark.parametrize(
    ("token", "standing", "is_stray"),
    [
        ("r:a:1", None, True),
        ("r:a:1", ("waiting", 2, ""), True),
        ("r:a:1", ("running", 2, "h"), True),
        ("r:a:1", ("done", 1, "h"), True),
        ("r:a:1", ("lost", 1, "h"), True),
        ("r:a:1", ("running", 1, "another"), True),
        ("r:a:1", ("running", 1, "h"), False),
        ("r:a:1", ("submitted", 1, "h"), False),
        ("r:a:1", ("starting", 1, ""), False),  # its commit may be coming
        ("r:a:1", ("starting", 1, "another"), False),
        ("r:a:1", ("granted", 1, ""), False),
        ("r:a:2", ("running", 1, "h"), False),  # an old copy of the record: leave it alone
        ("r:a:x", ("done", 1, "h"), False),
        ("r.6:a:1", ("running", 1, "h"), True),  # of an earlier job of this id
        ("r.6:a:2", ("starting", 1, ""), True),
        ("r.7:a:1", ("starting", 1, ""), False),
        ("r.7:a:1", ("running", 1, "another"), True),
        ("r.7:a:1", ("running", 1, "h"), False),
        ("r.8:a:1", ("done", 1, "h"), False),  # an old copy of the record again
    ],
)
def test_disowned(token: str, standing: tuple[str, int, str] | None, is_stray: bool) -> None:
    found = None
    if standing is not None:
        found = Standing(state=standing[0], run=standing[1], handle=standing[2], arrival=7)
    assert bool(disowned("h", token, found)) is is_stray


def test_a_sweep_touches_no_other_record_and_nothing_that_is_right(world: Make) -> None:
    w = world(seconds=60)
    w.push("a", "b", "c")
    w.start()
    stranger, orphan = w.cluster.submit([("other:a:1", {}), (f"{w.record.identity()}:nobody:1", {})])
    assert stranger and orphan
    w.sweep()
    assert sorted(t.split(":")[1] for t in w.left()) == ["a", "a", "b", "c"]
    w.cluster.kill([stranger], 9)


def test_a_stray_is_killed_only_when_the_record_says_so_after_it_was_seen(
    world: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    w = world(seconds=60)
    w.push("a")

    def meanwhile() -> None:  # it was seen while starting, and is committed before the record is asked
        w.start()

    with frozen(monkeypatch, system_of(w.fetcher), "inventory", meanwhile, after=True):
        w.sweep()
    w.sweep()
    assert len(w.left()) == 1


def test_a_stray_of_an_earlier_job_of_an_id_is_killed_and_the_later_one_is_left(world: Make) -> None:
    w = world(seconds=60)
    w.push("a")
    w.start()
    (old,) = w.left()
    ending.finish(w.record, [RunEnd(job_id="a", run=1, state="lost", exit='{"evidence":"nobody knows"}')])
    assert upkeep.prune(w.record, 0) == 1
    w.push("a")
    w.start()
    assert len(w.left()) == 2
    w.sweep()
    (new,) = w.left()
    assert new != old and w.state("a") == ("submitted", 1)


# All of it at once.


@pytest.mark.timeout(120)
@pytest.mark.parametrize("seed", range(12))
def test_whoever_dies_and_whatever_the_cluster_tells(world: Make, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    draw = random.Random(seed)
    w = world(seed=seed)
    faults = {"unclear": 0.2, "refuse": 0.1, "duplicate": 0.3, "empty": 0.2, "wrong": 0.2}
    w.cluster.faults(**faults)
    expected: dict[str, int] = {}

    def some_starter_dies() -> None:
        system = system_of(w.starter)
        thing, verb = draw.choice(
            [(system, "submit"), (w.starter._record, "do"), (launch, "commit"), (system, "release")]
        )
        w.manage()
        with dying(monkeypatch, thing, verb, after=draw.random() < 0.5):
            w.start()
            raise Died  # nothing was granted, so nobody came there
        w.bury_starter()

    def some_fetcher_dies() -> None:
        thing, verb = draw.choice([(launch, "commit"), (system_of(w.fetcher), "release"), (launch, "seal")])
        with dying(monkeypatch, thing, verb, after=draw.random() < 0.5):
            w.settle()
            w.due()
            w.poll()
            raise Died
        w.fetcher = w.new_fetcher()

    acts: list[Callable[[], object]] = [
        w.start, w.start, w.manage, w.poll, w.poll, w.due, w.settle, w.sweep, some_starter_dies, some_fetcher_dies,
    ]  # fmt: skip
    for number in range(30):
        job_id = f"j{number}"
        expected[job_id] = number % 3
        w.push(job_id, env={"FAKE_EXIT": str(number % 3), "FAKE_SECONDS": str(draw.choice([0, 0, 0.01, 0.1]))})
        for _ in range(4):
            draw.choice(acts)()
        assert w.doubled() == []
        assert violations(w.redis) == []
    w.cluster.faults(**dict.fromkeys(faults, 0))
    w.until(lambda: (w.expire(), w.ended(*expected))[1], timeout=40)
    at_peace(w)
    for job_id, code in expected.items():
        state, _ = w.state(job_id)
        exit_value = w.client.job(job_id).exit.get("exit_value")
        started = [run for run, _, started in w.submissions(job_id) if started]
        assert (state, exit_value) == ("failed" if code else "done", code), (w.facts(job_id), started)
        assert started == [w.state(job_id)[1]]
