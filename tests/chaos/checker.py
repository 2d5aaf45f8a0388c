"""The verdict: what users were told, against what the bodies of their jobs say happened.

Knows nothing of jobmill: any system can be judged that tells of each job a state, a run number and how it ended.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.evidence import Line, by_run, exit_of

ENDED = frozenset({"done", "failed", "cancelled", "not_run", "lost"})
OWN_ENDS = frozenset({"exit_value", "signal"})  # reasons by which a body ended as it was to end
NEVER_STARTED = frozenset({"sealed", "not_started", "withdrawn"})  # what an earlier run is called that never began


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What was asked for, and what may become of it."""

    job_id: str
    how: str = "0"  # how its body ends when it is left alone
    holds: Mapping[str, int] = field(default_factory=dict)  # sets and amounts that it takes while it runs
    may: frozenset[str] = frozenset({"done"})  # the states that it may end in
    reasons: frozenset[str] = OWN_ENDS  # the reasons that it may fail for
    retries: int = 0  # further runs that its spec allows


@dataclass(frozen=True, kw_only=True)
class Told:
    """What the system says of a job at the end."""

    state: str
    run: int | None = 1  # the number of its last run; None: a system that numbers no runs
    exit_value: int | None = None
    term_sig: int | None = None
    reason: str | None = None
    earlier: Sequence[Mapping[str, Any]] = ()  # its earlier runs: run, reason


@dataclass(kw_only=True)
class Findings:
    """What contradicts the laws, by kind, each a sentence; and what was counted."""

    lost: list[str] = field(default_factory=list)  # acknowledged, and never ended or nowhere
    doubled: list[str] = field(default_factory=list)  # a run that started twice, or two runs of a job at once
    over_capacity: list[str] = field(default_factory=list)  # more at once than a set has room for
    leaked: list[str] = field(default_factory=list)  # left in sets, lists, processes at rest
    untrue: list[str] = field(default_factory=list)  # told otherwise than it happened
    fences: list[str] = field(default_factory=list)  # a fence, run or end that went backwards
    crashed: list[str] = field(default_factory=list)  # a process that ended by a fault of its own
    told_lost: int = 0  # ends that nobody could know, and told so
    states: Counter[str] = field(default_factory=Counter)
    runs: int = 0  # bodies that started

    @property
    def clean(self) -> bool:
        """Tell whether nothing contradicts the laws."""
        return not any(self.sentences().values())

    def sentences(self) -> dict[str, list[str]]:
        """Return every contradiction by its kind."""
        kinds = ("lost", "doubled", "over_capacity", "leaked", "untrue", "fences", "crashed")
        return {kind: getattr(self, kind) for kind in kinds}


def check(
    plans: Collection[Plan],
    acknowledged: Collection[str],
    lines: list[Line],
    told: Mapping[str, Told],
    limits: Mapping[str, int],
    *,
    may_lose: bool = False,
) -> Findings:
    """Judge a run that is at rest.

    ``acknowledged``: ids whose submit was answered; ``limits``: set -> most at any moment, constant during the run;
    ``may_lose``: something was injected after which an end cannot be known (a reboot, guard and runner killed at once).
    """
    found = Findings(runs=sum(1 for line in lines if line.kind == "start"))
    runs = by_run(lines)
    known = {plan.job_id: plan for plan in plans}
    for job_id in runs.keys() - known.keys():
        found.untrue.append(f"{job_id}: a body that nobody asked for has run")
    for job_id, plan in known.items():
        _check_runs(job_id, runs.get(job_id, {}), found)
        one = told.get(job_id)
        if one is None:
            if job_id in acknowledged:
                found.lost.append(f"{job_id}: acknowledged, and nobody knows it")
            elif job_id in runs:
                found.untrue.append(f"{job_id}: it ran, and nobody knows it")
            continue
        found.states[one.state] += 1
        if one.state not in ENDED:
            found.lost.append(f"{job_id}: never ended, it is {one.state} (run {one.run})")
            continue
        _check_truth(plan, one, runs.get(job_id, {}), found, may_lose)
    _check_capacity(known, lines, limits, found)
    return found


