"""The `gridengine` system: DRMAA or qsub held, one qstat for all jobs, qacct for what is gone, qdel.

Sources: submit(1), qstat(1), qacct(1), qdel(1), qrls(1), sge_status(5), sge_types(5) of Son of Grid Engine 8.1.9, and
what it prints. It works without accounting, and without DRMAA.

`qdel` kills at once, so each job asks for a warning (`-notify`): the node then sends SIGUSR2, and kills after the
queue's `notify` seconds. Our program ends the job meanwhile, by TERM and then KILL, and writes its record. The job's
own exit value is not handed on where Grid Engine would take it for a wish: 99 starts it again, 100 sets it aside.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

from jobmill.errors import ConfigError, SystemUnavailable
from jobmill.systems import gridengine_answer, gridengine_check, gridengine_library
from jobmill.systems.batch import BatchSystem
from jobmill.systems.batch_options import BatchOptions
from jobmill.systems.batch_row import Row
from jobmill.systems.command_line import Answer, Unanswered
from jobmill.systems.drmaa_child import DrmaaError
from jobmill.systems.drmaa_desk import DrmaaDesk, specification
from jobmill.systems.gridengine_name import name_of
from jobmill.systems.gridengine_request import GridRequest
from jobmill.systems.system import Check, ExitInfo, Handle, Settled, Submission, SubmitError, SubmitFailure, Token

logger = logging.getLogger("jobmill")

CHUNK = 200  # ids in one command
FEW = 8  # jobs that the books are asked for one by one; each time they are read from the beginning
_ID = gridengine_answer.ID
_DOWN = re.compile(r"unable to (?:send message|contact qmaster)|Connection refused|SGE_ROOT|cell directory", re.I)
_UNCLEAR = re.compile(r"failed receiving|timeout error|got read error|Error reading answer list|no answer", re.I)
_LIMIT = re.compile(
    r"only \d+ (?:active )?jobs? (?:are|is) allowed|max_u?_?jobs|limit on (?:the )?number of jobs", re.I
)
_LATER = re.compile(r"No space left|Resource temporarily|can't spool|out of memory|temporarily", re.I)


class GridEngineSystem(BatchSystem):
    """Jobs of one Grid Engine cell."""

    kind: ClassVar[str] = "gridengine"
    id_variable: ClassVar[str] = "JOB_ID"
    books_late: ClassVar[float] = 30.0  # its qmaster writes them every 15 (flush_time of reporting_params)

    def __init__(
        self, *, name: str, spool: Path, options: BatchOptions, request: GridRequest, library: str | None = None
    ) -> None:
        """``library``: path of its libdrmaa; None: by its commands alone."""
        super().__init__(name=name, spool=spool, options=options)
        self.request = request
        self.desk = None if library is None else DrmaaDesk(self.spool.path, name, self.commands.env, library=library)
        self._sessionless = ""  # why there was no session the last time
        self._stuck: dict[str, Token] = {}  # ids of jobs in an error state -> token

    @classmethod
    def build(cls, name: str, options: Mapping[str, Any], spool: Path) -> GridEngineSystem:
        """Make the system from its mapping; raise ConfigError for an unknown option or a value that cannot be."""
        parsed = BatchOptions.parse(name, cls.kind, options, ("pe", "memory", "gpus", "project", "drmaa", "library"))
        if parsed.login is not None and (asked := [it for it in ("drmaa", "library") if options.get(it)]):
            words = "a DRMAA session is here, and behind SSH there are Grid Engine's commands alone; leave it out"
            raise ConfigError(f"systems.{name}.{asked[0]}: {words}")
        library = None if parsed.login is not None else gridengine_library.find(name, options, parsed.env)
        request = GridRequest.parse(name, options)
        return cls(name=name, spool=Path(spool), options=parsed, request=request, library=library)

    def send(self, it: Submission, folder: str, script: str) -> str | SubmitError:
        """Give a held job to the session, or to qsub. By its path, below no login shell of the user."""
        try:
            asked = self.request.words(it, self.options.native)
        except ValueError as error:
            return _refused(f"job {it.job_id}: {error}")
        own = ["-notify", "-r", "n", "-m", "n"]
        native = specification([*own, "-w", "n", *asked])
        if self.desk is not None and native is not None:
            place = {"workingDirectory": str(self.spool.path), "outputPath": f":{folder}/native.log", "joinFiles": True}
            what = {"remoteCommand": "/bin/sh", "args": [f"{folder}/script"], "jobName": name_of(it.token)}
            try:
                return self.desk.run({**place, **what, "nativeSpecification": native}, it.token)
            except Unanswered:
                raise
            except SystemUnavailable as error:  # nothing happened
                if str(error) != self._sessionless:
                    logger.warning("%s: it goes on by its commands: %s", self.name, error)
                self._sessionless = str(error)
        words = ["qsub", "-terse", "-h", "-N", name_of(it.token), "-o", f"{folder}/native.log", "-j", "y"]
        words += ["-wd", str(self.spool.path), "-b", "y", "-shell", "n", *own]
        answer = self.commands.call([*words, *asked, "/bin/sh", f"{folder}/script"])
        if answer.code:
            return _refusal(answer)
        lines = [line.strip() for line in answer.out.splitlines()]
        if not lines or not _ID.fullmatch(lines[-1]):
            return SubmitError(failure=SubmitFailure.UNCLEAR, message=f"qsub gave no job id: {answer.words}")
        return lines[-1]

    def free(self, ids: Sequence[str]) -> None:
        """Release held jobs; one that is gone, or was released, does not disturb the others."""
        if self.desk is not None and self.desk.live:
            with suppress(SystemUnavailable, DrmaaError):
                ids = list(self.desk.control(ids, "release"))  # those that it could not release
        for some in _chunks(ids):
            answer = self.commands.call(["qrls", *some])
            if answer.code and _DOWN.search(answer.err):
                raise SystemUnavailable(answer.words)

    def queue(self) -> Sequence[Row]:
        """Ask for all jobs of this user, with the state of their queues; again where some wait for a hold."""
        rows = self._qstat(())
        if any("h" in row.state and row.token for row in rows):
            holds = self._xml("-s", "hu")
            rows = self._qstat({row.native for row in gridengine_answer.queued(holds, ())})
        self._stuck = {row.native: row.token for row in rows if row.phase.ended and row.token}
        return rows

    def _qstat(self, held: set[str] | tuple[()]) -> list[Row]:
        text = self._xml("-f", "-ne")
        try:
            return gridengine_answer.queued(text, held)
        except ValueError as error:
            raise Unanswered(f"qstat gave no list, {error}") from None

    def _xml(self, *words: str) -> str:
        answer = self.commands.ask(["qstat", *words, "-xml", "-u", self.commands.user])
        if answer.code:
            raise SystemUnavailable(answer.words)
        try:
            gridengine_answer.tree(answer.out)
        except ValueError as error:
            raise Unanswered(f"qstat gave no list, {error}: {answer.words[:200]}") from None
        return answer.out

    def look(self, ids: Sequence[str]) -> Mapping[str, Row]:
        """Ask for all, which costs no more than to ask for some."""
        wanted = set(ids)
        return {row.native: row for row in self.queue() if row.native in wanted}

    def books(self, ids: Sequence[str], tokens: Sequence[Token]) -> Sequence[Row]:
        """Ask qacct, and where it does not answer, what the session was told."""
        try:
            return self._by_qacct(ids, tokens)
        except SystemUnavailable:
            ends = [] if self.desk is None else self.desk.ends(ids, tokens)
            if len(ends) < len(ids) + len(tokens):
                raise
            return ends

    def _by_qacct(self, ids: Sequence[str], tokens: Sequence[Token]) -> Sequence[Row]:
        """Ask by id or by name where these are few, else for all of this user's jobs."""
        questions = [id_ for id_ in ids if _ID.fullmatch(id_)] + [name_of(token) for token in tokens]
        if len(questions) > FEW:
            wanted = set(ids), set(tokens)
            rows = self._qacct("-o", self.commands.user, "-j", "*")
            return [row for row in rows if row.token and (row.native in wanted[0] or row.token in wanted[1])]
        return [row for question in questions for row in self._qacct("-j", question) if row.token]

    def _qacct(self, *words: str) -> list[Row]:
        answer = self.commands.ask(["qacct", *words])
        if answer.code and not re.search(r"job (?:id|name) .* not found|no jobs running since", answer.err):
            raise SystemUnavailable(answer.words)
        if answer.out and not answer.out.endswith("\n"):
            raise Unanswered("qacct's answer broke off")
        try:
            return gridengine_answer.booked(answer.out)
        except ValueError as error:  # a number that is none
            raise Unanswered(f"qacct gave no records, {error}") from None

    def exit_info(self, handles: Sequence[Handle]) -> Mapping[Handle, ExitInfo]:
        """Return certain ends; what hangs in an error state has ended once it is made sure that it never starts."""
        for handle in handles:
            native, _, token = handle.partition("/")
            if self._stuck.get(native) == token:
                self._bury(native, token)
        return super().exit_info(handles)

    def kill(self, handles: Sequence[Handle], *, force: bool) -> Mapping[Handle, bool]:
        """Cancel; True once the scheduler says that nothing of it is left, not even in an error state."""
        answers = dict(super().kill(handles, force=force))
        for handle in handles:
            native, _, token = handle.partition("/")
            if self._stuck.get(native) == token:
                self._bury(native, token)
                answers[handle] = False  # it is looked at again
        return answers

    def _bury(self, native: str, token: Token) -> None:
        """Take a job in an error state out of line, with the reason that the queue knows, and its marker."""
        answer = self.commands.ask(["qstat", "-j", native])
        if answer.code and _DOWN.search(answer.err):
            raise SystemUnavailable(answer.words)
        words = gridengine_answer.errors(answer.out) or "Grid Engine could not start it (state E), and keeps no reason"
        if not self.spool.bury(token, f"{self.kind}:{native}", words) and (
            self.spool.settle(token) is not Settled.NOT_STARTED  # else whoever sealed it died before its qdel
        ):
            self._stuck.pop(native, None)  # somebody cleared its error, and it began
            return
        answer = self.commands.call(["qdel", native])
        if answer.code and _DOWN.search(answer.err):
            raise SystemUnavailable(answer.words)
        self._stuck.pop(native, None)
        self._rows.pop(native, None)

    def forget(self, handles: Sequence[Handle]) -> None:
        """Drop what was staged and not taken, and what the session was told of ends."""
        super().forget(handles)
        if self.desk is not None:
            self.desk.forget([handle.partition("/")[0] for handle in handles])

    def cancel(self, rows: Sequence[Row], *, force: bool) -> None:
        """Delete jobs: what runs gets a notice, upon which our program ends it by TERM, then by KILL."""
        for some in _chunks([row.native for row in rows]):
            self.commands.call(["qdel", *some])

    def destroy(self, ids: Sequence[str]) -> None:
        """Delete once more: the node itself kills when the queue's `notify` is over."""
        for some in _chunks(ids):
            self.commands.call(["qdel", *some])

    def check_more(self) -> Sequence[Check]:
        """Tell which Grid Engine it is, and what its configuration has to have."""
        found = gridengine_check.checks(self.commands, self.request, self.options.kill_grace)
        if self.desk is not None:
            found.append(gridengine_check.session(self.desk))
        return found

    def close(self) -> None:
        """Leave the session; jobs go on."""
        super().close()
        if self.desk is not None:
            self.desk.close()


def _refusal(answer: Answer) -> SubmitError:
    if _UNCLEAR.search(answer.err):
        return SubmitError(failure=SubmitFailure.UNCLEAR, message=answer.words)
    if _DOWN.search(answer.err):
        raise SystemUnavailable(answer.words)
    for pattern, failure in ((_LIMIT, SubmitFailure.LIMIT), (_LATER, SubmitFailure.TRANSIENT)):
        if pattern.search(answer.err):
            return SubmitError(failure=failure, message=answer.words)
    return _refused(answer.words)


def _refused(message: str) -> SubmitError:
    return SubmitError(failure=SubmitFailure.PERMANENT, message=message)


def _chunks(items: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(items), CHUNK):
        yield items[start : start + CHUNK]
