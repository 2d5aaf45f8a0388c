"""The record's only clock is the server's: a worker whose own clock is an hour off judges the same."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from conftest import Server
from fakeworld import World

from jobmill.ledger.membership import server_time

pytestmark = pytest.mark.parametrize("hours", [-1, 1])


@pytest.fixture
def world(valkey: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hours: int) -> World:
    made = World(valkey.url, tmp_path, seconds=600)
    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() + hours * 3600)
    return made


def test_an_absence_lasts_as_long_as_by_the_server(world: World) -> None:
    world.push("a")
    world.start()
    world.cluster.faults(empty=1)
    for _ in range(3):
        world.due()
        world.poll()
    assert world.state("a") == ("submitted", 1)  # absent for some milliseconds
    world.redis.hincrby("Job:a", "absent", -11_000)
    world.due()
    world.poll()
    assert world.state("a") == ("lost", 1)


def test_what_is_killed_is_proved_gone_by_the_time_of_the_server(world: World) -> None:
    world.push("a")
    world.start()
    world.cluster.faults(late=3600)  # no record tells of its end
    world.client.cancel(["a"])
    world.poll()
    world.due()
    world.poll()
    assert world.state("a")[0] == "submitted"  # killed some milliseconds ago
    world.redis.hincrby("Job:a", "killed", -2_000)
    world.due()
    world.poll()
    assert world.state("a") == ("cancelled", 1)


def test_start_after_is_a_time_of_the_server(world: World) -> None:
    now = server_time(world.record)
    world.push("soon", start_after=_written(now + 1800))
    world.push("past", start_after=_written(now - 1800))
    world.fetcher._janitor.tick(0)
    assert (world.state("soon")[0], world.state("past")[0]) == ("later", "waiting")


def _written(moment: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))
