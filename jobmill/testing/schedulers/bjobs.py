"""The fake `bjobs` of LSF: ``-a -o`` with and without ``-json``."""

from __future__ import annotations

import json
import os
import pwd
import re
from collections.abc import Sequence

from . import lsf
from .program import Told, run
from .store import Store


def tell(store: Store, words: Sequence[str]) -> Told:
    """Tell of this user's jobs, or of some."""
    rest, form, as_json = list(words), "", False
    ids: list[str] = []
    while rest:
        word = rest.pop(0)
        if word == "-o" and rest:
            form = rest.pop(0)
        elif word == "-json" and not store.settings()["plain"]:
            as_json = True
        elif word.startswith("-") and word != "-a":
            return Told(255, "", f"bjobs: Illegal option -- {word}\nUsage: bjobs [-a] …\n")
        elif word != "-a":
            ids.append(word)
    found = re.fullmatch(r"(.*?)(?: delimiter='(.)')?", form)
    fields, delimiter = (found[1].split(), found[2] or " ") if found else ([], " ")
    with store.open() as jobs:
        user = pwd.getpwuid(os.getuid()).pw_name
        asked = ids or [number for number, job in jobs.items() if job["owner"] == user]
        unknown = [number for number in asked if number not in jobs]
        rows = [lsf.told(jobs[number], absent="" if as_json else "-") for number in asked if number in jobs]
    code, err = (255, "") if unknown else (0, "")
    if as_json:
        records = [{field.upper(): row[field] for field in fields} for row in rows]
        records += [{"JOBID": number, "ERROR": f"Job <{number}> is not found"} for number in unknown]
        whole = {"COMMAND": "bjobs", "JOBS": len(records), "RECORDS": records}
        return Told(code, json.dumps(whole, indent=2, separators=(",", ":")).replace("/", "\\/") + "\n")
    err = "".join(f"Job <{number}> is not found\n" for number in unknown)
    if not rows:
        return Told(255 if unknown else 0, "", err or "No job found\n")
    lines = [delimiter.join(field.upper() for field in fields)]
    lines += [delimiter.join(row[field] for field in fields) for row in rows]
    return Told(code, "\n".join(lines) + "\n", err)


def main() -> None:
    """Run as bjobs."""
    run("bjobs", tell, lsf.DOWN)
