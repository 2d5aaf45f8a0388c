"""The fake `qsub` and `qstat` of Torque, as its source has them: scripts by their path, XML, words for each job.

The end of a job is told for as long as the site's history says (keep_completed).
"""

from __future__ import annotations

import getopt
import os
import pwd
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from . import pbs
from .program import Told
from .store import EXITING, FINISHED, HELD, QUEUED, RUNNING, Job, Store

OPTIONS = "a:A:b:c:C:d:D:e:fF:hIj:k:K:l:L:m:M:nN:o:p:P:q:r:S:t:T:u:v:Vw:W:xz"
KNOWN = ("nodes", "procs", "walltime", "ncpus", "mem", "pmem", "vmem", "pvmem", "cput", "nice", "gpus")
LETTERS = {HELD: "H", QUEUED: "Q", RUNNING: "R", EXITING: "E", FINISHED: "C"}
CANCELLED = 271


def elsewhere(store: Store, command: str) -> Told | None:
    """Return the answer where another server is asked for than ours."""
    server = os.environ.get("PBS_DEFAULT", "").partition(":")[0]
    if server in ("", store.settings()["server"]):
        return None
    return Told(111, "", f"{command}: cannot connect to server {server} (errno=111) Connection refused\n")


def submit(store: Store, words: Sequence[str]) -> Told:
    """Take a job: ``qsub [options] script``; the script is fed to its shell."""
    try:
        options, rest = getopt.getopt(list(words), OPTIONS)
    except getopt.GetoptError as error:
        return Told(2, "", f"qsub: {error}\nusage: qsub [-a date_time] …\n")
    if (away := elsewhere(store, "qsub")) is not None:
        return away
    given, settings = dict(options), store.settings()
    name = given.get("-N", "STDIN")
    if len(name) > 15 or not name[:1].isalpha() or not name.isprintable():
        return Told(1, "", "qsub: illegal -N value\n")
    queue = given.get("-q", "").partition("@")[0] or "workq"
    if queue not in settings["queues"]:
        return Told(170, "", "qsub: submit error (Unknown queue MSG=cannot locate queue)\n")
    resources: dict[str, str] = {}
    for text in [value for option, value in options if option == "-l"]:
        resources.update(part.partition("=")[::2] for part in text.split(","))
    if unknown := next((it for it in resources if it not in KNOWN), None):
        return Told(172, "", f"qsub: submit error (Unknown resource type  Resource_List.{unknown})\n")
    script = store.folder / f"script.{os.getpid()}"
    script.write_bytes(Path(rest[0]).read_bytes())
    shell = given.get("-S", "/bin/sh")
    argv = [shell] if shell != "/bin/sh" else ["/bin/sh", "-c", '/bin/sh "$0"; exit', str(script)]
    user = pwd.getpwuid(os.getuid())
    variables = {f"PBS_O_{key}": os.environ.get(key, "") for key in ("HOME", "LANG", "LOGNAME", "PATH")}
    variables |= dict(part.partition("=")[::2] for part in given.get("-v", "").split(",") if part)
    with store.open() as jobs:
        if sum(job["owner"] == user.pw_name and job["state"] != FINISHED for job in jobs.values()) >= settings["most"]:
            words_ = "Maximum number of jobs already in queue for user MSG=total number of current user's jobs exceeds"
            return Told(206, "", f"qsub: submit error ({words_} the queue limit: user {user.pw_name}, queue {queue})\n")
        job = store.add(
            name=name,
            owner=user.pw_name,
            queue=queue,
            state=HELD if "-h" in given else QUEUED,
            argv=argv,
            cwd=user.pw_dir,
            slots=_slots(resources),
            walltime=_seconds(resources.get("walltime", "")),
            resources=resources,
            variables=variables,
            account=given.get("-A", ""),
        )
        id_ = pbs.full(store, job["id"])
        job["env"] = {
            **{"ENVIRONMENT": "BATCH", "HOME": user.pw_dir, "LOGNAME": user.pw_name, "USER": user.pw_name},
            **{"PATH": "/bin:/usr/bin", "SHELL": shell, "PBS_ENVIRONMENT": "PBS_BATCH", "PBS_JOBID": id_},
            **{"PBS_JOBNAME": name, "PBS_QUEUE": queue, "PBS_NP": str(job["slots"]), **variables},
        }
    return Told(0, f"{id_}\n")


