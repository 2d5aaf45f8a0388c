"""What Torque's `qstat` prints: with ``-x`` one XML document for each argument, with ``-f`` lines.

An answer that breaks off is none. Values may be anything: users' own jobs are told beside ours. What cannot be read of
a job leaves its state unknown, never ended.
"""

from __future__ import annotations

import re
import time
import xml.etree.ElementTree as ET
from collections.abc import Mapping

from jobmill.systems.batch_row import Phase, Row
from jobmill.systems.pbs_words import VARIABLE, number_of
from jobmill.systems.spool_launches import TOKEN
from jobmill.systems.torque_states import SIGNALLED, phase_of

_DOCUMENT = re.compile(r"<Data\s*/>|<Data>.*?</Data>", re.S)
_JOB = re.compile(r"<Job>.*?</Job>", re.S)
_DECLARED = re.compile(r"<![A-Z\[]")  # a document type, with which a text could grow without end: Torque writes none
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f]")  # no XML: old versions write 14 for `<`
_ID = re.compile(r"<Job_Id>([^<]*)</Job_Id>")
_LAUNCH = re.compile(rf"(?:^|[,>\s]){VARIABLE}=([^,<\s]+)")
_BLOCK = re.compile(r"Job Id:\s*(\S+)")
_LINE = re.compile(r"\s+([A-Za-z_][\w.]*) = ?(.*)")
_NUMBER = re.compile(r"-?[0-9]{1,9}", re.ASCII)
_MOMENT = re.compile(r"[0-9]{9,11}", re.ASCII)


def from_xml(text: str) -> dict[str, Row]:
    """Return what documents say of each job, by number; arrays are left out. Raises ValueError unless all is whole."""
    rest = _DOCUMENT.sub("", text)
    if "<Data" in rest or "<Job" in rest or "</" in rest:
        raise ValueError("it broke off, or is not what qstat prints")
    documents = _DOCUMENT.findall(text)
    if not documents:
        raise ValueError("there is no XML in it")
    found = {}
    for document in documents:
        for job in _JOB.findall(document):
            row = _row(_attributes(job))
            if row is not None:
                found[row.native] = row
    return found


def _attributes(job: str) -> Mapping[str, str]:
    """Return the attributes of one job. Of what is no XML: its id and its token alone."""
    text = _CONTROL.sub("?", job)
    try:
        if _DECLARED.search(text):
            raise ValueError
        root = ET.fromstring(text)
    except (ET.ParseError, ValueError):
        found = [*_ID.findall(text)], [*_LAUNCH.findall(text)]
        if any(len(it) != 1 for it in found):
            return {}
        return {"Job_Id": found[0][0], "Variable_List": f"{VARIABLE}={found[1][0]}"}
    names = [child.tag for child in root]
    return {child.tag: child.text or "" for child in root if names.count(child.tag) == 1 and not len(child)}


def from_lines(text: str) -> dict[str, Row]:
    """Return what ``-f`` says of each job, by number. Raises ValueError unless it is whole.

    Each job ends by an empty line.
    """
    found: dict[str, Row] = {}
    job: dict[str, str] = {}
    last, tabs = "", False
    for line in text.splitlines():
        if start := _BLOCK.fullmatch(line.rstrip()):
            if job:
                raise ValueError("a job in it broke off")
            job, last, tabs = {"Job_Id": start[1]}, "", False
        elif not line.strip() and job:
            row = _row(job)
            if row is not None:
                found[row.native] = row
            job = {}
        elif job and line.startswith("\t") and last and not tabs:  # Torque breaks long values; Slurm indents by tabs
            job[last] += line[1:]
        elif job and (attribute := _LINE.fullmatch(line)):
            last, tabs = attribute[1], tabs or line.startswith("\t")
            job[last] = "" if last in job else attribute[2]
    if job or (text and not text.endswith("\n")):
        raise ValueError("it broke off")
    if not found and text.strip() and not _BLOCK.search(text):
        raise ValueError("there are no jobs in it")
    return found


def _row(job: Mapping[str, str]) -> Row | None:
    number = number_of(job.get("Job_Id", ""))
    if number is None:
        return None
    state, host = job.get("job_state", "").strip(), job.get("exec_host", "")
    told = job.get("exit_status", "").strip()
    status = int(told) if _NUMBER.fullmatch(told) else None
    started = _time(job.get("start_time", "")) or (_time(job.get("mtime", "")) if host else None)
    phase = phase_of(state, job.get("Hold_Types", ""), status, ran=bool(host or job.get("start_time")))
    if state == "Q" and job.get("Priority") == "0" and "Hold_Types" not in job:
        phase = Phase.HELD  # as Slurm tells it
    ended = phase.ended and status is not None
    waits = phase in (Phase.QUEUED, Phase.HELD) or phase.ended
    return Row(
        native=number,
        token=_token(job),
        phase=phase,
        state=state,
        reason=job.get("comment", "") if waits else "",
        host=re.split(r"[/+]", host)[0],
        code=status if ended and status is not None and 0 <= status < SIGNALLED else None,
        signal=status - SIGNALLED if ended and status is not None and status > SIGNALLED else None,
        started=started if phase is not Phase.QUEUED else None,
        ended=(_time(job.get("comp_time", "")) or _time(job.get("mtime", ""))) if phase.ended else None,
    )


def _token(job: Mapping[str, str]) -> str:
    """Return the variable; where no variables are told, the name."""
    if "Variable_List" in job:
        found = _LAUNCH.findall(job["Variable_List"])
        return str(found[0]) if len(found) == 1 else ""
    name = job.get("Job_Name", "")
    return name if TOKEN.fullmatch(name) else ""


def _time(text: str) -> float | None:
    """Return the Unix time of ``1479339279`` or, in lines, of ``Sun Nov 22 03:02:27 2026`` in our time zone."""
    if _MOMENT.fullmatch(text.strip()):
        return float(text)
    try:
        return time.mktime(time.strptime(text.strip(), "%a %b %d %H:%M:%S %Y")) if text.strip() else None
    except (ValueError, OverflowError):
        return None
