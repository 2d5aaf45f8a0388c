"""What the fake commands of PBS Pro have in common: ids, words of the server, a job's attributes as qstat tells them.

They answer as OpenPBS 23.06.06 does, exit codes included.
"""

from __future__ import annotations

import time
from typing import Any

from .program import Told
from .store import EXITING, FINISHED, HELD, QUEUED, RUNNING, Job, Store

UNKNOWN, FINISHED_CODE = 153, 35
NO_HISTORY = "PBS is not configured to maintain job history"
LETTERS = {HELD: "H", QUEUED: "Q", RUNNING: "R", EXITING: "E", FINISHED: "F"}
SUBSTATES = {HELD: 20, QUEUED: 10, RUNNING: 42, EXITING: 53}


def down(command: str, code: int = 162) -> Told:
    """Return the answer of a command where no server listens."""
    return Told(code, "", f"Connection refused\n{command}: cannot connect to server pbshost (errno=15010)\n")


def number(text: str) -> str:
    """Return the number in an id."""
    return text.partition(".")[0]


def full(store: Store, text: str | int) -> str:
    """Return an id with the server's name."""
    return f"{number(str(text))}.{store.settings()['server']}"


def each(store: Store, command: str, ids: list[str], jobs: dict[str, Job]) -> tuple[list[Job], int, str]:
    """Return the live jobs of these ids, with the exit code and the words for the others."""
    found, code, words = [], 0, ""
    error = " Error" if store.settings()["torque"] else ""  # Torque's words
    for id_ in ids:
        job = jobs.get(number(id_))
        if job is None:
            code, words = UNKNOWN, f"{words}{command}: Unknown Job Id{error} {full(store, id_)}\n"
        elif job["state"] == FINISHED and error:
            code, words = 170, f"{words}{command}: Request invalid for state of job {full(store, id_)}\n"
        elif job["state"] == FINISHED:
            code, words = FINISHED_CODE, f"{words}{command}: Job has finished {full(store, id_)}\n"
        else:
            found.append(job)
    return found, code, words


def exit_status(job: Job) -> int | None:
    """Return Exit_status as the server has it."""
    if job["code"] is None:
        return None
    if job["by"] == "walltime":
        return -29
    return int(job["code"]) if job["code"] >= 0 else 256 - int(job["code"])


def attributes(store: Store, job: Job) -> dict[str, Any]:
    """Return what qstat -f tells of a job."""
    server, status = store.settings()["server"], exit_status(job)
    substate = SUBSTATES.get(job["state"], 91 if job["by"] == "owner" else 92 if status == 0 else 93)
    told: dict[str, Any] = {
        "Job_Name": job["name"],
        "Job_Owner": f"{job['owner']}@{server}",
        "job_state": LETTERS[job["state"]],
        "queue": job["queue"],
        "server": server,
        "ctime": clock(job["submitted"]),
        "Hold_Types": "u" if job["state"] == HELD else "n",
        "mtime": clock(job["ended"] or job["started"] or job["submitted"]),
        "Rerunable": "False",
        "Resource_List": job["resources"],
        "substate": substate,
        "Variable_List": job["variables"] | {"PBS_O_QUEUE": job["queue"], "PBS_O_HOST": server},
    }
    if job["started"] is not None:
        told |= {"exec_host": f"{server}/0*{job['slots']}", "stime": clock(job["started"])}
        told |= {"comment": f"Job run at {clock(job['started'])} on ({server}:ncpus={job['slots']})", "run_count": 1}
    elif job["state"] == QUEUED and job["slots"] > store.settings()["slots"]:
        told["comment"] = f"Can Never Run: Insufficient amount of resource: ncpus (R: {job['slots']})"
    elif job["state"] == QUEUED:
        told["comment"] = "Not Running: Not enough free nodes available"
    if status is not None:
        told["Exit_status"] = status
    if job["state"] == FINISHED:
        told["history_timestamp"] = int(job["ended"])
    return told


def clock(moment: float) -> str:
    """Return a time as the server writes it."""
    return time.strftime("%a %b %d %H:%M:%S %Y", time.localtime(moment))
