"""The states and ends of Grid Engine's jobs. Source: sge_status(5) of 8.1.9, "Job states" and "Failed states"."""

from __future__ import annotations

from jobmill.systems.batch_row import Phase

WAITING = frozenset("qwhR")  # letters of what is in line; h: a hold, R: it was started before
RUNNING = frozenset("rthRsST")  # t: on its way to the node; s, S, T: suspended by somebody, its queue, an alarm
NEVER_BEGAN = frozenset((*range(1, 12), *range(26, 30), *range(31, 37), 38))  # before the job's first process
LIMIT, SIGNALLED = 37, 100
WARNED = 128 + 12  # exit_status of what the warning of a deletion killed before it could listen (SIGUSR2)
LOST = frozenset((18, 19, 20, 21))  # the shepherd, or its node, died


def phase_of(state: str, *, held: bool, silent: bool) -> Phase:
    """Return the phase of a state as `qstat` writes it.

    ``held``: by its user, as far as that is known; ``silent``: its queue's host does not answer (`u`).
    """
    letters = set(state)
    if not letters:
        return Phase.UNKNOWN
    if "E" in letters:  # it waits until somebody clears its error, and we do not
        return Phase.FAILED
    if state == "z":
        return Phase.LEAVING  # ended; the books tell how
    if "d" in letters and letters & set("rtsST"):
        return Phase.UNREACHABLE if silent else Phase.LEAVING
    letters.discard("d")
    if "w" in letters or "q" in letters:
        if not letters <= WAITING:
            return Phase.UNKNOWN
        return Phase.HELD if held and "h" in letters else Phase.QUEUED
    if not letters <= RUNNING:
        return Phase.UNKNOWN
    return Phase.UNREACHABLE if silent else Phase.RUNNING


def end_of(failed: int, status: int, over_time: bool) -> Phase:
    """Return the phase of an end by its fields `failed` and `exit_status` (accounting(5)).

    ``over_time``: it ran for as long as its own `h_rt` said; the books have one word for all limits.
    """
    if failed == 0 and status == 0:
        return Phase.COMPLETED
    if failed == LIMIT and over_time:
        return Phase.TIMEOUT
    if failed == SIGNALLED and status == WARNED:
        return Phase.CANCELLED
    return Phase.NODE_FAIL if failed in LOST else Phase.FAILED
