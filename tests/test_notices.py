"""Launches that tell themselves when they start and end: the cluster is hardly asked, and nothing depends on it."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import Server
from fakeworld import World
from laws import violations

from jobmill.errors import SystemUnavailable
from jobmill.fetcher import poller as poller_file
from jobmill.ledger import polls, queries
from jobmill.ledger.membership import server_time
from jobmill.ledger.record import Record
from jobmill.systems import notices
from jobmill.systems.fake import FakeSystem
from jobmill.systems.notices import Notices
from jobmill.systems.system import ExitInfo, ExitStatus, Handle, Notice, Token

RIGHT = ExitInfo(exit_status=ExitStatus.FINISHED_REGULARLY, exit_value=0, evidence="its own record")


class Board:
    """What the launches of a fake system tell, and the records that they left."""

    def __init__(self) -> None:
        self.told: dict[Token, Notice] = {}
        self.records: dict[Token, ExitInfo] = {}
        self.asked: Counter[str] = Counter()


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch) -> Board:
    """Let fake systems tell of notices, and count what they are asked."""
    made = Board()

    def told(_self: FakeSystem) -> Mapping[Token, Notice]:
        return dict(made.told)

    def done(_self: FakeSystem, handles: Sequence[Handle]) -> Mapping[Handle, ExitInfo]:
        return {h: made.records[t] for h in handles if (t := h.rpartition("/")[2]) in made.records}

    def counted(verb: str) -> Callable[..., Any]:
        right = getattr(FakeSystem, verb)

        def call(self: FakeSystem, *args: Any, **more: Any) -> Any:
            made.asked[verb] += 1
            return right(self, *args, **more)

        return call

    for verb in ("status", "survey", "exit_info"):
        monkeypatch.setattr(FakeSystem, verb, counted(verb))
    monkeypatch.setattr(FakeSystem, "notifies", True)
    monkeypatch.setattr(FakeSystem, "poll_interval_max", 180.0)
    monkeypatch.setattr(FakeSystem, "notices", told)
    monkeypatch.setattr(FakeSystem, "done", done)
    # a handle of the fake ends with its number alone
    monkeypatch.setattr(poller_file, "_token", lambda handle: handle)
    monkeypatch.setattr(poller_file, "READ", 0.0)
    return made


@pytest.fixture
def world(valkey: Server, tmp_path: Path, board: Board) -> World:
    made = World(valkey.url, tmp_path, seconds=3600, poll_interval=5)
    made.push("a", "b", "c")
    made.start()
    made.poll()
    board.asked.clear()
    return made


def glance(world: World) -> None:
    """Let a second pass in which no poll is due."""
    (poller,) = world.fetcher._pollers
    poller._at = world.now + 1e6
    world.poll()


def test_what_is_done_ends_without_a_query(world: World, board: Board) -> None:
    handle = world.facts("a")["handle"]
    board.records[handle] = RIGHT
    board.told[handle] = Notice.DONE
    glance(world)
    assert (world.state("a")[0], world.state("b")[0]) == ("done", "running")
    assert world.client.job("a").exit["evidence"] == "its own record"
    assert not board.asked
    assert violations(world.redis) == []
    assert world.fetcher._ends.leavings["fake"] == [handle]  # its notice is dropped with it


def test_a_notice_without_a_record_is_no_end_and_has_the_cluster_asked(world: World, board: Board) -> None:
    """As a liar's, or on a file system that shows names before what they stand for."""
    board.told[world.facts("a")["handle"]] = Notice.DONE
    glance(world)
    assert world.state("a")[0] == "running"
    due = polls.due(world.record)["fake"] - server_time(world.record)
    assert due < 5.1


def test_an_end_that_is_not_done_has_the_cluster_asked_soon_and_once(world: World, board: Board) -> None:
    board.told[world.facts("a")["handle"]] = Notice.ENDED
    glance(world)
    assert world.state("a")[0] == "running"
    assert polls.due(world.record)["fake"] - server_time(world.record) < 5.1
    (poller,) = world.fetcher._pollers
    poller._hurry = False
    glance(world)
    assert not poller._hurry  # the same notice again is no news


