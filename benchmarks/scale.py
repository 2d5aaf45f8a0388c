"""A record with a million queued jobs: bytes a job, and what is still as quick as with an empty one.

    python benchmarks/scale.py --jobs 1000000 --rounds 5 [--servers embedded,redis7] [--json]

A real manager admits N small jobs, which wait. Then: the server's memory; submitting and granting beside the same on
the empty record; what `list`, `info` and `watch` ask of the server; its restart. Prints a table, and one line of JSON
at the end (``--json``: only this line).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, it finds its neighbours

from rich.console import Console
from rich.table import Table

from benchmarks.closed_pipeline import ClosedPipeline
from benchmarks.contender import WrongResult
from benchmarks.full_record import FullRecord
from benchmarks.machine import facts
from tests.servers import Missing, locate

SERVERS = {"embedded": "valkey", "redis7": "redis7"}  # ours -> what the tests call it
DURABILITY = "every push, admission and grant is on disk (appendfsync always) before it is acknowledged"


def measure(server: str, jobs: int, rounds: int, spool: Path, console: Console) -> dict[str, Any]:
    """Return all figures of one server; raise Missing where it is not here, WrongResult."""
    binary = locate(SERVERS[server])
    with (
        tempfile.TemporaryDirectory(prefix="jobmill-", dir=spool) as folder,
        ClosedPipeline(Path(folder), limit=0, binary=binary) as pipeline,
    ):
        full = FullRecord(pipeline, jobs=jobs, rounds=rounds)
        for step in (full.empty, full.fill, full.commands, full.full, full.restart):
            begin = time.perf_counter()
            step()
            console.print(f"{server}: {step.__name__} measured in {time.perf_counter() - begin:.0f} s")
        return full.figures


def table(found: dict[str, dict[str, Any]], jobs: int) -> Table:
    """Return the table for people."""
    shown = Table(title=f"{jobs:,} jobs wait")
    shown.add_column("")
    for server in found:
        shown.add_column(server, justify="right")
    for name in next(iter(found.values())):
        values = [figures[name] for figures in found.values()]
        if isinstance(values[0], dict):
            for part in values[0]:
                shown.add_row(f"{name}: {part}", *(_shown(value.get(part, "-")) for value in values))
        else:
            shown.add_row(name, *map(_shown, values))
    return shown


def _shown(value: Any) -> str:
    return ", ".join(f"{v:,} {k}" for k, v in value.items()) if isinstance(value, dict) else f"{value:,}"


def main() -> int:
    """Measure and print; exit with 1 when a job was lost, or a server is missing that was asked for by name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1_000_000, metavar="N")
    parser.add_argument("--rounds", type=int, default=5, metavar="R")
    parser.add_argument("--servers", default=",".join(SERVERS), help="those that are on this machine are measured")
    parser.add_argument(
        "--spool", type=Path, default=Path(tempfile.gettempdir()), help="a folder on the disk to measure"
    )
    parser.add_argument("--json", action="store_true", help="print nothing but the last line")
    given = parser.parse_args()
    names = [name for name in given.servers.split(",") if name]
    if not names or set(names) - set(SERVERS) or min(given.jobs, given.rounds) < 1:
        parser.error(f"N and R must be 1 or more, the servers of {', '.join(SERVERS)}")
    console = Console(quiet=given.json)
    machine = facts(given.spool)
    found: dict[str, dict[str, Any]] = {}
    for name in names:
        try:
            found[name] = measure(name, given.jobs, given.rounds, given.spool, console)
        except Missing as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
        except WrongResult as error:
            print(f"no result: {name}: {error}", file=sys.stderr)
            return 1
    if not found:
        return 1
    console.print(table(found, given.jobs))
    console.print(f"on disk: {DURABILITY}")
    console.print("  ".join(f"{name}: {value}" for name, value in machine.items()))
    first = dict(next(iter(found.values())))  # the embedded server's figures stand at the top
    del first["bytes_per_job"]
    line = {"jobs": given.jobs} | {f"{name}_bytes_per_job": f["bytes_per_job"] for name, f in found.items()} | first
    print(json.dumps(line | dict(list(found.items())[1:]) | {"machine": machine}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
