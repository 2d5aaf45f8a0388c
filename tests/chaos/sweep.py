"""``python -m tests.chaos.sweep``: kill each process at each of its points, one after the other, and see that it heals.

First every scenario (`tests/chaos/scenarios/`) runs undisturbed, which tells which points it passes in which roles.
Then for each role and point: arm it, run the quickest scenario that passes there, wait until somebody died there, until
every job has ended and nothing is left; and judge what users are told by what the bodies of their jobs wrote.

With ``--stop`` a process is frozen there for twice the lease instead, while others of its kind take over, and then goes
on: a zombie, which must not act. Exit code 0: no violation; 1: some, they are printed.
"""

from __future__ import annotations

import argparse
import fnmatch
import itertools
import json
import queue
import random
import shutil
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos import swept
from tests.chaos.batch import Batch
from tests.chaos.bench import LEASE, SLOTS, Bench
from tests.chaos.checker import check
from tests.chaos.instrument import PACKAGE, enumerate_points
from tests.chaos.points import Action, Fired
from tests.chaos.scenarios.catalogue import SCENARIOS, may_lose
from tests.chaos.scenarios.scenario import probe

PATIENCE = 60.0  # seconds in which every job has to end, and as long again for the laws to hold
IDLE = 3.0  # seconds for which a point that a scenario has not passed yet may still be passed
TRIES = 5  # scenarios that are tried for one point

Pair = tuple[str, str]  # role, point


@dataclass(kw_only=True)
class Seen:
    """What one scenario passed when nobody disturbed it."""

    seconds: float
    pairs: set[Pair]


@dataclass(kw_only=True)
class Outcome:
    """What came of one death."""

    role: str
    name: str
    scenario: str
    fired: Fired | None
    seconds: float
    violations: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)  # jobs told as lost, where that was not to be expected
    log: str = ""