def test_an_end_that_the_cluster_has_not_noted_is_asked_about_again_soon(world: World, board: Board) -> None:
    """Its record is there, and the cluster still says that it runs: the pace of polls does not grow over it."""
    (poller,) = world.fetcher._pollers
    handle = world.facts("a")["handle"]
    board.told[handle] = Notice.ENDED
    for _ in range(4):
        poller._at, poller._held = 0.0, "0"
        world.redis.zadd("Polls", {"fake": 0})
        world.poll()
        assert world.state("a")[0] == "running" and poller._hurry
        assert polls.due(world.record)["fake"] - server_time(world.record) < 5.1
    poller._ended_at[handle] -= poller_file.HURRY  # a job may tell this of itself, and run on
    poller._at, poller._held = 0.0, "0"
    world.redis.zadd("Polls", {"fake": 0})
    world.poll()
    assert not poller._hurry
    assert violations(world.redis) == []
    world.cluster.kill([handle], 9)
    poller._at, poller._held = 0.0, "0"
    world.redis.zadd("Polls", {"fake": 0})
    world.poll()
    assert world.state("a")[0] == "failed" and not poller._hurry


def test_a_wish_goes_first(world: World, board: Board) -> None:
    handle = world.facts("a")["handle"]
    board.records[handle] = RIGHT
    board.told[handle] = Notice.DONE
    world.client.cancel(["a"])
    glance(world)
    assert world.state("a")[0] in ("running", "cancelled", "done")
    world.until(lambda: world.ended("a"))
    assert world.state("a")[0] == "cancelled"


def test_a_start_is_told_and_a_late_answer_does_not_take_it_back(world: World, board: Board) -> None:
    world.push("late", env={"FAKE_PENDING": "3600"})
    world.start()
    glance(world)
    world.redis.hset("Job:late", "state", "submitted")
    (poller,) = world.fetcher._pollers
    handle = world.facts("late")["handle"]
    poller._known[handle] = poller._known[handle]._replace(state="submitted")
    board.told[handle] = Notice.STARTED
    glance(world)
    assert world.state("late")[0] == "running"
    assert not board.asked


def test_a_notice_of_what_nobody_knows_is_looked_for_and_then_left(world: World, board: Board) -> None:
    board.told["another's"] = Notice.DONE
    (poller,) = world.fetcher._pollers
    glance(world)
    assert "another's" in poller._unknown
    poller._unknown["another's"] -= poller_file.STRANGE
    glance(world)
    assert "another's" not in poller._unknown and poller._told["another's"] is Notice.DONE


def test_without_news_polls_become_rare_and_with_news_they_are_quick_again(world: World, board: Board) -> None:
    (poller,) = world.fetcher._pollers
    paces = []
    for _ in range(7):
        poller._at = 0.0
        for name in polls.due(world.record):
            world.redis.zadd("Polls", {name: 0})
        poller._held = "0"
        world.poll()
        paces.append(poller._pace.interval)
    assert paces[-1] == 180 and paces == sorted(paces)
    assert board.asked["survey"] == 7
    world.cluster.kill([world.facts("b")["handle"]], 9)  # it ended, and did not say so
    world.redis.zadd("Polls", {"fake": 0})
    poller._at, poller._held = 0.0, "0"
    world.poll()
    assert world.state("b")[0] == "failed"
    assert poller._pace.interval == 5


def test_a_spent_budget_makes_polls_wait_but_no_wish(
    world: World, board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeSystem, "queries_per_minute", 12.0)
    queries.spend(world.record, "fake", 50, 12)
    (poller,) = world.fetcher._pollers
    poller._at = 0.0
    world.redis.zadd("Polls", {"fake": 0})
    world.poll()
    assert not board.asked["survey"]
    world.client.cancel(["a"])
    world.until(lambda: world.ended("a"))
    assert world.state("a")[0] == "cancelled"


