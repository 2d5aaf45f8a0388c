"""The `torque` system: Torque by its commands. qsub held, one qstat for all jobs, qrls, qsig, qdel.

Sources: qsub(1B), qstat(1B), qrls(1B), qsig(1B), qdel(1B) of Torque 6.1 and their source,
https://github.com/adaptivecomputing/torque. It works where the server forgets a job at its end (keep_completed).

The token is a variable of the job (`qsub -v`), which `qstat` tells. The script is named as the job's shell, too (`-S`):
a shell that only starts it would die of a signal, and the node then end the rest before it could write its record.

Slurm has commands of these names as well (slurm-torque). They know no XML, no variables, no exit status, no signals,
and hand what they are told to a shell: there the token is the job's name, ends come from our records alone, and words
that a shell would take for its own are refused.
"""

from __future__ import annotations

import math
import re
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from jobmill.errors import ConfigError, SystemUnavailable
from jobmill.systems import pbs_words, torque_answer
from jobmill.systems.batch import BatchSystem
from jobmill.systems.batch_options import BatchOptions
from jobmill.systems.batch_row import Row
from jobmill.systems.command_line import Answer, Unanswered
from jobmill.systems.pbs_words import DOWN, OWN_WORDS, UNKNOWN_ID, VARIABLE, number_of
from jobmill.systems.system import Check, Handle, Submission, SubmitError, SubmitFailure, Token

FEW = 20  # jobs that are asked for one by one
NAME = 15  # characters of a name that every version takes
LINGER = 60.0  # seconds for which Slurm may end what it already tells as completed (KillWait, 30 s, and more)
_CONTACT = re.compile(r"(?:([A-Za-z0-9_.-]+)@)?([A-Za-z0-9.-]+(?::[0-9]{1,5})?)", re.ASCII)
_VERSION = re.compile(r"^version: *(\S+)", re.I | re.M)
_NO_XML = re.compile(r"(?:invalid|illegal|unknown) option", re.I)
_UNKNOWN = re.compile(r"Unknown Job Id(?: Error)?:? *([0-9]+)", re.I)
_NO_JOBS = re.compile(r"^\s+total_jobs = 0\s*$", re.M)
_SEES_ALL = re.compile(r"^\s+query_other_jobs = True", re.M | re.I)
_SLURM_DOWN = re.compile(r"Unable to contact slurm controller|Problem loading", re.I)
_SLURM_LIMIT = re.compile(r"QOSMax|AssocMax|AssocGrp|job submit limit|MaxJobCount", re.I)
_SLURM_UNCLEAR = re.compile(r"Socket timed out|Zero Bytes|Connection reset", re.I)
_PLAIN = re.compile(r"[A-Za-z0-9_@%+=:,./-]+", re.ASCII)  # what a shell leaves as it is


