"""Jobs a second on this machine: N times /bin/true on two slots, jobmill and its peers in turn.

    python benchmarks/local_throughput.py --jobs 10000 --rounds 5 --peers xargs,hyperqueue [--json]

Prints a table, and one line of JSON at the end (``--json``: only this line).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, it finds its neighbours

from rich.console import Console
from rich.table import Table

from benchmarks.contender import Contender, WrongResult
from benchmarks.machine import facts
from benchmarks.peers import PEERS
from benchmarks.pipeline import Jobmill


def measure(contenders: list[Contender], jobs: int, rounds: int, console: Console) -> dict[str, list[float]]:
    """Return the seconds of each round by name. They take turns, another one first each time."""
    seconds: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    for number in range(rounds):
        turn = number % len(contenders)
        for contender in contenders[turn:] + contenders[:turn]:
            took = contender.round(jobs)
            seconds[contender.name].append(took)
            console.print(f"round {number + 1}/{rounds}  {contender.name:<11} {took:8.2f} s  {jobs / took:8.0f} jobs/s")
    return seconds


def summary(seconds: dict[str, list[float]], jobs: int) -> dict[str, object]:
    """Return medians (jobs a second), ratios to jobmill's, and all rounds."""
    medians = {name: jobs / statistics.median(values) for name, values in seconds.items()}
    line: dict[str, object] = {"jobs": jobs}
    line |= {f"{name}_per_s": round(value, 1) for name, value in medians.items()}
    line |= {f"ratio_{n}": round(medians["jobmill"] / v, 3) for n, v in medians.items() if n != "jobmill"}
    line["rounds"] = {name: [round(value, 3) for value in values] for name, values in seconds.items()}
    return line


def table(contenders: list[Contender], seconds: dict[str, list[float]], jobs: int) -> Table:
    """Return the table for people."""
    shown = Table(title=f"{jobs} x /bin/true on two slots")
    for column in ("", "version"):
        shown.add_column(column)
    for column in ("jobs/s, median", "worst", "best", "jobmill is"):
        shown.add_column(column, justify="right")
    own = statistics.median(seconds["jobmill"])
    for contender in contenders:
        values = seconds[contender.name]
        middle = statistics.median(values)
        ratio = "" if contender.name == "jobmill" else f"{middle / own:.2f} x"
        speeds = [f"{jobs / value:.0f}" for value in (middle, max(values), min(values))]
        shown.add_row(contender.name, contender.version, *speeds, ratio)
    return shown


def main() -> int:
    """Measure and print; exit with 1 when a contender's results were wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=10_000, metavar="N")
    parser.add_argument("--rounds", type=int, default=5, metavar="R")
    parser.add_argument("--peers", default=",".join(PEERS), help=f"of {', '.join(PEERS)}; empty for none")
    parser.add_argument(
        "--spool", type=Path, default=Path(tempfile.gettempdir()), help="a folder on the disk to measure"
    )
    parser.add_argument("--json", action="store_true", help="print nothing but the last line")
    given = parser.parse_args()
    names = [name for name in given.peers.split(",") if name]
    unknown = [name for name in names if name not in PEERS]
    if unknown or given.jobs < 1 or given.rounds < 1:
        parser.error(
            f"unknown peer {unknown[0]!r}; known: {', '.join(PEERS)}" if unknown else "N and R must be 1 or more"
        )
    console = Console(quiet=given.json)
    contenders: list[Contender] = [Jobmill(given.spool), *(PEERS[name]() for name in names)]
    machine = facts(given.spool)
    try:
        for contender in contenders:
            contender.prepare()
        seconds = measure(contenders, given.jobs, given.rounds, console)
    except WrongResult as error:
        print(f"no result: {error}", file=sys.stderr)
        return 1
    finally:
        for contender in contenders:
            contender.close()
    console.print(table(contenders, seconds, given.jobs))
    for contender in contenders:
        console.print(f"{contender.name} on disk: {contender.durability}")
    console.print("  ".join(f"{name}: {value}" for name, value in machine.items()))
    print(json.dumps(summary(seconds, given.jobs) | {"machine": machine}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
