"""The middle class of systems behind a scheduler's commands: queue, books, run folder, and what they say together.

A launch is a held job that bears the token, released once the record has committed its id. On its node it takes the
marker and is run as by the local runner (`batch_job`), so exit values, signals and usage are true; the scheduler's own
word is laid beside the record. The spool lies on a file system that the nodes share.

A scheduler is: a command and a parser for each verb, and a table of its states.
"""

from __future__ import annotations

import contextlib
import logging
import re
import shlex
import time
from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from jobmill.errors import StageFailed, SystemUnavailable
from jobmill.systems import batch_end, batch_script, batch_way, native_words, notices, run_folder
from jobmill.systems.batch_options import BatchOptions
from jobmill.systems.batch_row import Phase, Row
from jobmill.systems.command_line import Unanswered
from jobmill.systems.refusal import refusal
from jobmill.systems.spool_launches import TOKEN
from jobmill.systems.system import (
    Check,
    ExecutionSystem,
    ExitInfo,
    Handle,
    Launch,
    NativeState,
    Notice,
    Observation,
    Progress,
    Settled,
    Submission,
    SubmitError,
    SubmitFailure,
    Token,
)

logger = logging.getLogger("jobmill")

PATIENCE = 4.0  # seconds after which a submit sends no more: a worker that is silent for ten counts as dead
FIRM = 5.0  # seconds after which the scheduler is to end what our program on the node has not ended
FRESH = 1.0  # seconds for which a survey's word of what lives is taken for that of now
KILL_LOOK = 0.3  # seconds between looks at what is being cancelled
_HANDLE = re.compile(rf"[^\s/]{{1,80}}/{TOKEN.pattern}", re.ASCII)
ABSENT = Observation(state=NativeState.ABSENT, reason="the scheduler knows no such job, and it left no exit record")
STATES = {
    Phase.HELD: NativeState.SUBMITTED,
    Phase.QUEUED: NativeState.SUBMITTED,
    Phase.RUNNING: NativeState.RUNNING,
    Phase.LEAVING: NativeState.RUNNING,
    Phase.UNREACHABLE: NativeState.UNKNOWN,
    Phase.UNKNOWN: NativeState.UNKNOWN,
}


