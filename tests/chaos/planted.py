"""``python -m tests.chaos.planted``: bugs planted into the copy under test, each of which the checker must find.

A checker that never finds anything proves nothing. Each entry undoes one law; a run with the faults that make it matter
has to tell of it.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from tests.chaos.nemesis import FAULTS
from tests.chaos.run import run
from tests.chaos.world import World


@dataclass(frozen=True, kw_only=True)
class Bug:
    """One law undone."""

    name: str
    file: str  # of the package
    old: str
    new: str
    found: frozenset[str]  # the kinds of finding, one of which must tell of it
    nemesis: tuple[str, ...]
    jobs: int = 150
    injections: int = 20

    def plant(self, package: Path) -> None:
        """Change the copy; raise LookupError when the code that it changes is not there any more."""
        path = package / "jobmill" / self.file
        text = path.read_text()
        if self.old not in text:
            raise LookupError(f"planted bug {self.name}: {self.file} has no {self.old!r}; follow the change here")
        path.write_text(text.replace(self.old, self.new))


KILLS = ("kill-manager", "kill-starter", "kill-fetcher", "kill-guard", "kill-runner")
BUGS = (
    Bug(
        name="a dead process keeps what it took",
        file="ledger/lua/recover.lua",
        old="call('LMOVE', mine, queue, 'RIGHT', 'LEFT')",
        new="call('RPOP', mine)",
        found=frozenset({"lost"}),
        nemesis=("crash-manager", "crash-starter"),
    ),
    Bug(
        name="a grant that does not look at limits",
        file="ledger/lua/grant.lua",
        old="if held(name, amount) + wants > most or",
        new="if",
        found=frozenset({"over_capacity"}),
        nemesis=("script-flush",),
    ),
    Bug(
        name="an end that gives nothing back",
        file="ledger/lua/prelude.lua",
        old="else srem(P .. token, j.id) end",
        new="end",
        found=frozenset({"leaked", "lost"}),
        nemesis=("script-flush",),
        jobs=40,
        injections=3,
    ),
    Bug(
        name="a launch that is taken for dead without proof",
        file="systems/spool_launches.py",
        old='def settle(self, token: str, rebooted: bool, census: "process_tree.Census | None" = None) -> str:',
        new="def settle(self, token, rebooted, census=None):\n        return NOT_STARTED\n\n"
        "    def unused(self, token, rebooted, census=None):",
        found=frozenset({"doubled"}),
        nemesis=("kill-starter", "freeze-starter"),
    ),
    Bug(
        name="absent is taken for done",
        file="fetcher/fetcher.py",
        old='reason="lost",',
        new="exit_value=0,",
        found=frozenset({"untrue"}),
        nemesis=("guard+runner",),
    ),
    Bug(
        name="nobody polls",
        file="ledger/lua/claim.lua",
        old="'LIMIT', 0, n",
        new="'LIMIT', 0, 0",
        found=frozenset({"lost"}),
        nemesis=("kill-starter",),
        jobs=80,
        injections=8,
    ),
    Bug(
        name="an exit value that is cut",
        file="systems/watch.py",
        old='"exit_value":%d\' % status',
        new='"exit_value":%d\' % (status & 127)',
        found=frozenset({"untrue"}),
        nemesis=("script-flush",),
        jobs=120,
        injections=3,
    ),
    Bug(
        name="a wish that is forgotten",
        file="fetcher/fetcher.py",
        old="if job.wish and (info is None or look.alive):",
        new="if False:",
        found=frozenset({"untrue", "lost"}),
        nemesis=("script-flush",),
        jobs=200,
        injections=3,
    ),
    Bug(
        name="a dependent that nobody wakes",
        file="ledger/lua/resolve.lua",
        old="line_up(j)",
        new="",
        found=frozenset({"lost"}),
        nemesis=("script-flush",),
        jobs=80,
        injections=3,
    ),
)


def find(bug: Bug, seed: int) -> dict[str, int]:
    """Run with a bug planted; return how many findings of each kind tell of it."""
    world = World(seed=seed, plant=bug.plant)
    try:
        world.start()
        faults = [FAULTS[name] for name in bug.nemesis]
        result = run(
            world,
            seed=seed,
            count=bug.jobs,
            faults=faults,
            injections=bug.injections,
            patience=20.0,
            tell=lambda _: None,
        )
        return {kind: len(s) for kind, s in result.findings.sentences().items() if s}
    finally:
        world.close()


def main(argv: Sequence[str] | None = None) -> int:
    """Plant each bug; return 0 when every one was found within a few seeds."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.planted", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tries", type=int, default=3, metavar="N", help="seeds that a bug may stay hidden for (3)")
    parser.add_argument("--only", default="", metavar="WORDS", help="bugs whose name holds this")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was mounted and started goes with us
    console, rows = Console(stderr=True), []
    for bug in (b for b in BUGS if given.only in b.name):
        for seed in range(given.seed, given.seed + given.tries):
            with console.status(f"{bug.name} (seed {seed})"):
                told = find(bug, seed)
            if bug.found & told.keys():
                break
        found = bool(bug.found & told.keys())
        rows.append({"bug": bug.name, "found": found, "seed": seed, "findings": told})
        if not given.json:
            print(f"{'found    ' if found else 'NOT FOUND'} {bug.name}: {told} (seed {seed})", flush=True)
    print(json.dumps({"planted": len(rows), "found": sum(bool(r["found"]) for r in rows), "bugs": rows}))
    return 0 if all(row["found"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
