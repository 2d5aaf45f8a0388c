"""The `pbspro` system: PBS Professional and OpenPBS by their commands. qsub held, qselect and one qstat, qsig, qdel.

Sources: qsub(1B), qstat(1B), qselect(1B), qrls(1B), qsig(1B), qdel(1B) of OpenPBS 23.06, and what its server prints.
It works without job history.

The token is a variable of the job (`qsub -v`), which `qstat -f` tells. The name cannot hold it: it may have no `:`, and
sites change names. It is the job's id, by which people find it and `qselect -N` finds few to ask for. The run folder's
script is started by its path (`qsub -- /bin/sh script`): what the server keeps as a script is run below a login shell,
which dies of a signal, and the node then ends the rest before it could write its record.
"""

from __future__ import annotations

import math
import re
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from jobmill.errors import SystemUnavailable
from jobmill.systems import pbs_words, pbspro_answer
from jobmill.systems.batch import BatchSystem
from jobmill.systems.batch_options import BatchOptions
from jobmill.systems.batch_row import Row
from jobmill.systems.command_line import Answer, Unanswered
from jobmill.systems.pbs_words import DOWN, OWN_WORDS, UNKNOWN_ID, VARIABLE, chunks, number_of
from jobmill.systems.system import Check, Submission, SubmitError, Token

FEW = 20  # names that are asked for one by one
HISTORYLESS = 600.0  # seconds for which a server without history is not asked for it again
FINISHED_ID = 35  # exit code of qstat: of the last that it was asked for
_NO_HISTORY = re.compile(r"not configured to maintain job history", re.I)
_NOT_THERE = re.compile(r"Unknown Job Id|Job has finished", re.I)


