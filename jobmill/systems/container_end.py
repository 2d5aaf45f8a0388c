"""How a container ended: the exit record that follows from its engine's state and from what we did to it.

The state's fields: https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Container/operation/ContainerInspect
"""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from jobmill.systems.system import ExitInfo, ExitStatus

_TINI = re.compile(r"^\[FATAL tini \(\d+\)\] (exec .* failed: .*)$", re.MULTILINE)  # the engine's --init
_CATATONIT = re.compile(
    r"\AERROR \(catatonit:\d+\): failed to exec pid1: (.+)\n\Z"
)  # podman's --init, which exits with 1
# words of runc, crun and catatonit where the exit code does not say it: podman's start exits with 125 for both
_NOT_THERE = re.compile(r"exec.*(not found in|no such file or directory)", re.IGNORECASE | re.DOTALL)
_NO_PROGRAM = re.compile(r"exec.*(permission denied|exec format error)", re.IGNORECASE | re.DOTALL)
UNSTARTED = ("created", "configured", "initialized")  # podman's start passes through all three, and may die in between
_NOT_EXECUTED = (126, 127)


def ended(state: Mapping[str, Any]) -> bool:
    """Tell whether a container is over, or could not be started. One that is held is neither."""
    word = str(state.get("Status", "")).lower()
    if word in UNSTARTED:
        return bool(state.get("Error")) or bool(state.get("ExitCode"))
    return word in ("exited", "dead", "stopped")


def when(text: Any) -> float | None:
    """Return the Unix time of an engine's time, None for its zero."""
    found = re.match(r"(\d{4})-(\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(\.\d{1,6})?\d* ?(Z|[+-]\d\d:?\d\d)?", str(text or ""))
    if found is None or found[1] == "0001":
        return None
    zone = "+00:00" if found[5] in (None, "Z") else found[5]
    return datetime.fromisoformat(f"{found[1]}-{found[2]}T{found[3]}{found[4] or ''}{zone}").timestamp()


def record_of(
    state: Mapping[str, Any], *, container: str, host: str, killed: bool, overdue: bool, last_words: str, message: str
) -> ExitInfo:
    """Return the exit record of a container that is over.

    ``killed``: we sent it a signal; ``overdue``: because its walltime was over; ``last_words``: the end of its stderr;
    ``message``: what the job left in its error file.
    """
    code, started, finished = (
        int(state.get("ExitCode") or 0),
        when(state.get("StartedAt")),
        when(state.get("FinishedAt")),
    )
    known: dict[str, Any] = {
        "native_id": container,
        "native_state": str(state.get("Status", "")).lower(),
        "host": host,
        "ended": finished,
    }
    refused = str(state.get("Error") or "")
    tini = _TINI.search(last_words) if code in _NOT_EXECUTED else _CATATONIT.search(last_words) if code == 1 else None
    if started is None or tini:
        words = (tini[0].strip() if code == 1 else tini[1]) if tini else refused or "the engine did not say why"
        return ExitInfo(
            exit_status=ExitStatus.ABORTED_BEFORE_RUNNING,
            exit_value=code if code in _NOT_EXECUTED else _value_of(words),
            reason="start_failed",
            evidence="the container's init could not start the program" if tini else "the engine could not start it",
            message=words,
            **known,
        )
    known |= {"started": started, "message": message or refused or None}
    if finished is not None:
        known["resource_usage"] = {"wall": max(0.0, round(finished - started, 3))}
    signal_number = code - 128 if 128 < code <= 128 + 64 else 0
    reason = "timeout" if overdue else None
    if state.get("OOMKilled"):
        evidence = "engine: OOMKilled"
        if signal_number == signal.SIGKILL:
            return ExitInfo(
                exit_status=ExitStatus.FINISHED_SIGNAL, term_sig=9, reason="oom", evidence=evidence, **known
            )  # fmt: skip
        return ExitInfo(
            exit_status=ExitStatus.FINISHED_REGULARLY,
            exit_value=code,
            reason="oom",
            evidence=f"{evidence}, exit code {code}: not its first process was killed",
            **known,
        )
    if not signal_number:
        return ExitInfo(
            exit_status=ExitStatus.FINISHED_REGULARLY,
            exit_value=code,
            reason=reason,
            evidence=f"engine: exit code {code}",
            **known,
        )
    name = _name_of(signal_number)
    if killed and signal_number in (signal.SIGTERM, signal.SIGKILL):
        return ExitInfo(
            exit_status=ExitStatus.FINISHED_SIGNAL,
            term_sig=signal_number,
            reason=reason,
            evidence=f"engine: exit code {code}, and we had sent {name}",
            **known,
        )
    return ExitInfo(
        exit_status=ExitStatus.FINISHED_UNCLEAR,
        exit_value=code,
        reason=reason,
        evidence=f"engine: exit code {code}: the program's own, or {name}; neither an OOM kill nor a kill of ours",
        **known,
    )


def _value_of(words: str) -> int | None:
    """Return the exit value that a shell has for what the words say, None where they are of something else."""
    if _NOT_THERE.search(words):
        return 127
    return 126 if _NO_PROGRAM.search(words) else None


def _name_of(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
