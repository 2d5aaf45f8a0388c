"""``python -m tests.chaos.report``: the tables of docs/reliability.md, from the raw results beside it.

What stands between ``<!-- name -->`` and ``<!-- end -->`` is written anew; the prose around it stays.

    docs/reliability/rounds.jsonl     python -m tests.chaos --json, a line a round
    docs/reliability/recovery.json    python -m tests.chaos.recovery --json
    docs/reliability/planted.json     python -m tests.chaos.planted --json, its last line
    docs/reliability/fuzz.jsonl       python -m tests.fuzz --json, the last line of each run
    docs/reliability/peers.jsonl      python -m tests.chaos.peers --json, the last line of each run
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tests.chaos import swept
from tests.chaos.hook import ROLES
from tests.chaos.nemesis import FAULTS

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
RAW = PAGE.with_suffix("")
KINDS = ("lost", "doubled", "over_capacity", "leaked", "untrue", "fences", "crashed")


def render(page: str) -> str:
    """Return the page with every table written anew."""
    for name, make in TABLES.items():
        block = f"<!-- {name} -->\n{make()}\n<!-- end -->"
        page, count = re.subn(rf"<!-- {name} -->\n.*?<!-- end -->", lambda _, text=block: text, page, flags=re.DOTALL)
        if count != 1:
            raise LookupError(f"{PAGE}: `<!-- {name} -->` … `<!-- end -->` stands there {count} times, wanted once")
    return page


def _rows(file: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (RAW / file).read_text().splitlines()]


def _table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    marks = ["---" if not n else "---:" for n in range(len(heads))]
    lines = [heads, marks, *([str(cell) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def totals() -> str:
    """All rounds of a system in one line."""
    by_system: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in _rows("rounds.jsonl"):
        by_system[row["system"]].append(row)
    made = []
    for system, rows in sorted(by_system.items(), reverse=True):
        keys = ("jobs", "runs", "faults", *KINDS, "told_lost")
        made.append([system, len(rows), *(f"{sum(row[key] for row in rows):,}" for key in keys)])
    heads = ["system", "seeds", "jobs", "bodies started", "faults", *(k.replace("_", " ") for k in KINDS), "told lost"]
    return _table(heads, made)


def seeds() -> str:
    """The rounds, so that each can be run again."""
    rows = _rows("rounds.jsonl")
    made = []
    for system in sorted({row["system"] for row in rows}, reverse=True):
        mine = [row for row in rows if row["system"] == system]
        shape = Counter((row["jobs"], row["faults"]) for row in mine)
        for (jobs, faults), _ in shape.items():
            numbers = sorted(row["seed"] for row in mine if (row["jobs"], row["faults"]) == (jobs, faults))
            made.append([system, jobs, faults, ", ".join(map(str, numbers))])
    return _table(["system", "jobs a seed", "faults a seed", "seeds"], made)


def injected() -> str:
    """What was injected, how often."""
    counted: Counter[str] = Counter()
    for row in _rows("rounds.jsonl"):
        counted.update(row["injected"])
    return _table(["fault", "what it does", "times"], [[n, f.words, counted[n]] for n, f in FAULTS.items()])


def recovery() -> str:
    """How long it took until work went on."""
    (told,) = _rows("recovery.json")
    rows = told["recovery"].items()
    cells = [[name, *(f"{row[key]:.1f}" for key in ("lasts", "median", "max"))] for name, row in rows]
    return _table(["fault", "lasts, s", "recovery: median, s", "max, s"], cells)


def planted() -> str:
    """Bugs that were planted, and what told of them."""
    (told,) = _rows("planted.json")
    rows = [
        [
            bug["bug"],
            "found" if bug["found"] else "NOT FOUND",
            ", ".join(f"{k} {n}" for k, n in bug["findings"].items()),
        ]
        for bug in told["bugs"]
    ]
    return _table(["planted bug", "", "told as"], rows)


def points() -> str:
    """Crash points, by process: how many there are and how many were died at."""
    killed: Counter[str] = Counter()
    rows = swept.read().values()
    for row in rows:
        killed.update(row.roles)
    cells: list[list[object]] = [[role, killed[role]] for role in ROLES if killed[role]]
    nowhere = sum(1 for row in rows if not row.roles)
    cells.append([f"of {len(rows)} points, those that no workload reaches", nowhere])
    return _table(["process", "crash points at which it was killed"], cells)


def fuzz() -> str:
    """Documents that were pushed."""
    keys = ("documents", "accepted", "refused", "same", "crashed", "tracebacks", "unaccounted")
    rows = [[", ".join(map(str, r["seeds"])), *(f"{r[key]:,}" for key in keys)] for r in _rows("fuzz.jsonl")]
    return _table(["seeds", *keys], rows)


def peers() -> str:
    """The same checker on others."""
    kinds = ("lost", "doubled", "over_capacity", "untrue")
    rows = [
        [
            f"{row['peer']} {row['version']}",
            row["seed"],
            row["jobs"],
            sum(row["faults"].values()),
            *(row[k] for k in kinds),
        ]
        for row in _rows("peers.jsonl")
    ]
    return _table(["", "seed", "jobs", "faults", *(k.replace("_", " ") for k in kinds)], rows)


TABLES = {
    "totals": totals,
    "seeds": seeds,
    "injected": injected,
    "recovery": recovery,
    "planted": planted,
    "points": points,
    "fuzz": fuzz,
    "peers": peers,
}

if __name__ == "__main__":
    PAGE.write_text(render(PAGE.read_text()))
