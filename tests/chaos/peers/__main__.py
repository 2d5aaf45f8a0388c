"""``python -m tests.chaos.peers``: other systems under the same faults, judged by the same checker.

Exit code 0: every round was run and judged, whatever was found; 1: a fault could not be injected as it was meant; 2: a
peer cannot be installed here.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.chaos.peers.contract import Peer
from tests.chaos.peers.jobmill import Jobmill
from tests.chaos.peers.rq import Rq
from tests.chaos.peers.run import KINDS, Result, run
from tests.chaos.peers.soma_workflow import SomaWorkflow

PEERS: dict[str, type[Peer]] = {peer.name: peer for peer in (Rq, SomaWorkflow, Jobmill)}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one or more seeds; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.peers", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--peer", choices=PEERS, required=True)
    parser.add_argument("--jobs", type=int, default=1000, metavar="N", help="jobs of a round (1000)")
    parser.add_argument("--faults", type=int, default=100, metavar="M", help="faults of a round (100)")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="of the first round; the next have the next")
    parser.add_argument("--rounds", type=int, default=1, metavar="R", help="rounds, each on a new installation (1)")
    parser.add_argument("--nemesis", default="", metavar="A,B", help="only these faults")
    parser.add_argument("--patience", type=float, metavar="SECONDS", help="without change until it is judged (its own)")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--keep", action="store_true", help="leave the folder of each round")
    given = parser.parse_args(argv)
    console = Console(stderr=True)
    results = []
    try:
        for seed in range(given.seed, given.seed + given.rounds):
            results.append(one_round(given, seed, console))
            print(json.dumps(results[-1].to_dict()), file=sys.stderr, flush=True)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        print(f"{given.peer} cannot be installed here: {error}", file=sys.stderr)
        return 2
    show(results, Console(width=None if sys.stdout.isatty() else 130))
    if given.json:
        print(json.dumps(summary(results)))
    for words in (words for result in results for words in result.broken):
        print(f"a fault of this program: {words}", file=sys.stderr)
    return 1 if any(result.broken for result in results) else 0


def one_round(given: argparse.Namespace, seed: int, console: Console) -> Result:
    """Run one seed on an installation of its own."""
    folder = Path(tempfile.mkdtemp(prefix=f"peer-{given.peer}-"))
    peer = PEERS[given.peer](folder, seed)
    try:
        peer.start()
        names = [name for name in given.nemesis.split(",") if name]
        known = {fault.name: fault for fault in peer.faults}
        if unknown := [name for name in names if name not in known]:
            raise SystemExit(f"--nemesis: {peer.name} has no fault {unknown[0]!r}; there are {', '.join(known)}")
        faults = [known[name] for name in names] or list(peer.faults)
        with console.status(f"seed {seed}") as status:
            return run(
                peer,
                count=given.jobs,
                faults=faults,
                injections=given.faults,
                patience=given.patience,
                tell=lambda words: status.update(f"seed {seed}: {words}"),
            )
    finally:
        peer.close()
        if given.keep:
            console.print(f"seed {seed}: kept {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


def summary(results: Sequence[Result]) -> dict[str, Any]:
    """Return the figures of all rounds as one mapping, with examples."""
    rows = [result.to_dict() for result in results]
    faults: Counter[str] = Counter()
    words: Counter[str] = Counter()
    for row in rows:
        faults.update(row["faults"])
        words.update(row["words"])
    return {
        "peer": rows[0]["peer"],
        "version": rows[0]["version"],
        "seeds": [row["seed"] for row in rows],
        "jobs": sum(row["jobs"] for row in rows),
        "faults": dict(sorted(faults.items())),
        **{
            key: sum(row[key] for row in rows) for key in (*KINDS, "told_lost", "unseen", "repeated", "crowded", "runs")
        },
        "seconds": round(sum(row["seconds"] for row in rows), 1),
        "words": dict(words),
        "examples": {kind: [e for row in rows for e in row["examples"].get(kind, [])][:8] for kind in KINDS},
    }


def show(results: Sequence[Result], console: Console) -> None:
    """Print a table for people, and examples."""
    first = results[0]
    table = Table(title=f"{first.peer} {first.version}", title_justify="left")
    for head in ("seed", "jobs", "faults", *KINDS, "told lost", "unseen", "repeated", "crowded", "s"):
        table.add_column(head.replace("_", " "), justify="right")
    for result in results:
        row = result.to_dict()
        cells = [row["seed"], row["jobs"], sum(result.faults.values()), *(row[k] for k in KINDS)]
        table.add_row(
            *map(str, [*cells, row["told_lost"], row["unseen"], row["repeated"], row["crowded"], row["seconds"]])
        )
    console.print(table)
    for result in results:
        for kind, sentences in result.to_dict()["examples"].items():
            for sentence in sentences:
                console.print(f"seed {result.seed}: {kind}: {sentence}", markup=False, highlight=False)


if __name__ == "__main__":
    sys.exit(main())
