"""What becomes of jobs behind a scheduler that means ill: jobmill beside PSI/J and submitit, fault by fault.

    python benchmarks/hostile_scheduler.py [--guests jobmill,psij,submitit] [--faults "down,half answers"] [--json]

A real Slurm of this machine (root). The guests, all at once, each behind programs of its own that do what schedulers
did to others (tests/slurm_shims.py), run the same jobs; each job writes down itself when it starts and ends. Doubled:
it started twice. False end: its user was told that it is over while it ran, or with an end that was not its own. Lost:
no end was told a minute after all had ended. A submission that is told to have failed is repeated by the user. jobmill
and PSI/J poll every second or two, so that a fault of 20 s is one of minutes to those who poll every 30 s.
Prints a table, and one line of JSON at the end (``--json``: only this line).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))  # the cluster of the tests
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, it finds its neighbours

from late_files import late, late_node
from rich.console import Console
from rich.table import Table
from slurm_farm import Missing, Slurm, slurm
from slurm_shims import FAULTS, skewed

from benchmarks import machine
from benchmarks.contender import WrongResult
from benchmarks.guest_run import Plan, Run, Verdict, judge
from benchmarks.guests import GUESTS, Guest, folder_for

LATE = 60.0  # seconds that a file of an exit takes to be seen
PATIENCE = 60.0  # seconds after the last end, for all to be told
STRANGER = 15  # seconds that the jobs run which take the ids of ours
SHORT = [Plan(3), Plan(3, 3)]
IDS = 8  # of the cluster on which they come round soon
REUSED = ["FirstJobId=1", f"MaxJobId={IDS + 1}", "MinJobAge=2"]
OPTIONS: Mapping[str, Mapping[str, Any]] = {  # submitit asks after 2, 4, 8, 16 … seconds by itself
    "jobmill": {"poll_interval": 1, "poll_interval_max": 1, "queries_per_minute": 1000},
    "psij": {"queue_polling_interval": 2},
}
KNOWN = ("jobmill", "psij", "submitit")  # Parsl sees no job of its user: they are within its own
RIGHT = {"verdict": "right"}
EXITS = {"psij": "work/slurm/*.ec", "submitit": "work/*_result.pkl"}


@dataclass(frozen=True)
class Scenario:
    """One fault."""

    name: str
    seconds: float = 0.0  # that it lasts, from when all jobs run; 0: from the first submission to the end
    skew: int = 0  # hours
    late: float = 0.0  # seconds that files of exits take to be seen
    reused: bool = False  # other jobs get our ids

    def plans(self, jobs: int) -> Sequence[Plan]:
        """The jobs: they end while the fault lasts, and after it; every other one fails."""
        return SHORT if self.reused else [Plan(6 + 24 * n / max(1, jobs - 1), 3 * (n % 2)) for n in range(jobs)]


SCENARIOS = {
    it.name: it
    for it in (
        Scenario("no fault"),
        Scenario("accepted, then timed out"),
        Scenario("accepted, and no answer"),
        *(Scenario(name, seconds=20) for name in ("empty answers", "lists without rows", "half answers", "down")),
        Scenario("no answers", seconds=20),
        Scenario("banners"),
        Scenario("accounting gone"),
        Scenario("clock an hour behind", skew=-1),
        Scenario("clock an hour ahead", skew=1),
        Scenario("exit file 60 s late", late=LATE),
        Scenario("ids reused", reused=True),
    )
}


def one(guest: Guest, cluster: Slurm, scenario: Scenario, jobs: int) -> dict[str, Any]:
    """Run one guest through one fault."""
    with folder_for(guest) as folder:
        run = Run(guest, folder, scenario.plans(jobs), note=False)
        fault = "held answers" if scenario.reused else scenario.name
        if fault in FAULTS:
            run.shims.fault(fault)
            run.shims.armed = not scenario.seconds and not scenario.reused
        wrap = skewed(run.shims, scenario.skew) if scenario.skew else ()
        options = dict(OPTIONS.get(guest.name, {}))
        began = time.monotonic()
        count = len(run.plans)
        try:
            with _late(run, scenario) as more, run.going(cluster.env, options | more, wrap):
                with contextlib.suppress(WrongResult):  # a guest may take a job for submitted that is not
                    run.until(lambda: len(run.times("start")) == count, "starts", 90)
                if scenario.seconds or scenario.reused:
                    run.shims.armed = True
                if scenario.reused:
                    _strangers(run, cluster)
                time.sleep(scenario.seconds)
                if scenario.seconds or scenario.reused:
                    run.shims.armed = False
                with contextlib.suppress(WrongResult):
                    run.until(lambda: len(run.times("end")) == count, "ends", 60)
                with contextlib.suppress(WrongResult):
                    run.until(lambda: len(run.seen()) == count, "reports", PATIENCE + scenario.late)
                seconds = time.monotonic() - began
                time.sleep(3)  # for what was doubled, to be seen
            return _line(run, judge(run), seconds)
        except WrongResult as error:
            return {"verdict": "did not run", "examples": [str(error)[:300]]}


@contextlib.contextmanager
def _late(run: Run, scenario: Scenario) -> Iterator[Mapping[str, Any]]:
    """Have what tells of an exit be seen late, where the scenario says so; give more options of the guest."""
    if scenario.late and run.guest.name == "jobmill":  # all that its nodes write
        with late_node(run.folder, run.folder / "spool", scenario.late) as python:
            yield {"python": python}
    elif scenario.late:
        with late(run.folder, EXITS[run.guest.name], scenario.late):
            yield {}
    else:
        yield {}


def _strangers(run: Run, cluster: Slurm) -> None:
    """Once our jobs have ended, and before anybody has an answer, give their ids to jobs that run, and then fail."""
    run.until(lambda: len(run.times("end")) == len(run.plans), "ends", 60)
    run.until(lambda: not cluster.command("squeue", "-h", "--states=all", check=False).strip(), "forgotten", 60)
    for _ in range(IDS):
        cluster.command("sbatch", "--output=/dev/null", f"--wrap=sleep {STRANGER}; exit 7")


def _line(run: Run, verdict: Verdict, seconds: float) -> dict[str, Any]:
    examples = [f"job {number}: {words}"[:200] for number, words in list(verdict.false.items())[:2]]
    return {
        "verdict": verdict.words,
        "jobs": len(run.plans),
        "right": len(verdict.right),
        "doubled": len(verdict.doubled),
        "lost": len(verdict.lost),
        "false_ends": len(verdict.false),
        "told_not_submitted": run.resubmitted(),
        "seconds": round(seconds, 1),
        "examples": examples,
    }


def main(words: Sequence[str] | None = None) -> int:
    """Run and print; exit with 1 where jobmill did anything but right."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=6, metavar="N", help="of each guest, for each fault (6)")
    parser.add_argument("--guests", default=",".join(KNOWN), metavar="A,B", help=f"of {', '.join(KNOWN)}")
    parser.add_argument("--faults", default=";".join(SCENARIOS), metavar="A;B", help="of: " + "; ".join(SCENARIOS))
    parser.add_argument("--json", action="store_true", help="print nothing but the last line")
    given = parser.parse_args(words)
    names = [name for name in given.guests.split(",") if name]
    faults = [name.strip() for name in given.faults.split(";") if name.strip()]
    if given.jobs < 1:
        parser.error("--jobs is at least 1")
    if strange := [name for name in names if name not in KNOWN] + [name for name in faults if name not in SCENARIOS]:
        parser.error(f"{strange[0]!r} is none of {', '.join(KNOWN)}, or of: {'; '.join(SCENARIOS)}")
    console = Console(stderr=True, quiet=given.json)
    facts = machine.facts(Path("/tmp"))
    guests = [GUESTS[name]() for name in names]
    found: dict[str, dict[str, Any]] = {}
    try:
        for guest in guests:
            guest.prepare()
        if kept := [SCENARIOS[name] for name in faults if not SCENARIOS[name].reused]:
            with slurm(books=True) as cluster:
                for scenario in kept:
                    console.print(scenario.name)
                    with ThreadPoolExecutor(len(guests)) as beside:
                        lines = beside.map(lambda guest, it=scenario: one(guest, cluster, it, given.jobs), guests)
                        found[scenario.name] = dict(zip(names, lines, strict=True))
                    cluster.empty()
        for scenario in (SCENARIOS[name] for name in faults if SCENARIOS[name].reused):
            console.print(scenario.name)
            for guest in guests:
                with slurm(books=True, settings=REUSED) as cluster:
                    found.setdefault(scenario.name, {})[guest.name] = one(guest, cluster, scenario, given.jobs)
    except Missing as error:
        print(error, file=sys.stderr)
        return 1
    if not given.json:
        Console(width=None if sys.stdout.isatty() else 130).print(table(found, guests))
    versions = {guest.name: guest.version for guest in guests}
    print(
        json.dumps(
            {
                "benchmark": "hostile_scheduler",
                "jobs": given.jobs,
                "versions": versions,
                "faults": found,
                "machine": facts,
            }
        )
    )
    return 1 if any(it.get("jobmill", RIGHT)["verdict"] != "right" for it in found.values()) else 0


def table(found: Mapping[str, Mapping[str, Any]], guests: Sequence[Guest]) -> Table:
    """Return the table for people."""
    made = Table(title="a scheduler that means ill", title_justify="left")
    for head in ("", *(f"{guest.name} {guest.version}" for guest in guests)):
        made.add_column(head)
    for name, cells in found.items():
        made.add_row(name, *(cells[guest.name]["verdict"] for guest in guests))
    return made


if __name__ == "__main__":
    raise SystemExit(main())