class PbsProSystem(BatchSystem):
    """Jobs of one PBS server."""

    kind: ClassVar[str] = "pbspro"
    id_variable: ClassVar[str] = "PBS_JOBID"
    keeps_words: ClassVar[bool] = False  # what it would copy at the end could hold the end up for minutes

    def __init__(self, *, name: str, spool: Path, options: BatchOptions) -> None:
        super().__init__(name=name, spool=spool, options=options)
        self._historyless = 0.0  # time.monotonic() until which the history is known to be off

    @classmethod
    def build(cls, name: str, options: Mapping[str, Any], spool: Path) -> PbsProSystem:
        """Make the system from its mapping; raise ConfigError for an unknown option or a value that cannot be."""
        return cls(name=name, spool=Path(spool), options=BatchOptions.parse(name, cls.kind, options))

    def native_id(self, told: str) -> str:
        """Return the number alone: whether a server's name is long or short differs from command to command."""
        return number_of(told) or ""

    def send(self, it: Submission, folder: str, script: str) -> str | SubmitError:
        """Give a held job to qsub. ``-f``: by itself, not by a process that it leaves behind for the next ones."""
        try:
            native = [*self.options.native, *shlex.split(it.native or "")]
        except ValueError as error:
            return pbs_words.refused(f"job {it.job_id}: native: {error}: {it.native}")
        words = [
            "qsub",
            "-f",
            "-h",
            "-r",
            "n",
            "-m",
            "n",
            "-N",
            pbs_words.name(it.token),
            "-v",
            f"{VARIABLE}={it.token}",
        ]
        words += ["-o", "/dev/null", "-e", "/dev/null"]
        words += [] if OWN_WORDS.search(" ".join(native)) else _resources(it)
        words += ["-l", f"walltime={pbs_words.walltime(it.walltime)}"] if it.walltime else []
        words += ["-q", it.queue] if it.queue else []
        words += ["-A", it.account] if it.account else []
        answer = self.commands.call([*words, *native, "--", "/bin/sh", f"{folder}/script"])
        return pbs_words.refusal(answer) if answer.code else pbs_words.told_number(answer)

    def free(self, ids: Sequence[str]) -> None:
        """Release held jobs; one that is gone, or was released, does not disturb the others."""
        pbs_words.release(self.commands, ids)

    def queue(self) -> Sequence[Row]:
        """Ask for the ids of this user's jobs, then for all of them at once; those that ended are not among them."""
        return list(self._ask(self._select(), history=False).values())

    def look(self, ids: Sequence[str]) -> Mapping[str, Row]:
        """Ask for some jobs, also where they ended and the server has a history."""
        return self._ask([it for it in ids if number_of(it) == it], history=True)

    def books(self, ids: Sequence[str], tokens: Sequence[Token]) -> Sequence[Row]:
        """Look tokens up in the history, by the names of their jobs; ids were asked for with it already."""
        if not tokens:
            return []
        names = sorted({pbs_words.name(token) for token in tokens})
        questions = [["-N", name] for name in names] if len(names) <= FEW else [[]]
        numbers = [number for words in questions for number in self._select("-x", *words)]
        return list(self._ask(numbers, history=True).values())

    def _select(self, *words: str) -> list[str]:
        """Return the numbers of this user's jobs: those that live, with ``-x`` also those that ended."""
        answer = self.commands.ask(["qselect", *words, "-u", self.commands.user])
        if answer.code:
            raise SystemUnavailable(answer.words)
        if answer.out and not answer.out.endswith("\n"):
            raise Unanswered("qselect's answer broke off")
        return [number for line in answer.out.splitlines() if (number := number_of(line)) is not None]

    def _ask(self, numbers: Sequence[str], *, history: bool) -> dict[str, Row]:
        """Ask for jobs by one query for many (``-E``: without it the JSON has only the first one)."""
        found: dict[str, Row] = {}
        for some in chunks(numbers):
            with_history = history and time.monotonic() > self._historyless
            answer = self._qstat(some, with_history)
            if with_history and answer.code == 0 and _NO_HISTORY.search(answer.err):  # it tells nothing at all then
                self._historyless = time.monotonic() + HISTORYLESS
                answer = self._qstat(some, False)
            found.update(_told(answer, len(some)))
        return found

    def _qstat(self, numbers: Sequence[str], history: bool) -> Answer:
        return self.commands.ask(["qstat", "-E", *(["-x"] if history else []), "-f", "-F", "json", *numbers])

    def cancel(self, rows: Sequence[Row], *, force: bool) -> None:
        """Take jobs out of line, and signal what runs: our program on the node hands it on."""
        pbs_words.cancel(self.commands, rows, force=force)

    def destroy(self, ids: Sequence[str]) -> None:
        """Have the server end what runs, with our program. Not by force: that tells an end while processes live on."""
        pbs_words.delete(self.commands, ids)

    def check_more(self) -> Sequence[Check]:
        """Tell whose commands these are, and whether there is a history: another scheduler's have the same names."""
        fix = "set path: to the folder of PBS's own commands, as /opt/pbs/bin; for Torque or Grid Engine use their kind"
        try:
            version = self.commands.ask(["qstat", "--version"])
            history = self.commands.ask(["qselect", "-x", "-u", self.commands.user, "-N", "jobmill"])
        except SystemUnavailable as error:
            return [Check(name="version", ok=False, detail=str(error), fix=fix)]
        found = re.search(r"pbs_version\s*=\s*(\S+)", version.out + version.err)
        told = f"PBS {found[1]}" if found else version.words.splitlines()[0]
        off = _NO_HISTORY.search(history.err) is not None
        detail = "off (job_history_enable): ends come from our records alone" if off else "on"
        return [
            Check(name="version", ok=found is not None, detail=told, fix="" if found else fix),
            Check(name="history", ok=True, detail=detail),
        ]


def _told(answer: Answer, asked: int) -> Mapping[str, Row]:
    """Return the rows of an answer to a question for so many jobs; raise SystemUnavailable for what is none."""
    gone = answer.code in (UNKNOWN_ID, FINISHED_ID) and _NOT_THERE.search(answer.err) is not None
    if answer.code and (not gone or DOWN.search(answer.err)):
        raise SystemUnavailable(answer.words)
    try:
        rows = pbspro_answer.rows(answer.out)
    except ValueError as error:
        raise Unanswered(f"qstat gave no list, {error}: {answer.words}") from None
    if not rows and not gone:  # an unknown job has an exit code of its own
        raise Unanswered(f"qstat told nothing of {asked} jobs: {answer.err.strip() or 'and gave no reason'}")
    return rows


def _resources(it: Submission) -> list[str]:
    """Return the chunks of a job: as many as nodes, each with its share of tasks and GPUs; memory is for each."""
    nodes, tasks = it.nodes or 1, it.tasks or 1
    share = math.ceil(tasks / nodes)
    chunk = [f"{nodes}:ncpus={max(1, it.cpus) * share}"]
    chunk += [f"mpiprocs={share}"] if it.tasks else []
    chunk += [f"mem={it.memory}mb"] if it.memory else []
    chunk += [f"ngpus={math.ceil(it.gpus / nodes)}"] if it.gpus else []
    return ["-l", f"select={':'.join(chunk)}", *(["-l", "place=scatter"] if nodes > 1 else [])]
