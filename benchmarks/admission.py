"""Admissions a second: documents that stand in the queue, taken, validated, routed and admitted by real managers.

    python benchmarks/admission.py --jobs 40000 --rounds 3 --managers 4 [--json]

The same jobs as YAML (an entry each), as canonical JSON (what the Python client pushes) and as YAML streams, and beside
them what a parser alone does here. Prints a table, and one line of JSON at the end (``--json``: only this line).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, it finds its neighbours

import yaml
from rich.console import Console
from rich.table import Table

from benchmarks import documents
from benchmarks.closed_pipeline import ClosedPipeline
from benchmarks.contender import WrongResult
from benchmarks.machine import facts
from jobmill.jobs.states import State
from jobmill.ledger import listing
from jobmill.ledger.record import batches

GRANTS = 100  # jobs that the system has room for; they stay granted
DURABILITY = "every push and admission is on disk (appendfsync always) before it is acknowledged"


@dataclass(frozen=True, kw_only=True)
class Round:
    """One measurement: so many jobs admitted by so many managers."""

    jobs: int
    seconds: float  # the managers may begin → the record has all of them
    manager_cpu: float  # seconds, of all managers together
    server_cpu: float  # seconds

    @property
    def per_s(self) -> float:
        """Jobs a second."""
        return self.jobs / self.seconds


def admit(entries: Sequence[str], jobs: int, managers: int, folder: Path) -> Round:
    """Push all entries while the managers stand still, let them go, and look at each job; raise WrongResult."""
    with ClosedPipeline(folder, limit=GRANTS) as pipeline:
        pipeline.start_managers(managers)
        before = pipeline.admitted()
        with pipeline.managers_stopped():
            pipeline.push(entries)
            manager_cpu, server_cpu = pipeline.cpu()
            begin = time.perf_counter()
        end = pipeline.until_admitted(before + jobs, timeout=60 + jobs / 50)
        done = pipeline.cpu()
        _check(pipeline, jobs)
    return Round(jobs=jobs, seconds=end - begin, manager_cpu=done[0] - manager_cpu, server_cpu=done[1] - server_cpu)


def _check(pipeline: ClosedPipeline, jobs: int) -> None:
    states: dict[str, int] = {}
    for some in batches([documents.ID.format(number=n) for n in range(jobs)]):
        for state in listing.states(pipeline.record, some):
            states[state] = states.get(state, 0) + 1
    if set(states) - {State.WAITING, State.GRANTED}:
        raise WrongResult(f"not all {jobs} jobs are admitted, by state they are: {states}")


def per_second(parse: Callable[[str], Any], texts: Sequence[str]) -> float:
    """Return how many texts a second a parser reads here, and nothing else."""
    begin = time.process_time()
    for text in texts:
        parse(text)
    return len(texts) / max(time.process_time() - begin, 1e-9)


def measure(jobs: int, rounds: int, managers: int, spool: Path, console: Console) -> dict[str, list[Round]]:
    """Return all rounds by ``way managers`` ("yaml 2"); the ways take turns."""
    texts = documents.yaml_texts(jobs)
    ways = {"yaml": texts, "json": documents.canonical(texts), "stream": documents.streams(texts)}
    plan = [("stream", 1), *((way, count) for count in range(1, managers + 1) for way in ("yaml", "json"))]
    found: dict[str, list[Round]] = {f"{way} {count}": [] for way, count in plan}
    for number in range(rounds):
        for way, count in plan:
            with tempfile.TemporaryDirectory(prefix="jobmill-", dir=spool) as folder:
                took = admit(ways[way], jobs, count, Path(folder))
            found[f"{way} {count}"].append(took)
            console.print(f"round {number + 1}/{rounds}  {way:6} {count} managers {took.per_s:8.0f} jobs/s")
    return found


def summary(found: dict[str, list[Round]]) -> dict[str, object]:
    """Return medians: jobs a second, CPU microseconds a job."""
    speed = {name: round(statistics.median(r.per_s for r in some), 1) for name, some in found.items()}
    line: dict[str, object] = {f"{way}_per_s": speed[f"{way} 1"] for way in ("yaml", "json", "stream")}
    for way, key in (("yaml", "managers"), ("json", "managers_json")):
        line[key] = {name.split()[1]: value for name, value in speed.items() if name.startswith(way)}
    line["cpu_us_per_job"] = {name: _cpu(some) for name, some in found.items()}
    line["rounds"] = {name: [round(r.seconds, 3) for r in some] for name, some in found.items()}
    return line


def _cpu(some: Sequence[Round]) -> dict[str, float]:
    """Return the medians of CPU microseconds a job, of the managers together and of the server."""
    return {
        "manager": round(statistics.median(r.manager_cpu / r.jobs for r in some) * 1e6, 1),
        "server": round(statistics.median(r.server_cpu / r.jobs for r in some) * 1e6, 1),
    }


def table(found: dict[str, list[Round]], alone: dict[str, float], jobs: int) -> Table:
    """Return the table for people."""
    shown = Table(title=f"{jobs} jobs admitted")
    for column in ("", "managers"):
        shown.add_column(column)
    for column in ("jobs/s, median", "worst", "best", "manager us/job", "server us/job", "cores used"):
        shown.add_column(column, justify="right")
    for name, some in found.items():
        way, count = name.split()
        speeds = [r.per_s for r in some]
        cores = statistics.median((r.manager_cpu + r.server_cpu) / r.seconds for r in some)
        values = [f"{v:.0f}" for v in (statistics.median(speeds), min(speeds), max(speeds))]
        cpu = _cpu(some)
        shown.add_row(way, count, *values, f"{cpu['manager']:.0f}", f"{cpu['server']:.0f}", f"{cores:.1f}")
    shown.add_section()
    for name, value in alone.items():
        shown.add_row(name.removesuffix("_per_s"), "", f"{value:.0f}")
    return shown


def main() -> int:
    """Measure and print; exit with 1 when a job was refused or lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=40_000, metavar="N")
    parser.add_argument("--rounds", type=int, default=3, metavar="R")
    parser.add_argument("--managers", type=int, default=4, metavar="M", help="scale from one up to so many")
    parser.add_argument(
        "--spool", type=Path, default=Path(tempfile.gettempdir()), help="a folder on the disk to measure"
    )
    parser.add_argument("--json", action="store_true", help="print nothing but the last line")
    given = parser.parse_args()
    if min(given.jobs, given.rounds, given.managers) < 1:
        parser.error("N, R and M must be 1 or more")
    console = Console(quiet=given.json)
    machine = facts(given.spool)
    texts = documents.yaml_texts(given.jobs)
    try:
        found = measure(given.jobs, given.rounds, given.managers, given.spool, console)
    except WrongResult as error:
        print(f"no result: {error}", file=sys.stderr)
        return 1
    alone = {
        "libyaml_per_s": round(per_second(lambda text: yaml.load(text, Loader=yaml.CSafeLoader), texts), 1),
        "json_loads_per_s": round(per_second(json.loads, documents.canonical(texts)), 1),
    }
    console.print(table(found, alone, given.jobs))
    console.print(f"on disk: {DURABILITY}")
    console.print("  ".join(f"{name}: {value}" for name, value in machine.items()))
    print(json.dumps({"jobs": given.jobs} | summary(found) | alone | {"machine": machine}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
