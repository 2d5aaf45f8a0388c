"""What jobmill costs while it does nothing, what a command takes from start to exit, and what is installed for it.

    python benchmarks/footprint.py --seconds 30 --starts 21 --peers rq,celery,dramatiq [--json]

Prints tables, and one line of JSON at the end (``--json``: only this line). ``--here`` measures the programs of the
environment that runs this, and installs nothing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, it finds its neighbours

from rich.console import Console
from rich.table import Table

from benchmarks import installation, standing, starts
from benchmarks.contender import WrongResult
from benchmarks.machine import facts
from benchmarks.peers.environment import provide
from benchmarks.peers.task_queues import CeleryQueue, Dramatiq, Rq, TaskQueue
from benchmarks.residents import Resident, idle
from benchmarks.starts import Start

PEERS: dict[str, type[TaskQueue]] = {peer.name: peer for peer in (Rq, CeleryQueue, Dramatiq)}
VERSIONS = {"rq": ("rq", "--version"), "celery": ("celery", "--version"), "dramatiq": ("dramatiq", "--version")}
IMPORTS = ("redis", "pydantic", "click", "yaml", "asyncio", "jobmill.jobs.spec")
OWN_REDIS = "from jobmill.ledger.connection import connect; connect('redis://nowhere')"  # the client, and no server


def main() -> int:
    """Measure and print; exit with 1 when something that was measured did not work."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30.0, metavar="S", help="of idleness")
    parser.add_argument("--starts", type=int, default=21, metavar="N", help="of each command")
    parser.add_argument("--peers", default=",".join(PEERS), help=f"of {', '.join(PEERS)}; empty for none")
    parser.add_argument("--here", action="store_true", help="install nothing, measure this environment's programs")
    parser.add_argument("--json", action="store_true", help="print nothing but the last line")
    given = parser.parse_args()
    names = [name for name in given.peers.split(",") if name]
    unknown = [name for name in names if name not in PEERS]
    if unknown or given.seconds <= 0 or given.starts < 1:
        parser.error(
            f"unknown peer {unknown[0]!r}; known: {', '.join(PEERS)}" if unknown else "S and N must be above 0"
        )
    console = Console(quiet=given.json)
    try:
        with tempfile.TemporaryDirectory(prefix="jobmill-footprint-") as folder:
            line = _measured(given, names, Path(folder), console)
    except (WrongResult, ProcessLookupError, TimeoutError, subprocess.CalledProcessError) as error:
        print(f"no result: {error}", file=sys.stderr)
        return 1
    print(json.dumps(line))
    return 0


def _measured(given: argparse.Namespace, names: Sequence[str], folder: Path, console: Console) -> dict[str, object]:
    python = Path(sys.executable) if given.here else installation.install(folder / "installed")
    machine = facts(folder)
    residents: dict[str, list[Resident]] = {}
    with standing.jobmill(python, folder) as (pid, env):
        residents["jobmill"] = idle([pid], given.seconds, standing.role)
        took = starts.measure(_commands(python, folder), given.starts, env=env, folder=folder)
    programs: dict[str, Sequence[str]] = {}
    for name in names:
        queue = PEERS[name](folder)
        its_python = provide(queue.home or name, queue.requirement)
        with standing.peer(queue, its_python) as pids:
            residents[name] = idle(pids, given.seconds, standing.role)
        program, *words = VERSIONS[name]
        programs[" ".join(VERSIONS[name])] = [str(its_python.with_name(program)), *words]
    took |= starts.measure(programs, given.starts, env=standing.clean_environment(python), folder=folder)
    sizes = {} if given.here else installation.sizes(python)
    console.print(_resident_table(residents, given.seconds))
    console.print(_start_table(took, given.starts))
    if sizes:
        most = ", ".join(f"{name} {size:.1f}" for name, size in list(sizes.items())[:8])
        console.print(f"installed: {sum(sizes.values()):.1f} MiB; most of it: {most}", soft_wrap=True)
    console.print("  ".join(f"{name}: {value}" for name, value in machine.items()), soft_wrap=True)
    return _line(residents, took, sizes) | {"seconds": given.seconds, "starts": given.starts, "machine": machine}


def _commands(python: Path, folder: Path) -> dict[str, Sequence[str]]:
    """Return what is started, by the name under which it is shown; `submit` leaves a job each time."""
    program = str(python.with_name("jobmill"))
    found: dict[str, Sequence[str]] = {
        "python -c pass": [str(python), "-c", "pass"],
        "jobmill --version": [program, "--version"],
        "jobmill --help": [program, "--help"],
        "jobmill info": [program, "info"],
        "jobmill list": [program, "list"],
        "jobmill submit": [program, "submit", str(folder / "job.yaml")],
        "client of redis": [str(python), "-c", OWN_REDIS],
    }
    return found | {f"import {name}": [str(python), "-c", f"import {name}"] for name in IMPORTS}


def _line(
    residents: Mapping[str, Sequence[Resident]], took: Mapping[str, Start], sizes: Mapping[str, float]
) -> dict[str, object]:
    """Return the line of JSON: jobmill's own numbers at its top, all others below."""
    sums = {name: _sum(found) for name, found in residents.items()}
    own = sums["jobmill"]
    line: dict[str, object] = {
        "idle_cpu_percent": own.cpu_percent,
        "rss_mb": own.rss_mb,
        "pss_mb": own.pss_mb,
        "info_ms": took["jobmill info"].wall_ms,
        "submit_ms": took["jobmill submit"].wall_ms,
        "help_ms": took["jobmill --help"].wall_ms,
        "version_ms": took["jobmill --version"].wall_ms,
        "install_mb": sum(sizes.values()) if sizes else None,
        "idle": {name: [asdict(one) for one in [*found, sums[name]]] for name, found in residents.items()},
        "took": {name: asdict(start) for name, start in took.items()},
        "installed_mb": dict(list(sizes.items())[:12]),
    }
    return {key: _rounded(value) for key, value in line.items()}


def _sum(found: Sequence[Resident]) -> Resident:
    return Resident(
        name="together",
        cpu_percent=sum(one.cpu_percent for one in found),
        wakes_per_s=sum(one.wakes_per_s for one in found),
        rss_mb=sum(one.rss_mb for one in found),
        pss_mb=sum(one.pss_mb for one in found),
    )


def _rounded(value: object) -> object:
    if isinstance(value, float):
        return round(value, 2)
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    return [_rounded(part) for part in value] if isinstance(value, list) else value


def _resident_table(residents: Mapping[str, Sequence[Resident]], seconds: float) -> Table:
    shown = Table(title=f"{seconds:g} s without work")
    for column in ("", "process"):
        shown.add_column(column)
    for column in ("CPU, % of a core", "wake-ups/s", "RSS, MiB", "PSS, MiB"):
        shown.add_column(column, justify="right")
    for name, found in residents.items():
        for one in [*found, _sum(found)]:
            numbers = (f"{one.cpu_percent:.2f}", f"{one.wakes_per_s:.1f}", f"{one.rss_mb:.1f}", f"{one.pss_mb:.1f}")
            shown.add_row(name, one.name, *numbers, end_section=one.name == "together")
    return shown


def _start_table(took: Mapping[str, Start], number: int) -> Table:
    shown = Table(title=f"start to exit, median of {number}")
    shown.add_column("command")
    for column in ("wall, ms", "CPU, ms"):
        shown.add_column(column, justify="right")
    for name, start in took.items():
        shown.add_row(name, f"{start.wall_ms:.0f}", f"{start.cpu_ms:.0f}")
    return shown


if __name__ == "__main__":
    raise SystemExit(main())