class TorqueSystem(BatchSystem):
    """Jobs of one Torque server."""

    kind: ClassVar[str] = "torque"
    id_variable: ClassVar[str] = "PBS_JOBID,SLURM_JOB_ID"  # whose commands these are, its job tells
    keeps_words: ClassVar[bool] = False  # what it would copy at the end could hold the end up for minutes

    def __init__(self, *, name: str, spool: Path, options: BatchOptions, server: str = "", queue: str = "") -> None:
        """``server``: which the commands talk to; "": the one of this host. ``queue``: for jobs that name none."""
        super().__init__(name=name, spool=spool, options=options)
        self.default_queue = queue
        if server:
            self.commands.env["PBS_DEFAULT"] = server
        self._version = ""  # Torque's; "slurm" where the commands are Slurm's
        self._xml = True
        self._said_ended: dict[Handle, float] = {}  # since when Slurm tells a launch as completed (monotonic)

    @classmethod
    def build(cls, name: str, options: Mapping[str, Any], spool: Path) -> TorqueSystem:
        """Make the system from its mapping; raise ConfigError for an unknown option or a value that cannot be."""
        parsed = BatchOptions.parse(name, cls.kind, options, ("server",))
        contact = options.get("server")
        if contact is None:
            return cls(name=name, spool=Path(spool), options=parsed)
        found = _CONTACT.fullmatch(contact) if isinstance(contact, str) else None
        if found is None:
            raise ConfigError(f"systems.{name}.server: {contact!r} is neither a server nor queue@server")
        return cls(name=name, spool=Path(spool), options=parsed, server=found[2], queue=found[1] or "")

    def native_id(self, told: str) -> str:
        """Return the number alone: whether a server's name is long or short differs from command to command."""
        return number_of(told) or ""

    def version(self) -> str:
        """Return Torque's version, or ``slurm``; raise SystemUnavailable where the commands are another scheduler's."""
        if not self._version:
            answer = self.commands.call(["qstat", "--version"])
            text = answer.err + "\n" + answer.out  # Torque says it on stderr
            if found := _VERSION.search(text):
                self._version = found[1]
            elif "Unknown option: version" in text:
                self._version = "slurm"
            else:
                raise SystemUnavailable(f"qstat is not Torque's; it says: {_whose(text)}")
        return self._version

    def send(self, it: Submission, folder: str, script: str) -> str | SubmitError:
        """Give a held job to qsub, which reads the script from the run folder."""
        try:
            native = [*self.options.native, *shlex.split(it.native or "")]
        except ValueError as error:
            return pbs_words.refused(f"job {it.job_id}: native: {error}: {it.native}")
        queue = it.queue or self.default_queue
        if "@" in queue:
            return pbs_words.refused(f"job {it.job_id}: queue {queue!r}: another server is another system")
        slurm, path = self.version() == "slurm", f"{folder}/script"
        words = ["qsub", "-h", "-r", "n", "-m", "n", "-N", it.token if slurm else _name(it.token)]
        words += ["-v", f"{VARIABLE}={it.token}", "-o", "/dev/null", "-e", "/dev/null"]
        words += [] if slurm else ["-S", "/bin/sh" if re.search("[@,]", path) else path]
        asked = [] if OWN_WORDS.search(" ".join(native)) else _resources(it)
        asked += [f"walltime={pbs_words.walltime(it.walltime)}"] if it.walltime else []
        words += ["-l", ",".join(asked)] if asked else []  # in one word: Slurm's qsub knows the last one alone
        words += ["-q", queue] if queue else []
        words += ["-A", it.account] if it.account else []
        words += [*native, path]
        if slurm and (bad := next((word for word in words if not _PLAIN.fullmatch(word)), None)) is not None:
            return pbs_words.refused(f"job {it.job_id}: Slurm's qsub cannot be told {bad!r}; use `kind: slurm`")
        answer = self.commands.call(words)
        if answer.code:
            return _slurm_refusal(answer) if slurm else pbs_words.refusal(answer)
        return pbs_words.told_number(answer)

    def free(self, ids: Sequence[str]) -> None:
        """Release held jobs; one that is gone, or was released, does not disturb the others."""
        pbs_words.release(self.commands, ids)

    def queue(self) -> Sequence[Row]:
        """Ask for all jobs of the server, and tell of ours; those included that ended lately (keep_completed)."""
        return [row for row in self._ask(()).values() if row.token]

    def look(self, ids: Sequence[str]) -> Mapping[str, Row]:
        """Ask for some jobs: for many by one query for all, as Torque asks its server for each by itself."""
        own = [it for it in ids if number_of(it) == it]
        if not own:
            return {}
        rows = self._ask(own if len(own) <= FEW else ())
        return {it: rows[it] for it in own if it in rows}

    def books(self, ids: Sequence[str], tokens: Sequence[Token]) -> Sequence[Row]:
        """Return nothing: what the server has forgotten is told by our records."""
        return []

    def _ask(self, ids: Sequence[str]) -> dict[str, Row]:
        """Ask one question: for some jobs, or for all."""
        slurm = self.version() == "slurm"
        answer = self.commands.ask(["qstat", "-x" if self._xml and not slurm else "-f", *ids])
        if self._xml and not slurm and answer.code and not answer.out and _NO_XML.search(answer.err):
            self._xml = False
            answer = self.commands.ask(["qstat", "-f", *ids])
        if slurm:
            return _told_by_slurm(answer)
        gone = {number for number in _UNKNOWN.findall(answer.err) if number in ids}
        if (answer.code and not (gone and answer.code == UNKNOWN_ID)) or DOWN.search(answer.err):
            raise SystemUnavailable(answer.words)
        if not answer.out.strip() and not ids:
            self._be_sure_of_none()
            return {}
        try:
            rows = {} if gone == {*ids} != set() else self._read(answer.out)
        except ValueError as error:
            raise Unanswered(f"qstat gave no list, {error}: {answer.words}") from None
        if missing := [it for it in ids if it not in rows and it not in gone]:  # an unknown job is said to be unknown
            raise Unanswered(f"qstat told nothing of job {missing[0]}: {answer.words}")
        return rows

    def _read(self, text: str) -> dict[str, Row]:
        return (torque_answer.from_xml if self._xml else torque_answer.from_lines)(text)

    def _be_sure_of_none(self) -> None:
        """Ask the server itself: some versions print nothing where there are no jobs. Raises Unanswered."""
        answer = self.commands.ask(["qstat", "-B", "-f"])
        if answer.code or not answer.out.startswith("Server:") or not answer.out.endswith("\n"):
            raise Unanswered(f"qstat told nothing, and its server does not answer: {answer.words}")
        if _SEES_ALL.search(answer.out) and not _NO_JOBS.search(answer.out):
            raise Unanswered("qstat told nothing of any job, and its server has some")

    def cancel(self, rows: Sequence[Row], *, force: bool) -> None:
        """Take jobs out of line, and signal what runs: our program on the node hands it on."""
        if self.version() == "slurm":  # no qsig; its qdel sends TERM, and KILL after KillWait
            pbs_words.delete(self.commands, [row.native for row in rows])
        else:
            pbs_words.cancel(self.commands, rows, force=force)

    def destroy(self, ids: Sequence[str]) -> None:
        """Have the server end what runs, with our program. Not by ``-p``: that forgets what may live on."""
        pbs_words.delete(self.commands, ids)

    def kill(self, handles: Sequence[Handle], *, force: bool) -> Mapping[Handle, bool]:
        """Cancel; True once nothing of it is left: Slurm tells a job as completed before its processes are gone."""
        answers = dict(super().kill(handles, force=force))
        if self._version == "slurm":
            now = time.monotonic()
            told = {handle: handle.partition("/")[2] for handle, gone in answers.items() if gone}
            ended = self.spool.records(told.values())
            for handle, token in told.items():
                if token not in ended and self.spool.began(token):
                    answers[handle] = now - self._said_ended.setdefault(handle, now) > LINGER
                if answers[handle]:
                    self._said_ended.pop(handle, None)
        return answers

    def check_more(self) -> Sequence[Check]:
        """Tell whose commands these are."""
        version = self.version()
        detail = f"Torque {version}, {'XML' if self._xml else 'lines: this qstat knows no -x'}"
        if version == "slurm":
            detail = "commands of Slurm in Torque's form: ends come from our records alone; `kind: slurm` knows more"
        return [Check(name="version", ok=True, detail=detail)]


