"""Attending jobs until they have ended: the record asked, the board told, a wait never without its reason."""

from __future__ import annotations

import time
from collections.abc import Callable

from jobmill.errors import ServerUnavailable
from jobmill.ledger.explanation import Explainer, Reason
from jobmill.ledger.following import Following
from jobmill.screen.progress import Board

LOOK = 0.5  # seconds between looks at reasons and progress
WATCHED = 60  # jobs whose reasons and progress are looked at


def attend(
    following: Following,
    board: Board,
    *,
    timeout: float | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> bool:
    """Show jobs until all have ended or were refused; False when ``timeout`` seconds were over before."""
    deadline = None if timeout is None else clock() + timeout
    look_at, outage = clock() + 0.1, ""
    while following.left:
        left = look_at - clock() if deadline is None else min(look_at, deadline) - clock()
        changed = following.step(min(2.0, max(0.001, left)))
        if following.outage != outage:
            outage = following.outage
            board.tell(f"{outage}; waits for it" if outage else "the Redis server answers again")
        ended = [i for i in changed if i not in following.left]
        live = [i for i in changed if i in following.left]
        if changed or clock() >= look_at:
            watched = dict.fromkeys([*ended, *live[:WATCHED]])
            if clock() >= look_at:
                look_at = clock() + LOOK
                watched.update(dict.fromkeys(_most_interesting(following)))
            _tell(following, board, list(watched))
        if deadline is not None and clock() >= deadline and following.left:
            return False
    return True


def _most_interesting(following: Following) -> list[str]:
    by_state: dict[str, list[str]] = {}
    for job_id in following.left:
        by_state.setdefault(following.states[job_id], []).append(job_id)
    found: list[str] = []
    for state in sorted(by_state, key=lambda s: s in ("waiting", "")):
        found += sorted(by_state[state])[:WATCHED]
    return found[:WATCHED]


def _tell(following: Following, board: Board, job_ids: list[str]) -> None:
    try:
        look = Explainer(following.record)  # first: or a job would be said to wait for the slot that it has just got
        rows = following.rows(job_ids)
        reasons = look.reasons(list(rows.values()))
        if queued := [i for i in job_ids if not following.states[i]]:
            reason = look.queued()
            reasons.update(dict.fromkeys(queued, reason))
    except ServerUnavailable:
        return  # the next step tells of it
    for job_id in job_ids:
        if job_id in following.refused:
            reasons[job_id] = Reason(why=following.refused[job_id])
    board.show(following.states, list(rows.values()), reasons)
