"""The states of a job and the allowed changes; standard library only.

The Lua scripts of the ledger apply this table (it is written into them), nothing else does.

    waiting ▶ granted ▶ starting ▶ submitted ▶ running ▶ collecting ▶ done | failed | cancelled | not_run | lost
      ▲ held, later         └────────── unknown ◀──────────┘   (keeps its slots until there is evidence)
"""

from __future__ import annotations

import enum


class State(enum.StrEnum):
    """Where a job is. Each state puts the job's id in exactly one key (design, law 1)."""

    HELD = "held"
    LATER = "later"
    WAITING = "waiting"
    GRANTED = "granted"
    STARTING = "starting"
    SUBMITTED = "submitted"
    RUNNING = "running"
    UNKNOWN = "unknown"
    COLLECTING = "collecting"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    NOT_RUN = "not_run"
    LOST = "lost"


POLLED = frozenset({State.SUBMITTED, State.RUNNING, State.UNKNOWN, State.COLLECTING})  # stand in Running_Queue
LAUNCHED = frozenset({State.STARTING}) | POLLED  # something of them may exist on a system
ENDED = frozenset({State.DONE, State.FAILED, State.CANCELLED, State.NOT_RUN, State.LOST})
SUCCEEDED = frozenset({State.DONE})
LIVE = frozenset(State) - ENDED

ALLOWED: dict[State, frozenset[State]] = {
    State.HELD: frozenset({State.WAITING, State.LATER, State.CANCELLED, State.NOT_RUN}),
    State.LATER: frozenset({State.WAITING, State.HELD, State.CANCELLED, State.NOT_RUN}),
    State.WAITING: frozenset({State.GRANTED, State.HELD, State.LATER, State.CANCELLED, State.NOT_RUN}),
    State.GRANTED: frozenset({State.STARTING, State.WAITING, State.HELD, State.LATER, State.CANCELLED, State.FAILED}),
    State.STARTING: POLLED | ENDED | {State.WAITING, State.LATER},
    # in order: the scripts' text, and so their digests, must be the same in every process
    **{state: (POLLED | ENDED | {State.WAITING, State.LATER}) - {state, State.NOT_RUN} for state in sorted(POLLED)},
    **{state: frozenset({State.WAITING}) for state in sorted(ENDED)},  # retry by hand: a new run
}
