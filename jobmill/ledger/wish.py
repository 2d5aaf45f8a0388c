"""What users ask of jobs: cancel, hold, release, retry."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

from jobmill.ledger.record import Record, batches, text


def _each(record: Record, script: str, job_ids: Sequence[str], *words: str) -> dict[str, str]:
    told: dict[str, str] = {}
    for some in batches(job_ids):
        told.update(zip(some, map(text, record.run(script, *words, *some)), strict=True))
    return told


def cancel(record: Record, job_ids: Sequence[str], *, who: str, why: str) -> dict[str, str]:
    """Wish that jobs end: cancelled (at once), wished (stands until absence is proved), an end state, or unknown."""
    from jobmill.systems.system import ExitInfo, ExitStatus  # most who import this only look

    wish = json.dumps({"who": who, "why": why, "time": round(time.time(), 3)})
    said = f"cancelled by {who}" + (f": {why}" if why else "")
    end = ExitInfo(exit_status=ExitStatus.ABORTED_BEFORE_RUNNING, reason="cancelled", evidence="wish", message=said)
    return _each(record, "cancel", job_ids, wish, end.to_json())


def hold(record: Record, job_ids: Sequence[str]) -> dict[str, str]:
    """Hold jobs that have not begun; the answer is `held` or the state that forbids it."""
    return _each(record, "hold", job_ids)


def unhold(record: Record, job_ids: Sequence[str]) -> dict[str, str]:
    """Release held jobs; the answer is `waiting` or the state that they have."""
    return _each(record, "unhold", job_ids)


def retry(record: Record, job_ids: Sequence[str]) -> dict[str, str]:
    """Run ended jobs again, each as a new run; the answer is `waiting` or the state that forbids it."""
    return _each(record, "retry", job_ids)
