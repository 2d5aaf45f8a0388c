"""The fake `qsub` of PBS Pro."""

from __future__ import annotations

import getopt
import os
import pwd
import re
import sys
from collections.abc import Sequence
from typing import Any

from . import pbs, torque
from .program import Told, run
from .store import FINISHED, HELD, QUEUED, Store

OPTIONS = "a:A:c:C:e:fhIj:J:k:l:m:M:N:o:p:P:q:r:R:S:u:W:v:Vz"
KNOWN = frozenset(
    [
        "select",
        "place",
        "walltime",
        "ncpus",
        "mem",
        "nodes",
        "ngpus",
        "mpiprocs",
        "cput",
        "pmem",
        "vmem",
        "pvmem",
        "nice",
    ]
)


def submit(store: Store, words: Sequence[str]) -> Told:
    """Take a job: ``qsub [options] -- command …``, or a script on stdin."""
    if store.settings()["torque"]:
        return torque.submit(store, words)
    try:
        options, command = getopt.getopt(list(words), OPTIONS)
    except getopt.GetoptError as error:
        return Told(2, "", f"qsub: {error}\nusage: qsub [-a date_time] …\n")
    given = dict(options)
    name = given.get("-N", "STDIN")
    if len(name) > 230 or not re.fullmatch(r"[A-Za-z0-9_+.-]+", name):
        return Told(2, "", "qsub: Job name is too long\n" if len(name) > 230 else "qsub: illegal -N value\nusage: …\n")
    settings = store.settings()
    queue = given.get("-q", "workq")
    if queue not in settings["queues"]:
        return Told(170, "", "qsub: Unknown queue\n")
    resources: dict[str, Any] = {}
    for text in [value for option, value in options if option == "-l"]:
        resources.update(part.partition("=")[::2] for part in text.split(","))
    for resource in resources:
        if resource not in KNOWN:
            return Told(187, "", f"qsub: Unknown resource: {resource}\n")
    if not command:  # the server starts it below a login shell
        script = store.folder / f"script.{os.getpid()}"
        script.write_text(sys.stdin.read())
        command = ["/bin/sh", "-c", '/bin/sh "$0"; exit', str(script)]
    user = pwd.getpwuid(os.getuid())
    variables = {f"PBS_O_{key}": os.environ.get(key, "") for key in ("HOME", "LANG", "LOGNAME", "PATH")}
    variables |= dict(part.partition("=")[::2] for part in given.get("-v", "").split(",") if part)
    with store.open() as jobs:
        if sum(job["owner"] == user.pw_name and job["state"] != FINISHED for job in jobs.values()) >= settings["most"]:
            return Told(38, "", "qsub: would exceed complex's per-user limit\n")
        job = store.add(
            name=name,
            owner=user.pw_name,
            queue=queue,
            state=HELD if "-h" in given else QUEUED,
            argv=command,
            cwd=user.pw_dir,
            slots=_slots(resources),
            walltime=_seconds(resources.get("walltime", "")),
            resources=resources,
            variables=variables,
        )
        id_ = pbs.full(store, job["id"])
        job["env"] = {
            **{"ENVIRONMENT": "BATCH", "HOME": user.pw_dir, "LOGNAME": user.pw_name, "USER": user.pw_name},
            **{"PATH": "/bin:/usr/bin", "SHELL": user.pw_shell, "PBS_ENVIRONMENT": "PBS_BATCH", "PBS_JOBID": id_},
            **{"PBS_JOBNAME": name, "PBS_QUEUE": queue, "NCPUS": str(job["slots"]), **variables},
        }
    return Told(0, f"{id_}\n")


def _slots(resources: dict[str, Any]) -> int:
    chunks, _, rest = str(resources.get("select", "1")).partition(":")
    found = re.search(r"\bncpus=([0-9]+)", rest)
    return int(chunks) * int(found[1] if found else resources.get("ncpus", 1))


def _seconds(text: str) -> float | None:
    seconds = 0.0
    for part in text.split(":") if text else []:
        seconds = seconds * 60 + float(part)
    return seconds or None


def main() -> None:
    """Run as qsub."""
    run("qsub", submit, pbs.down("qsub"))
