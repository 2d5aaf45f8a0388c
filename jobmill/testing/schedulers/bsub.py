"""The fake `bsub` of LSF."""

from __future__ import annotations

import os
import pwd
import re
import sys
from collections.abc import Sequence

from . import lsf
from .program import Told, run
from .store import FINISHED, HELD, QUEUED, Store

WITH_VALUE = (
    "-J",
    "-Jd",
    "-o",
    "-e",
    "-n",
    "-R",
    "-M",
    "-W",
    "-q",
    "-P",
    "-gpu",
    "-cwd",
    "-sp",
    "-G",
    "-b",
    "-m",
    "-w",
)
_CONDITION = re.compile(r"(started|ended)\(([0-9]+)\)")
ALONE = ("-H", "-rn", "-r", "-x", "-B", "-N")


def submit(store: Store, words: Sequence[str]) -> Told:
    """Take the script on stdin."""
    given: dict[str, list[str]] = {}
    rest = list(words)
    while rest:
        option = rest.pop(0)
        if option not in (*WITH_VALUE, *ALONE):
            return Told(255, "", f"{option}: Illegal option.\nUsage: bsub [-h]\nJob not submitted.\n")
        given.setdefault(option, []).append(rest.pop(0) if option in WITH_VALUE else "")
    queue, settings = given.get("-q", ["normal"])[-1], store.settings()
    if queue not in settings["queues"]:
        return Told(255, "", f"{queue}: No such queue. Job not submitted.\n")
    user, script = pwd.getpwuid(os.getuid()), store.folder / f"script.{os.getpid()}"
    script.write_text(sys.stdin.read())
    with store.open() as jobs:
        condition = _CONDITION.fullmatch(given.get("-w", [""])[-1])
        if "-w" in given and (condition is None or condition[2] not in jobs):
            return Told(
                255, "", f"{given['-w'][-1]}: Dependency condition invalid or never satisfied. Job not submitted.\n"
            )
        if sum(job["owner"] == user.pw_name and job["state"] != FINISHED for job in jobs.values()) >= settings["most"]:
            return Told(255, "", "User: Pending job threshold reached. Job not submitted.\n")
        job = store.add(
            name=given.get("-J", [""])[-1],
            description=given.get("-Jd", [""])[-1],
            owner=user.pw_name,
            queue=queue,
            state=HELD if "-H" in given else QUEUED,
            argv=["/bin/sh", str(script)],
            cwd=user.pw_dir,
            slots=int(given.get("-n", ["1"])[-1]),
            walltime=float(given["-W"][-1]) * 60 if "-W" in given else None,
            limit_signal="USR2",
            waits_for=[condition[1], condition[2]] if condition else None,
            resources={key: values for key, values in given.items() if key not in ("-H", "-rn")},
        )
        job["env"] = os.environ | {  # what bsub has of its own environment goes along
            **{"LSB_JOBID": str(job["id"]), "LSB_JOBNAME": job["name"], "LSB_QUEUE": queue, "LSB_HOSTS": "node1"},
            **{"LSB_DJOB_NUMPROC": str(job["slots"]), "LSB_TRAPSIGS": "trap # 15 10 12 2 1"},
        }
    return Told(0, f"Job <{job['id']}> is submitted to queue <{queue}>.\n")


def main() -> None:
    """Run as bsub."""
    run("bsub", submit, Told(255, "", f"{lsf.DOWN.err.strip()} Job not submitted.\n"))
