"""A comparison by jobs a second: rounds in turn, medians, ratios, a table and one line of JSON."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from benchmarks import turns
from benchmarks.contender import Contender, WrongResult
from benchmarks.machine import facts

Rates = dict[str, list[float]]  # name -> jobs a second of each round


def compare(title: str, contenders: Sequence[Contender[float]], given: argparse.Namespace) -> int:
    """Measure and print; return 1 when a contender's results were wrong. ``given``: of `turns.parser`."""
    console = Console(quiet=given.json)
    machine = facts(given.spool)
    try:
        ready = turns.prepared(contenders)
        rates = _measure(ready, given.jobs, given.rounds, console)
    except WrongResult as error:
        print(f"no result: {error}", file=sys.stderr)
        return 1
    finally:
        for contender in contenders:
            contender.close()
    console.print(_table(title, ready, rates))
    for contender in ready:
        fewer = f"; runs 1/{contender.share} of the jobs" if contender.share > 1 else ""
        console.print(f"{contender.name}, what a crash leaves: {contender.durability}{fewer}", soft_wrap=True)
    console.print("  ".join(f"{name}: {value}" for name, value in machine.items()), soft_wrap=True)
    versions = {contender.name: contender.version for contender in ready}
    print(json.dumps(_summary(rates, given.jobs) | {"versions": versions, "machine": machine}))
    return 0


def _measure(contenders: Sequence[Contender[float]], jobs: int, rounds: int, console: Console) -> Rates:
    rates: Rates = {contender.name: [] for contender in contenders}
    for number, contender in turns.in_turn(contenders, rounds):
        own = max(1, jobs // contender.share)
        took = contender.round(own)
        rates[contender.name].append(own / took)
        console.print(f"round {number}/{rounds}  {contender.name:<11} {took:8.2f} s  {own / took:8.0f} jobs/s")
    return rates


def _summary(rates: Rates, jobs: int) -> dict[str, object]:
    medians = {name: statistics.median(values) for name, values in rates.items()}
    line: dict[str, object] = {"jobs": jobs}
    line |= {f"{name}_per_s": round(value, 1) for name, value in medians.items()}
    line |= {f"ratio_{n}": round(medians["jobmill"] / v, 3) for n, v in medians.items() if n != "jobmill"}
    line["rounds"] = {name: [round(value, 1) for value in values] for name, values in rates.items()}
    return line


def _table(title: str, contenders: Sequence[Contender[float]], rates: Rates) -> Table:
    shown = Table(title=title)
    for column in ("", "version"):
        shown.add_column(column)
    for column in ("jobs/s, median", "worst", "best", "jobmill is"):
        shown.add_column(column, justify="right")
    own = statistics.median(rates["jobmill"])
    for contender in contenders:
        values = rates[contender.name]
        middle = statistics.median(values)
        ratio = "" if contender.name == "jobmill" else f"{own / middle:.2f} x"
        speeds = [f"{value:.0f}" for value in (middle, min(values), max(values))]
        shown.add_row(contender.name, contender.version, *speeds, ratio)
    return shown