def tell(store: Store, words: Sequence[str]) -> Told:
    """Tell of all jobs, or of some: one document for each argument."""
    if "--version" in words:
        return Told(0, "", f"Version: {store.settings()['torque']}\nCommit: 0\n")
    plain = store.settings()["plain"]
    try:
        options, ids = getopt.getopt(list(words), "f1naBQ" if plain else "fx1naBQ")
    except getopt.GetoptError as error:
        return Told(2, "", f"qstat: invalid option -- '{error.opt}'\nusage:\nqstat [-f [-1]] …\n")
    if (away := elsewhere(store, "qstat")) is not None:
        return away
    given, server = dict(options), store.settings()["server"]
    with store.open() as jobs:
        if "-B" in given:
            return Told(0, f"Server: {server}\n    server_state = Active\n    total_jobs = {len(jobs)}\n\n")
        asked = [pbs.number(it) for it in ids] or list(jobs)
        rows = [(pbs.full(store, it), attributes(store, jobs[it])) for it in asked if it in jobs]
        unknown = [pbs.full(store, it) for it in asked if it not in jobs]
    err = "".join(f"qstat: Unknown Job Id Error {it}\n" for it in unknown)
    code = pbs.UNKNOWN if unknown else 0
    if "-x" not in given:
        return Told(code, "".join(_lines(*row) for row in rows), err)
    documents = [[row] for row in rows] if ids else [rows] if rows else []
    return Told(code, "".join(f"<Data>{''.join(_xml(*row) for row in it)}</Data>\n" for it in documents), err)


def attributes(store: Store, job: Job) -> dict[str, Any]:
    """Return what qstat tells of a job; times as numbers."""
    server = store.settings()["server"]
    told: dict[str, Any] = {
        "Job_Name": job["name"],
        "Job_Owner": f"{job['owner']}@{server}",
        "job_state": LETTERS[job["state"]],
        "queue": job["queue"],
        "server": server,
        "ctime": int(job["submitted"]),
        "Hold_Types": "u" if job["state"] == HELD else "n",
        "mtime": int(job["ended"] or job["started"] or job["submitted"]),
        "Rerunable": "False",
        "Resource_List": job["resources"],
        "Variable_List": ",".join(f"{key}={value}" for key, value in job["variables"].items()),
    }
    if job["started"] is not None:
        told |= {"exec_host": f"node1/0-{job['slots'] - 1}", "start_time": int(job["started"])}
    elif job["state"] == QUEUED:
        told["comment"] = "Not Running: Not enough of the right type of nodes are available"
    if job["state"] == FINISHED:
        told |= {"comp_time": int(job["ended"]), "exit_status": exit_status(job)}
    return told


def exit_status(job: Job) -> int:
    """Return exit_status as the node gives it."""
    if job["code"] is None:
        return CANCELLED
    if job["by"] == "walltime":
        return -11
    return int(job["code"]) if job["code"] >= 0 else 256 - int(job["code"])


def _xml(id_: str, told: dict[str, Any]) -> str:
    parts = [f"<Job_Id>{id_}</Job_Id>"]
    for key, value in told.items():
        inner = escape(str(value))
        if isinstance(value, dict):
            inner = "".join(f"<{it}>{escape(text)}</{it}>" for it, text in value.items())
        parts.append(f"<{key}>{inner}</{key}>")
    return f"<Job>{''.join(parts)}</Job>"


def _lines(id_: str, told: dict[str, Any]) -> str:
    lines = [f"Job Id: {id_}"]
    for key, value in told.items():
        if isinstance(value, dict):
            lines += [f"    {key}.{it} = {text}" for it, text in value.items()]
        elif key in ("ctime", "mtime", "start_time", "comp_time"):
            lines.append(f"    {key} = {time.ctime(value)}")
        else:
            text = str(value)
            lines.append(f"    {key} = {text[:60]}")
            lines += [f"\t{text[at : at + 60]}" for at in range(60, len(text), 60)]
    return "\n".join(lines) + "\n\n"


def _slots(resources: dict[str, str]) -> int:
    nodes = re.match(r"[0-9]+", resources.get("nodes", "1"))
    ppn = re.search(r":ppn=([0-9]+)", resources.get("nodes", ""))
    return int(nodes[0] if nodes else 1) * int(ppn[1] if ppn else 1)


def _seconds(text: str) -> float | None:
    seconds = 0.0
    for part in text.split(":") if text else []:
        seconds = seconds * 60 + float(part)
    return seconds or None
