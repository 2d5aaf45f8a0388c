"""``python -m tests.chaos``: break a pipeline in every way that we know of, and judge what it tells its users.

Exit code 0: nothing lost, doubled, over capacity, leaked or untrue; 1: something was, it is printed; 2: wrong
arguments; 130, 143: interrupted, and cleaned up.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from tests.chaos.disk import available
from tests.chaos.faults.fault import Fault
from tests.chaos.nemesis import FAULTS, usable
from tests.chaos.run import Result, run
from tests.chaos.world import World

KINDS = ("lost", "doubled", "over_capacity", "leaked", "untrue", "fences", "crashed")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one or more seeds; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--jobs", type=_some, default=300, metavar="N", help="jobs of a round (300)")
    parser.add_argument("--faults", type=_some, default=30, metavar="M", help="faults of a round (30)")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="of the first round; the next have the next")
    parser.add_argument("--rounds", type=_some, default=1, metavar="R", help="rounds, each on a new pipeline (1)")
    parser.add_argument("--nemesis", default="", metavar="A,B", help=f"only these faults, of: {', '.join(FAULTS)}")
    parser.add_argument("--without", default="", metavar="A,B", help="all faults but these")
    parser.add_argument("--system", choices=("local", "fake"), default="local", help="what the jobs run on (local)")
    parser.add_argument("--json", action="store_true", help="print one line of JSON a round, and one of all at the end")
    parser.add_argument("--keep", action="store_true", help="leave the folder of a round that failed")
    given = parser.parse_args(argv)
    names, without = ([n for n in words.split(",") if n] for words in (given.nemesis, given.without))
    for option, several in (("--nemesis", names), ("--without", without)):
        for name in several:
            if name not in FAULTS:
                parser.error(f"{option}: no fault {name!r}; there are {', '.join(FAULTS)}")
    faults = [f for f in usable(names, given.system) if f.name not in without]
    if not faults:
        parser.error(f"no fault is left for --system {given.system}; name others with --nemesis")
    if any(f.disk for f in faults) and not available():
        parser.error("the disk faults need root: run as root, or leave them out with --without")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was mounted and started goes with us
    console = Console(stderr=True)
    if not available():
        console.print("not root: the disk faults are left out")
    results = []
    for seed in range(given.seed, given.seed + given.rounds):
        try:
            result = one_round(given, seed, faults, console)
        except KeyboardInterrupt:
            console.print(f"seed {seed}: interrupted, and cleaned up; nothing is said of it")
            return 130
        results.append(result)
        if given.json:
            print(json.dumps(result.to_dict()), flush=True)
        if (hit := sum(result.injected.values())) < given.faults:
            console.print(f"seed {seed}: only {hit} of {given.faults} faults hit something", style="yellow")
    total = summary(results)
    if given.json:
        print(json.dumps(total))
    else:
        show(results, console)
    return 0 if all(result.findings.clean for result in results) else 1


def one_round(given: argparse.Namespace, seed: int, faults: Sequence[Fault], console: Console) -> Result:
    """Run one seed on a pipeline of its own."""
    world = World(system=given.system, seed=seed)
    clean = False
    try:
        world.start()
        with console.status(f"seed {seed}") as status:
            result = run(
                world,
                seed=seed,
                count=given.jobs,
                faults=faults,
                injections=given.faults,
                tell=lambda words: status.update(f"seed {seed}: {words}"),
            )
        clean = result.findings.clean
        for kind, sentences in result.findings.sentences().items():
            for sentence in sentences[:10]:
                console.print(f"seed {seed}: {kind}: {sentence}", style="red", markup=False, highlight=False)
        return result
    finally:
        number = signal.signal(signal.SIGINT, signal.SIG_IGN)  # what was mounted and started goes, once and wholly
        world.close(keep=given.keep and not clean)
        if given.keep and not clean:
            words = f"seed {seed}: kept {world.folder}; afterwards: umount {world.folder}/state {world.folder}/spool"
            console.print(words, markup=False, highlight=False, soft_wrap=True)
        signal.signal(signal.SIGINT, number)


def _some(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is too few; at least 1")
    return number


def summary(results: Sequence[Result]) -> dict[str, object]:
    """Return the figures of all rounds as one mapping."""
    injected: Counter[str] = Counter()
    for result in results:
        injected.update(result.injected)
    rows = [result.to_dict() for result in results]
    return {
        "seeds": [result.seed for result in results],
        **{key: sum(row[key] for row in rows) for key in ("jobs", "acknowledged", "runs", "faults", "missed")},
        **{kind: sum(row[kind] for row in rows) for kind in KINDS},
        "told_lost": sum(row["told_lost"] for row in rows),
        "injected": dict(sorted(injected.items())),
        "seconds": round(sum(result.seconds for result in results), 1),
    }


def show(results: Sequence[Result], console: Console) -> None:
    """Print a table for people."""
    table = Table(title="chaos", title_justify="left")
    for head in ("seed", "jobs", "faults", *KINDS, "told lost", "s"):
        table.add_column(head.replace("_", " "), justify="right")
    for result in results:
        row = result.to_dict()
        style = "green" if result.findings.clean else "red"
        cells = [row["seed"], row["jobs"], row["faults"], *(row[k] for k in KINDS), row["told_lost"], row["seconds"]]
        table.add_row(*map(str, cells), style=style)
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
