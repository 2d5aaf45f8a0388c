"""What `bjobs -o` prints, as JSON or, before LSF 10.1.0.2, as lines with a delimiter.

What is not whole is no answer. JSON tells how many jobs it lists; lines have a header, and the last one ends.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from typing import Any

from jobmill.systems.batch_row import Phase, Row
from jobmill.systems.lsf_states import phase_of

# free texts last: of lines, they may have the delimiter in them
FIELDS: tuple[str, ...] = ("jobid", "stat", "exit_code", "exec_host", "start_time", "finish_time", "job_description")
FIELDS += ("exit_reason", "pend_reason")
DELIMITER = "^"
HEADER = DELIMITER.join(field.upper() for field in FIELDS)
NOTHING = re.compile(r"No (?:unfinished |matching )?jobs? found|Job <[^>]*> is not found")
_ID = re.compile(r"[0-9]{1,18}", re.ASCII)  # 12[3] is of an array, never ours
_CODE = re.compile(r"[0-9]{1,3}", re.ASCII)
_FORMS = ("%b %d %H:%M:%S %Y", "%b %d %H:%M %Y", "%b %d %H:%M:%S", "%b %d %H:%M")


def from_json(text: str) -> dict[str, Row]:
    """Return what an answer says of each job, by id; raise ValueError unless it is whole."""
    start = re.search(r"^\{\s*$|^\{\s*\"COMMAND\"", text, re.M)  # "Please wait …" and banners go before it
    if start is None:
        raise ValueError("there is no JSON in it")
    try:
        whole, _ = json.JSONDecoder(strict=False).raw_decode(text[start.start() :])
    except RecursionError:
        raise ValueError("it is too deep") from None
    records = whole.get("RECORDS")
    if whole.get("COMMAND") != "bjobs" or not isinstance(records, list) or str(whole.get("JOBS")) != str(len(records)):
        raise ValueError("it is not what bjobs prints")
    return _rows([it for it in records if isinstance(it, dict)])


def from_lines(text: str) -> dict[str, Row]:
    """Return what lines say of each job, by id; raise ValueError unless they are whole."""
    _, header, body = text.partition(f"{HEADER}\n")
    if not header or (body and not body.endswith("\n")):
        raise ValueError("there is no list in it" if not header else "it broke off")
    records = []
    for line in body.splitlines():
        values = line.split(DELIMITER, len(FIELDS) - 1)
        if len(values) == len(FIELDS):
            names = (field.upper() for field in FIELDS)
            records.append({name: "" if value == "-" else value for name, value in zip(names, values, strict=True)})
    return _rows(records)


def _rows(records: list[dict[str, Any]]) -> dict[str, Row]:
    """Return rows; what is unknown has a record with an error, and arrays are left out."""
    found = {}
    for record in records:
        texts = {key: str(value) for key, value in record.items()}
        if "ERROR" not in texts and _ID.fullmatch(texts.get("JOBID", "")):
            found[texts["JOBID"]] = _row(texts)
    return found


def _row(job: Mapping[str, str]) -> Row:
    state, why = job.get("STAT", ""), job.get("EXIT_REASON", "")
    phase, code = phase_of(state, why), job.get("EXIT_CODE", "")
    value = int(code) if _CODE.fullmatch(code) else None
    if phase is Phase.COMPLETED:
        value = 0
    return Row(
        native=job["JOBID"],
        token=job.get("JOB_DESCRIPTION", ""),
        phase=phase,
        state=state,
        reason=why if phase.ended else job.get("PEND_REASON", "") if phase is not Phase.RUNNING else "",
        host=re.split(r"[:\s]", job.get("EXEC_HOST", ""))[0].rpartition("*")[2],
        code=value if phase.ended else None,
        started=_time(job.get("START_TIME", "")),
        ended=_time(job.get("FINISH_TIME", "")) if phase.ended else None,
    )


def _time(text: str) -> float | None:
    """Return the Unix time of ``Nov 22 00:14``, with or without seconds and year, in LSF's time zone, taken for ours.

    ``L``, ``E`` and ``X`` after it tell an estimate from a limit. Without its year it is of the last twelve months.
    """
    words = [word for word in text.split() if word not in ("L", "E", "X")]
    now = time.time()
    for form in _FORMS:
        try:
            year = "" if "%Y" in form else f" {time.localtime(now).tm_year}"
            told = time.strptime(" ".join(words) + year, form if "%Y" in form else f"{form} %Y")
            moment = time.mktime(told)
            if year and moment > now + 86400:
                moment = time.mktime((told.tm_year - 1, *told[1:8], -1))
            return moment
        except (ValueError, OverflowError):
            continue
    return None
