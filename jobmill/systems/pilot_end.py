"""How a launch in a pilot ended whose rank did not tell: by what is known of its allocation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jobmill.systems import far_words, run_folder
from jobmill.systems.batch_row import Phase
from jobmill.systems.system import ExitInfo, ExitStatus

# Why an allocation was taken away. That one ran out of memory is no proof that this very job did.
REASONS = {
    Phase.TIMEOUT: "timeout",
    Phase.OOM: "node_fail",
    Phase.NODE_FAIL: "node_fail",
    Phase.PREEMPTED: "preempted",
    Phase.CANCELLED: "killed",
}


def verdict(run: run_folder.Run, folder: bytes, what: str, ended: Mapping[str, Any] | None) -> tuple[str, str]:
    """Return the word and the record that end a marker without an end, whose rank and processes are gone.

    ``what``: the allocation in words; ``ended``: how it ended, None while it lives. The word is ``sealed`` where it
    certainly never started.
    """
    try:
        phase = Phase(str((ended or {}).get("phase")))
    except ValueError:
        phase = Phase.UNKNOWN
    reason = REASONS.get(phase)
    told = f"{what} ended: {ended.get('state')}" if ended else f"its rank in {what} is gone"
    if run.left is not None:
        try:
            info = ExitInfo.from_json(far_words.record(run.left))
        except (ValueError, KeyError, TypeError):
            info = ExitInfo(exit_status=ExitStatus.UNDETERMINED, evidence="a spoiled record")
        values = {"evidence": f"{info.evidence}; {told}", "message": info.message or told}
        if info.reason is None and not info.regular:
            values["reason"] = reason or "killed"
        return "exit", ExitInfo.from_dict(info.to_dict() | values).to_json()
    if run.pid is None and not run_folder.was_entered(folder):
        return "sealed", run_folder.never_started("not_started", told)
    info = ExitInfo(
        exit_status=ExitStatus.ABORTED if reason else ExitStatus.UNDETERMINED,
        reason=reason or "lost",
        native_id=None if run.pid is None else str(run.pid),
        host=run.host,
        evidence=f"{told}; there is no exit record",
        message=told + (f" ({ended['reason']})" if ended and ended.get("reason") else ""),
    )
    return "exit", info.to_json()


def write(folder: bytes, token: str, word: str, record: str) -> bool:
    """Add an end to a marker; the first one counts. False: the folder is another launch's by now."""
    found = run_folder.read(folder)
    if found is None or found.token != token:
        return False
    if found.end is None:
        run_folder.append(folder, run_folder.end_line(word, record))
    return True