def _whose(text: str) -> str:
    """Return the first line of another scheduler's qstat, with the kind for it where we know it."""
    line = text.strip().splitlines()[0][:200] if text.strip() else "nothing"
    if "pbs_version" in text:
        return f"{line} (PBS Pro: use `kind: pbspro`, or set path: to Torque's commands)"
    if re.search(r"\b(?:SGE|GE|UGE|OGE|AGE) [0-9]", text):
        return f"{line} (Grid Engine: use its kind, or set path: to Torque's commands)"
    return f"{line} (set path: to Torque's commands)"


def _told_by_slurm(answer: Answer) -> dict[str, Row]:
    """Return the rows of an answer by Slurm's qstat, which leaves out what it does not know."""
    if answer.code == UNKNOWN_ID and not answer.out.strip() and not answer.err.strip():
        return {}
    if answer.code:
        raise SystemUnavailable(answer.words)
    try:
        rows = torque_answer.from_lines(answer.out)
    except ValueError as error:
        raise Unanswered(f"qstat gave no list, {error}: {answer.words}") from None
    if not rows:
        raise Unanswered(f"qstat told nothing: {answer.words}")
    return rows


def _slurm_refusal(answer: Answer) -> SubmitError:
    """Return what a refusal by Slurm's qsub is worth; it says so on stdout."""
    words = answer.out + answer.err
    if _SLURM_DOWN.search(words):
        raise SystemUnavailable(answer.words)
    for pattern, failure in ((_SLURM_UNCLEAR, SubmitFailure.UNCLEAR), (_SLURM_LIMIT, SubmitFailure.LIMIT)):
        if pattern.search(words):
            return SubmitError(failure=failure, message=answer.words)
    return pbs_words.refused(answer.words)


def _name(token: Token) -> str:
    """Return the job's name for people: its id, by the rules of every version (a letter first, 15 characters)."""
    name = pbs_words.name(token)
    return (name if name[0].isalpha() else f"j{name}")[:NAME]


def _resources(it: Submission) -> list[str]:
    """Return nodes with their slots; memory is of each node: where there are several, a share for each slot (pmem)."""
    nodes, tasks = it.nodes or 1, it.tasks or 1
    slots = max(1, it.cpus) * math.ceil(tasks / nodes)
    words = [f"nodes={nodes}:ppn={slots}" + (f":gpus={math.ceil(it.gpus / nodes)}" if it.gpus else "")]
    if it.memory:  # mem is ignored, or means all nodes together, where there are several
        words += [f"mem={it.memory}mb" if nodes == 1 else f"pmem={math.ceil(it.memory / slots)}mb"]
    return words