class Sweep:
    """Several pipelines, which share the work."""

    def __init__(self, action: Action, lanes: int, nth: int = 1) -> None:
        self.action = action
        self.nth = nth  # the pass of a point at which it acts
        self.lanes = lanes
        self.seen: dict[str, Seen] = {}
        self.outcomes: list[Outcome] = []
        self.broken: list[str] = []  # what went wrong where nobody was killed
        self._scratch = Path(tempfile.mkdtemp(prefix="sweep-"))
        self.package = self._scratch / PACKAGE.name  # as it is now, whoever edits it meanwhile
        shutil.copytree(PACKAGE, self.package, ignore=shutil.ignore_patterns("__pycache__"))
        self._numbers = itertools.count()
        self._told = threading.Lock()

    def close(self) -> None:
        """Remove what the sweep has put aside."""
        shutil.rmtree(self._scratch)

    def look(self, names: Sequence[str]) -> None:
        """Run scenarios undisturbed and note what they pass."""

        def one(bench: Bench, scenario: str) -> bool:
            bench.points.forget_hits()
            outcome = self.attempt(bench, scenario, None)
            pairs = {(role, point) for role, points in bench.points.hits().items() for point in points}
            self.seen[scenario] = Seen(seconds=outcome.seconds, pairs={p for p in pairs if p[0] != "client"})
            wrong = [*outcome.violations, *outcome.lost]
            self.say(f"{scenario:22} {outcome.seconds:5.1f} s, {len(pairs)} passed", wrong, outcome.log)
            self.broken += [f"{scenario}: {words}" for words in wrong]
            return not wrong

        self._share(list(names), one)

    def kill(self, pairs: Sequence[Pair]) -> None:
        """Kill (or freeze) at each of these."""
        count = itertools.count(1)

        def one(bench: Bench, pair: Pair) -> bool:
            outcome = self.strike(bench, *pair)
            self.outcomes.append(outcome)
            wrong = [*outcome.violations]
            what = "" if outcome.fired else " (not passed)"
            where = f"{outcome.role} at {outcome.name} in {outcome.scenario}{what}"
            self.say(f"{next(count)}/{len(pairs)} {outcome.seconds:5.1f} s {where}", wrong, outcome.log, outcome.lost)
            return not wrong

        self._share(list(pairs), one)

    def strike(self, bench: Bench, role: str, name: str) -> Outcome:
        """Try the scenarios that pass a point, the quickest first, until somebody died there."""
        able = sorted((s.seconds, scenario) for scenario, s in self.seen.items() if (role, name) in s.pairs)
        outcome = Outcome(role=role, name=name, scenario="-", fired=None, seconds=0.0)
        for _, scenario in able[:TRIES]:
            outcome = self.attempt(bench, scenario, (role, name))
            if outcome.fired or outcome.violations:
                break
        return outcome

    def attempt(self, bench: Bench, scenario: str, pair: Pair | None) -> Outcome:
        """Run one scenario, with a death in it or undisturbed, and judge."""
        began = time.monotonic()
        points, fired = bench.points, None
        role, name = pair or ("", "")
        points.disarm()  # whoever fired in an earlier scenario is none of this one's
        if pair:
            points.arm(name, role, self.action, self.nth)
        batch = Batch(bench, f"s{next(self._numbers)}")
        thaw = threading.Thread(target=self._thaw, args=(bench, pair)) if pair and self.action == "STOP" else None
        if thaw is not None:
            thaw.start()
        SCENARIOS[scenario](batch)
        ended = bench.until(lambda: bench.ended(batch.ids), PATIENCE)
        if pair:
            bench.until(lambda: self._fired(bench, pair) is not None, IDLE)
            if thaw is not None:
                thaw.join()
            fired = self._fired(bench, pair)
            points.disarm()
            if fired:
                probe(batch)
                ended = bench.until(lambda: bench.ended(batch.ids), PATIENCE)
        left = bench.violations(PATIENCE)
        outcome = Outcome(role=role, name=name, scenario=scenario, fired=fired, seconds=time.monotonic() - began)
        self._judge(bench, batch, outcome, scenario)
        outcome.violations += [] if ended else [f"not ended within {PATIENCE:g} s"]
        outcome.violations += left
        outcome.violations += [f"crashed: {words}" for words in (*bench.crashed, *bench.tracebacks())]
        if outcome.violations or outcome.lost:
            outcome.log = bench.log_tail()
        return outcome

    def _fired(self, bench: Bench, pair: Pair) -> Fired | None:
        return next((f for f in bench.points.firings() if (f.role, f.name) == pair), None)

    def _thaw(self, bench: Bench, pair: Pair) -> None:
        """Wait until somebody froze, and let it go on after twice the lease."""
        if bench.until(lambda: self._fired(bench, pair) is not None, PATIENCE / 2):
            time.sleep(2 * LEASE)
        fired = self._fired(bench, pair)
        if fired:
            bench.thaw(fired.pid)

    def _judge(self, bench: Bench, batch: Batch, outcome: Outcome, scenario: str) -> None:
        told = bench.told([*batch.plans, *batch.fakes])
        lines = batch.evidence.lines()
        found = check(batch.plans, batch.ids, lines, told, {"slots": SLOTS, "User:ann": 2}, may_lose=True)
        for kind, sentences in found.sentences().items():
            outcome.violations += [f"{kind}: {words}" for words in sentences]
        for plan in batch.fakes:
            one = told.get(plan.job_id)
            if one is None or (one.state not in plan.may and one.state != "lost"):
                outcome.violations.append(f"untrue: {plan.job_id} is {one}, expected {' or '.join(plan.may)}")
        outcome.violations += [*batch.started_twice(), *batch.not_home(told)]
        if not may_lose(scenario, outcome.role):
            outcome.lost += [
                f"{i} is lost: {bench.client.job(i).exit}" for i, one in sorted(told.items()) if one.state == "lost"
            ]

    def say(self, words: str, wrong: Sequence[str], log: str, lost: Sequence[str] = ()) -> None:
        """Tell what happened; all of it where something is wrong."""
        with self._told:
            print(words, file=sys.stderr, flush=True)
            for sentence in lost:
                print(f"    lost: {sentence}", file=sys.stderr)
            for sentence in wrong:
                print(f"    VIOLATION {sentence}", file=sys.stderr)
            for line in log.splitlines() if wrong or lost else ():
                print(f"        {line}", file=sys.stderr, flush=True)

    def _share(self, items: list, one) -> None:  # type: ignore[no-untyped-def, type-arg]
        """Let every lane take items until there are no more; a pipeline that was found wrong is given up."""
        line: queue.SimpleQueue[object] = queue.SimpleQueue()
        for item in items:
            line.put(item)

        def lane() -> None:
            bench = None
            try:
                while True:
                    try:
                        item = line.get_nowait()
                    except queue.Empty:
                        return
                    bench = bench or self._bench()
                    if not one(bench, item):
                        bench.close()
                        bench = None
            finally:
                if bench is not None:
                    bench.close()

        threads = [threading.Thread(target=lane) for _ in range(min(self.lanes, len(items)))]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        except KeyboardInterrupt:  # what was struck so far is told
            with suppress(queue.Empty):
                while True:
                    line.get_nowait()
            for thread in threads:
                thread.join()

    def _bench(self) -> Bench:
        bench = Bench(2 if self.action == "STOP" else 1, self.package)
        self.attempt(bench, "plain", None)
        return bench


