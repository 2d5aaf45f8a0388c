"""The budget of one job: what each process, each script of the record and this machine take for it, in microseconds.

    python benchmarks/budget.py --jobs 10000 [--json]

Four parts. A whole run of N jobs, on `local` (/bin/true) and on `fake`: processor time of each process for a job. The
scripts of the record, in batches of 250 and one by one. The machine: what its disk, its kernel and its parsers take.
One job on an idle pipeline: the milliseconds of its latency, stage by stage. Prints tables, and one line of JSON at the
end (``--json``: only this line).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, it finds its neighbours

from rich.console import Console
from rich.table import Table

from benchmarks import floor, journey, pipeline
from benchmarks.contender import COMMAND, WrongResult
from benchmarks.jobmill_under_test import LOCAL
from benchmarks.machine import facts
from benchmarks.record_weight import ended_bytes
from benchmarks.script_costs import ScriptCosts
from benchmarks.whole_run import spend
from jobmill.daemon.server import EmbeddedServer
from jobmill.ledger.record import BATCH, Record

ALONE = 10  # one job of so many goes through the scripts alone


def whole_runs(folder: Path, jobs: int) -> dict[str, object]:
    """Return what each process spent on a job, by system."""
    found: dict[str, object] = {}
    runs: dict[str, tuple[str, Mapping[str, Any]]] = {
        "local": (LOCAL, {"command": [COMMAND]}),
        "fake": (pipeline.SYSTEMS, pipeline.JOB),
    }
    for name, (systems, job) in runs.items():
        place = folder / name
        place.mkdir()
        spent = spend(place, systems, job, jobs)
        cpu = {process: round(value, 1) for process, value in spent.cpu_us.items()}
        found[name] = {"per_s": round(spent.per_s, 1), "wall_us": round(spent.wall_us, 1), "cpu_us": cpu}
    return found


def record_and_machine(folder: Path, jobs: int) -> dict[str, object]:
    """Return the scripts' costs, what an ended job weighs, and the machine's limits, on one server."""
    server = EmbeddedServer(folder / "alone")
    server.start()
    try:
        record = Record(server.url)
        costs = ScriptCosts(record, server.pid or 0)
        costs.measure(2 * BATCH, BATCH)  # the scripts are loaded, the tables have grown
        rounds = max(2, jobs // BATCH)
        batches = costs.measure(rounds * BATCH, BATCH)
        alone = costs.measure(max(20, jobs // ALONE), 1)
        found = {
            "scripts": {name: {"batch": batches[name], "single": alone[name]} for name in batches},
            "packet_us": {str(size): costs.packet(max(20, min(jobs // size, 200)), size) for size in (1, BATCH)},
            "ended_job_bytes": ended_bytes(record),
            "limits_us": floor.limits(folder, record, max(50, min(1000, jobs // 5))),
        }
        record.close()
        return found
    finally:
        server.stop()


def tables(found: Mapping[str, Any]) -> list[Table]:
    """Return the tables for people."""
    runs = Table(title="a whole run: processor time for a job, us")
    runs.add_column("process")
    for name in ("local", "fake"):
        runs.add_column(name, justify="right")
    processes = {process: None for name in ("local", "fake") for process in found[name]["cpu_us"]}
    for process in processes:
        runs.add_row(process, *(f"{found[n]['cpu_us'].get(process, 0):.0f}" for n in ("local", "fake")))
    runs.add_section()
    runs.add_row("together", *(f"{sum(found[n]['cpu_us'].values()):.0f}" for n in ("local", "fake")))
    runs.add_row("wall time", *(f"{found[n]['wall_us']:.0f}" for n in ("local", "fake")))
    scripts = Table(title=f"the record's scripts: us a job, in batches of {BATCH} / one by one")
    scripts.add_column("")
    for column in ("server", "caller", "wall", "server, alone", "caller, alone", "wall, alone"):
        scripts.add_column(column, justify="right")
    for name, costs in found["scripts"].items():
        scripts.add_row(name, *(f"{value:.1f}" for way in costs.values() for value in way.values()))
    machine = Table(title="this machine, us")
    machine.add_column("")
    machine.add_column("", justify="right")
    for name, value in found["limits_us"].items():
        machine.add_row(floor.LABELS[name], f"{value:.2f}")
    way = Table(title=f"one job on an idle pipeline, ms, medians of {found['journey']['jobs']}")
    for column in ("", "after submission", "since the one before"):
        way.add_column(column, justify="right" if column else "left")
    last = 0.0
    for name, value in found["journey"]["stamps_ms"].items():
        way.add_row(name, f"{value:.2f}", f"{value - last:.2f}")
        last = value
    way.add_row("seen, without MONITOR", f"{found['journey']['unwatched_ms']:.2f}", "")
    return [runs, scripts, machine, way]


def main() -> int:
    """Measure and print; exit with 1 when a result was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=10_000, metavar="N", help="of each whole run")
    parser.add_argument("--single", type=int, default=50, metavar="N", help="jobs on the idle pipeline")
    parser.add_argument(
        "--spool", type=Path, default=Path(tempfile.gettempdir()), help="a folder on the disk to measure"
    )
    parser.add_argument("--json", action="store_true", help="print nothing but the last line")
    given = parser.parse_args()
    if min(given.jobs, given.single) < 1:
        parser.error("N must be 1 or more")
    given.spool.mkdir(parents=True, exist_ok=True)
    console = Console(quiet=given.json)
    machine = facts(given.spool)
    found: dict[str, object] = {"jobs": given.jobs}
    with tempfile.TemporaryDirectory(prefix="jobmill-", dir=given.spool) as name:
        folder = Path(name)
        try:
            found |= whole_runs(folder, given.jobs)
            (folder / "one").mkdir()
            found["journey"] = journey.travel(folder / "one", given.single)
            found |= record_and_machine(folder, given.jobs)
        except WrongResult as error:
            print(f"no result: {error}", file=sys.stderr)
            return 1
    for table in tables(found):
        console.print(table)
    console.print("  ".join(f"{name}: {value}" for name, value in machine.items()), soft_wrap=True)
    print(json.dumps(found | {"machine": machine}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
