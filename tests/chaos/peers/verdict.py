"""The verdict on a peer: that of the main program's checker, and what a system without run numbers adds to it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from tests.chaos.checker import Findings, Plan, Told, check
from tests.chaos.evidence import Line, by_run
from tests.chaos.peers.plans import SET


def judge(
    plans: Sequence[Plan],
    acknowledged: Collection[str],
    lines: list[Line],
    told: Mapping[str, Told],
    slots: int,
    *,
    says_lost: bool = False,
) -> Findings:
    """Judge a peer at rest. An end that nobody could know may be told as such.

    ``says_lost``: it has a word of its own for that; a system that says `failed` of a body which ended with 0 says what
    is not so.
    """
    found = check(plans, acknowledged, lines, told, {SET: slots}, may_lose=True)
    if not says_lost:
        for job_id, run in unseen(plans, lines, told).items():
            found.untrue.append(f"{job_id}: told as failed ({told[job_id].reason}); its body: run {run} ended with 0")
    return found


def unseen(plans: Sequence[Plan], lines: list[Line], told: Mapping[str, Told]) -> dict[str, int]:
    """Return the jobs whose end is told as not known, though their last body ended with 0, and that run."""
    runs, found = by_run(lines), {}
    for plan in plans:
        one, mine = told.get(plan.job_id), runs.get(plan.job_id, {})
        if plan.how == "0" and one is not None and one.state == "lost" and mine:
            last = max(mine)
            if any(line.kind == "end" for line in mine[last]):
                found[plan.job_id] = last
    return found


def repeated(plans: Sequence[Plan], lines: list[Line]) -> list[str]:
    """Return the jobs whose body was started again after it had ended with 0: allowed, and seen by users."""
    good = {plan.job_id for plan in plans if plan.how == "0"}
    ended: set[str] = set()
    again: dict[str, None] = {}
    for line in lines:
        if line.kind == "end" and line.job_id in good:
            ended.add(line.job_id)
        elif line.kind == "start" and line.job_id in ended:
            again[line.job_id] = None
    return list(again)


def crowded(lines: list[Line], slots: int) -> list[str]:
    """Return the jobs whose bodies started while as many as there are slots ran already: each time, not each set."""
    ended = {(line.job_id, line.run) for line in lines if line.kind == "end"}
    live: set[tuple[str, int]] = set()
    found = []
    for line in lines:
        body = (line.job_id, line.run)
        if line.kind == "end":
            live.discard(body)
        elif body in ended and body not in live:  # one without an end was killed, and nobody knows when
            if len(live) >= slots:
                found.append(line.job_id)
            live.add(body)
    return found
