"""Jobs a second through two `rq worker`s: N times /bin/true in a pool of jobmill, beside RQ's own calls of nothing.

    python benchmarks/rq_pool.py --jobs 200

The two are not the same work: RQ calls a function in a fork, jobmill runs a program there by guard and runner, keeps
its exit record, output and usage, and tells the pipeline's record of it. Prints a table, and a line of JSON at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis
from rq import Queue
from rq.registry import FinishedJobRegistry

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, it finds its neighbours

from benchmarks.jobmill_under_test import JobmillThroughput
from jobmill.daemon.server import EmbeddedServer

WORKERS = 2
LIMIT = 120.0  # seconds of a round
LOOK = 0.02  # seconds between looks: what the clock may be late by


@contextmanager
def workers(url: str, folder: Path) -> Iterator[None]:
    """Keep two workers, which say nothing, and are ready at the start."""
    env = os.environ | {"JOBMILL_POOL_FOLDER": str(folder / "rooms")}
    words = [str(Path(sys.executable).with_name("rq")), "worker", "--quiet", "-u", url, "default"]
    started = [subprocess.Popen(words, env=env, stdin=subprocess.DEVNULL) for _ in range(WORKERS)]
    try:
        with redis.Redis.from_url(url) as client:
            until(lambda: client.scard("rq:workers:default") == WORKERS)  # type: ignore[arg-type]
        yield
    finally:
        for worker in started:
            worker.terminate()
        for worker in started:
            worker.wait(30)


def until(true: object) -> None:
    """Wait for a condition, a round's limit at most."""
    deadline = time.monotonic() + LIMIT
    while not true():  # type: ignore[operator]
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {LIMIT:g} s")
        time.sleep(LOOK)


def plain(url: str, jobs: int) -> float:
    """Return the seconds that RQ takes for so many calls of `os.getpid`."""
    with redis.Redis.from_url(url) as client:
        queue = Queue("default", connection=client)
        done = FinishedJobRegistry(queue=queue)
        before = done.get_job_count(cleanup=False)
        begin = time.perf_counter()
        queue.enqueue_many([Queue.prepare_data("os.getpid") for _ in range(jobs)])
        until(lambda: done.get_job_count(cleanup=False) - before >= jobs)
        return time.perf_counter() - begin


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    rates: dict[str, list[float]] = {"rq, a call": [], "jobmill on rq, /bin/true": []}
    with tempfile.TemporaryDirectory(prefix="jobmill-rq-") as name:
        folder = Path(name)
        server = EmbeddedServer(folder / "pool")
        server.start()
        system = json.dumps({"pool": {"kind": "rq", "limit": 10_000, "url": server.url}})
        jobmill = JobmillThroughput(folder / "spool", systems=system)
        jobmill.prepare()
        try:
            with workers(server.url, folder):
                for _ in range(given.rounds):
                    rates["rq, a call"].append(given.jobs / plain(server.url, given.jobs))
                    rates["jobmill on rq, /bin/true"].append(given.jobs / jobmill.round(given.jobs))
        finally:
            jobmill.close()
            server.stop()
    for what, found in rates.items():
        print(f"{what:28} {sorted(found)[len(found) // 2]:8.1f} jobs/s   ({', '.join(f'{r:.1f}' for r in found)})")
    print(json.dumps({"jobs": given.jobs, "workers": WORKERS, "rates": rates}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
