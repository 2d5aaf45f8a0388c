"""Three hosts with an RQ worker each, of which one is cut off and comes back: nothing lost, nothing twice."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from cut_net import CutNet, Missing
from rq_pool import Pool
from servers import locate
from test_rq_death import Ticking

from jobmill.systems.system import ExitInfo, NativeState, Submission

pytestmark = pytest.mark.timeout(120)

LEASE = 6.0  # seconds
JOBS = 40


@pytest.fixture
def net() -> Iterator[CutNet]:
    try:
        made = CutNet(3)
    except Missing as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI has to have namespaces: {error}", pytrace=False)
        pytest.skip(str(error))
    yield made
    made.down()


@pytest.fixture
def pool(net: CutNet, tmp_path: Path) -> Iterator[Pool]:
    url = net.serve(locate("valkey"), tmp_path)
    made = Pool(url, tmp_path, lease=LEASE, queues=["default", "second"])
    for host in net.hosts:
        made.rooms.mkdir(exist_ok=True)
        room = {"JOBMILL_POOL_FOLDER": str(made.rooms / f"host{host}")}
        made.work(*(("second", "default") if host == 2 else ("default",)), before=net.on(host), env=room, url=net.url)
    yield made
    made.stop()


def work(pool: Pool, name: str, run: int) -> Submission:
    file = pool.folder / "starts"
    return pool.sh(
        name, f"echo {name} {run} $(hostname) >> {file}; sleep 0.4; echo {name} {run} end >> {file}", run=run
    )


def test_one_host_is_cut_off_and_comes_back(net: CutNet, pool: Pool) -> None:
    """What its user sees: a run on the host that was cut off has failed as node_fail, and is followed by another."""
    with redis.Redis.from_url(pool.url) as client:
        pool.until(lambda: client.scard("rq:workers") == 3)
    submitted = {f"j{i}": 1 for i in range(JOBS)}
    handles = dict(zip(submitted, pool.launch(*[work(pool, name, 1) for name in submitted]), strict=True))
    ends: dict[str, ExitInfo] = {}
    failed: list[str] = []
    pool.until(lambda: (pool.folder / "starts").exists() and " host2" in (pool.folder / "starts").read_text())
    net.cut(2)
    cut_at, joined = time.monotonic(), False
    while len(ends) < JOBS:
        if not joined and time.monotonic() - cut_at > LEASE * 1.6:
            net.join(2)
            joined = True
        pool.system.survey("rec")  # as the fetchers do
        for name, info in list(_new_ends(pool, handles, ends).items()):
            if info.regular:
                ends[name] = info
            else:  # as the record would: the next run
                assert info.reason == "node_fail", info
                failed.append(name)
                submitted[name] += 1
                (handles[name],) = pool.launch(work(pool, name, submitted[name]))
        assert time.monotonic() - cut_at < 90, (len(ends), pool.tail())
        time.sleep(0.1)
    lines = [line.split() for line in (pool.folder / "starts").read_text().splitlines()]
    starts = Counter((name, run) for name, run, what in lines if what != "end")
    assert set(starts.values()) == {1}
    assert {name for name, _ in starts} == set(submitted)
    assert all(starts[name, str(run)] == 1 for name, run in submitted.items())  # the run that counts has started
    assert len(failed) <= 2  # what host2 ran when it was cut off
    if not joined:
        net.join(2)
    (last,) = pool.launch(pool.sh("last", "hostname", queue="second"))
    assert pool.end(last, 40).host == "host2"  # it takes part again


def test_the_first_run_has_ended_when_the_second_begins(net: CutNet, pool: Pool) -> None:
    (handle,) = pool.launch(pool.sh("where", "true", queue="second"))
    assert pool.end(handle).host == "host2"
    job = Ticking(pool, "cut", queue="second")
    net.cut(2)
    try:
        looks = []
        pool.until(lambda: looks.append(pool.state(job.handle)) or looks[-1] is NativeState.ENDED, 40)
        assert job.living() == []  # on the host that nobody can reach
        end = pool.end(job.handle)
        assert end.reason == "node_fail" and end.host == "host2"
        again = Ticking(pool, "cut", run=2)
        assert job.times()[-1] < again.times()[0]
    finally:
        net.join(2)
    time.sleep(3)
    assert pool.end(job.handle) == end  # what came back has changed nothing
    assert pool.state(again.handle) is NativeState.RUNNING
    assert job.living() == [] and len(again.living()) == 2
    pool.until(lambda: pool.system.kill([again.handle], force=True)[again.handle])


def test_a_moment_without_cable_changes_nothing(net: CutNet, pool: Pool) -> None:
    (handle,) = pool.launch(pool.sh("blip", "sleep 4; exit 6", queue="second"))
    pool.until(lambda: pool.state(handle) is NativeState.RUNNING)
    net.cut(2)
    time.sleep(1)
    net.join(2)
    assert pool.end(handle, 60).exit_value == 6


def _new_ends(pool: Pool, handles: dict[str, str], ends: dict[str, ExitInfo]) -> dict[str, ExitInfo]:
    open_ = {handle: name for name, handle in handles.items() if name not in ends}
    return {open_[handle]: info for handle, info in pool.system.exit_info(list(open_)).items()}
