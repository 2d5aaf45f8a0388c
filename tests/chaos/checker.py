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
LATE = 15.0  # seconds after its end for which a body's record may be nowhere but in a process (which may be frozen)

Moment = tuple[float, float]  # from, to; seconds since boot


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What was asked for, and what may become of it."""

    job_id: str
    how: str = "0"  # how its body ends when it is left alone
    holds: Mapping[str, int] = field(default_factory=dict)  # sets and amounts that it takes while it runs
    may: frozenset[str] = frozenset({"done"})  # the states that it may end in
    reasons: frozenset[str] = OWN_ENDS  # the reasons that it may fail for
    starts: bool = False  # its body tells of its start before it can fail for any of these reasons
    retries: int = 0  # further runs that its spec allows
    waits_for: tuple[str, ...] = ()  # jobs that have to end first
    after: str = "any"  # how they have to end: ok, any


@dataclass(frozen=True, kw_only=True)
class Told:
    """What the system says of a job at the end."""

    state: str
    run: int | None = 1  # the number of its last run; None: a system that numbers no runs
    exit_value: int | None = None
    term_sig: int | None = None
    reason: str | None = None
    exit_status: str | None = None
    ended: float | None = None  # when this was told, seconds since boot
    earlier: Sequence[Mapping[str, Any]] = ()  # its earlier runs: run, reason; exit_value, term_sig, ended where known


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
    losses: Sequence[Moment] | None = None,
    answers: Mapping[str, tuple[str, float]] | None = None,
) -> Findings:
    """Judge a run that is at rest.

    ``acknowledged``: ids whose submit was answered; ``limits``: set -> most at any moment, constant during the run;
    ``may_lose``: something was injected after which an end cannot be known (a reboot, guard and runner killed at once);
    ``losses``: when (None: not noted); ``answers``: what a cancel was answered, and when.
    """
    found = Findings(runs=sum(1 for line in lines if line.kind == "start"))
    runs = by_run(lines)
    known = {plan.job_id: plan for plan in plans}
    for job_id in runs.keys() - known.keys():
        found.untrue.append(f"{job_id}: a body that nobody asked for has run")
    for job_id, plan in known.items():
        _check_runs(plan, runs.get(job_id, {}), found)
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
        _check_truth(plan, one, runs.get(job_id, {}), found)
        _check_earlier(plan, one, runs.get(job_id, {}), found)
        _check_lost(plan, one, runs.get(job_id, {}), found, may_lose, losses)
        _check_dependencies(plan, told, lines, found)
        if answers and job_id in answers:
            _check_cancel(job_id, one, runs.get(job_id, {}), *answers[job_id], found)
    _check_capacity(known, lines, limits, found)
    return found


def _check_runs(plan: Plan, runs: Mapping[int, list[Line]], found: Findings) -> None:
    """Each run started at most once, then ended at most once, as it was asked to; no two runs of one job at once."""
    job_id = plan.job_id
    for run, lines in runs.items():
        starts = sum(1 for line in lines if line.kind == "start")
        kinds = [line.kind for line in lines if line.kind in ("start", "end")]
        if starts > 1:
            found.doubled.append(f"{job_id}: run {run} started {starts} times")
        elif kinds not in (["start"], ["start", "end"]) or len({line.pid for line in lines}) > 1:
            found.doubled.append(f"{job_id}: run {run} is no start and end of one process: {_words(lines)}")
        if wrong := {line.how for line in lines} - {plan.how}:
            found.untrue.append(f"{job_id}: run {run} was to end with {', '.join(wrong)}, asked for was {plan.how}")
    ordered = sorted(runs)
    for first, second in itertools.pairwise(ordered):
        end = next((line.at for line in runs[first] if line.kind == "end"), None)
        begin = next((line.at for line in runs[second] if line.kind == "start"), None)
        if end is not None and begin is not None and begin < end - 0.02:  # the clock's grain
            found.doubled.append(f"{job_id}: run {second} started before run {first} had ended")


def _check_truth(plan: Plan, one: Told, runs: Mapping[int, list[Line]], found: Findings) -> None:
    """The state and exit that are told are what happened."""
    job_id = plan.job_id
    last = runs.get(one.run if one.run is not None else _last_ended(runs), [])
    starts = sum(1 for line in last if line.kind == "start")
    ended = any(line.kind == "end" for line in last)
    for later in (run for run in runs if one.run is not None and run > one.run):
        found.doubled.append(f"{job_id}: run {later} started, the record knows {one.run} runs")
    if one.state == "lost":
        return
    if one.state not in plan.may:
        found.untrue.append(f"{job_id}: ended {one.state} ({one.reason}), expected {' or '.join(sorted(plan.may))}")
    elif one.state == "done":
        if not (starts and ended and plan.how == "0"):
            found.untrue.append(f"{job_id}: told as done; its body: {_words(last)}, to end with {plan.how}")
        if one.exit_value or one.term_sig or one.reason:
            how = f"value {one.exit_value}, signal {one.term_sig}, reason {one.reason}"
            found.untrue.append(f"{job_id}: told as done, and with {how}")
    elif one.state == "failed":
        if one.reason not in plan.reasons:
            found.untrue.append(f"{job_id}: failed for {one.reason}, expected {' or '.join(sorted(plan.reasons))}")
        elif one.reason in OWN_ENDS and not (ended and (one.exit_value, one.term_sig) == exit_of(plan.how)):
            how = f"value {one.exit_value}, signal {one.term_sig}"
            found.untrue.append(f"{job_id}: told as failed with {how}; its body: {_words(last)}, to end {plan.how}")
        elif plan.starts and not starts:
            found.untrue.append(f"{job_id}: failed for {one.reason}; its body never started")
    elif one.state == "not_run" and runs:
        found.untrue.append(f"{job_id}: told as not run, and it started")
    elif one.state == "cancelled":
        if ended and (one.exit_value, one.term_sig) == exit_of(plan.how):
            found.untrue.append(f"{job_id}: told as cancelled, and it ended by itself with {plan.how}")
        if starts and one.exit_status == "aborted_before_running":
            found.untrue.append(f"{job_id}: told as cancelled before it ran, and it started")


def _check_earlier(plan: Plan, one: Told, runs: Mapping[int, list[Line]], found: Findings) -> None:
    """Every earlier run is kept, once, and told as it was; there are no more than the spec allows."""
    job_id, rows = plan.job_id, {int(row["run"]): row for row in one.earlier}
    counted = sum(1 for row in one.earlier if row.get("reason") not in NEVER_STARTED)
    if counted > plan.retries:
        found.doubled.append(f"{job_id}: {counted + 1} runs, its spec allows {plan.retries + 1}")
    if one.run is not None and sorted(int(row["run"]) for row in one.earlier) != list(range(1, one.run)):
        found.untrue.append(f"{job_id}: it is at run {one.run}, and the earlier ones that are kept are {sorted(rows)}")
    for number, row in rows.items():
        lines, reason = runs.get(number, []), row.get("reason")
        if reason in NEVER_STARTED and lines:
            found.doubled.append(f"{job_id}: run {number} is told as never started ({reason}), and it started")
        elif reason in OWN_ENDS:
            ended = any(line.kind == "end" for line in lines)
            how = (row.get("exit_value"), row.get("term_sig"))
            if not ended or (how != (None, None) and how != exit_of(plan.how)):
                words = f"value {how[0]}, signal {how[1]}; its body: {_words(lines)}, to end {plan.how}"
                found.untrue.append(f"{job_id}: run {number} is told as ended with {words}")


def _check_lost(
    plan: Plan,
    one: Told,
    runs: Mapping[int, list[Line]],
    found: Findings,
    may_lose: bool,
    losses: Sequence[Moment] | None,
) -> None:
    """What is told as lost is what nobody could know: it was under way when an end was hidden."""
    lost = [(int(row["run"]), row.get("ended")) for row in one.earlier if row.get("reason") == "lost"]
    if one.state == "lost":
        lost.append((one.run if one.run is not None else _last_ended(runs), one.ended))
    found.told_lost += len(lost)
    if lost and not may_lose:
        sentence = "told as lost, though nothing happened after which an end cannot be known"
        found.untrue.append(f"{plan.job_id}: {sentence}")
    elif losses is not None:
        for run, told_at in lost:
            lines = runs.get(run, [])
            begin = next((line.at for line in lines if line.kind == "start"), None)
            end = next((line.at for line in lines if line.kind == "end"), None)
            if not any(
                (begin is None or begin <= to) and (end is None or end >= since - LATE) and (told_at or to) >= since
                for since, to in losses
            ):
                when = f"its body: {_words(lines)}, {begin} to {end} s; told at {told_at} s"
                found.untrue.append(f"{plan.job_id}: run {run} is told as lost, and nothing hid its end ({when})")


def _check_dependencies(plan: Plan, told: Mapping[str, Told], lines: Sequence[Line], found: Findings) -> None:
    """Nothing starts before what it waits for has ended, nor when this ended otherwise; and else it does start."""
    if not plan.waits_for:
        return
    states = [told[other].state for other in plan.waits_for if other in told]
    began = next((n for n, line in enumerate(lines) if line.job_id == plan.job_id and line.kind == "start"), None)
    late = [line.job_id for line in lines[began:] if line.job_id in plan.waits_for] if began is not None else []
    if late:
        found.untrue.append(f"{plan.job_id}: started before {late[0]} had ended, which it waits for")
    bad = [state for state in states if state in ENDED and state != "done"]
    if plan.after == "ok" and bad and (began is not None or told[plan.job_id].state == "done"):
        found.untrue.append(f"{plan.job_id}: started, though what it waits for ended {bad[0]}")
    if told[plan.job_id].state == "not_run" and not (plan.after == "ok" and bad):
        found.untrue.append(f"{plan.job_id}: told as not run, though what it waits for ended {', '.join(states)}")


def _check_cancel(
    job_id: str, one: Told, runs: Mapping[int, list[Line]], word: str, at: float, found: Findings
) -> None:
    """A cancel that was answered with an end is the end: the same is told, and nothing starts after it."""
    if word in ENDED:
        if one.state != word:
            found.untrue.append(f"{job_id}: its cancel was answered {word}, and it ended {one.state}")
        if any(line.kind == "start" and line.at > at for lines in runs.values() for line in lines):
            found.doubled.append(f"{job_id}: started after its cancel was answered {word}")


def _check_capacity(plans: Mapping[str, Plan], lines: list[Line], limits: Mapping[str, int], found: Findings) -> None:
    """No overlap of bodies beyond any set, by their own words.

    A body without an end was killed. Where nobody wrote down when (a line `killed`), it counts at its start alone,
    which can hide an overlap and never invents one; the watcher looks for these at the processes themselves.
    """
    finished = {(line.job_id, line.run) for line in lines if line.kind in ("end", "killed")}
    used: Counter[str] = Counter()
    worst: dict[str, tuple[int, str]] = {}
    live: set[tuple[str, int]] = set()
    for line in lines:
        plan, run = plans.get(line.job_id), (line.job_id, line.run)
        if plan is None:
            continue
        if line.kind in ("end", "killed"):
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
