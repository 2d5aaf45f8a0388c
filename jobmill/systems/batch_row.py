"""What a scheduler says of one job, in the words that all schedulers share."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Phase(enum.StrEnum):
    """Where a native state stands."""

    HELD = "held"
    QUEUED = "queued"
    RUNNING = "running"
    LEAVING = "leaving"  # its processes are gone or going; its end is not in the books yet
    COMPLETED = "completed"  # by itself, with 0
    FAILED = "failed"  # by itself, with something else
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"
    OOM = "oom"
    NODE_FAIL = "node_fail"
    PREEMPTED = "preempted"
    UNREACHABLE = "unreachable"  # the scheduler itself does not know: a node that does not answer, another server
    UNKNOWN = "unknown"  # a word that is in no table

    @property
    def ended(self) -> bool:
        """True for an end."""
        return self not in LIVE


LIVE = (Phase.HELD, Phase.QUEUED, Phase.RUNNING, Phase.LEAVING, Phase.UNREACHABLE, Phase.UNKNOWN)


@dataclass(frozen=True, slots=True)
class Row:
    """One job as one query told of it."""

    native: str  # the scheduler's id
    token: str  # "" where it is none of ours
    phase: Phase
    state: str  # the scheduler's own word
    reason: str = ""  # its own words for why
    host: str = ""
    code: int | None = None  # exit value by its books
    signal: int | None = None
    started: float | None = None  # Unix time; None: never, or not told
    ended: float | None = None
    cpu: float | None = None  # seconds
    memory: float | None = None  # MiB at most
