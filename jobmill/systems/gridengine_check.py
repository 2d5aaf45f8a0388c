"""What `jobmill doctor` finds out about a Grid Engine that answers."""

from __future__ import annotations

import re

from jobmill.errors import SystemUnavailable
from jobmill.systems.command_line import Answer, CommandLine
from jobmill.systems.drmaa_child import DrmaaError
from jobmill.systems.drmaa_desk import DrmaaDesk
from jobmill.systems.gridengine_request import GridRequest
from jobmill.systems.system import Check

QUEUES = 20  # that are looked at
_PRODUCT = re.compile(r"\b(?:SGE|OGS/GE|GE|UGE|AGE|Altair Grid Engine)\b.*")


def checks(commands: CommandLine, request: GridRequest, grace: float) -> list[Check]:
    """Return all checks by commands; ``grace``: seconds from a notice to a job's KILL."""
    return [_version(commands), _environments(commands, request), _notify(commands, grace), _books(commands)]


def session(desk: DrmaaDesk) -> Check:
    """Tell whether a DRMAA session begins, and whose it is."""
    try:
        told = desk.about()
    except (SystemUnavailable, DrmaaError) as error:
        fix = "it goes on by its commands; see library: (path of libdrmaa) and env:, or set drmaa: false"
        return Check(name="drmaa", ok=False, detail=str(error), fix=fix)
    return Check(name="drmaa", ok=True, detail=f"{told['library']}, DRMAA {told['version']}, {told['contact']}")


def _version(commands: CommandLine) -> Check:
    answer = _asked(commands, "qstat", "-help")
    line = (answer.out or answer.err).strip().partition("\n")[0]
    found = _PRODUCT.search(line)
    fix = "set path: to the folder of Grid Engine's own commands; PBS, Torque and Slurm have some of the same names"
    return Check(name="version", ok=found is not None, detail=line or answer.words, fix="" if found else fix)


def _environments(commands: CommandLine, request: GridRequest) -> Check:
    known = _asked(commands, "qconf", "-spl").out.split()
    lost = [name for name in request.pe.values() if name not in known]
    told = ", ".join(f"{key}: {name}" for key, name in request.pe.items()) or "none: jobs have one slot"
    fix = f"set pe: to some of {', '.join(known) or 'those that `qconf -Ap` adds'}" if lost else ""
    return Check(name="pe", ok=not lost, detail=f"{', '.join(lost)}: unknown" if lost else told, fix=fix)


def _notify(commands: CommandLine, grace: float) -> Check:
    short = []
    for queue in _asked(commands, "qconf", "-sql").out.split()[:QUEUES]:
        found = re.search(r"(?m)^notify\s+(\d+):(\d+):(\d+)", _asked(commands, "qconf", "-sq", queue).out)
        hours, minutes, seconds = (int(part) for part in found.groups()) if found else (0, 1, 0)
        if (whole := hours * 3600 + minutes * 60 + seconds) <= grace + 1:
            short.append(f"{queue} {whole} s")
    detail = f"too short to end a job and write its record: {', '.join(short)}" if short else "long enough to end a job"
    fix = f"`qconf -rattr queue notify 00:01:00 QUEUE`, or a kill_grace below {grace:g}" if short else ""
    return Check(name="notify", ok=not short, detail=detail, fix=fix)


def _books(commands: CommandLine) -> Check:
    answer = _asked(commands, "qacct", "-j", "0")
    there = answer.code == 0 or "not found" in answer.err
    detail = "qacct answers" if there else f"{answer.words}: ends come from our records, and from DRMAA"
    return Check(name="accounting", ok=True, detail=detail)


def _asked(commands: CommandLine, *words: str) -> Answer:
    try:
        return commands.ask(words)
    except SystemUnavailable as error:
        return Answer(1, "", str(error))