class BatchSystem(ExecutionSystem):
    """Jobs of one scheduler. A handle is ``<scheduler's id>/<token>``: ids are reused, tokens never."""

    surveys: ClassVar[bool] = True
    notifies: ClassVar[bool] = True
    id_variable: ClassVar[str]  # in which the scheduler tells a job its id
    id_form: ClassVar[re.Pattern[str]] = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)  # of an id of one job
    keeps_words: ClassVar[bool] = True  # it writes what a node says into a file that we name, else the script does
    books_late: ClassVar[float] = 0.0  # seconds that an end may need from the queue into the books; 0: it lacks nowhere

    def __init__(self, *, name: str, spool: Path, options: BatchOptions) -> None:
        self.name = name
        self.spool, self.commands = batch_way.way(name, self.kind, spool, options)
        self.stages = options.login is not None  # type: ignore[misc]
        self.paths = options.paths  # folders here -> where their files are seen there
        self.options = options
        self.container = options.container
        self.poll_interval = options.poll_interval  # type: ignore[misc]  # of this one, not of all
        self.poll_interval_max = options.poll_interval_max  # type: ignore[misc]
        self.queries_per_minute = options.queries_per_minute  # type: ignore[misc]
        # its own word comes first: what is only absent is not lost before the records had time to appear
        self.absence_grace = 2 * options.late + 10  # type: ignore[misc]
        self._tidied = False
        self._rows: dict[str, Row] = {}  # by id, of the last survey: what it told of an end needs no second query
        self._surveyed = 0.0  # when that was (monotonic): what it told of others is true for a moment
        self._unrecorded: dict[Handle, float] = {}  # ended by the books, without a record; since when (monotonic)
        self._pressed: dict[Handle, float] = {}  # since when it is to be ended by force (monotonic)
        self._seen: dict[tuple[Phase, str, str, str, str | None], Observation] = {}  # the same look is the same object
        self._bookless = ""  # why the accounting did not answer when it was asked last
        self._strange: set[str] = set()  # states that were in no table, warned of once

    # What a scheduler is.

    @abstractmethod
    def send(self, it: Submission, folder: str, script: str) -> str | SubmitError:
        """Submit one script, held, and return the id; raise SystemUnavailable where nothing can have been taken."""

    @abstractmethod
    def free(self, ids: Sequence[str]) -> None:
        """Release held jobs."""

    @abstractmethod
    def queue(self) -> Sequence[Row]:
        """Return every job of this user that is held, in line or running; of ended ones those still in memory.

        One query. Raises SystemUnavailable for an answer that is not whole.
        """

    @abstractmethod
    def look(self, ids: Sequence[str]) -> Mapping[str, Row]:
        """Return what the scheduler has in memory of these jobs; those that it does not know are left out."""

    @abstractmethod
    def books(self, ids: Sequence[str], tokens: Sequence[Token]) -> Sequence[Row]:
        """Return the accounting's rows of these ids, or of jobs that bear these tokens; nothing where there is none."""

    @abstractmethod
    def cancel(self, rows: Sequence[Row], *, force: bool) -> None:
        """Take jobs out of line; send what runs TERM, with ``force`` what our program on the node ends it by."""

    @abstractmethod
    def destroy(self, ids: Sequence[str]) -> None:
        """Have the scheduler end jobs whose program on the node does not do it."""

    def native_id(self, told: str) -> str:
        """Return an id, as the scheduler tells it to its job, in the form that rows have it."""
        return told

    # Launching.

    def submit(self, submissions: Sequence[Submission]) -> Sequence[Handle | SubmitError]:
        """Submit held jobs, one after the other."""
        until = time.monotonic() + PATIENCE
        answers: list[Handle | SubmitError] = []
        for it in submissions:
            wrong = refusal(it) or self._unsuitable(it)
            if wrong is not None:
                answers.append(_error(SubmitFailure.PERMANENT, wrong))
                continue
            if time.monotonic() > until:
                answers.append(_error(SubmitFailure.TRANSIENT, f"{self.kind} is slow: it was not asked"))
                continue
            try:
                answers.append(self._submit(it))
            except SystemUnavailable as error:
                if not answers:
                    raise
                answers.append(_error(SubmitFailure.TRANSIENT, str(error)))
        return answers

    def _unsuitable(self, it: Submission) -> str | None:
        name = next((name for name in it.files if name in batch_script.FILES), None)
        if name is not None:
            return f"job {it.job_id}: {name!r} is a file of the batch job itself in the run folder"
        native = it.native or ""
        if len(native.encode("utf-8", "surrogateescape")) > native_words.MOST:
            return f"job {it.job_id}: its native words have more than {native_words.MOST} bytes"
        with contextlib.suppress(ValueError):  # quotes that do not close: `send` says so
            if (wrong := native_words.forbidden(self.kind, shlex.split(native))) is not None:
                return f"job {it.job_id}: {wrong}"
        return None

    def _submit(self, it: Submission) -> Handle | SubmitError:
        try:
            written = self.spool.write(it, kind=self.kind, variable=self.id_variable, redirect=not self.keeps_words)
        except run_folder.Superseded as error:
            return _error(SubmitFailure.PERMANENT, str(error))
        if isinstance(written, str):  # the same again, and it is over
            native = self._native(written)
            return f"{native}/{it.token}" if native else _error(SubmitFailure.UNCLEAR, "this launch is over already")
        folder, script = written
        try:
            answer = self.send(it, folder, script)
        except Unanswered as error:
            return _error(SubmitFailure.UNCLEAR, str(error))
        return answer if isinstance(answer, SubmitError) else f"{answer}/{it.token}"

    def stage_in(self, submission: Submission, progress: Progress) -> Submission:
        """Copy the inputs to where the launch takes them from, or into the given workdir."""
        if not submission.inputs:
            return submission
        if (wrong := self._unsuitable(submission)) is not None:
            raise StageFailed(wrong)
        return self.spool.bring(submission, progress)

    def stage_out(self, handle: Handle, folder: Path, globs: Sequence[str], progress: Progress) -> Sequence[str]:
        """Bring home what a launch left behind SSH."""
        return self.spool.fetch(_parts(handle)[1], folder, globs, progress)

    def close(self) -> None:
        """Hang up; what is in line or runs goes on."""
        self.spool.close()

    def lead(self) -> bool:
        """Any number of starters may serve it. Removes what was staged and taken by nobody."""
        if not self._tidied:
            self._tidied = True
            self.spool.tidy()
        return True

    def release(self, handles: Sequence[Handle]) -> None:
        """Let held jobs line up."""
        # an id may come from a marker, to which other jobs can write: some words there stand for all jobs
        ids = [native for handle in _own(handles) if self.id_form.fullmatch(native := _parts(handle)[0])]
        if ids:
            self.free(ids)

    # Looking.

    def survey(self, record: str) -> Mapping[Handle, Observation]:
        """Tell of all jobs of this record by one query."""
        self.spool.open(record)
        rows = self.queue()
        self._rows, self._surveyed = {row.native: row for row in rows}, time.monotonic()
        ours = _tokens_of(record)
        steps = self._steps(rows := [row for row in rows if row.token.startswith(ours)])
        return {f"{row.native}/{row.token}": self._observed(row, steps) for row in rows}

    def status(self, handles: Sequence[Handle]) -> Mapping[Handle, Observation]:
        """Tell of each by one query, by two where the scheduler has forgotten some."""
        own = _own(handles)
        rows = self._found(own)
        steps = self._steps(rows.values())
        answers = {handle: self._observed(row, steps) for handle, row in rows.items()}
        unseen = [handle for handle in own if handle not in rows]
        return {**answers, **self._unseen(unseen)} if unseen else answers

    def _found(self, handles: Sequence[Handle]) -> dict[Handle, Row]:
        """Ask the scheduler, then the books for what it has forgotten."""
        if not handles:
            return {}
        known = self.look([_parts(handle)[0] for handle in handles])
        found = {}
        for handle in handles:
            native, token = _parts(handle)
            if native in known and known[native].token == token:
                found[handle] = known[native]
        lost = self._doubtful([handle for handle in handles if handle not in found])
        if lost:
            rows = self._booked([_parts(handle)[0] for handle in lost], ())
            by_handle = {f"{row.native}/{row.token}": row for row in rows}
            found.update((handle, by_handle[handle]) for handle in lost if handle in by_handle)
        return found

    def _booked(self, ids: Sequence[str], tokens: Sequence[Token]) -> Sequence[Row]:
        """Ask the books; an accounting that does not answer keeps nobody from what the queue and the records say."""
        try:
            rows = self.books(ids, tokens)
        except SystemUnavailable as error:
            if not self._bookless:
                logger.warning("%s: its accounting does not answer, and it goes on without: %s", self.name, error)
            self._bookless = str(error)
            return ()
        self._bookless = ""
        return rows

    def _steps(self, rows: Collection[Row]) -> Mapping[Token, str]:
        return self.spool.progress([row.token for row in rows if row.phase is Phase.RUNNING])

    def _observed(self, row: Row, steps: Mapping[Token, str]) -> Observation:
        """Return what a row says, as the same object for the same words."""
        if row.phase is Phase.UNKNOWN and row.state not in self._strange:
            self._strange.add(row.state)
            logger.warning("%s has a state that is in no table: %r of job %s", self.kind, row.state, row.native)
        key = (row.phase, row.state, row.reason, row.host, steps.get(row.token))
        if key not in self._seen:
            if len(self._seen) > 10_000:
                self._seen.clear()
            self._seen[key] = Observation(
                state=STATES.get(row.phase, NativeState.ENDED),
                native_state=row.state,
                reason=row.reason or None,
                host=row.host or None,
                held=row.phase is Phase.HELD,
                alive=not row.phase.ended and row.phase is not Phase.UNKNOWN,
                progress=steps.get(row.token),
            )
        return self._seen[key]

    def _unseen(self, handles: Collection[Handle]) -> Mapping[Handle, Observation]:
        """Tell of jobs that neither the scheduler nor its books know."""
        if (missing := self.spool.missing()) is not None:
            return dict.fromkeys(handles, Observation(state=NativeState.UNKNOWN, reason=missing))
        bookless = f"the accounting does not answer: {self._bookless}"
        rest = Observation(state=NativeState.UNKNOWN, reason=bookless) if self._bookless else ABSENT
        records = self.spool.records([_parts(handle)[1] for handle in handles])
        ended = Observation(state=NativeState.ENDED)
        return {handle: ended if _parts(handle)[1] in records else rest for handle in handles}

    @property
    def queries(self) -> int:
        """Return how often the scheduler, or its accounting, was asked."""
        return self.commands.queries

    def notices(self) -> Mapping[Token, Notice]:
        """Look at the one folder in which launches say that they started, or ended."""
        done = Notice.ENDED if self.options.confirm else Notice.DONE
        told = {notices.STARTED: Notice.STARTED, notices.ENDED: Notice.ENDED, notices.DONE: done}
        return {token: told[word] for token, word in self.spool.notices().items()}

    def done(self, handles: Sequence[Handle]) -> Mapping[Handle, ExitInfo]:
        """Return records of success. Of all other ends the scheduler may know the reason (oom, timeout, preempted)."""
        by_token = {_parts(handle)[1]: handle for handle in _own(handles)}
        found = {by_token[token]: record for token, record in self.spool.records(by_token).items() if record.regular}
        return {handle: batch_end.early(self.kind, record, _parts(handle)[0]) for handle, record in found.items()}

    def exit_info(self, handles: Sequence[Handle]) -> Mapping[Handle, ExitInfo]:
        """Return certain ends: a record with what the books say; in time, where there is none, the books alone."""
        own = _own(handles)
        rows: dict[Handle, Row] = {}
        now = time.monotonic()
        fresh = now - self._surveyed < FRESH
        for handle in own:
            native, token = _parts(handle)
            row = self._rows.get(native)
            if row is not None and row.token == token and (fresh or row.phase.ended):
                rows[handle] = row
        asked = [handle for handle in own if handle not in rows]
        rows.update(self._found(asked))
        found: dict[Handle, ExitInfo] = {}
        records = self.spool.records([_parts(handle)[1] for handle in own])
        hastened = self.spool.hastened(records) if self.books_late else ()
        for handle in own:
            row, token = rows.get(handle), _parts(handle)[1]
            record = records.get(token)
            if record is not None and self._certain(handle, row, token in hastened, now):
                row = row if row and row.phase.ended else None
                found[handle] = batch_end.merged(self.kind, record, row, hastened=token in hastened)
            elif record is None and row is not None and row.phase.ended and self._final(handle, row, now):
                began, said = self.spool.began(token), self.spool.said(token)
                found[handle] = batch_end.by_books(self.kind, row, began=began, said=said)
        for handle in found:
            self._unrecorded.pop(handle, None)
        return found

    def _certain(self, handle: Handle, row: Row | None, hastened: bool, now: float) -> bool:
        """Tell whether an end with a record needs no other word: of what was not hastened the record tells all."""
        if row is None:
            asked = hastened or self.options.confirm
            return not asked or self._waited(handle, now, self.books_late)
        return row.phase.ended or self._waited(handle, now)

    def _doubtful(self, handles: Sequence[Handle]) -> Sequence[Handle]:
        """Return those of which the books have to be asked; where they come late, not of those with a clear record.

        So what is told of an end does not depend on when it is asked for.
        """
        if not handles or not self.books_late or self.options.confirm:
            return handles
        records = self.spool.records([_parts(handle)[1] for handle in handles])
        hastened = self.spool.hastened(records)
        return [handle for handle in handles if (token := _parts(handle)[1]) not in records or token in hastened]

    def _final(self, handle: Handle, row: Row, now: float) -> bool:
        """Tell whether an end without a record is told: a file system may show the record late."""
        if row.phase is Phase.CANCELLED and row.started is None:
            return True  # it never began
        return self._waited(handle, now)

    def _waited(self, handle: Handle, now: float, seconds: float | None = None) -> bool:
        """Tell whether an end has been waiting for its other half for long enough: for `late`, or so many seconds."""
        patience = self.options.late if seconds is None else seconds
        return now - self._unrecorded.setdefault(handle, now) >= patience

    def settle(self, launches: Sequence[Launch]) -> Mapping[Token, Handle | Settled]:
        """Find jobs by their token: in the queue, in the books, in the marker; what is nowhere can never start."""
        rows = {row.token: row for row in self.queue() if row.token}
        lost = [it.token for it in launches if it.token not in rows]
        if lost:
            rows.update((row.token, row) for row in self._booked((), lost) if row.token in lost)
        answers: dict[Token, Handle | Settled] = {}
        for it in launches:
            if it.token in rows:
                answers[it.token] = f"{rows[it.token].native}/{it.token}"
            else:
                answers[it.token] = self._settled(it)
        return answers

    def _native(self, taker: str) -> str:
        """Return the scheduler's id of who took a marker, or nothing."""
        return self.native_id(taker.partition(":")[2])

    def _settled(self, it: Launch) -> Handle | Settled:
        """Seal what nobody knows of, or adopt it by the id that stands in its marker."""
        taker = self.spool.settle(it.token)
        if isinstance(taker, Settled):
            return taker
        native = self._native(taker)
        return f"{native}/{it.token}" if native else Settled.UNKNOWN

    def inventory(self, record: str) -> Mapping[Handle, Token]:
        """Return what is held, in line, or running."""
        ours = _tokens_of(record)
        rows = [row for row in self.queue() if row.token.startswith(ours) and not row.phase.ended]
        return {f"{row.native}/{row.token}": row.token for row in rows}

    def logs(self, handle: Handle, stream: str, offset: int, limit: int = 1 << 20) -> bytes:
        """Return a part of a file in the run folder."""
        return self.spool.read(_parts(handle)[1], stream, offset, limit)

    # Ending.

    def kill(self, handles: Sequence[Handle], *, force: bool) -> Mapping[Handle, bool]:
        """Cancel; True once the scheduler says that nothing of it is left."""
        own = _own(handles)
        rows = self._found(own)
        live = [handle for handle in own if handle in rows and not rows[handle].phase.ended]
        if live:
            now = time.monotonic()
            since = {handle: self._pressed.setdefault(handle, now) for handle in live} if force else {}
            stubborn = [handle for handle in live if now - since.get(handle, now) > self.options.kill_grace + FIRM]
            self.cancel([rows[handle] for handle in live if handle not in stubborn], force=force)
            if stubborn:
                self.destroy([_parts(handle)[0] for handle in stubborn])
            time.sleep(KILL_LOOK)
            told = self.spool.notices()
            # what runs takes its time to end, and says so: a look at each would be a query for nothing
            soon = [h for h in live if rows[h].phase is not Phase.RUNNING or told.get(_parts(h)[1]) in notices.ENDS]
            rows.update(self._found(soon))
        answers = dict.fromkeys(handles, False)
        for handle in own:
            row = rows.get(handle)
            answers[handle] = row.phase.ended if row is not None else self.spool.gone(_parts(handle)[1])
            if answers[handle]:
                self._pressed.pop(handle, None)
        return answers

    def forget(self, handles: Sequence[Handle]) -> None:
        """Drop notices, and what was staged and not taken; results stay."""
        with contextlib.suppress(SystemUnavailable):  # it is only tidying up
            self.spool.forget([_parts(handle)[1] for handle in _own(handles)])

    def check(self) -> Sequence[Check]:
        """Ask the scheduler, and try the spool."""
        spool = self.spool.check()
        if self.stages and not spool[0].ok:
            return spool  # who is not reached has no scheduler either
        answer = self._check_answer()
        checks = [*spool, answer] if self.stages else [answer, *spool]
        return [*checks, *self.check_more()] if answer.ok else checks

    def check_more(self) -> Sequence[Check]:
        """Return what else can be wrong with a scheduler that answers."""
        return ()

    def _check_answer(self) -> Check:
        try:
            rows = self.queue()
        except SystemUnavailable as error:
            where = "on the login node" if self.stages else "on this host"
            fix = f"see whether it answers {where}; set env: (what its commands need) and path: of this system"
            return Check(name=self.kind, ok=False, detail=str(error), fix=fix)
        live = sum(not row.phase.ended for row in rows)
        return Check(name=self.kind, ok=True, detail=f"answers; {live} jobs of this user are in line or running")


def _parts(handle: Handle) -> tuple[str, Token]:
    """Return id and token of a handle; raise ValueError for one of another kind of system."""
    if _HANDLE.fullmatch(handle) is None:
        raise ValueError(f"{handle!r} is not a handle of a batch system")
    native, _, token = handle.partition("/")
    return native, token


def _own(handles: Collection[Handle]) -> list[Handle]:
    return [handle for handle in handles if _HANDLE.fullmatch(handle)]


def _tokens_of(record: str) -> tuple[str, str]:
    return f"{record}.", f"{record}:"


def _error(failure: SubmitFailure, message: str) -> SubmitError:
    return SubmitError(failure=failure, message=message)
