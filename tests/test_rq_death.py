"""The `rq` system while workers, their children and their server die: nothing twice, nothing lost, the truth told."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from conftest import Server
from rq_pool import Pool, children, command, kill
from test_rq_pool import alive

from jobmill.systems.system import ExitInfo, ExitStatus, NativeState, Observation

pytestmark = pytest.mark.timeout(90)

LEASE = 5.0  # seconds; with the tests' grace its leash ends 2.5 s after the last beat


@pytest.fixture
def pool(running_server: Callable[[str], Server], tmp_path: Path) -> Iterator[Pool]:
    made = Pool(running_server("valkey").url, tmp_path, lease=LEASE)
    yield made
    made.stop()


class Ticking:
    """A job that writes the time as long as it, or the process that it set aside, lives."""

    def __init__(self, pool: Pool, name: str, run: int = 1, queue: str | None = None) -> None:
        self.file = pool.folder / f"{name}.{run}"
        self.pids = pool.folder / f"{name}.{run}.pids"
        loop = f"trap '' TERM; echo $$ >> {self.pids}; while :; do date +%s.%N >> {self.file}; sleep 0.05; done"
        (pool.folder / f"{name}.{run}.sh").write_text(loop)
        body = pool.folder / f"{name}.{run}.sh"
        (self.handle,) = pool.launch(pool.sh(name, f"setsid sh {body} & sh {body}", run=run, queue=queue))
        pool.until(lambda: self.pids.exists() and len(self.members()) == 2)

    def members(self) -> list[int]:
        return [int(pid) for pid in self.pids.read_text().split()]

    def living(self) -> list[int]:
        return [pid for pid in self.members() if alive(pid)]

    def times(self) -> list[float]:
        return [float(line) for line in self.file.read_text().split()]


def horse_of(pool: Pool, worker: subprocess.Popen[bytes]) -> int:
    (horse,) = children(worker.pid)
    return horse


def guards(horse: int) -> tuple[int, int]:
    """Return guard and runner below a work-horse."""
    (guard,) = [pid for pid in children(horse) if b"guard" in command(pid)]
    (runner,) = [pid for pid in children(guard) if b"runner" in command(pid)]
    return guard, runner


def end_and_living(pool: Pool, job: Ticking) -> ExitInfo:
    """Wait for the end as a fetcher does; by then nothing of the launch may be left."""
    looks: list[Observation] = []

    def ended() -> bool:
        looks.append(pool.system.status([job.handle])[job.handle])
        return looks[-1].state is NativeState.ENDED

    pool.until(ended, 30)
    assert job.living() == []
    assert {look.state for look in looks[:-1]} <= {NativeState.RUNNING}
    return pool.end(job.handle)


def test_a_worker_that_was_killed_leaves_its_launch_to_its_horse(pool: Pool, tmp_path: Path) -> None:
    worker = pool.work()
    (handle,) = pool.launch(pool.sh("goes-on", f"echo start >> {tmp_path}/starts; sleep {LEASE * 1.6}; exit 3"))
    pool.until(lambda: pool.state(handle) is NativeState.RUNNING)
    kill(worker.pid)
    pool.work()
    end = pool.end(handle, 30)
    assert (end.exit_status, end.exit_value, end.reason) == (ExitStatus.FINISHED_REGULARLY, 3, None)
    assert (tmp_path / "starts").read_text() == "start\n"


def test_a_horse_that_was_killed(pool: Pool) -> None:
    worker = pool.work()
    job = Ticking(pool, "horse")
    kill(horse_of(pool, worker))
    end = end_and_living(pool, job)
    assert (end.reason, end.exit_status) == ("node_fail", ExitStatus.ABORTED)
    assert "no heartbeat of the launch" in (end.evidence or "") and "worker" in (end.evidence or "")
    pool.until(lambda: len(pool.ends) == 1)  # told as well to who waits for it
    after = pool.launch(pool.sh("after", "true"))[0]
    assert pool.end(after).regular
    pool.until(lambda: not list(pool.rooms.iterdir()))


@pytest.mark.parametrize("who", ["guard", "runner", "guard and runner"])
def test_a_horse_killed_with(who: str, pool: Pool) -> None:
    worker = pool.work()
    job = Ticking(pool, "both")
    horse = horse_of(pool, worker)
    guard, runner = guards(horse)
    victims = [horse, *([guard] if "guard" in who else []), *([runner] if "runner" in who else [])]
    for pid in victims:
        kill(pid)
    if who == "guard and runner":  # nobody is left to end it, but who comes next
        pool.until(lambda: pool.state(job.handle) is NativeState.ENDED, 30)
        assert len(job.living()) == 2
        after = pool.launch(pool.sh("after", "true"))[0]
        assert pool.end(after).regular
        assert job.living() == []
    else:
        assert end_and_living(pool, job).reason == "node_fail"


@pytest.mark.parametrize("who", [0, 1])
def test_guard_or_runner_killed_under_a_live_horse(who: int, pool: Pool, tmp_path: Path) -> None:
    worker = pool.work()
    (handle,) = pool.launch(pool.sh("lives", f"touch {tmp_path}/on; sleep 2; echo out; exit 7"))
    pool.until(lambda: (tmp_path / "on").exists())
    kill(guards(horse_of(pool, worker))[who])
    assert pool.end(handle).exit_value == 7
    assert pool.system.logs(handle, "stdout", 0) == b"out\n"


def test_guard_and_runner_killed_under_a_live_horse(pool: Pool) -> None:
    worker = pool.work()
    job = Ticking(pool, "alone")
    for pid in guards(horse_of(pool, worker)):
        kill(pid)
    time.sleep(0.5)
    assert len(job.living()) == 2
    pool.until(lambda: pool.system.kill([job.handle], force=True)[job.handle], 30)
    assert job.living() == []


def test_a_horse_that_was_stopped_is_not_believed_when_it_comes_back(pool: Pool) -> None:
    worker = pool.work()
    job = Ticking(pool, "slept")
    horse = horse_of(pool, worker)
    kill(horse, signal.SIGSTOP)
    try:
        end = end_and_living(pool, job)
        assert end.reason == "node_fail"
        pool.work()
        again = Ticking(pool, "slept", run=2)
        assert job.times()[-1] < again.times()[0]
    finally:
        kill(horse, signal.SIGCONT)
    pool.until(lambda: horse not in children(worker.pid))
    assert pool.end(job.handle) == end
    assert pool.state(again.handle) is NativeState.RUNNING
    pool.until(lambda: pool.system.kill([again.handle], force=True)[again.handle])


def test_a_server_that_is_away_for_longer_than_the_lease(pool: Pool) -> None:
    pool.work()
    job = Ticking(pool, "outage")
    with redis.Redis.from_url(pool.url) as client:
        server = int(client.info()["process_id"])
    os.kill(server, signal.SIGSTOP)
    try:
        pool.until(lambda: job.living() == [])  # by itself: nobody can tell it anything
        time.sleep(0.5)
    finally:
        os.kill(server, signal.SIGCONT)
    end = pool.end(job.handle, 30) if pool.state(job.handle) else None
    assert end is not None and end.reason == "node_fail"


def test_a_server_that_is_away_for_a_moment(pool: Pool) -> None:
    pool.work()
    (handle,) = pool.launch(pool.sh("short", "sleep 3; exit 2"))
    pool.until(lambda: pool.state(handle) is NativeState.RUNNING)
    with redis.Redis.from_url(pool.url) as client:
        server = int(client.info()["process_id"])
        client.client_kill_filter(_type="normal", skipme=True)
    os.kill(server, signal.SIGSTOP)
    try:
        time.sleep(1)
    finally:
        os.kill(server, signal.SIGCONT)
    assert pool.end(handle, 30).exit_value == 2


def test_a_server_that_forgot_a_launch(pool: Pool) -> None:
    pool.work()
    job = Ticking(pool, "forgotten")
    with redis.Redis.from_url(pool.url) as client:
        client.flushall()
    assert pool.state(job.handle) is NativeState.ABSENT
    pool.until(lambda: job.living() == [])
    assert pool.system.absence_grace > LEASE
