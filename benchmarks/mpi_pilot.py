"""Jobs a second in one pilot by mpirun on this machine: N times /bin/true, beside Parsl's HTEX and HyperQueue.

    python benchmarks/mpi_pilot.py --jobs 2000

Each has two slots, and its workers are up before the clock. The work is not the same: the pilot hands launches over by
files, as it does between nodes, and writes an exit record for each; its peers keep theirs in memory. ``pipeline`` is
all of jobmill (every state on disk before it is acknowledged), ``system`` the pilot alone, without the record. Prints
a table, and a line of JSON at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, it finds its neighbours

from benchmarks import machine
from benchmarks.contender import COMMAND, SLOTS, WrongResult
from benchmarks.jobmill_under_test import JobmillThroughput
from benchmarks.peers.environment import provide
from benchmarks.peers.hyperqueue import HyperQueue
from jobmill.systems.mpi import MpiSystem
from jobmill.systems.system import End, Submission

PARSL = "parsl==2026.10.26"
LIMIT = 120.0  # seconds of a round
ROOT = ["--allow-run-as-root"] if os.geteuid() == 0 else []
LAUNCHER = ["mpirun", *ROOT, "--bind-to", "none", "--oversubscribe", "-n", "{ranks}"]
PILOT: dict[str, Any] = {"ranks": SLOTS, "cpus": 1, "launcher": LAUNCHER, "idle": 5, "poll_interval": 1}
DURABILITY = {
    "pilot, pipeline": "every state on disk (fsync) before it is acknowledged; an exit record for each job",
    "pilot, system": "launches and exit records in files, without fsync: a killed process loses nothing",
    "parsl htex": "none: memory",
    "hyperqueue": HyperQueue.durability,
}


def system_round(folder: Path, jobs: int) -> float:
    """Return the seconds from the first submission to the last pushed end."""
    pilot = MpiSystem.build("pilot", PILOT, Path(tempfile.mkdtemp(prefix="round-", dir=folder)))
    pilot.fileno()

    def run(first: int, count: int) -> float:
        numbers = range(first, first + count)
        made = [Submission(token=f"bench.{n}:j{n}:1", job_id=f"j{n}", run=1, argv=(COMMAND,)) for n in numbers]
        begin = time.perf_counter()
        for start in range(0, count, 250):  # as the starter does
            pilot.release([it for it in pilot.submit(made[start : start + 250]) if isinstance(it, str)])
        ended = 0
        while ended < count:
            if time.perf_counter() - begin > LIMIT:
                raise WrongResult(f"the pilot has told {ended} of {count} ends")
            time.sleep(0.01)
            for notice in pilot.ends():
                if isinstance(notice, End):
                    ended += '"exit_value":0' in notice.exit
        return time.perf_counter() - begin

    try:
        run(1, 2 * SLOTS)  # the ranks are up
        return run(100, jobs)
    finally:
        pilot.close()
        time.sleep(PILOT["idle"] + 3)  # the allocation ends itself


def parsl_round(jobs: int) -> float:
    """Return the seconds that Parsl takes."""
    python = provide("parsl", PARSL)
    program = Path(__file__).with_name("clients") / "throughput_of_parsl.py"
    with tempfile.TemporaryDirectory(prefix="parsl-") as folder:
        words = [python, "-P", program, folder, str(jobs), COMMAND]
        env = os.environ | {"PATH": f"{python.parent}:{os.environ['PATH']}"}  # it starts its own programs
        done = subprocess.run(words, capture_output=True, text=True, timeout=600, check=False, cwd=folder, env=env)
    if done.returncode:
        raise WrongResult(f"parsl exited with {done.returncode}: {done.stderr.strip()[-500:]}")
    answer = json.loads(done.stdout.splitlines()[-1])
    if answer["finished"] != jobs:
        raise WrongResult(f"parsl finished {answer['finished']} of {jobs}")
    return float(answer["seconds"])


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="jobmill-mpi-") as name:
        folder = Path(name)
        systems = json.dumps({"pilot": {"kind": "mpi", "limit": 10_000, **PILOT}})
        jobmill = JobmillThroughput(folder / "spool", systems=systems)
        hyperqueue = HyperQueue()
        jobmill.prepare()
        hyperqueue.prepare()
        contenders: dict[str, Callable[[int], float]] = {
            "pilot, pipeline": jobmill.round,
            "pilot, system": lambda jobs: system_round(folder, jobs),
            "parsl htex": parsl_round,
            "hyperqueue": hyperqueue.round,
        }
        facts = machine.facts(folder)
        rates: dict[str, list[float]] = {what: [] for what in contenders}
        for _ in range(given.rounds):
            for what, run in contenders.items():
                rates[what].append(given.jobs / run(given.jobs))
        jobmill.close()
    medians = {what: sorted(found)[len(found) // 2] for what, found in rates.items()}
    for what, found in rates.items():
        told = ", ".join(f"{rate:.0f}" for rate in found)
        ratio = medians["pilot, system"] / medians[what]
        print(
            f"{what:18} {medians[what]:8.1f} jobs/s   pilot, system / this: {ratio:5.2f}   ({told})  {DURABILITY[what]}"
        )
    print(json.dumps({"jobs": given.jobs, "slots": SLOTS, "rates": rates, "durability": DURABILITY, "machine": facts}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
