"""What the fake commands of LSF have in common, as its manual has it; the times of bjobs have no year, as usual."""

from __future__ import annotations

import time

from .program import Told
from .store import FINISHED, HELD, QUEUED, Job

DOWN = Told(255, "", "LSF is down. Please wait ...\nFailed in an LSF library call: LIM is down; try later.\n")
WORDS = {
    "owner": "TERM_OWNER: job killed by owner",
    "walltime": "TERM_RUNLIMIT: job killed after reaching LSF run time limit",
    "preempt": "TERM_PREEMPT: job killed after preemption",
}


def told(job: Job, *, absent: str) -> dict[str, str]:
    """Return what bjobs tells of a job; ``absent``: for what has no value."""
    code = job["code"]
    stat = {HELD: "PSUSP", QUEUED: "PEND"}.get(job["state"], "RUN")
    if job["state"] == FINISHED:
        stat = "DONE" if code == 0 and job["by"] in (None, "owner") else "EXIT"
    exit_code = "" if stat != "EXIT" or code is None else str(code if code >= 0 else 128 - code)
    values = {
        "jobid": str(job["id"]),
        "stat": stat,
        "exit_code": exit_code,
        "exec_host": f"{job['slots']}*node1" if job["started"] else "",
        "start_time": clock(job["started"]),
        "finish_time": f"{clock(job['ended'])} L" if job["ended"] else "",
        "job_description": job["description"],
        "job_name": job["name"],
        "exit_reason": WORDS.get(job["by"] or "", "") if stat == "EXIT" else "",
        "pend_reason": "New job is waiting for scheduling;" if stat == "PEND" else "",
        "queue": job["queue"],
    }
    return {key: value or absent for key, value in values.items()}


def clock(moment: float | None) -> str:
    """Return a time as bjobs writes it."""
    return time.strftime("%b %d %H:%M", time.localtime(moment)) if moment else ""