def _check_runs(job_id: str, runs: Mapping[int, list[Line]], found: Findings) -> None:
    """At most one start of each run, and no two runs of one job at once."""
    for run, lines in runs.items():
        starts = sum(1 for line in lines if line.kind == "start")
        if starts > 1:
            found.doubled.append(f"{job_id}: run {run} started {starts} times")
    ordered = sorted(runs)
    for first, second in itertools.pairwise(ordered):
        end = next((line.at for line in runs[first] if line.kind == "end"), None)
        begin = next((line.at for line in runs[second] if line.kind == "start"), None)
        if end is not None and begin is not None and begin < end - 0.02:  # the clock's grain
            found.doubled.append(f"{job_id}: run {second} started before run {first} had ended")


def _check_truth(plan: Plan, one: Told, runs: Mapping[int, list[Line]], found: Findings, may_lose: bool) -> None:
    """The state and exit that are told are what happened."""
    job_id = plan.job_id
    last = runs.get(one.run if one.run is not None else _last_ended(runs), [])
    starts = sum(1 for line in last if line.kind == "start")
    ended = any(line.kind == "end" for line in last)
    for later in (run for run in runs if one.run is not None and run > one.run):
        found.doubled.append(f"{job_id}: run {later} started, the record knows {one.run} runs")
    lost_runs = 0
    for row in one.earlier:
        number, reason = int(row["run"]), row.get("reason")
        if reason in NEVER_STARTED and number in runs:
            found.doubled.append(f"{job_id}: run {number} is told as never started ({reason}), and it started")
        lost_runs += reason == "lost"
    found.told_lost += lost_runs
    counted = sum(1 for row in one.earlier if row.get("reason") not in NEVER_STARTED)
    if counted > plan.retries:
        found.doubled.append(f"{job_id}: {counted + 1} runs, its spec allows {plan.retries + 1}")
    if (one.state == "lost" or lost_runs) and not may_lose:
        found.untrue.append(f"{job_id}: told as lost, though nothing happened after which an end cannot be known")
    if one.state == "lost":
        found.told_lost += 1
        return
    if one.state not in plan.may:
        found.untrue.append(f"{job_id}: ended {one.state} ({one.reason}), expected {' or '.join(sorted(plan.may))}")
    elif one.state == "done":
        if not (starts and ended and plan.how == "0"):
            found.untrue.append(f"{job_id}: told as done; its body: {_words(last)}, to end with {plan.how}")
    elif one.state == "failed":
        if one.reason not in plan.reasons:
            found.untrue.append(f"{job_id}: failed for {one.reason}, expected {' or '.join(sorted(plan.reasons))}")
        elif one.reason in OWN_ENDS and not (ended and (one.exit_value, one.term_sig) == exit_of(plan.how)):
            how = f"value {one.exit_value}, signal {one.term_sig}"
            found.untrue.append(f"{job_id}: told as failed with {how}; its body: {_words(last)}, to end {plan.how}")
    elif one.state == "not_run" and runs:
        found.untrue.append(f"{job_id}: told as not run, and it started")


def _check_capacity(plans: Mapping[str, Plan], lines: list[Line], limits: Mapping[str, int], found: Findings) -> None:
    """No overlap of bodies beyond any set, by their own words.

    A body without an end was killed, and nobody wrote down when: it counts at its start alone, which can hide an
    overlap and never invents one.
    """
    finished = {(line.job_id, line.run) for line in lines if line.kind == "end"}
    used: Counter[str] = Counter()
    worst: dict[str, tuple[int, str]] = {}
    live: set[tuple[str, int]] = set()
    for line in lines:
        plan, run = plans.get(line.job_id), (line.job_id, line.run)
        if plan is None:
            continue
        if line.kind == "end":
            if run in live:
                live.discard(run)
                used.subtract(plan.holds)
            continue
        for name, amount in plan.holds.items():
            total = used[name] + amount
            if name in limits and total > max(limits[name], amount) and total > worst.get(name, (0, ""))[0]:
                worst[name] = (total, f"{line.job_id} at {line.at:.2f} s")
        if run in finished and run not in live:
            live.add(run)
            used.update(plan.holds)
    for name, (total, where) in worst.items():
        found.over_capacity.append(f"{name}: {total} at once, its limit is {limits[name]} ({where})")


def _last_ended(runs: Mapping[int, list[Line]]) -> int:
    """Return the last run whose body told its end, else the last one: what a system speaks of that numbers none."""
    return max(
        (run for run, lines in runs.items() if any(line.kind == "end" for line in lines)), default=max(runs, default=1)
    )


def _words(lines: list[Line]) -> str:
    return ", ".join(line.kind for line in lines) or "never started"