def main(argv: Sequence[str] | None = None) -> int:
    """Sweep; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.sweep", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="*", metavar="PATTERN", help="points whose name or role matches (glob)")
    parser.add_argument("--new", action="store_true", help="only what points.txt does not say to be killed already")
    parser.add_argument("--scenarios", default="*", metavar="PATTERN", help="scenarios to use (glob)")
    parser.add_argument("--sample", type=int, metavar="K", help="only so many, drawn by the seed")
    parser.add_argument("--seed", type=int, default=1, metavar="S")
    parser.add_argument("--stop", action="store_true", help="freeze for twice the lease instead of killing")
    parser.add_argument("--nth", type=int, default=1, metavar="N", help="at the Nth pass of the point (1)")
    parser.add_argument("--lanes", type=int, metavar="N", help="pipelines at a time (4; with --stop 8)")
    parser.add_argument("--write", action="store_true", help="write what was killed into points.txt")
    parser.add_argument("--json", action="store_true", help="print one line of JSON at the end")
    given = parser.parse_args(argv)
    began = time.monotonic()
    sweep = Sweep("STOP" if given.stop else "KILL", given.lanes or (8 if given.stop else 4), given.nth)
    sweep.look([name for name in SCENARIOS if fnmatch.fnmatch(name, given.scenarios)])
    pairs = sorted(
        {p for s in sweep.seen.values() for p in s.pairs if any(fnmatch.fnmatch(word, given.only) for word in p)}
    )
    if given.new:
        known = swept.read()
        pairs = [(role, name) for role, name in pairs if role not in known.get(name, swept.Row()).roles]
    random.Random(given.seed).shuffle(pairs)
    sweep.kill(pairs[: given.sample])
    code = report(sweep, began, write=given.write and not given.stop, as_json=given.json)
    sweep.close()
    return code


def report(sweep: Sweep, began: float, *, write: bool, as_json: bool) -> int:
    """Tell what came of it; return the exit code."""
    fired = [o for o in sweep.outcomes if o.fired]
    wrong = [o for o in sweep.outcomes if o.violations]
    killed: dict[str, set[str]] = defaultdict(set)
    for outcome in fired:
        if not outcome.violations:
            killed[outcome.name].add(outcome.role)
    names = [point.name for point in enumerate_points(sweep.package)]
    reached = {name for s in sweep.seen.values() for _, name in s.pairs}
    if write:
        swept.write(names, killed, reached)
    facts: dict[str, object] = {
        "points": len(names),
        "reached": len(reached & set(names)),
        "unreached": [name for name in names if name not in reached],
        "pairs": len(sweep.outcomes),
        "struck": len(fired),
        "not_passed": sorted(f"{o.role} {o.name}" for o in sweep.outcomes if not o.fired),
        "broken_undisturbed": sweep.broken,
        "violations": {f"{o.role} {o.name}": o.violations for o in wrong},
        "lost": {f"{o.role} {o.name}": o.lost for o in sweep.outcomes if o.lost},
        "slowest": [f"{o.seconds:.1f} s {o.role} {o.name}" for o in sorted(fired, key=lambda o: -o.seconds)[:5]],
        "seconds": round(time.monotonic() - began, 1),
    }
    if not as_json:
        del facts["unreached"]  # points.txt says it
    print(json.dumps(facts, indent=None if as_json else 1))
    return 1 if wrong or sweep.broken else 0


if __name__ == "__main__":
    sys.exit(main())