def test_notices_that_cannot_be_read_are_an_outage_of_nobody_else(
    world: World, board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind SSH they are asked for over the line: a poll goes on without, and the survey says what is wrong."""

    def away(_self: FakeSystem) -> Mapping[Token, Notice]:
        raise SystemUnavailable("login: the connection was lost")

    monkeypatch.setattr(FakeSystem, "notices", away)
    (poller,) = world.fetcher._pollers
    for _ in range(2):
        poller._at = 0.0
        world.redis.zadd("Polls", {"fake": 0})
        poller._held = "0"
        world.poll()
    assert board.asked["survey"] == 2
    world.cluster.kill([world.facts("b")["handle"]], 9)
    poller._at, poller._held = 0.0, "0"
    world.redis.zadd("Polls", {"fake": 0})
    world.poll()
    assert world.state("b")[0] == "failed"


def test_a_record_that_could_not_be_fetched_is_asked_for_at_the_next_look(
    world: World, board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(_self: FakeSystem, handles: Sequence[Handle]) -> Mapping[Handle, ExitInfo]:
        raise SystemUnavailable("login: the connection was lost")

    handle = world.facts("a")["handle"]
    board.records[handle] = RIGHT
    board.told[handle] = Notice.DONE
    with monkeypatch.context() as out:
        out.setattr(FakeSystem, "done", away)
        glance(world)
    assert world.state("a")[0] == "running"
    (poller,) = world.fetcher._pollers
    poller._glance_at = 0.0
    glance(world)
    assert world.state("a")[0] == "done" and not board.asked


# The count of queries.


def test_queries_of_the_last_minute_are_counted_over_all_processes(valkey: Server) -> None:
    record = Record(valkey.url)
    minute = int(server_time(record) // 60)
    assert queries.spend(record, "c", 3, 12) >= 3
    assert queries.spend(record, "c", 2, 12) >= 5
    assert 5 <= queries.spent(record)["c"].last_minute < 6 and queries.spent(record)["c"].budget == 12
    record.client.hset("Queries", "c", f"{minute - 1} 60 900 12")
    share = 1 - server_time(record) % 60 / 60
    assert abs(queries.spend(record, "c", 0, 12) - 60 * share) < 2
    assert abs(queries.spent(record)["c"].last_minute - 60 * share) < 2
    record.client.hset("Queries", "c", f"{minute - 5} 60 900 12")
    record.client.hset("Queries", "strange", "somebody's note")
    assert queries.spend(record, "c", 0, 12) == 0 == queries.spent(record)["c"].last_minute
    assert list(queries.spent(record)) == ["c"]
    assert queries.spend(record, "strange", 3, 12) == 3


# The files.


def test_an_end_takes_the_place_of_its_start(tmp_path: Path) -> None:
    board = Notices(os.fsencode(tmp_path), "slurm")
    assert board.look() == {}  # before anybody made it
    board.put("x:a:1", notices.STARTED)  # it cannot be told: that is no error
    board.make()
    board.put("x:a.b:1", notices.STARTED)
    assert board.look() == {"x:a.b:1": notices.STARTED}
    board.put("x:a.b:1", notices.DONE)
    board.put("x:b:1", notices.ENDED)  # its start was not told
    assert board.look() == {"x:a.b:1": notices.DONE, "x:b:1": notices.ENDED}
    assert len(list(tmp_path.glob("notices/slurm/*"))) == 2
    (tmp_path / "notices/slurm/x:b:1.started").touch()  # it was told late
    (tmp_path / "notices/slurm/README").touch()
    assert board.look()["x:b:1"] == notices.ENDED
    board.drop(["x:a.b:1", "x:b:1", "never"])
    assert board.look() == {}


def test_what_nobody_took_for_a_week_is_removed(tmp_path: Path) -> None:
    board = Notices(os.fsencode(tmp_path), "slurm")
    board.make()
    board.put("x:a:1", notices.DONE)
    board.put("x:b:1", notices.DONE)
    week = time.time() - notices.LEFT_OVER - 60
    os.utime(tmp_path / "notices/slurm/x:a:1.done", (week, week))
    board.tidy()
    assert board.look() == {"x:b:1": notices.DONE}


def test_no_notice_leaves_its_folder(tmp_path: Path) -> None:
    board = Notices(os.fsencode(tmp_path), "slurm")
    board.make()
    for token in ("", "../x", "a/b", "a\0b"):
        with pytest.raises(ValueError, match="is not a token"):
            board.put(token, notices.DONE)
    outside = tmp_path / "outside"
    (tmp_path / "notices/slurm/x:a:1.done").symlink_to(outside)
    board.put("x:a:1", notices.DONE)
    assert not outside.exists()


def test_what_a_job_puts_among_the_notices_holds_nobody_up(tmp_path: Path) -> None:
    board = Notices(os.fsencode(tmp_path), "here")
    board.make()
    folder = tmp_path / "notices/here"
    (folder / "a.folder").mkdir()
    os.mkfifo(folder / "rec.1:a:1.started")
    os.mkfifo(folder / "rec.1:a:1.ended")
    (folder / "z.old").touch()
    for path in folder.iterdir():
        os.utime(path, (1, 1))
    board.put("rec.1:a:1", notices.STARTED)  # a pipe that nobody reads
    assert board.look() == {"rec.1:a:1": notices.ENDED}
    board.tidy()
    assert [path.name for path in folder.iterdir()] == ["a.folder"]


def test_a_flood_of_notices_is_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "MOST", 10)
    board = Notices(os.fsencode(tmp_path), "here")
    board.make()
    for number in range(30):
        board.put(f"rec.1:a:{number}", notices.DONE)
    assert len(board.look()) == 10
