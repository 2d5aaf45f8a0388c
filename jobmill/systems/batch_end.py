"""How a batch job ended: our record and the scheduler's books, laid beside one another."""

from __future__ import annotations

from dataclasses import replace

from jobmill.systems.batch_row import Phase, Row
from jobmill.systems.system import ExitInfo, ExitStatus

# An end of which the scheduler says that something took the job away, whatever the job itself says.
TAKEN = {
    Phase.TIMEOUT: "timeout",
    Phase.OOM: "oom",
    Phase.NODE_FAIL: "node_fail",
    Phase.PREEMPTED: "preempted",
    Phase.CANCELLED: "killed",
}


def merged(scheduler: str, record: ExitInfo, row: Row | None, *, hastened: bool = False) -> ExitInfo:
    """Return our record with what the books add to it; where they contradict it, both are told.

    ``hastened``: the scheduler had warned our program on the node before a KILL.
    """
    if hastened and record.reason is None and not record.regular:
        record = replace(record, reason="killed", evidence=f"{record.evidence}; {scheduler} warned it")
    if row is None:
        return replace(record, evidence=f"{record.evidence}; {scheduler} knows nothing of it any more")
    told = f"{record.evidence}; {scheduler} says {_told(row)}"
    found = replace(record, native_id=row.native, native_state=row.state, evidence=told)
    reason = TAKEN.get(row.phase)
    if record.exit_status is ExitStatus.ABORTED_BEFORE_RUNNING:
        return found
    if reason is not None and not (reason == "killed" and record.regular):
        words = record.message or row.reason or None
        return replace(found, reason=_first(record.reason, reason, hastened), message=words)
    if row.phase is Phase.FAILED and record.regular and not hastened:
        return replace(
            found, reason="contradiction", message=f"its record says that it ended with 0, {scheduler}: {_told(row)}"
        )
    return found


def early(scheduler: str, record: ExitInfo, native: str) -> ExitInfo:
    """Return our record as an end that the scheduler was not asked about; ``native``: its id of the job."""
    return replace(record, native_id=native, evidence=f"{record.evidence}; {scheduler} was not asked")


def by_books(scheduler: str, row: Row, *, began: bool, said: str | None = None) -> ExitInfo:
    """Return the end of a job that left no record; ``began``: it took its marker; ``said``: words from its node."""
    words = f"{scheduler} says {_told(row)}; there is no exit record"
    reason, status = TAKEN.get(row.phase), ExitStatus.ABORTED
    if row.phase is Phase.COMPLETED:
        status, reason = ExitStatus.FINISHED_UNCLEAR, "no_record"  # success needs a record
    elif not began:
        status = ExitStatus.ABORTED_BEFORE_RUNNING
        reason = reason or "start_failed"
    elif row.signal:
        status = ExitStatus.FINISHED_SIGNAL
    elif row.phase is Phase.FAILED and row.code:
        status = ExitStatus.FINISHED_UNCLEAR
    elif row.state == "undetermined":  # as DRMAA says it: the scheduler itself does not know
        status = ExitStatus.UNDETERMINED
    usage = {"wall": row.ended - row.started} if row.started and row.ended and row.ended >= row.started else {}
    usage |= {"cpu": row.cpu} if row.cpu is not None else {}
    usage |= {"max_memory": row.memory} if row.memory is not None else {}
    return ExitInfo(
        exit_status=status,
        exit_value=row.code if status is ExitStatus.FINISHED_UNCLEAR and row.code else None,
        term_sig=row.signal if status is ExitStatus.FINISHED_SIGNAL else None,
        reason=reason or ("no_record" if not row.code and not row.signal else None),
        resource_usage=usage,
        native_id=row.native,
        native_state=row.state,
        host=row.host or None,
        evidence=words,
        message="; ".join(filter(None, (row.reason, said))) or None,
        started=row.started,
        ended=row.ended,
    )


def _first(ours: str | None, theirs: str, hastened: bool) -> str:
    """Return the reason that says more: a warning alone does not tell why it was given."""
    return theirs if ours is None or (hastened and ours == "killed") else ours


def _told(row: Row) -> str:
    ended = f" {row.code}:{row.signal or 0}" if row.code is not None else ""
    return f"{row.state}{ended}"
