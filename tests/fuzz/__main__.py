"""``python -m tests.fuzz``: push what nobody should push through a real pipeline, and account for every document.

Exit code 0: no worker died, no traceback, every document refused with a reason or run to an end; 1: not so, it is
printed. The coverage-guided side, on the parser alone: ``python -m tests.fuzz.parser``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence

from rich.console import Console

from tests.fuzz.run import Result, run, total


def main(argv: Sequence[str] | None = None) -> int:
    """Run one or more seeds; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--documents", type=int, default=10_000, metavar="N", help="entries to push a round (10000)")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="of the first round; the next have the next")
    parser.add_argument("--rounds", type=int, default=1, metavar="R", help="rounds, each on a new pipeline (1)")
    parser.add_argument("--json", action="store_true", help="print one line of JSON, the figures of all rounds")
    given = parser.parse_args(argv)
    console = Console(stderr=True, highlight=False)
    results = []
    for seed in range(given.seed, given.seed + given.rounds):
        with console.status(f"seed {seed}") as status:
            result = run(seed, given.documents, lambda words, seed=seed: status.update(f"seed {seed}: {words}"))  # type: ignore[misc]
        show(result, console)
        results.append(result)
    if given.json:
        print(json.dumps(total(results)))
    return 0 if all(result.clean for result in results) else 1


def show(result: Result, console: Console) -> None:
    """Print a round for people."""
    row = result.to_dict()
    console.print(
        f"seed {result.seed}: {row['documents']} documents in {row['seconds']} s ({row['per_second']}/s): "
        f"{row['accepted']} accepted, {row['refused']} refused, {row['same']} the same as an earlier one"
    )
    console.print(f"  ended or waiting: {_counted(result.account.states)}", markup=False)
    console.print(f"  reasons: {_counted(result.account.reasons, 8)}", markup=False)
    problems = [*result.crashed, *result.broken, *result.account.unaccounted]
    if result.tracebacks:
        problems.append(f"{result.tracebacks} tracebacks in the log")
    for problem in problems[:20]:
        console.print(f"  {problem}", style="red", markup=False)
    if len(problems) > 20:
        console.print(f"  and {len(problems) - 20} more", style="red")


def _counted(counts: Counter[str], most: int = 20) -> str:
    return ", ".join(f"{count} {words}" for words, count in counts.most_common(most))


if __name__ == "__main__":
    sys.exit(main())
