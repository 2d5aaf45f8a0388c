"""The `slurm` system: sbatch held, one squeue for all jobs, sacct for what slurmctld has forgotten, scancel.

Sources: sbatch(1), squeue(1), sacct(1), scontrol(1), scancel(1) of Slurm 22.05. It works without accounting.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from jobmill.errors import ConfigError, SystemUnavailable
from jobmill.systems.batch import BatchSystem
from jobmill.systems.batch_options import BatchOptions
from jobmill.systems.batch_row import Row
from jobmill.systems.command_line import Answer, Unanswered
from jobmill.systems.slurm_states import phase_of
from jobmill.systems.system import Check, Submission, SubmitError, SubmitFailure, Token

CHUNK = 200  # ids in one command
HISTORY = 30  # days for which the accounting is asked for a token whose id nobody knows
QUEUE = ("JobID", "State", "exit_code", "BatchHost", "StartTime", "EndTime", "Reason", "Name")
QUEUE_HEADER = "JOBID|STATE|EXIT_CODE|EXEC_HOST|START_TIME|END_TIME|REASON|NAME|"
BOOKS = ("JobIDRaw", "State", "ExitCode", "NodeList", "Start", "End", "Reason", "JobName")
_NATIVE = re.compile(r"[0-9]{1,18}", re.ASCII)
_DOWN = re.compile(r"Unable to contact slurm controller|Connection refused|Could not establish a configuration", re.I)
_UNCLEAR = re.compile(r"Socket timed out|Zero Bytes|Connection reset|Broken pipe|Message receive", re.I)
_LIMIT = re.compile(r"Max(?:Submit|Jobs)\w*|job submit limit reached|QOSMaxSubmit|AssocGrpSubmit|MaxJobCount", re.I)
_LATER = re.compile(r"temporarily (?:unable|disabled)|Resource temporarily unavailable|No space left", re.I)
_NO_BOOKS = re.compile(r"accounting storage is disabled|Slurm accounting storage", re.I)


class SlurmSystem(BatchSystem):
    """Jobs of one Slurm cluster, by its commands."""

    kind: ClassVar[str] = "slurm"
    id_variable: ClassVar[str] = "SLURM_JOB_ID"

    def __init__(self, *, name: str, spool: Path, options: BatchOptions, cluster: str | None = None) -> None:
        """``cluster``: one of several that the commands reach (their option -M)."""
        super().__init__(name=name, spool=spool, options=options)
        self.cluster = cluster
        self._there = () if cluster is None else (f"--clusters={cluster}",)
        self.commands.env["SLURM_TIME_FORMAT"] = "%s"

    @classmethod
    def build(cls, name: str, options: Mapping[str, Any], spool: Path) -> SlurmSystem:
        """Make the system from its mapping; raise ConfigError for an unknown option or a value that cannot be."""
        parsed = BatchOptions.parse(name, cls.kind, options, ("cluster",))
        cluster = options.get("cluster")
        if cluster is not None and (not isinstance(cluster, str) or not re.fullmatch(r"[A-Za-z0-9_.-]+", cluster)):
            raise ConfigError(f"systems.{name}.cluster: {cluster!r} is no name of a cluster")
        return cls(name=name, spool=Path(spool), options=parsed, cluster=cluster)

    def send(self, it: Submission, folder: str, script: str) -> str | SubmitError:
        """Give a held job to sbatch, which reads the script on its stdin."""
        log = f"{folder}/native.log".replace("%", "%%")
        words = ["sbatch", "--parsable", "--hold", "--no-requeue", *self._there]
        words += [f"--job-name={it.token}", f"--comment={it.token}", f"--chdir={self.spool.path}"]
        words += [f"--output={log}", "--open-mode=append", f"--cpus-per-task={max(1, it.cpus)}"]
        words += [f"--mem={it.memory}M"] if it.memory else []
        words += [f"--time={max(1, math.ceil(it.walltime / 60))}"] if it.walltime else []
        words += [f"--gpus={it.gpus}"] if it.gpus else []
        words += [f"--nodes={it.nodes}"] if it.nodes else []
        words += [f"--ntasks={it.tasks}"] if it.tasks else []
        words += [f"--partition={it.queue}"] if it.queue else []
        words += [f"--account={it.account}"] if it.account else []
        words += self.options.native
        try:
            words += shlex.split(it.native or "")
        except ValueError as error:
            return _refused(f"job {it.job_id}: native: {error}: {it.native}")
        answer = self.commands.call(words, given=script)
        if answer.code:
            return self._refusal(answer)
        native = answer.out.strip().splitlines()[-1].partition(";")[0].strip() if answer.out.strip() else ""
        if not _NATIVE.fullmatch(native):
            return SubmitError(failure=SubmitFailure.UNCLEAR, message=f"sbatch gave no job id: {answer.words}")
        return native

    def _refusal(self, answer: Answer) -> SubmitError:
        if _UNCLEAR.search(answer.err):
            return SubmitError(failure=SubmitFailure.UNCLEAR, message=answer.words)
        if _DOWN.search(answer.err):
            raise SystemUnavailable(answer.words)
        if _LIMIT.search(answer.err):
            return SubmitError(failure=SubmitFailure.LIMIT, message=answer.words)
        if _LATER.search(answer.err):
            return SubmitError(failure=SubmitFailure.TRANSIENT, message=answer.words)
        return _refused(answer.words)

    def free(self, ids: Sequence[str]) -> None:
        """Release held jobs; one that is gone, or was released, does not disturb the others."""
        for some in _chunks(ids):
            answer = self.commands.call(["scontrol", *self._there, "release", ",".join(some)])
            if answer.code and _DOWN.search(answer.err):
                raise SystemUnavailable(answer.words)

    def queue(self) -> Sequence[Row]:
        """Ask squeue for all jobs of this user, those included that ended lately (MinJobAge)."""
        return self._squeue(f"--user={self.commands.user}")

    def look(self, ids: Sequence[str]) -> Mapping[str, Row]:
        """Ask squeue for some jobs."""
        found: dict[str, Row] = {}
        for some in _chunks([id_ for id_ in ids if _NATIVE.fullmatch(id_)]):
            found.update((row.native, row) for row in self._squeue(f"--jobs={','.join(some)}"))
        return found

    def _squeue(self, which: str) -> list[Row]:
        """Ask one question; an answer without its header is none."""
        form = ",".join(f"{name}:|" for name in QUEUE)
        answer = self.commands.ask(["squeue", *self._there, "--states=all", which, f"--Format={form}"])
        if answer.code:
            if "Invalid job id specified" in answer.err:  # of the only one, or of all
                return []
            raise SystemUnavailable(answer.words)
        _header, _, text = answer.out.partition(f"{QUEUE_HEADER}\n")
        if QUEUE_HEADER not in answer.out:
            raise Unanswered(f"squeue gave no list: {answer.words}")
        if text and not text.endswith("\n"):
            raise Unanswered("squeue's answer broke off")
        return [row for line in text.splitlines() if (row := _queued(line)) is not None]

    def books(self, ids: Sequence[str], tokens: Sequence[Token]) -> Sequence[Row]:
        """Ask sacct by id or by name, with a start time: its own begins at midnight.

        Ids come round: of several jobs that had one, sacct tells of the last alone, unless it is asked for all; the
        last of one job (it may have been requeued by hand) stays the last.
        """
        questions = [f"--jobs={','.join(some)}" for some in _chunks([it for it in ids if _NATIVE.fullmatch(it)])]
        questions += [f"--name={','.join(some)}" for some in _chunks(tokens)]
        found: list[Row] = []
        for question in questions:
            words = ["sacct", *self._there, "--allocations", "--duplicates", "--parsable2", question]
            words += [f"--format={','.join(BOOKS)}"]
            words += [f"--starttime=now-{HISTORY}days"] if question.startswith("--name") else ["--starttime=2000-01-01"]
            answer = self.commands.ask(words)
            if answer.code:
                if _NO_BOOKS.search(answer.err):
                    return []
                raise SystemUnavailable(answer.words)
            lines = answer.out.splitlines()
            if not lines or lines[0] != "|".join(BOOKS):
                raise Unanswered(f"sacct gave no list: {answer.words}")
            found += [row for line in lines[1:] if (row := _booked(line)) is not None]
        return found

    def cancel(self, rows: Sequence[Row], *, force: bool) -> None:
        """Take jobs out of line, and signal what runs: our program on the node hands it on."""
        for some in _chunks([row.native for row in rows]):
            self.commands.call(["scancel", *self._there, "--state=PENDING", *some])
            number = "USR2" if force else "TERM"
            self.commands.call(["scancel", *self._there, "--batch", f"--signal={number}", "--state=RUNNING", *some])

    def destroy(self, ids: Sequence[str]) -> None:
        """Have slurmd end what runs, with our program."""
        for some in _chunks(ids):
            self.commands.call(["scancel", *self._there, *some])

    def check_more(self) -> Sequence[Check]:
        """Tell whether there is accounting."""
        try:
            answer = self.commands.ask(["sacct", *self._there, "--allocations", "--noheader", "--jobs=1"])
        except SystemUnavailable as error:
            answer = Answer(1, "", str(error))
        if answer.code and not _NO_BOOKS.search(answer.err):
            fix = "nothing has to be done while slurmctld remembers (MinJobAge); then ends come from the records alone"
            return [Check(name="accounting", ok=False, detail=answer.words, fix=fix)]
        detail = "none: ends come from our records and slurmctld's memory" if answer.code else "sacct answers"
        return [Check(name="accounting", ok=True, detail=detail)]


def _queued(line: str) -> Row | None:
    fields = line.split("|", len(QUEUE) - 1)
    if len(fields) != len(QUEUE):
        return None
    native, state, code, host, started, ended, reason, name = fields
    status = int(code) if code.isdecimal() and len(code) < 12 else 0  # as wait(2) gives it
    phase = phase_of(state, reason)
    return Row(
        native=native.strip(),
        token=name.removesuffix("|"),
        phase=phase,
        state=state,
        reason="" if reason in ("None", "NonZeroExitCode") else reason,
        host="" if host in ("n/a", "(null)") else host,
        code=status >> 8 if phase.ended else None,
        signal=status & 127 or None if phase.ended else None,
        started=_time(started),
        ended=_time(ended) if phase.ended else None,
    )


def _booked(line: str) -> Row | None:
    fields = line.split("|", len(BOOKS) - 1)
    if len(fields) != len(BOOKS):
        return None
    native, state, code, host, started, ended, reason, name = fields
    value, _, number = code.partition(":")
    return Row(
        native=native,
        token=name,
        phase=phase_of(state, reason),
        state=state,
        reason="" if reason == "None" else reason,
        host="" if host.startswith("None") else host,
        code=int(value) if value.isdecimal() and len(value) < 12 else None,
        signal=int(number) if number.isdecimal() and len(number) < 12 and number != "0" else None,
        started=_time(started),
        ended=_time(ended),
    )


def _time(text: str) -> float | None:
    return float(text) if text.isdecimal() and len(text) < 12 else None


def _refused(message: str) -> SubmitError:
    return SubmitError(failure=SubmitFailure.PERMANENT, message=message)


def _chunks(items: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(items), CHUNK):
        yield items[start : start + CHUNK]
