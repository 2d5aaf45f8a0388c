"""The states of Slurm's jobs. Source: squeue(1), "JOB STATE CODES"; https://slurm.schedmd.com/job_state_codes.html"""

from __future__ import annotations

from collections.abc import Mapping

from jobmill.systems.batch_row import Phase

STATES: Mapping[str, Phase] = {
    "PENDING": Phase.QUEUED,
    "REQUEUED": Phase.QUEUED,
    "REQUEUE_FED": Phase.QUEUED,
    "REQUEUE_HOLD": Phase.HELD,
    "SPECIAL_EXIT": Phase.HELD,
    "RESV_DEL_HOLD": Phase.HELD,
    "CONFIGURING": Phase.RUNNING,
    "RUNNING": Phase.RUNNING,
    "SUSPENDED": Phase.RUNNING,
    "STOPPED": Phase.RUNNING,
    "RESIZING": Phase.RUNNING,
    "SIGNALING": Phase.RUNNING,
    "EXPEDITING": Phase.QUEUED,
    "COMPLETING": Phase.LEAVING,
    "STAGE_OUT": Phase.LEAVING,
    "COMPLETED": Phase.COMPLETED,
    "FAILED": Phase.FAILED,
    "CANCELLED": Phase.CANCELLED,
    "REVOKED": Phase.CANCELLED,
    "TIMEOUT": Phase.TIMEOUT,
    "DEADLINE": Phase.TIMEOUT,
    "OUT_OF_MEMORY": Phase.OOM,
    "NODE_FAIL": Phase.NODE_FAIL,
    "BOOT_FAIL": Phase.NODE_FAIL,
    "LAUNCH_FAILED": Phase.NODE_FAIL,
    "RECONFIG_FAIL": Phase.NODE_FAIL,
    "PREEMPTED": Phase.PREEMPTED,
}
HELD = ("JobHeldUser", "JobHeldAdmin")  # reasons of a pending job that waits for somebody's `scontrol release`


def phase_of(state: str, reason: str = "") -> Phase:
    """Return the phase of a native state as squeue and sacct write it (``CANCELLED by 1000``, ``RUNNING+``)."""
    word = state.split(" ", 1)[0].rstrip("+").upper()
    found = STATES.get(word, Phase.UNKNOWN)
    return Phase.HELD if found is Phase.QUEUED and reason.strip("()") in HELD else found
