"""The raw results beside docs/performance.md: the last line of each benchmark, one file a benchmark."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parent.parent / "docs" / "performance.md"
WORDS = {  # benchmark -> the words of its full run
    "local_throughput": "--jobs 10000 --rounds 5",
    "latency": "--jobs 200 --rounds 3",
    "pipeline": "--jobs 10000 --rounds 3",
    "admission": "--jobs 40000 --rounds 3 --managers 4",
    "scale": "--jobs 1000000 --rounds 5",
    "polling": "--jobs 100000 --interval 10 --intervals 3",
    "footprint": "--seconds 30 --starts 21",
    "budget": "--jobs 10000",
    "guest": "--jobs 1000",
    "hostile_scheduler": "--jobs 6",
}
Result = Mapping[str, Any]


def command(name: str) -> str:
    """Return the command that makes a result."""
    return f"make bench BENCH={name}"


def read(folder: Path) -> dict[str, Result]:
    """Return the results that are there; raise ValueError, with the file's name, for one that is no result."""
    found: dict[str, Result] = {}
    for name in WORDS:
        file = folder / f"{name}.json"
        if not file.exists():
            continue
        try:
            line = json.loads(file.read_text().strip().splitlines()[-1])
            if not isinstance(line["machine"], dict):
                raise TypeError("`machine` is no mapping")
        except (ValueError, IndexError, KeyError, TypeError) as error:
            raise ValueError(f"{file}: its last line is no result of a benchmark ({error}); {command(name)}") from None
        found[name] = line
    return found


def size(name: str, result: Result) -> int:
    """Return what makes a run long or short: jobs, or seconds of idleness."""
    made: float = result["seconds" if name == "footprint" else "jobs"]
    return round(made)


def short(name: str, result: Result) -> bool:
    """Tell whether a run was a trial, with less than the full run has."""
    return size(name, result) < int(WORDS[name].split()[1])


def origin(name: str, result: Result) -> str:
    """Return where figures come from: the command, the machine, and whether the run was a short one."""
    machine, words = result["machine"], WORDS[name].split()
    less = f"{size(name, result):,} {words[0][2:]} instead of {int(words[1]):,}"
    trial = f" **A trial run: {less}.**" if short(name, result) else ""
    disk = machine["spool"].partition(" ")[0]
    where = (
        f"{machine['cores']} cores ({machine['processor']}), {disk}, {machine['kernel']}, Python {machine['python']}"
    )
    return f"*`benchmarks/{name}.py {WORDS[name]}` on {where}; load before: {machine['load before']}.*{trial}"


def section(name: str, results: Mapping[str, Result], make: Callable[[Result], str]) -> str:
    """Return a section of the page made from one result, or the line that says how to measure it."""
    if name not in results:
        return f"*Not measured: `{command(name)}` makes `performance/{name}.json`.*"
    return f"{make(results[name])}\n\n{origin(name, results[name])}"
