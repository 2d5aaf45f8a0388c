"""What `qstat -xml`, `qstat -j` and `qacct -j` print, read with care: a cut answer looks like a short one."""

from __future__ import annotations

import re
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace

from jobmill.systems.batch_row import Phase, Row
from jobmill.systems.gridengine_name import token_of
from jobmill.systems.gridengine_states import NEVER_BEGAN, SIGNALLED, end_of, phase_of

ID = re.compile(r"[0-9]{1,18}", re.ASCII)
_REASON = re.compile(r"error reason\s+[0-9]+:\s+(.*)")
_STATUS = re.compile(r"([0-9]+)\s*(?:: *(.*))?")
_WALL = re.compile(r"([0-9.]+)")
_LIMIT = re.compile(r"\bh_rt=([0-9]+)")


def tree(text: str) -> ElementTree.Element:
    """Return the XML in an answer; raise ValueError unless it is whole. Banners may go before it."""
    start = text.find("<?xml")
    if start < 0:
        raise ValueError("there is no XML in it")
    if "<!" in text[start:]:  # no answer has a document type or entities of its own
        raise ValueError("it is not what qstat prints")
    try:
        return ElementTree.fromstring(text[start:].rstrip("\0 \n"))
    except ElementTree.ParseError as error:
        raise ValueError(f"the XML is not whole: {error}") from None


def queued(text: str, held: Collection[str]) -> list[Row]:
    """Return the jobs of `qstat -f -xml`, those of job arrays left out; ``held``: ids with a hold of their user."""
    root = tree(text)
    if root.tag != "job_info":
        raise ValueError(f"it is a {root.tag}")
    found = []
    for place in root.iter("Queue-List"):
        state = place.findtext("state") or ""
        name = place.findtext("name") or ""
        found += [_queued(job, held, name.partition("@")[2], "u" in state) for job in place.iter("job_list")]
    waiting = root.find("job_info")
    found += [_queued(job, held, "", False) for job in (() if waiting is None else waiting.iter("job_list"))]
    return [row for row in found if row.native]


def _queued(job: ElementTree.Element, held: Collection[str], host: str, silent: bool) -> Row:
    native = job.findtext("JB_job_number") or ""
    state = job.findtext("state") or ""
    phase = phase_of(state, held=native in held, silent=silent)
    reason = "its node does not answer" if phase is Phase.UNREACHABLE else ""
    if phase is Phase.FAILED:
        reason = "it waits in an error state"
    elif phase is Phase.QUEUED and "h" in state:
        reason = "a hold"
    return Row(
        native=native if ID.fullmatch(native) and job.find("tasks") is None else "",
        token=token_of(job.findtext("JB_name") or ""),
        phase=phase,
        state=state,
        reason=reason,
        host=host,
        started=_time(job.findtext("JAT_start_time"), "%Y-%m-%dT%H:%M:%S"),
    )


def errors(text: str) -> str:
    """Return the reasons for an error state that `qstat -j` tells."""
    return "; ".join(found[1].strip() for line in text.splitlines() if (found := _REASON.match(line)))


def booked(text: str) -> list[Row]:
    """Return the ends in an answer of `qacct -j`: of each id the last one, as an id may have several (rescheduled)."""
    rows: dict[str, Row] = {}
    for fields in _blocks(text):
        if "jobnumber" in fields and fields.get("taskid", "undefined") == "undefined" and "exit_status" in fields:
            row = _booked(fields)
            last = rows.get(row.native)
            if last is not None and last.token == row.token and row.started is None:
                row = replace(row, started=last.started)
            rows[row.native] = row
    return list(rows.values())


def _blocks(text: str) -> Iterator[Mapping[str, str]]:
    fields: dict[str, str] = {}
    for line in text.splitlines():
        if line.startswith("====="):
            yield fields
            fields = {}
            continue
        name, _, value = line.partition(" ")
        fields.setdefault(name, value.strip())
    yield fields


def _booked(fields: Mapping[str, str]) -> Row:
    failed, words = _status(fields.get("failed", ""))
    status, _ = _status(fields["exit_status"])
    wall = _WALL.match(fields.get("ru_wallclock", ""))
    limit = _LIMIT.search(fields.get("category", ""))
    over = wall is not None and limit is not None and float(wall[1]) >= int(limit[1])
    phase = end_of(failed, status, over)
    number = status - 128 if failed == SIGNALLED and status > 128 else None
    ran = failed not in NEVER_BEGAN
    return Row(
        native=fields["jobnumber"],
        token=token_of(fields.get("jobname", "")),
        phase=phase,
        state=f"failed {failed}" if failed else "done",
        reason=words if failed else "",
        host=fields.get("hostname", ""),
        code=status if ran and number is None else None,
        signal=number,
        started=_time(fields.get("start_time"), "%a %b %d %H:%M:%S %Y"),
        ended=_time(fields.get("end_time"), "%a %b %d %H:%M:%S %Y"),
    )


def _status(text: str) -> tuple[int, str]:
    """Return number and words of ``100 : assumedly after job``."""
    found = _STATUS.match(text)
    return (int(found[1]), (found[2] or "").strip()) if found else (0, "")


def _time(text: str | None, form: str) -> float | None:
    """Return Unix time of a time in the time zone of the commands, which is ours; None where none is told."""
    try:
        return time.mktime(time.strptime((text or "").strip(), form)) if text else None
    except (ValueError, OverflowError):
        return None
