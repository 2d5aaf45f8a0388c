"""The real processes on the fake system: everything goes wrong at once, and every job ends once, as its env said."""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Server
from fakeworld import World
from laws import violations
from pipeline import Pipeline

from jobmill.ledger import launch
from jobmill.systems import launch_token
from jobmill.systems.fake_cluster import FakeCluster

Make = Callable[..., Pipeline]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[Pipeline] = []

    def _make(**options: Any) -> Pipeline:
        settings = {"kind": "fake", "limit": 1000, "poll_interval": 0.3, **options}
        config = {"systems": {"fake": settings}, "limits": {"lease": "5s"}}
        made.append(Pipeline(tmp_path / "p", config=json.dumps(config)))
        made[0].start()
        return made[0]

    yield _make
    for pipeline in made:
        pipeline.stop()


def cluster_of(pipeline: Pipeline) -> FakeCluster:
    return FakeCluster(pipeline.state / "spool" / "fake" / "fake")


def specs(count: int) -> list[dict[str, Any]]:
    return [
        {
            "id": f"j{n}",
            "command": "true",
            "env": {"FAKE_SECONDS": f"{n % 5 / 10}", "FAKE_EXIT": str(n % 3)},
        }
        for n in range(count)
    ]


def check(pipeline: Pipeline, count: int) -> None:
    """Every job has ended with its own exit value, by one start of its last run; nothing is left on the cluster."""
    rows = pipeline.client.wait([f"j{n}" for n in range(count)], timeout=60)
    cluster = cluster_of(pipeline)
    launches = cluster.launches()
    for n in range(count):
        row = rows[f"j{n}"]
        assert (row.state, row.exit.get("exit_value")) == ("failed" if n % 3 else "done", n % 3), (row.state, row.exit)
    starts = Counter(it.token for it in launches if it.started is not None)
    record = pipeline.client.record
    known = launch.standings(record, list(rows))
    lives = {i: launch_token.life(record.identity(), known[i].arrival) for i in rows}
    assert starts == {f"{lives[i]}:{i}:{row.run}": 1 for i, row in rows.items()}
    assert all(it.released is None for it in launches if it.started is None)
    pipeline.until(lambda: not violations(pipeline.client.record.client, at_rest=True))
    if cluster.look().alive:  # told nobody: the next sweep takes it, or the first one of another fetcher
        pipeline.kill("fetcher")
        pipeline.start("fetcher")
    pipeline.until(lambda: not cluster.look().alive)


@pytest.mark.timeout(120)
def test_all_faults_at_once_and_processes_that_are_killed(make: Make) -> None:
    pipeline = make(slots=60)
    cluster = cluster_of(pipeline)
    cluster.faults(seed=3, unclear=0.1, refuse=0.02, duplicate=0.1, empty=0.1, wrong=0.1, late=0.3, delay=0.002)
    pipeline.client.submit_many(specs(300))
    started = lambda: sum(it.started is not None for it in cluster.launches())  # noqa: E731
    for kill, role in enumerate(("starter", "fetcher", "starter", "manager")):
        pipeline.until(lambda least=40 * (kill + 1): started() >= least)  # type: ignore[misc]
        pipeline.kill(role)
        pipeline.start(role)
    pipeline.until(lambda: started() >= 200, timeout=30)
    cluster.faults(empty=0, wrong=0, unclear=0)
    check(pipeline, 300)


@pytest.mark.timeout(120)
def test_an_outage_while_it_runs(make: Make) -> None:
    pipeline = make()
    cluster = cluster_of(pipeline)
    redis = pipeline.client.record.client
    ids = pipeline.client.submit_many(
        [{"id": f"j{n}", "command": "x", "env": {"FAKE_SECONDS": "4"}} for n in range(50)]
    )
    pipeline.until(lambda: sum(it.released is not None for it in cluster.launches()) == 50)
    pipeline.until(lambda: all(redis.hget(f"Job:{i}", "state") == b"running" for i in ids))
    cluster.faults(down=True)
    pipeline.until(lambda: redis.hexists("Endpoints", "fake"))
    assert {redis.hget(f"Job:{i}", "state") for i in ids} == {b"running"}
    pipeline.client.submit({"id": "new", "command": "x"})
    pipeline.until(lambda: redis.hget("Job:new", "state") in (b"waiting", b"later"))
    assert redis.scard("FakeJobs") == 50
    cluster.faults(down=False)
    rows = pipeline.client.wait([*ids, "new"], timeout=40)
    assert {(row.state, row.run) for row in rows.values()} == {("done", 1)}
    pipeline.until(lambda: not redis.hlen("Endpoints"))
    assert len([it for it in cluster.launches() if it.started is not None]) == 51


@pytest.mark.timeout(120)
def test_a_starter_that_sleeps_longer_than_its_lease(make: Make) -> None:
    pipeline = make()
    cluster = cluster_of(pipeline)
    redis = pipeline.client.record.client
    pipeline.client.submit_many(specs(100))
    pipeline.until(lambda: bool(cluster.launches()))
    zombie = pipeline.workers.pop("starter")
    zombie.send_signal(signal.SIGSTOP)
    try:
        pipeline.start("starter")
        pipeline.until(lambda: any(redis.hexists(key, "evicted") for key in redis.keys("Process:starter-*")))
        pipeline.until(lambda: not redis.zcard("Starting_Queue"))
    finally:
        zombie.send_signal(signal.SIGCONT)
    check(pipeline, 100)
    zombie.terminate()
    assert zombie.wait(timeout=20) == 0


def test_a_manager_comes_again_where_large_specs_cut_a_grant(server: Server, tmp_path: Path) -> None:
    world = World(server.url, tmp_path)
    world.redis.hset("Capacity", "FakeJobs", 0)
    names = [f"large-{n}" for n in range(7)]
    for name in names:
        world.push(name, env={"X": "x" * (3 << 20)})
    assert world.redis.scard("FakeJobs") == 0
    world.redis.hset("Capacity", "FakeJobs", 9)
    world.manager._grant()
    assert {m.decode() for m in world.redis.smembers("FakeJobs")} == set(names)
    assert violations(world.redis) == []
