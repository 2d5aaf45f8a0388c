"""What it costs to watch many jobs that run for long: processor time of fetcher and server, and queries of the cluster.

    python benchmarks/polling.py --jobs 100000 --interval 10 --intervals 3 [--json]

The jobs stand on the `fake` system, which runs no processes, each for a day; it notes the queries that are made of it.
When all run, processor time and queries are counted over some intervals. Then the fetcher is killed, and another one
has to take over: it reads the whole record once. Prints a table, and one line of JSON at the end (``--json``: only
this line).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, it finds its neighbours

from rich.console import Console
from rich.table import Table

from benchmarks import machine
from benchmarks.contender import WrongResult
from jobmill.client import Client
from jobmill.daemon.server import EmbeddedServer
from jobmill.ledger import polls

TICKS = os.sysconf("SC_CLK_TCK")  # of /proc/<pid>/stat, a second
LOOK = 0.5  # seconds between looks
PUSH = 5000  # jobs of one submit
SYSTEM = '''"""The fake system, which notes each query in a file."""
import os
from typing import ClassVar

from jobmill.systems.fake import FakeSystem
from jobmill.systems.registry import register


def noted(verb):
    def call(self, *args, **more):
        with open(os.environ["POLLING_QUERIES"], "a") as file:
            file.write(verb + "\\n")
        return getattr(FakeSystem, verb)(self, *args, **more)

    return call


@register
class Watched(FakeSystem):
    kind: ClassVar[str] = "watched"


for verb in ("status", "survey", "exit_info", "inventory"):
    if hasattr(FakeSystem, verb):
        setattr(Watched, verb, noted(verb))
'''


class Watched:
    """A server, the three workers, and a cluster whose queries are counted."""

    def __init__(self, folder: Path, jobs: int, interval: float) -> None:
        self.folder = folder
        self.queries_file = folder / "queries"
        plugins = folder / "plugins" / "systems"
        plugins.mkdir(parents=True)
        (plugins / "watched.py").write_text(SYSTEM)
        system = {"kind": "watched", "limit": jobs, "seconds": 86400, "poll_interval": interval}
        config = {"state": f"{folder}/state", "spool": f"{folder}/spool", "systems": {"cluster": system}}
        self.config = folder / "jobmill.yaml"
        self.config.write_text(json.dumps(config))
        self.server = EmbeddedServer(folder / "state")
        self.server.start()
        self.client = Client(self.server.url)
        self.workers: dict[str, subprocess.Popen[bytes]] = {}
        for role in ("manager", "starter", "fetcher"):
            self.start(role)

    def start(self, role: str) -> None:
        """Start a worker."""
        env = os.environ | {"POLLING_QUERIES": str(self.queries_file)}
        words = [sys.executable, "-m", f"jobmill.scripts.{role}", "--config", str(self.config)]
        with (self.folder / "log").open("ab") as log:
            self.workers[role] = subprocess.Popen(
                [*words, "--redis", self.server.url], env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def close(self) -> None:
        """Stop everything."""
        for worker in self.workers.values():
            worker.terminate()
        for worker in self.workers.values():
            worker.wait(timeout=30)
        self.client.close()
        self.server.stop()

    def until(self, condition: Callable[[], bool], what: str, seconds: float) -> float:
        """Wait for something; return the seconds that it took; raise WrongResult when it does not come."""
        began = time.monotonic()
        while not condition():
            if time.monotonic() > began + seconds:
                raise WrongResult(f"{what}: not within {seconds:g} s; see {self.folder}/log")
            time.sleep(LOOK)
        return time.monotonic() - began

    def running(self, ids: list[str]) -> int:
        """Return how many of these the record has as running in their first run."""
        record = self.client.record
        found = 0
        for at in range(0, len(ids), PUSH):
            rows = record.read([("HMGET", record.keys.job(i), "state", "run") for i in ids[at : at + PUSH]])
            found += sum(row == [b"running", b"1"] for row in rows)
        return found

    def polled(self, interval: float) -> bool:
        """Tell whether a poll of the cluster has just been completed, or is being made."""
        due = polls.due(self.client.record).get("cluster", 0.0)
        return due - time.time() > interval / 8

    def queries(self) -> Counter[str]:
        """Return how often each verb was called so far."""
        return Counter(self.queries_file.read_text().split()) if self.queries_file.exists() else Counter()

    def cpu(self, who: str) -> float:
        """Return the processor time (seconds, user and system) that a worker or ``server`` has used."""
        pid = self.server.pid if who == "server" else self.workers[who].pid
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def memory(self, who: str) -> float:
        """Return the resident memory (MiB) of a worker or ``server``."""
        pid = self.server.pid if who == "server" else self.workers[who].pid
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    def written(self) -> int:
        """Return the bytes of the server's append-only file so far: what was written to the record."""
        facts = self.client.record.call("INFO", "persistence")
        return int(facts["aof_current_size"])


