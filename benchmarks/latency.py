"""How long one short job takes from its submission to the moment when its submitter sees the end, in milliseconds.

    python benchmarks/latency.py --jobs 200 --rounds 3 --peers psij,parsl,hyperqueue [--json]

Two loops of N jobs a round: closed (a job, its end, the next job) and open (100 jobs a second, whatever the answers
take; each job's clock starts at its scheduled time). Prints a table, and one line of JSON at the end (``--json``: only
this line).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, it finds its neighbours

from rich.console import Console
from rich.table import Table

from benchmarks import turns
from benchmarks.child import answer
from benchmarks.contender import COMMAND, Contender, WrongResult
from benchmarks.jobmill_under_test import Jobmill, pipeline
from benchmarks.latencies import RATE, Latencies
from benchmarks.machine import facts
from benchmarks.peers.launchers import HyperQueueLatency, Parsl, Psij

PEERS = {peer.name: peer for peer in (Psij, Parsl, HyperQueueLatency)}
Figures = dict[str, list[dict[str, float]]]  # contender -> `Latencies.figures` of each round


class JobmillLatency(Jobmill[Latencies]):
    """Its Python client in a process of its own."""

    def round(self, jobs: int) -> Latencies:
        """Start a pipeline, and let the client program run both loops."""
        folder = self.folder()
        with pipeline(folder) as client:
            words = (client.record.url, str(jobs), str(RATE), COMMAND)
            return Latencies.read(
                answer(self.name, Path(sys.executable), "latency_of_jobmill.py", *words, folder=folder)
            )


def measure(contenders: Sequence[Contender[Latencies]], jobs: int, rounds: int, console: Console) -> Figures:
    """Return each round's figures by contender."""
    figures: Figures = {contender.name: [] for contender in contenders}
    for number, contender in turns.in_turn(contenders, rounds):
        found = contender.round(max(1, jobs // contender.share)).figures()
        figures[contender.name].append(found)
        words = "  ".join(f"{name.removesuffix('_ms')} {value:.2f}" for name, value in found.items())
        console.print(f"round {number}/{rounds}  {contender.name:<15} {words}", soft_wrap=True)
    return figures


def medians(figures: Figures) -> dict[str, dict[str, float]]:
    """Return the median over the rounds of each figure."""
    return {
        name: {key: statistics.median(found[key] for found in rounds) for key in rounds[0]}
        for name, rounds in figures.items()
    }


def summary(figures: Figures, jobs: int) -> dict[str, object]:
    """Return medians, ratios (above 1: jobmill answers sooner) and all rounds."""
    middle = medians(figures)
    line: dict[str, object] = {"jobs": jobs, "rate": RATE}
    for name, found in middle.items():
        line |= {f"{name}_{key}": round(value, 3) for key, value in found.items()}
    for name, found in middle.items():
        if name != "jobmill":
            line |= {
                f"ratio_{name}_{key.removesuffix('_ms')}": round(value / middle["jobmill"][key], 3)
                for key, value in found.items()
                if "max" not in key
            }
    line["rounds"] = {n: [{k: round(v, 3) for k, v in r.items()} for r in rounds] for n, rounds in figures.items()}
    return line


def table(contenders: Sequence[Contender[Latencies]], figures: Figures, jobs: int) -> Table:
    """Return the table for people."""
    shown = Table(title=f"{jobs} x {COMMAND} one by one, and at {RATE:g} a second (open); ms, medians of the rounds")
    for column in ("", "version"):
        shown.add_column(column)
    middle = medians(figures)
    for column in ("jobs", "p50", "p99", "max", "open p50", "open p99", "open max"):
        shown.add_column(column, justify="right")
    for contender in contenders:
        values = [f"{value:.2f}" for value in middle[contender.name].values()]
        shown.add_row(contender.name, contender.version, str(max(1, jobs // contender.share)), *values)
    return shown


def compare(contenders: Sequence[Contender[Latencies]], given: argparse.Namespace) -> int:
    """Measure and print; return 1 when a contender's results were wrong."""
    console = Console(quiet=given.json)
    machine = facts(given.spool)
    try:
        ready = turns.prepared(contenders)
        figures = measure(ready, given.jobs, given.rounds, console)
    except WrongResult as error:
        print(f"no result: {error}", file=sys.stderr)
        return 1
    finally:
        for contender in contenders:
            contender.close()
    console.print(table(ready, figures, given.jobs))
    for contender in ready:
        console.print(f"{contender.name}, what a crash leaves: {contender.durability}", soft_wrap=True)
    console.print("the clock stands in the client process; no process is pinned to a processor")
    console.print("  ".join(f"{name}: {value}" for name, value in machine.items()), soft_wrap=True)
    versions = {contender.name: contender.version for contender in ready}
    print(json.dumps(summary(figures, given.jobs) | {"versions": versions, "machine": machine}))
    return 0


def main() -> int:
    """Measure and print; exit with 1 when a contender's results were wrong."""
    parser = turns.parser(__doc__, list(PEERS), jobs=200, rounds=3)
    given = parser.parse_args()
    return compare([JobmillLatency(given.spool), *turns.chosen(PEERS, given, parser)], given)


if __name__ == "__main__":
    raise SystemExit(main())
