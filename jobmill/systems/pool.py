"""The `rq` system: jobs run by plain `rq worker`s on any number of machines that share nothing but a Redis server.

Submissions are held, not launched at once: what the record has not committed is not in any queue of RQ. So a launch
that nobody knows of cannot start even when the pool's server has lost what it knew, jobs that wait for a worker are
`submitted` with a reason that can be read, and a starter that stops leaves them in line. The cost is one more round
trip for a batch. A handle is the launch's id, which RQ's job bears too.

How a launch happens once: `pool_scripts`. How it happens nowhere else: `pool_lease`. Where it happens: `pool_task`.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar, cast

from jobmill.errors import SystemUnavailable
from jobmill.systems import pool_server, pool_stage, run_folder
from jobmill.systems.pool_checks import checks
from jobmill.systems.pool_files import PoolFiles
from jobmill.systems.pool_lease import SLACK
from jobmill.systems.pool_notices import PoolNotices
from jobmill.systems.pool_options import PoolOptions
from jobmill.systems.pool_record import PREFIX, Held, Looked, PoolRecord, exit_of, id_of
from jobmill.systems.pool_workers import DEAD, RQ_JOBS, Line, PoolWorkers
from jobmill.systems.spool_launches import SpoolLaunches
from jobmill.systems.spool_stage import SpoolStage
from jobmill.systems.system import (
    Check,
    End,
    ExecutionSystem,
    ExitInfo,
    ExitStatus,
    Handle,
    Launch,
    NativeState,
    Observation,
    Progress,
    Settled,
    Start,
    Submission,
    SubmitError,
    SubmitFailure,
    Token,
    Unwatched,
)

ABSENT = Observation(state=NativeState.ABSENT, reason="the pool's server does not know it")
LIMIT = 1000  # launches in its queue where the configuration does not say
ANSWER = 3.0  # seconds that a task gets to answer for a part of a file
STUCK = 30.0  # seconds in which a worker says that it has what it was given; no more than a lease
AGAIN = 3  # times that RQ is given a launch again which it has failed without any task having taken it
KILL_WAIT = (0.05, 0.1, 0.25)  # seconds between looks whether a kill has done its work


class PoolSystem(ExecutionSystem):
    """A pool of RQ workers."""

    kind: ClassVar[str] = "rq"
    capacity_set: ClassVar[str | None] = None
    surveys: ClassVar[bool] = True
    stages: ClassVar[bool] = True
    pushes: ClassVar[bool] = True

    def __init__(self, *, name: str, options: PoolOptions, spool: Path) -> None:
        self.name = name
        self.options = options
        self.spool = Path(spool).absolute()
        self.poll_interval = options.poll_interval  # type: ignore[misc]  # of this one, not of all
        self.stages = not options.shared  # type: ignore[misc]
        # what a server that lost its data knew may still run, for a lease
        self.absence_grace = options.lease * (1 + SLACK)  # type: ignore[misc]
        self._stage = SpoolStage(self.spool, name)
        self._ends = f"{PREFIX}ends:{secrets.token_hex(8)}"
        self._notices: PoolNotices | None = None
        self._record: PoolRecord | None = None
        self._workers: PoolWorkers | None = None
        self._seen: dict[Handle, Observation] = {}
        self._handed: dict[Handle, float] = {}  # time.monotonic() when it was first seen between queue and worker

    @classmethod
    def build(cls, name: str, options: Mapping[str, Any], spool: Path) -> PoolSystem:
        """Make the system from its mapping; raise ConfigError. Connects to nothing yet."""
        return cls(name=name, options=PoolOptions.read(name, options), spool=spool)

    @classmethod
    def limits(cls, slots: int | None, limit: int | None, options: Mapping[str, Any]) -> Mapping[str, int | None]:
        """Launches that wait in the pool's queues or run; the workers are the slots."""
        return {"queue": LIMIT if limit is None else limit}

    @contextmanager
    def _asked(self) -> Iterator[PoolRecord]:
        """Give the pool's record; errors of its server come out as ours."""
        if self._record is None:
            self._record = PoolRecord(pool_server.connect(self.options.url))
            self._workers = PoolWorkers(self._record.client)
        with pool_server.told(self.name):
            yield self._record

    # Launching.

    def submit(self, submissions: Sequence[Submission]) -> Sequence[Handle | SubmitError]:
        """Make launches known to the pool, held."""
        answers: dict[int, Handle | SubmitError] = {}
        held: list[tuple[int, Held]] = []
        for i, it in enumerate(submissions):
            queue = self.options.queues.choose(it.queue, cpus=it.cpus, memory=it.memory, gpus=it.gpus)
            wrong = queue if isinstance(queue, str) else "" if it.argv else "the command is empty; name a program"
            if wrong or isinstance(queue, str):
                answers[i] = SubmitError(failure=SubmitFailure.PERMANENT, message=f"job {it.job_id}: {wrong}")
                continue
            text = json.dumps({"submission": asdict(it), "terms": self._terms()})
            held.append((i, Held(token=it.token, queue=queue.name, specification=text)))
        with self._asked() as record:
            record.client.ping()  # from here on a server that does not answer may have taken it
        try:
            with self._asked() as record:
                record.hold([it for _, it in held], self._ends)
        except SystemUnavailable as error:
            unclear = SubmitError(failure=SubmitFailure.UNCLEAR, message=str(error))
            answers |= {i: unclear for i, _ in held}
        for i, known in held:
            answers.setdefault(i, id_of(known.token))
        return [answers[i] for i in range(len(submissions))]

    def _terms(self) -> dict[str, Any]:
        """Return what a task has to know beside the submission."""
        o = self.options
        terms: dict[str, Any] = {"kill_grace": o.kill_grace, "keep": o.keep, "shell": o.shell, "env": dict(o.env)}
        if o.path is not None:
            terms["path"] = o.path
        if o.shared:
            (self.spool / "jobs").mkdir(parents=True, exist_ok=True)
            terms["shared"] = str(self.spool)
        return terms

    def release(self, handles: Sequence[Handle]) -> None:
        """Queue what is held. RQ's job and our state change in one transaction; what is not held any more stays."""
        with self._asked() as record:
            rows = zip(handles, record.look(handles, RQ_JOBS), strict=True)
            held = [(handle, row.queue) for handle, row in rows if row.state == "held"]
            if not held:
                return
            assert self._workers is not None
            with record.client.pipeline(transaction=True) as pipe:
                record.released(pipe, [handle for handle, _ in held])
                self._workers.enqueue(pipe, held, self.options.lease)
                pipe.execute()

    def _queue_again(self, record: PoolRecord, handle: Handle, queue: str) -> None:
        """Give RQ a launch again that no task has taken; should it turn up twice, its marker is taken once."""
        assert self._workers is not None
        with record.client.pipeline(transaction=True) as pipe:
            self._workers.enqueue(pipe, [(handle, queue)], self.options.lease)
            pipe.execute()

    def fileno(self) -> int | None:
        """Return a descriptor that is readable when a start or an end was pushed."""
        if self._notices is None:
            self._notices = PoolNotices(self.options.url, self._ends)
        return self._notices.fileno()

    def ends(self) -> Sequence[Start | End | Unwatched]:
        """Return what was pushed since the last call."""
        return () if self._notices is None else self._notices.receive()

    def withdraw(self, tokens: Sequence[Token]) -> None:
        """Take launches that no worker has taken out of line; each is told as an End with reason ``withdrawn``."""
        record_text = run_folder.never_started("withdrawn", "taken out of line before it started")
        with self._asked() as record:
            gone = record.withdraw([id_of(token) for token in tokens], record_text)
            assert self._workers is not None
            self._workers.drop(gone)

    def close(self) -> None:
        """Leave; what is in line stays there."""
        if self._notices is not None:
            self._notices.close()
            self._notices = None
        if self._record is not None:
            self._record.client.close()
            self._record = self._workers = None

    # Looking.

    def status(self, handles: Sequence[Handle]) -> Mapping[Handle, Observation]:
        """Tell how each launch is; one whose worker has died is ended by the look that finds it so."""
        with self._asked() as record:
            rows = record.look(handles, RQ_JOBS)
            queued = sorted({row.queue for row in rows if row.state == "queued"})
            assert self._workers is not None
            lines = self._workers.lines(queued) if queued else {}
            seen = {h: self._observed(record, h, row, lines) for h, row in zip(handles, rows, strict=True)}
        before = self._seen
        return {h: old if (old := before.get(h)) == look else look for h, look in seen.items()}

    def survey(self, record: str) -> Mapping[Handle, Observation]:
        """Observe every launch of this record that has not ended."""
        with self._asked() as known:
            ids = known.live(record)
        self._seen = dict(self.status(ids))
        return self._seen

    def inventory(self, record: str) -> Mapping[Handle, Token]:
        """Return every launch of this record that has not ended."""
        with self._asked() as known:
            ids = known.live(record)
            return {it: token for it, token in zip(ids, known.tokens(ids), strict=True) if token is not None}

    def _observed(self, record: PoolRecord, handle: Handle, row: Looked, lines: Mapping[str, Line]) -> Observation:
        if row.state in ("", "unknown", "withdrawn"):
            return ABSENT
        if row.state == "held":
            return Observation(state=NativeState.SUBMITTED, native_state="held", held=True, alive=True)
        if row.state == "ended" or (row.state == "queued" and self._dead_in_rq(record, handle, row)):
            return Observation(state=NativeState.ENDED, host=row.host or None)
        if row.state == "queued":
            line = lines[row.queue]
            if self._stuck(handle, line):
                self._queue_again(record, handle, row.queue)
            words = f"waits for one of {line.workers} workers of queue {row.queue}"
            if not line.workers:
                words = f"nobody listens on queue {row.queue}; start `rq worker {row.queue}` somewhere"
            return Observation(
                state=NativeState.SUBMITTED, native_state="queued", reason=words, progress=words, alive=True
            )
        if row.silent > self.options.lease * SLACK and self._give_up(record, handle, row):
            return Observation(state=NativeState.ENDED, host=row.host)
        words = "no heartbeat" if row.silent > 0 else row.state
        return Observation(
            state=NativeState.RUNNING, native_state=words, host=row.host, progress=row.progress or None, alive=True
        )

    def _stuck(self, handle: Handle, line: Line) -> bool:
        """Tell whether RQ gave a launch to a worker that was cut off at that moment; RQ itself sees to it later."""
        if handle not in line.handed:
            self._handed.pop(handle, None)
            return False
        now = time.monotonic()
        if now - self._handed.setdefault(handle, now) <= min(STUCK, self.options.lease):
            return False
        del self._handed[handle]
        return True

    def _dead_in_rq(self, record: PoolRecord, handle: Handle, row: Looked) -> bool:
        """Deal with a launch that RQ is through with although no task has taken it: no worker could even begin.

        Another one may: RQ is given it again a few times, unless somebody has taken it out of RQ. Then it has ended.
        """
        if row.rq_status and row.rq_status not in DEAD:
            return False
        assert self._workers is not None
        if row.rq_status == "failed" and record.again(handle, AGAIN):
            self._queue_again(record, handle, row.queue)
            return False
        why = self._workers.why(handle)
        message = f"queue {row.queue}: RQ's job is {row.rq_status or 'gone'}, and nothing was started: {why}"
        said = record.seal([(handle, "")], run_folder.never_started("submit_failed", message))
        return said == ["sealed"]

    def _give_up(self, record: PoolRecord, handle: Handle, row: Looked) -> bool:
        """End a launch that was not heard of for so long that nothing of it is left (`pool_lease`)."""
        assert self._workers is not None
        told = f"worker {row.worker or 'unknown'} on {row.host}: {self._workers.seen(row.worker)}"
        lease = self.options.lease
        info = ExitInfo(
            exit_status=ExitStatus.ABORTED,
            reason="node_fail",
            native_id=row.pid or None,
            native_state=row.state,
            host=row.host,
            evidence=f"no heartbeat of the launch for {row.silent + lease:.0f} s (lease {lease:g} s); {told}",
            message=f"its worker or host {row.host} died, or lost its way to the pool's server",
            ended=time.time(),
        )
        return record.give_up(handle, lease * SLACK, info.to_json())

    def exit_info(self, handles: Sequence[Handle]) -> Mapping[Handle, ExitInfo]:
        """Return the exit records that there are."""
        with self._asked() as record:
            found = zip(handles, record.exits(handles), strict=True)
            return {handle: exit_of(text) for handle, text in found if text is not None}

    def settle(self, launches: Sequence[Launch]) -> Mapping[Token, Handle | Settled]:
        """Adopt what the pool knows, held or further; seal what it does not, so that it never starts."""
        if not launches:
            return {}
        ids = [it.handle or id_of(it.token) for it in launches]
        with self._asked() as record:
            known = record.look(ids, RQ_JOBS)
            rows = zip(ids, launches, known, strict=True)
            absent = [
                (i, "" if it.handle and not row.state else it.token)  # what has a handle may have been released
                for i, it, row in rows
                if row.state in ("", "withdrawn")
            ]
            text = run_folder.never_started("not_started", "its starter died before it was submitted")
            sealed = dict(zip((i for i, _ in absent), record.seal(absent, text), strict=True))
        answers: dict[Token, Handle | Settled] = {}
        for i, it, row in zip(ids, launches, known, strict=True):
            if row.sealed or sealed.get(i) == "sealed" or (row.state == "unknown" and not it.handle):
                answers[it.token] = Settled.NOT_STARTED
            elif sealed.get(i) == "unknown" or row.state == "unknown":
                answers[it.token] = Settled.LOST if self._faded(row) else Settled.UNKNOWN
            else:
                answers[it.token] = i
        return answers

    def _faded(self, row: Looked) -> bool:
        """Tell whether nothing of a launch that the server has lost is left: no lease of it can run any more."""
        return row.state == "unknown" and row.silent > self.options.lease * (1 + SLACK)

    def kill(self, handles: Sequence[Handle], *, force: bool) -> Mapping[Handle, bool]:
        """Seal what has not started; have the task of what has started end its tree. True: it has ended.

        Of what the server has lost it is proved by time alone: whatever ran has stopped itself after a lease.
        """
        if not handles:
            return {}
        words = run_folder.never_started("not_started", "it was killed before it started")
        with self._asked() as record:
            said = dict(zip(handles, record.seal([(h, "") for h in handles], words), strict=True))
            assert self._workers is not None
            self._workers.drop([h for h, word in said.items() if word == "sealed"])
            left = [h for h, word in said.items() if word not in ("sealed", "ended", "unknown")]
            if left:
                record.kill(left, 2 if force else 1)
            lost = [h for h, word in said.items() if word == "unknown"]
            lost = [h for h, row in zip(lost, record.look(lost, RQ_JOBS), strict=True) if not self._faded(row)]
        for pause in KILL_WAIT if left else ():
            time.sleep(pause)
            looks = self.status(left)
            left = [h for h in left if looks[h].state is not NativeState.ENDED]
            if not left:
                break
        return {handle: handle not in left and handle not in lost for handle in handles}

    def forget(self, handles: Sequence[Handle]) -> None:
        """Drop what the pool's server has of ended launches, their files too."""
        with self._asked() as record:
            if self.options.shared:
                for token in record.tokens(handles):
                    self._stage.drop(token or "")
            record.forget(handles)
            for handle in handles:
                for side in ("in", "out"):
                    PoolFiles(record.client, PREFIX, handle, side).drop()

    # Files.

    def logs(self, handle: Handle, stream: str, offset: int, limit: int = 1 << 20) -> bytes:
        """Return a part of a file of the run folder: of a running launch its task is asked, by way of the server."""
        if "/" in stream or "\0" in stream or stream in ("", ".", ".."):
            raise ValueError(f"{stream!r} is not the name of a file in the run folder")
        with self._asked() as record:
            (row,), (token,) = record.look([handle], RQ_JOBS), record.tokens([handle])
            if self.options.shared and token:
                return self._part(token, stream, offset, limit)
            if row.state == "running":
                found = self._ask(record, handle, stream, offset, limit)
                if found is not None:
                    return found
            return PoolFiles(record.client, PREFIX, handle, "out").read(stream, offset, limit)

    def _part(self, token: Token, stream: str, offset: int, limit: int) -> bytes:
        try:
            return SpoolLaunches(bytes(self.spool), self.name).read(token, stream, offset, limit)
        except OSError as error:
            raise SystemUnavailable(f"{self.name}: {stream} cannot be read: {error.strerror}") from error

    def _ask(self, record: PoolRecord, handle: Handle, stream: str, offset: int, limit: int) -> bytes | None:
        key = f"{PREFIX}answer:{secrets.token_hex(8)}"
        record.ask(handle, ["log", stream, offset, limit, key])
        found = record.client.blpop([key], timeout=ANSWER)
        if found is not None:
            return cast("bytes", found[1])
        (row,) = record.look([handle], RQ_JOBS)
        if row.state == "running":
            raise SystemUnavailable(f"{self.name}: the task on {row.host} does not answer")
        return None

    def stage_in(self, submission: Submission, progress: Progress) -> Submission:
        """Put the inputs on the pool's server; where files are shared, copy them as the `local` system does."""
        if not submission.inputs:
            return submission
        if self.options.shared:
            return self._stage.bring(submission, progress)
        with self._asked() as record:
            launch, keep = id_of(submission.token), self.options.keep
            key = pool_stage.give(record.client, launch, submission.inputs, keep, progress)
        return replace(submission, staged=key)

    def stage_out(self, handle: Handle, folder: Path, globs: Sequence[str], progress: Progress) -> Sequence[str]:
        """Take what an ended launch left from the pool's server."""
        if self.options.shared:
            return super().stage_out(handle, folder, globs, progress)
        with self._asked() as record:
            return pool_stage.fetch(record, handle, Path(folder), globs, progress)

    def check(self) -> Sequence[Check]:
        """Look at the server, what it keeps, and who listens on which queue."""
        try:
            with self._asked() as record:
                assert self._workers is not None
                return checks(record.client, self._workers, [it.name for it in self.options.queues.queues])
        except SystemUnavailable as error:
            fix = "start the pool's server, or correct `url`"
            return [Check(name="server", ok=False, detail=str(error), fix=fix)]
