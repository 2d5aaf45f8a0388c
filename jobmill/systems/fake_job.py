"""A job of the fake system: what it does by its env, and the record of how it ended."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from typing import Any

from jobmill.systems.fake_queue import FakeLaunch
from jobmill.systems.system import ExitInfo, ExitStatus, Handle, Submission

HOST = "fake"
WORDS = 200  # characters of a command that the journal keeps


def job_of(it: Submission, usual: float) -> dict[str, Any]:
    """Return what a submission does, as fields of `FakeLaunch`; ``usual``: seconds of a job that does not say.

    Raises ValueError with the words for the user.
    """
    job: dict[str, Any] = {"what": shlex.join(it.argv)[:WORDS]}
    if seconds := _number(it.env, "FAKE_SECONDS", usual, 1e9, "seconds from 0"):
        job["seconds"] = seconds
    if value := _number(it.env, "FAKE_EXIT", 0, 255, "an exit value from 0 to 255"):
        job["exit"] = int(value)
    if signal := _number(it.env, "FAKE_SIGNAL", 0, 64, "the number of a signal"):
        job["signal"] = int(signal)
    if it.walltime is not None:
        job["walltime"] = it.walltime
    if it.cpus != 1:
        job["cpus"] = it.cpus
    return job


def _number(env: Mapping[str, str], name: str, usual: float, most: float, wanted: str) -> float:
    if name not in env:
        return usual
    try:
        value = float(env[name])
    except ValueError:
        value = -1.0
    if not 0 <= value <= most or (most < 1e9 and value != int(value)):
        raise ValueError(f"{name}: {env[name]!r} is not {wanted}")
    return value


def record_of(it: FakeLaunch, handle: Handle) -> ExitInfo:
    """Return the exit record of a launch that has ended; Unix times by this host's clock."""
    assert it.ended is not None
    wall_clock = time.time() - time.monotonic()
    ended = round(wall_clock + it.ended, 3)
    if it.started is None:
        return ExitInfo(
            exit_status=ExitStatus.ABORTED_BEFORE_RUNNING,
            reason="killed",
            native_id=handle,
            native_state="CANCELLED",
            host=HOST,
            evidence="fake journal",
            ended=ended,
        )
    signal = it.killed or (15 if it.over else it.signal)
    timeout = it.over and not it.killed
    state = "TIMEOUT" if timeout else "CANCELLED" if it.killed else "FAILED" if signal or it.exit else "COMPLETED"
    return ExitInfo(
        exit_status=ExitStatus.FINISHED_SIGNAL if signal else ExitStatus.FINISHED_REGULARLY,
        exit_value=None if signal else it.exit,
        term_sig=signal or None,
        reason="timeout" if timeout else None,
        resource_usage={"wall": round(it.ended - it.started, 6), "cpu": 0.0, "max_memory": 1.0},
        native_id=handle,
        native_state=state,
        host=HOST,
        evidence="fake journal",
        started=round(wall_clock + it.started, 3),
        ended=ended,
    )
