"""The verdict on one end: success needs an exit record of 0, no signal, no reason, and the required outputs (law 6)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from jobmill.jobs.states import State
from jobmill.ledger.ending import RunEnd

_encode = json.JSONEncoder(separators=(",", ":")).encode  # made once: `json.dumps` makes one a call
OWN_ENDS = ("exit_value", "signal", "missing_output", "start_failed")  # reasons that the word `failed` covers


def judge(
    job_id: str,
    run: int,
    exit_info: Mapping[str, Any],
    *,
    terms: Mapping[str, Any],
    missing: str = "",
    unbrought: str = "",
    retries: int = 0,
    wished: bool = False,
    arrival: int = 0,
) -> RunEnd:
    """Return the end of a run: its state, its record, and whether another run follows.

    ``terms``: what the spec asks of the end (`jobmill.jobs.terms`); ``missing``: which of the outputs it asks for are
    not there, in words; ``unbrought``: why its files could not be brought home; ``retries``: how many this job has had;
    ``wished``: a user asked for its end, and it did not end by itself before; ``arrival``: under which the job was
    admitted, 0 where that is not known.
    """
    info = dict(exit_info)
    if wished and not regular(info):
        ran = info.get("started") or info.get("exit_status") == "killed_by_user"
        info["exit_status"] = "killed_by_user" if ran else "aborted_before_running"
        info["reason"] = "cancelled"
        state = State.CANCELLED
    elif info.get("reason") == "lost":
        state = State.LOST
    elif not regular(info):
        state = State.FAILED
        info.setdefault("reason", "signal" if info.get("term_sig") else "exit_value")
    elif missing and wished:
        state = State.CANCELLED
        info["reason"] = "cancelled"
        info["message"] = "; ".join(filter(None, (info.get("message"), missing)))
    else:
        state = State.FAILED if missing else State.DONE
        if missing:
            info["reason"] = "missing_output"
            info["message"] = missing
        elif unbrought and any(required for _, required in terms.get("outputs", ())):
            state = State.FAILED  # its outputs are not where they are asked for: success needs them
            info["reason"] = "stage_failed"
    if unbrought:
        words = f"its files could not be brought home: {unbrought}"
        info["message"] = "; ".join(filter(None, (info.get("message"), words)))
    info.setdefault("evidence", "exit record")
    wall = (info.get("resource_usage") or {}).get("wall")
    return RunEnd(
        job_id=job_id,
        run=run,
        arrival=arrival,
        state=state,
        exit=_encode(info),
        retry_in=None if wished or state is State.DONE else _retry(terms.get("retry"), info, retries),
        wall=wall if isinstance(wall, (int, float)) and 0 <= wall < 1e9 else None,  # not so for NaN
    )


def regular(info: Mapping[str, Any]) -> bool:
    """Tell whether an exit record speaks of success."""
    return (
        info.get("exit_status") == "finished_regularly"
        and info.get("exit_value") == 0
        and not info.get("term_sig")
        and not info.get("reason")
    )


def _retry(terms: Mapping[str, Any] | None, info: Mapping[str, Any], retries: int) -> float | None:
    """Return after how many seconds the next run follows, or None. `failed` stands for every end of the job's own."""
    if not terms:
        return None
    from jobmill.jobs.spec_parts import Retry  # with pydantic: most jobs have no terms of retry

    retry, reason = Retry.model_validate(terms), str(info.get("reason", ""))
    covered = retry.covers(reason) or (reason in OWN_ENDS and retry.covers("failed"))
    return retry.wait(retries + 1) if covered and retries < retry.max else None
