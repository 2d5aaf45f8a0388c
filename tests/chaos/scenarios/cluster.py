"""Jobs on the fake system: held launches, wishes, a cluster that answers badly or not at all."""

from __future__ import annotations

import time

from jobmill.systems.fake_cluster import FakeCluster
from tests.chaos.batch import Batch
from tests.chaos.bench import LEASE, Bench
from tests.chaos.scenarios.scenario import Scenario


def fake_plain(batch: Batch) -> None:
    """Held launches."""
    for how in ("0", "0", "3"):
        batch.fake(0.05, how)
    batch.fake(100, resources={"walltime": "1s"}, may=["failed"])
    batch.fake(0.05, "3", retry={"max": 1, "delay": "0s", "on": ["failed"]})
    batch.push()


def fake_cancel(batch: Batch) -> None:
    """Wishes for jobs on a cluster."""
    for _ in range(3):
        batch.fake(100, may=["cancelled"])
    batch.push()
    ids, client = batch.ids, batch.bench.client
    batch.bench.until(lambda: {str(client.job(i).state) for i in ids} <= {"submitted", "running"}, 5)
    batch.bench.until(lambda: "unknown" not in client.cancel(ids, "sweep").values(), 15)


def fake_faults(batch: Batch) -> None:
    """Answers that are unclear, refused, doubled, empty."""
    cluster = _cluster(batch.bench)
    cluster.faults(limit=6, unclear=0.4, refuse=0.3, duplicate=0.4, empty=0.3, wrong=0.2, seed=len(batch.mark))
    try:
        for _ in range(10):
            batch.fake(0.3)
        batch.push()
        time.sleep(2.0)
    finally:
        cluster.faults(limit=None, unclear=0.0, refuse=0.0, duplicate=0.0, empty=0.0, wrong=0.0)


def fake_down(batch: Batch) -> None:
    """A cluster that does not answer for a while."""
    cluster = _cluster(batch.bench)
    for _ in range(3):
        batch.fake(1.0)
    batch.push()
    time.sleep(0.3)
    cluster.faults(down=True)
    try:
        for _ in range(3):
            batch.fake(0.1)
        batch.push()
        time.sleep(6.0)
    finally:
        cluster.faults(down=False)


def fake_slow(batch: Batch) -> None:
    """A cluster that takes its time: a poll outlasts a part of its lease."""
    cluster = _cluster(batch.bench)
    for _ in range(3):
        batch.fake(1.0)
    batch.push()
    cluster.faults(delay=LEASE / 2)
    try:
        time.sleep(3 * LEASE)
    finally:
        cluster.faults(delay=0.0)


def strays(batch: Batch) -> None:
    """Submissions that were accepted twice; a fetcher that begins looks for strays at once."""
    cluster = _cluster(batch.bench)
    cluster.faults(duplicate=1.0)
    try:
        for _ in range(3):
            batch.fake(0.3)
        batch.push()
        batch.bench.until(lambda: batch.bench.ended(batch.ids), 20)
    finally:
        cluster.faults(duplicate=0.0)
    batch.bench.signal("fetcher")
    batch.bench.until(lambda: not cluster.look().alive, 3 * LEASE)


def zombie(batch: Batch) -> None:
    """A starter freezes between submit and commit for longer than its lease, and goes on."""
    name = "starter.starter:Starter._submit:system.submit"
    batch.bench.points.arm(name, "starter", "STOP")
    for _ in range(3):
        batch.fake(0.3)
    batch.push()
    batch.bench.until(lambda: any(f.name == name for f in batch.bench.points.firings()), 10)
    batch.bench.points.take_back(name, "starter")  # where nobody came there in time
    time.sleep(LEASE + 2.0)
    for fired in batch.bench.points.firings():
        batch.bench.thaw(fired.pid)


def _cluster(bench: Bench) -> FakeCluster:
    return FakeCluster(bench.spool / "fake" / "fake")


SCENARIOS: dict[str, Scenario] = {
    "fake": fake_plain,
    "fake-cancel": fake_cancel,
    "fake-faults": fake_faults,
    "fake-down": fake_down,
    "fake-slow": fake_slow,
    "strays": strays,
    "zombie": zombie,
}
