"""The fake `qstat` of PBS Pro, ``-f -F json`` alone, as OpenPBS writes it; of Torque where the site says so."""

from __future__ import annotations

import getopt
import json
import time
from collections.abc import Sequence
from typing import Any

from . import pbs, torque
from .program import Told, run
from .store import FINISHED, Job, Store


def tell(store: Store, words: Sequence[str]) -> Told:
    """Tell of jobs: with ``-E`` of all that are asked for, without it of the first one alone."""
    if store.settings()["torque"]:
        return torque.tell(store, words)
    if "--version" in words:
        return Told(0, "pbs_version = 23.06.06\n")
    try:
        options, ids = getopt.getopt(list(words), "EfF:xt")
    except getopt.GetoptError as error:
        return Told(2, "", f"qstat: {error}\nusage: …\n")
    given = dict(options)
    if "-f" not in given or given.get("-F") != "json":
        return Told(2, "", "qstat: this one knows -f -F json alone\n")
    history, server = "-x" in given, store.settings()["server"]
    if history and not store.settings()["history"]:
        return Told(0, body(server, {}), f"qstat: {pbs.NO_HISTORY} {ids[0] if ids else ''}\n")
    with store.open() as jobs:
        asked = [pbs.number(it) for it in ids] or list(jobs)
        found: dict[str, Job] = {}
        unknown, code = "", 0
        for number in asked:
            job = jobs.get(number)
            if job is None:
                code, unknown = pbs.UNKNOWN, f"qstat: Unknown Job Id {pbs.full(store, number)}\n"
            elif job["state"] == FINISHED and not history:
                words_ = "Job has finished, use -x or -H to obtain historical job information"
                code, unknown = pbs.FINISHED_CODE, f"qstat: {pbs.full(store, number)} {words_}\n"
            else:
                found[number] = job
        if "-E" not in given:
            found = dict(list(found.items())[:1])
        elif found or not ids:
            code, unknown = 0, ""  # what is not there is dropped without a word
        told = {pbs.full(store, number): pbs.attributes(store, job) for number, job in found.items()}
    return Told(code, body(server, told), unknown)


def body(server: str, jobs: dict[str, Any]) -> str:
    """Return the JSON; without jobs it is the same whatever the reason."""
    whole: dict[str, Any] = {"timestamp": int(time.time()), "pbs_version": "23.06.06", "pbs_server": server}
    if jobs:
        whole["Jobs"] = jobs
    return json.dumps(whole, indent="\t", separators=(",", ":\t"), ensure_ascii=False) + "\n"


def main() -> None:
    """Run as qstat."""
    run("qstat", tell, Told(255, body("pbshost", {}), pbs.down("qstat").err))
