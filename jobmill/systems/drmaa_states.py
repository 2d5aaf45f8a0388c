"""The states and ends of jobs in the words of DRMAA. Source: DRMAA 1.0 (GFD.133), drmaa_job_ps and drmaa_wait."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from typing import Any

from jobmill.systems.batch_row import Phase, Row

STATES: Mapping[str, Phase] = {
    "queued_active": Phase.QUEUED,
    "user_on_hold": Phase.HELD,
    "user_system_on_hold": Phase.HELD,
    "system_on_hold": Phase.QUEUED,
    "running": Phase.RUNNING,
    "system_suspended": Phase.RUNNING,
    "user_suspended": Phase.RUNNING,
    "user_system_suspended": Phase.RUNNING,
    "done": Phase.COMPLETED,
    "failed": Phase.FAILED,
    "undetermined": Phase.UNREACHABLE,
}
UNDETERMINED = "undetermined"  # state of an end of which the library does not say how it was


def end_of(info: Mapping[str, Any]) -> Row:
    """Return the row of what `wait` told of a job, with its ``token``; raise ValueError for what is none."""
    usage = info.get("resourceUsage")
    usage = usage if isinstance(usage, Mapping) else {}
    started = _number(usage.get("start_time"))
    code = number = None
    reason = ""
    if info.get("wasAborted"):
        ran = started is not None
        phase, state = (Phase.CANCELLED, "aborted") if ran else (Phase.FAILED, "aborted before it ran")
        reason = "" if ran else "the scheduler could not start it, or it was deleted before it ran"
    elif info.get("hasSignal"):
        phase, state = Phase.FAILED, str(info.get("terminatedSignal") or "a signal")
        number = getattr(signal, state, None) if state.startswith("SIG") else None
    elif info.get("hasExited"):
        code = int(info["exitStatus"])
        phase, state = Phase.FAILED if code else Phase.COMPLETED, "exited"
    else:
        phase, state = Phase.FAILED, UNDETERMINED
    memory = _number(usage.get("maxvmem")) or (_number(usage.get("ru_maxrss")) or 0.0) * 1024
    return Row(
        native=str(info["jobId"]),
        token=str(info.get("token") or ""),
        phase=phase,
        state=state,
        reason=reason,
        code=code,
        signal=int(number) if number is not None else None,
        started=started,
        ended=_number(usage.get("end_time")),
        cpu=_number(usage.get("cpu")),
        memory=memory / 2**20 if memory else None,
    )


def _number(value: object) -> float | None:
    """Return a number above zero that has an end."""
    try:
        found = float(str(value))
    except ValueError:
        return None
    return found if 0 < found < float("inf") else None
