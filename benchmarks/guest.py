"""What a guest asks of a Slurm cluster, and how late it sees ends: jobmill beside PSI/J, submitit and Parsl.

    python benchmarks/guest.py --jobs 1000 --guests jobmill,psij,submitit,parsl [--no-books] [--json]

A real Slurm of this machine (root; slurmctld, slurmdbd, one node) that holds ``--slots`` jobs at a time. Each guest in
turn submits all jobs while the partition is down; then it is opened, and until the last job has ended every call of
Slurm's commands is counted by programs that stand before them in PATH. The jobs sleep, and write down themselves when
they end; the delay is from there to the moment when the guest's user is told. Prints a table, and one line of JSON at
the end (``--json``: only this line). ``--keep FILE``: guests of an earlier line that are not measured now stay in it.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))  # the cluster of the tests
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, it finds its neighbours

from rich.console import Console
from rich.table import Table
from slurm_farm import Missing, Slurm, slurm

from benchmarks import machine
from benchmarks.contender import WrongResult
from benchmarks.guest_run import Plan, Run, figures
from benchmarks.guests import GUESTS, Guest, folder_for

SLOTS = 64  # processors of the node
SHORTEST, LONGEST = 5.0, 25.0  # seconds that a job sleeps


def plans(jobs: int) -> list[Plan]:
    """Return the same jobs for every guest."""
    chance = random.Random(1)
    return [Plan(round(chance.uniform(SHORTEST, LONGEST), 2)) for _ in range(jobs)]


def measure(guest: Guest, cluster: Slurm, jobs: int) -> dict[str, Any]:
    """Run one guest; raise WrongResult where it does not come to its end."""
    options = {"parsl": {"partition": "debug", "slots": SLOTS}}.get(guest.name, {})
    length = jobs / SLOTS * (SHORTEST + LONGEST) / 2
    with folder_for(guest) as folder:
        run = Run(guest, folder, plans(jobs))
        cluster.command("scontrol", "update", "partition=debug", "state=down")
        try:
            with run.going(cluster.env, options):
                began = time.time()
                run.until(lambda: run.submitted, "all in line", 60 + jobs)
                time.sleep(2)
                cluster.command("scontrol", "update", "partition=debug", "state=up")
                opened = time.time()
                run.until(lambda: len(run.seen()) == jobs, "all ends", 300 + 2 * length)
                found = figures(run, opened) | {"submission_s": round(opened - began, 1)}
        finally:
            cluster.command("scontrol", "update", "partition=debug", "state=up")
            cluster.empty()
    return found


def main(words: Sequence[str] | None = None) -> int:
    """Measure and print; exit with 1 where a guest did not come to its end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1000, metavar="N")
    parser.add_argument("--guests", default=",".join(GUESTS), metavar="A,B", help=f"of {', '.join(GUESTS)}")
    parser.add_argument("--no-books", action="store_true", help="a cluster without accounting")
    parser.add_argument("--keep", type=Path, metavar="FILE", help="an earlier line, for the guests that are left out")
    parser.add_argument("--json", action="store_true", help="print nothing but the last line")
    given = parser.parse_args(words)
    names = [name for name in given.guests.split(",") if name]
    if given.jobs < 1 or (strange := [name for name in names if name not in GUESTS]):
        parser.error(
            f"there is no guest {strange[0]!r}; known: {', '.join(GUESTS)}" if names else "--jobs is at least 1"
        )
    console = Console(stderr=True, quiet=given.json)
    found: dict[str, Any] = {}
    if given.keep is not None and given.keep.exists():
        found |= json.loads(given.keep.read_text().splitlines()[-1])["guests"]
    facts = machine.facts(Path("/tmp"))
    failed = False
    try:
        with slurm(books=not given.no_books) as cluster:
            version = cluster.command("sinfo", "--version").split()[-1]
            for name in names:
                guest = GUESTS[name]()
                guest.prepare()
                console.print(f"{name}: {given.jobs} jobs …")
                try:
                    found[name] = measure(guest, cluster, given.jobs)
                except WrongResult as error:
                    failed = True
                    print(error, file=sys.stderr)
    except Missing as error:
        print(error, file=sys.stderr)
        return 1
    ordered = {name: found[name] for name in GUESTS if name in found}
    if not given.json:
        Console(width=None if sys.stdout.isatty() else 130).print(table(ordered))
    here = {"slots": SLOTS, "seconds_of_a_job": [SHORTEST, LONGEST], "slurm": version, "books": not given.no_books}
    print(json.dumps({"benchmark": "guest", "jobs": given.jobs, **here, "guests": ordered, "machine": facts}))
    return 1 if failed else 0


def table(found: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return the table for people."""
    made = Table(title="guests on one Slurm", title_justify="left")
    for head in ("", "queries/min", "by command", "median delay, s", "p95, s", "doubled", "lost", "false ends"):
        made.add_column(head, justify="left" if head in ("", "by command") else "right")
    for name, it in found.items():
        kinds = ", ".join(f"{kind} {rate:g}" for kind, rate in it["queries"].items())
        keys = ("median_delay_s", "p95_delay_s", "doubled", "lost", "false_ends")
        made.add_row(f"{name} {it['version']}", f"{it['queries_per_min']:g}", kinds, *(str(it[key]) for key in keys))
    return made


if __name__ == "__main__":
    raise SystemExit(main())