def measure(folder: Path, jobs: int, interval: float, intervals: int) -> dict[str, Any]:
    """Return what was measured; raise WrongResult when a job did not run all the time."""
    pipeline = Watched(folder, jobs, interval)
    try:
        ids: list[str] = []
        began = time.monotonic()
        while len(ids) < jobs:
            ids += pipeline.client.submit_many([{"command": ["true"]}] * min(PUSH, jobs - len(ids)))
        record = pipeline.client.record
        pipeline.until(lambda: record.call("ZCARD", record.keys("Running_Queue")) == jobs, "launches", 60 + jobs / 50)
        pipeline.until(lambda: pipeline.running(ids) == jobs, "all run", 60 + 3 * interval + jobs / 50)
        brought_up = time.monotonic() - began
        time.sleep(interval + LOOK)

        queries, written = pipeline.queries(), pipeline.written()
        before = {who: pipeline.cpu(who) for who in ("fetcher", "server", "manager", "starter")}
        began = time.monotonic()
        time.sleep(interval * intervals)
        seconds = time.monotonic() - began
        shares = {who: (pipeline.cpu(who) - used) / seconds for who, used in before.items()}
        asked = pipeline.queries() - queries
        told = pipeline.written() - written

        pipeline.workers["fetcher"].send_signal(signal.SIGKILL)
        pipeline.workers["fetcher"].wait()
        queries, used = pipeline.queries(), pipeline.cpu("server")
        pipeline.start("fetcher")
        taken = pipeline.until(
            lambda: bool(pipeline.queries() - queries) and pipeline.polled(interval), "takeover", 60 + interval
        )
        facts = {
            "jobs": jobs,
            "interval_s": interval,
            "measured_s": round(seconds, 1),
            "fetcher_core": round(shares["fetcher"], 4),
            "server_core": round(shares["server"], 4),
            "manager_core": round(shares["manager"], 4),
            "starter_core": round(shares["starter"], 4),
            "queries_per_interval": round(sum(asked.values()) * interval / seconds, 2),
            "queries": dict(asked),
            "aof_bytes_per_interval": round(told * interval / seconds),
            "fetcher_mib": round(pipeline.memory("fetcher")),
            "brought_up_s": round(brought_up, 1),
            "takeover_s": round(taken, 1),
            "takeover_fetcher_cpu_s": round(pipeline.cpu("fetcher"), 2),
            "takeover_server_cpu_s": round(pipeline.cpu("server") - used, 2),
        }
        if (left := pipeline.running(ids)) != jobs:
            raise WrongResult(f"{jobs - left} of {jobs} jobs do not run any more")
        return facts
    finally:
        pipeline.close()


def main() -> int:
    """Measure and print; exit with 1 when the result was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=100_000, metavar="N")
    parser.add_argument("--interval", type=float, default=10.0, metavar="S", help="seconds between two polls (10)")
    parser.add_argument("--intervals", type=int, default=3, metavar="K", help="how many to measure (3)")
    parser.add_argument("--spool", type=Path, default=Path(tempfile.gettempdir()), help="a folder on the disk to use")
    parser.add_argument("--json", action="store_true", help="print nothing but the last line")
    given = parser.parse_args()
    if given.jobs < 1 or given.intervals < 1 or given.interval <= 0:
        parser.error("N and K must be 1 or more, S above 0")
    given.spool.mkdir(parents=True, exist_ok=True)
    about = machine.facts(given.spool)
    with tempfile.TemporaryDirectory(prefix="polling-", dir=given.spool) as folder:
        try:
            facts = measure(Path(folder), given.jobs, given.interval, given.intervals)
        except WrongResult as error:
            print(error, file=sys.stderr)
            return 1
    if not given.json:
        table = Table("what", "measured", title=f"{given.jobs} jobs that run, polled every {given.interval:g} s")
        for name, value in facts.items():
            table.add_row(name, str(value))
        Console().print(table)
    print(json.dumps({**facts, "machine": about}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
