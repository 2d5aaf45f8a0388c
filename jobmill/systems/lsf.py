"""The `lsf` system: IBM Spectrum LSF by its commands. bsub held, bresume, one bjobs for all jobs, bkill.

Sources: bsub(1), bjobs(1), bresume(1), bkill(1) of LSF 10.1, as
https://www.ibm.com/docs/en/SSWRJV_10.1.0/lsf_command_ref/bjobs.o.1.html and the pages beside it.

With the option `callbacks` each launch has jobs beside it that tell of its start and its end (`lsf_callbacks`): all are
accepted, or all are withdrawn; the launch's own record alone says how it ended.

The token is the job's description (`-Jd`), its id the name. The script comes on stdin, and replaces the shell that LSF
starts for it: signals reach our program. At the run limit LSF sends USR2, by which that ends its job at once.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from jobmill.errors import SystemUnavailable
from jobmill.systems import launch_token, lsf_answer
from jobmill.systems.batch import BatchSystem
from jobmill.systems.batch_options import BatchOptions
from jobmill.systems.batch_row import Phase, Row
from jobmill.systems.command_line import Answer, Unanswered
from jobmill.systems.lsf_answer import DELIMITER, FIELDS, NOTHING
from jobmill.systems.lsf_callbacks import LsfCallbacks
from jobmill.systems.system import (
    Check,
    Handle,
    Launch,
    Settled,
    Submission,
    SubmitError,
    SubmitFailure,
    Token,
)

CHUNK = 500  # ids in one command
_SUBMITTED = re.compile(r"^Job <([0-9]{1,18})> is submitted to ", re.M | re.ASCII)
_REFUSED = re.compile(r"Job not submitted|Request aborted", re.I)
_DOWN = re.compile(
    r"LSF is down|LIM is down|Cannot connect to LSF|daemon not responding|Communication time ?out|lsf\.conf", re.I
)
_LIMIT = re.compile(r"threshold|job limit|MAX_PEND|exceed(?:s|ed)? .*(?:number of|pending) jobs", re.I)
_LATER = re.compile(r"closed by|queue.*(?:closed|inactive)|try (?:again )?later|No space left", re.I)
_NO_JSON = re.compile(r"-?json|illegal option|(?:unknown|invalid|bad) option|usage:", re.I)


class LsfSystem(BatchSystem):
    """Jobs of one LSF cluster."""

    kind: ClassVar[str] = "lsf"
    id_variable: ClassVar[str] = "LSB_JOBID"
    keeps_words: ClassVar[bool] = False  # it would add a report to each file

    def __init__(self, *, name: str, spool: Path, options: BatchOptions, callbacks: LsfCallbacks | None = None) -> None:
        super().__init__(name=name, spool=spool, options=options)
        self.callbacks = callbacks
        self._json = True
        for key, value in (("LSB_DISPLAY_YEAR", "Y"), ("LSB_NTRIES", "1")):  # once: it would wait for ever
            self.commands.env.setdefault(key, value)

    @classmethod
    def build(cls, name: str, options: Mapping[str, Any], spool: Path) -> LsfSystem:
        """Make the system from its mapping; raise ConfigError for an unknown option or a value that cannot be."""
        parsed = BatchOptions.parse(name, cls.kind, options, ("callbacks",))
        callbacks = LsfCallbacks.parse(f"systems.{name}", options.get("callbacks"))
        return cls(name=name, spool=Path(spool), options=parsed, callbacks=callbacks)

    def send(self, it: Submission, folder: str, script: str) -> str | SubmitError:
        """Give a held job to bsub, which reads the script on its stdin."""
        try:
            native = [*self.options.native, *shlex.split(it.native or "")]
        except ValueError as error:
            return _refused(f"job {it.job_id}: native: {error}: {it.native}")
        words = ["bsub", "-H", "-rn", "-J", launch_token.split(it.token)[1], "-Jd", it.token]
        words += ["-cwd", str(self.spool.path), "-o", "/dev/null", *_resources(it)]
        words += ["-W", str(max(1, math.ceil(it.walltime / 60)))] if it.walltime else []
        words += ["-q", it.queue] if it.queue else []
        words += ["-P", it.account] if it.account else []
        answer = self._bsub([*words, *native], script)
        return answer if self.callbacks is None or isinstance(answer, SubmitError) else self._beside(it, script, answer)

    def _bsub(self, words: Sequence[str], script: str) -> str | SubmitError:
        answer = self.commands.call(words, given=script)
        found = _SUBMITTED.findall(answer.out)
        if answer.code == 0 and len(found) == 1:
            return str(found[0])
        return _refusal(answer)

    def _beside(self, it: Submission, script: str, native: str) -> str | SubmitError:
        """Submit the callbacks of a launch; where one is refused, withdraw all, and answer as for that one."""
        assert self.callbacks is not None
        ids = [native]
        for role in self.callbacks.commands:
            try:
                words = [*self.callbacks.words(it, role, native), *self.options.native]
                answer = self._bsub(words, self.callbacks.script(script, role, native))
            except Unanswered as error:  # it may be there, under an id that nobody knows
                answer = SubmitError(failure=SubmitFailure.UNCLEAR, message=str(error))
            except SystemUnavailable as error:
                answer = SubmitError(failure=SubmitFailure.TRANSIENT, message=str(error))
            if isinstance(answer, SubmitError):
                words_ = f"its callback at the {role} was refused, and it was withdrawn: {answer.message}"
                failure = answer.failure if self._withdrawn(ids) else SubmitFailure.UNCLEAR
                return SubmitError(failure=failure, message=words_)
            ids.append(answer)
        return native

    def _withdrawn(self, ids: Sequence[str]) -> bool:
        """Kill what was not released; tell whether that is certain."""
        try:
            return self.commands.call(["bkill", *ids]).code == 0
        except SystemUnavailable:
            return False

    def free(self, ids: Sequence[str]) -> None:
        """Release held jobs; one that is gone, or was released, does not disturb the others.

        Callbacks go first: they wait for the launch, which is seen to be held, and released again, until it is.
        """
        if self.callbacks is not None and ids:
            rows = self._bjobs(())
            tasks = self.callbacks.tasks(rows, [rows[it].token for it in ids if it in rows])
            ids = [*(row.native for some in tasks.values() for row in some if row.phase is Phase.HELD), *ids]
        for some in _chunks(ids):
            answer = self.commands.call(["bresume", *some])
            if answer.code and _DOWN.search(answer.err):
                raise SystemUnavailable(answer.words)

    def queue(self) -> Sequence[Row]:
        """Ask for all jobs of this user, those included that ended lately (CLEAN_PERIOD)."""
        rows = self._bjobs(()).values()
        # what lives comes last: a launch that was withdrawn may have been submitted again
        return sorted((row for row in rows if "/" not in row.token), key=lambda row: not row.phase.ended)

    def inventory(self, record: str) -> Mapping[Handle, Token]:
        """Return what is held, in line, or running; held callbacks of launches that are none of these are withdrawn."""
        if self.callbacks is not None:
            rows = self._bjobs(())
            live = {row.token for row in rows.values() if not row.phase.ended}
            held = [row for row in rows.values() if row.phase is Phase.HELD and "/" in row.token]
            for some in _chunks([row.native for row in held if row.token.partition("/")[0] not in live]):
                self.commands.call(["bkill", *some])
        return super().inventory(record)

    def settle(self, launches: Sequence[Launch]) -> Mapping[Token, Handle | Settled]:
        """Find jobs by their token; launches that were not accepted whole are withdrawn, and sealed."""
        if self.callbacks is None:
            return super().settle(launches)
        torn = self.callbacks.torn(self._bjobs(()), [it.token for it in launches])
        for some in _chunks([native for ids in torn.values() for native in ids]):
            self.commands.call(["bkill", *some])
        answers = dict(super().settle([it for it in launches if it.token not in torn]))
        answers.update((it.token, self._settled(it)) for it in launches if it.token in torn)
        return answers

    def kill(self, handles: Sequence[Handle], *, force: bool) -> Mapping[Handle, bool]:
        """Cancel, callbacks first; True once the scheduler says that nothing of it is left."""
        if self.callbacks is None:
            return super().kill(handles, force=force)
        tasks = self.callbacks.tasks(self._bjobs(()), [handle.partition("/")[2] for handle in handles])
        left = {token: [row.native for row in rows if not row.phase.ended] for token, rows in tasks.items()}
        for some in _chunks([native for ids in left.values() for native in ids]):
            self.commands.call(["bkill", *some])
        answers = super().kill(handles, force=force)
        if not any(left.values()):
            return answers
        ended = {native for native, row in self._bjobs(()).items() if row.phase.ended}
        return {it: gone and {*left.get(it.partition("/")[2], ())} <= ended for it, gone in answers.items()}

    def look(self, ids: Sequence[str]) -> Mapping[str, Row]:
        """Ask for some jobs."""
        found: dict[str, Row] = {}
        for some in _chunks([it for it in ids if it.isdecimal()]):
            found.update(self._bjobs(some))
        return found

    def books(self, ids: Sequence[str], tokens: Sequence[Token]) -> Sequence[Row]:
        """Return nothing: what mbatchd has forgotten is told by our records."""
        return []

    def _bjobs(self, ids: Sequence[str]) -> dict[str, Row]:
        """Ask one question."""
        if self._json:
            answer = self.commands.ask(["bjobs", "-a", "-json", "-o", " ".join(FIELDS), *ids])
            if answer.code and "{" not in answer.out and _NO_JSON.search(answer.err) and not _DOWN.search(answer.err):
                self._json = False
        if not self._json:
            form = f"{' '.join(FIELDS)} delimiter='{DELIMITER}'"
            answer = self.commands.ask(["bjobs", "-a", "-o", form, *ids])
        return _told(answer, self._json)

    def cancel(self, rows: Sequence[Row], *, force: bool) -> None:
        """Take jobs out of line, and signal what runs: our program on the node hands it on."""
        running = [row.native for row in rows if row.state == "RUN"]
        waiting = [row.native for row in rows if row.state != "RUN" and row.phase is not Phase.LEAVING]
        for some in _chunks(waiting):  # what is suspended, too: it would not get a signal
            self.commands.call(["bkill", *some])
        for some in _chunks(running):
            self.commands.call(["bkill", "-s", "USR2" if force else "TERM", *some])

    def destroy(self, ids: Sequence[str]) -> None:
        """Have LSF end what runs, with our program. Not by ``-r``: that tells an end while processes may live on."""
        for some in _chunks(ids):
            self.commands.call(["bkill", *some])

    def check_more(self) -> Sequence[Check]:
        """Tell how bjobs answers."""
        detail = "JSON" if self._json else "lines: this bjobs knows no -json"
        return [Check(name="answers", ok=True, detail=detail)]


def _told(answer: Answer, as_json: bool) -> dict[str, Row]:
    """Return the rows of an answer; raise SystemUnavailable for what is none."""
    nothing = NOTHING.search(answer.err + answer.out) is not None
    try:
        rows = (lsf_answer.from_json if as_json else lsf_answer.from_lines)(answer.out)
    except ValueError as error:
        if nothing and "{" not in answer.out and lsf_answer.HEADER not in answer.out and not _DOWN.search(answer.err):
            return {}
        if answer.code:
            raise SystemUnavailable(answer.words) from None
        raise Unanswered(f"bjobs gave no list, {error}: {answer.words}") from None
    if answer.code and not nothing:
        raise SystemUnavailable(answer.words)
    return rows


def _refusal(answer: Answer) -> SubmitError:
    words = answer.err + answer.out
    if not _REFUSED.search(words):  # it always says so where it is certain
        return SubmitError(failure=SubmitFailure.UNCLEAR, message=f"bsub gave no job id: {answer.words}")
    if _DOWN.search(words):
        raise SystemUnavailable(answer.words)
    for pattern, failure in ((_LIMIT, SubmitFailure.LIMIT), (_LATER, SubmitFailure.TRANSIENT)):
        if pattern.search(words):
            return SubmitError(failure=failure, message=answer.words)
    return _refused(answer.words)


def _refused(message: str) -> SubmitError:
    return SubmitError(failure=SubmitFailure.PERMANENT, message=message)


def _resources(it: Submission) -> list[str]:
    """Return slots, one for each CPU of each task, on one host or spread over so many; memory is of each host."""
    nodes, slots = it.nodes or 1, max(1, it.cpus) * (it.tasks or 1)
    slots = max(slots, nodes)
    words = ["-n", str(slots)]
    words += ["-R", "span[hosts=1]" if nodes == 1 else f"span[ptile={math.ceil(slots / nodes)}]"]
    words += ["-M", f"{it.memory}MB", "-R", f"rusage[mem={it.memory}MB]"] if it.memory else []
    words += ["-gpu", f"num={math.ceil(it.gpus / nodes)}"] if it.gpus else []
    return words


def _chunks(items: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(items), CHUNK):
        yield items[start : start + CHUNK]
