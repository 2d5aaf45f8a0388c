"""The janitor's rounds: a recount goes through all members, some at a time, whoever else has to be served meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Server
from fakeworld import World
from laws import violations

from jobmill.fetcher import janitor
from jobmill.ledger import upkeep


@pytest.fixture
def world(valkey: Server, tmp_path: Path) -> World:
    return World(valkey.url, tmp_path)


def test_a_recount_takes_several_rounds_and_misses_nobody(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    w = world
    w.push("a")
    w.redis.sadd("FakeJobs", *[f"ghost{n}" for n in range(3000)])
    monkeypatch.setattr(janitor, "PAGES", 2)
    rounds = 0
    while w.redis.scard("FakeJobs") > 1:
        before = w.redis.scard("FakeJobs")
        w.fetcher._janitor.tick(w.now)
        assert before - w.redis.scard("FakeJobs") < 1000
        rounds += 1
    assert rounds > 3
    assert w.redis.smembers("FakeJobs") == {b"a"}
    assert violations(w.redis) == []


def test_a_granted_job_without_a_list_entry_is_pushed_anew(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    w = world
    w.push("a", "b")
    monkeypatch.setattr(janitor, "REGRANT", 0.0)
    w.fetcher._janitor.tick(w.now)
    assert w.redis.llen("Granted_Queue") == 2  # an entry is under way: nobody is taken for lost
    w.redis.delete("Granted_Queue")
    w.fetcher._janitor.tick(w.now + 1)  # the last recount was just made
    assert w.redis.llen("Granted_Queue") == 0
    w.fetcher._janitor.tick(w.now + 2 * janitor.RECOUNT)
    assert w.redis.llen("Granted_Queue") == 2
    w.start()
    w.poll()
    assert [w.state(i) for i in "ab"] == [("done", 1)] * 2


def test_a_recount_that_fails_is_made_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    w = world
    w.redis.sadd("FakeJobs", "ghost")
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(upkeep, "reconcile", lambda record, sets: 1 / 0)
        w.fetcher._janitor.tick(w.now)
    w.fetcher._janitor.tick(w.now)
    w.fetcher._janitor.tick(w.now + 2 * janitor.RECOUNT)
    assert w.redis.scard("FakeJobs") == 0
