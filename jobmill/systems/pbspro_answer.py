"""What `qstat -f -F json` prints, read with care: servers print what is no JSON, and cut answers look like short ones.

Seen: values that are not UTF-8; quotes, backslashes and line ends of variables as they are; text that looks like a
number printed as one (007 as 7). And the same empty body for an unknown job, a server that is down, a history that
is off: what is not in an answer is never taken as gone by this alone.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from typing import Any

from jobmill.systems.batch_row import Phase, Row
from jobmill.systems.pbs_words import VARIABLE, number_of
from jobmill.systems.pbspro_states import SIGNALLED, phase_of

_JOB = re.compile(r'\t\t"([^"]+)":\s*\{')
_ATTRIBUTE = re.compile(r'\t\t\t"([^"]+)":\s*(.+?),?')
_TOKEN = re.compile(rf'\t\t\t\t"{VARIABLE}":\s*"([^"\\]*)",?')
_NUMBER = re.compile(r"-?[0-9]{1,9}", re.ASCII)


def rows(text: str) -> dict[str, Row]:
    """Return what an answer says of each job, by number; arrays are left out. Raises ValueError unless it is whole."""
    found = {}
    for native, attributes in _jobs(text).items():
        number = number_of(native)
        if number is not None:
            found[number] = _row(number, attributes)
    return found


def _jobs(text: str) -> Mapping[str, Mapping[str, Any]]:
    """Return the attributes of each job by its id."""
    lines = text.splitlines(keepends=True)
    start = next((n for n, line in enumerate(lines) if line.rstrip() == "{"), None)  # banners go before it
    if start is None:
        raise ValueError("there is no JSON in it")
    try:
        whole, _ = json.JSONDecoder(strict=False).raw_decode("".join(lines[start:]))
    except (ValueError, RecursionError):
        return _by_lines([line.rstrip("\r\n") for line in lines[start:]])
    jobs = whole.get("Jobs", {})
    if (
        "pbs_version" not in whole
        or not isinstance(jobs, dict)
        or not all(isinstance(it, dict) for it in jobs.values())
    ):
        raise ValueError("it is not what qstat prints")
    return jobs


def _by_lines(lines: list[str]) -> Mapping[str, Mapping[str, Any]]:
    """Read what is no JSON by its lines, which tell by their tabs to what they belong.

    An attribute that comes twice is nobody's word any more: a variable may hold lines that look like others.
    """
    jobs: dict[str, dict[str, Any]] = {}
    job: dict[str, Any] | None = None
    begun = closed = ended = False
    for line in lines[1:]:
        if ended:
            break
        if job is None and begun and not closed and (found := _JOB.fullmatch(line)):
            job = jobs.setdefault(found[1], {})
        elif job is None and line.startswith('\t"Jobs":'):
            begun = True
        elif job is not None and line in ("\t\t}", "\t\t},"):
            job = None
        elif job is None and line == "\t}":
            closed = True
        elif job is None and line == "}":
            ended = True
        elif job is not None and (found := _TOKEN.fullmatch(line)):
            _put(job, "Variable_List", {VARIABLE: found[1]})
        elif job is not None and (found := _ATTRIBUTE.fullmatch(line)) and found[1] != "Variable_List":
            _put(job, found[1], _value(found[2]))
    if not (begun and closed and ended):
        raise ValueError("it broke off")
    return jobs


def _put(job: dict[str, Any], name: str, value: object) -> None:
    job[name] = None if name in job else value


def _value(text: str) -> object:
    try:
        return json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return text.strip('"')


def _row(number: str, job: Mapping[str, Any]) -> Row:
    state = str(job.get("job_state") or "")
    status, substate = _whole(job.get("Exit_status")), _whole(job.get("substate"))
    phase = phase_of(state, str(job.get("Hold_Types") or ""), substate, status)
    variables = job.get("Variable_List")
    token = variables.get(VARIABLE) if isinstance(variables, Mapping) else None
    ended = status is not None and phase.ended
    return Row(
        native=number,
        token=token if isinstance(token, str) else "",
        phase=phase,
        state=state,
        reason="" if phase in (Phase.RUNNING, Phase.LEAVING, Phase.COMPLETED) else str(job.get("comment") or ""),
        host=re.split(r"[/+*(]", str(job.get("exec_host") or ""))[0],
        code=status if ended and status is not None and 0 <= status < SIGNALLED else None,
        signal=status - SIGNALLED if ended and status is not None and status > SIGNALLED else None,
        started=_time(job.get("stime")),
        ended=(_time(job.get("obittime")) or _time(job.get("mtime"))) if phase.ended else None,
    )


def _whole(value: object) -> int | None:
    """Return a number that may have been printed as text."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    return int(value) if isinstance(value, str) and _NUMBER.fullmatch(value) else None


def _time(value: object) -> float | None:
    """Return the Unix time of ``Sat Nov 21 00:14:47 2026``, in the server's time zone, which is taken for ours."""
    try:
        return time.mktime(time.strptime(str(value), "%a %b %d %H:%M:%S %Y")) if value else None
    except (ValueError, OverflowError):
        return None
