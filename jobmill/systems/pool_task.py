"""What a plain `rq worker` calls for a launch: take the marker, run it by guard and runner, tell how it ended.

The function's path is fixed and its arguments are the launch's id and lease: nothing that a user wrote is unpickled.
RQ may call it as often as it likes (retries, abandoned jobs, somebody's `rq requeue`): the marker has one owner.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import select
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import redis
from rq import get_current_job

from jobmill.errors import StageFailed, StageStopped, SystemUnavailable
from jobmill.systems import pool_server, run_folder
from jobmill.systems.local import LocalSystem
from jobmill.systems.pool_files import PoolFiles
from jobmill.systems.pool_lease import PoolLease, beat_of
from jobmill.systems.pool_record import PREFIX, LeftWords, PoolRecord
from jobmill.systems.pool_results import base_of, bring, place_inputs
from jobmill.systems.pool_room import PoolRoom, root, sweep
from jobmill.systems.pool_words import HERE, OUTPUTS, STEPS
from jobmill.systems.system import (
    End,
    ExitInfo,
    ExitStatus,
    NativeState,
    Start,
    Submission,
    SubmitError,
    Transfer,
    Unwatched,
)

PATH = "jobmill.systems.pool_task.perform"  # as RQ's jobs name it
TIMEOUT = 5.0  # seconds without an answer after which a connection counts as dead
LOOK = 0.5  # seconds between looks at a launch for which nobody waits any more, or that is being killed
CLEAR = 0.05  # seconds between looks at what an ended launch left running
PART = 8 << 20  # bytes of a file that are given at once
PROGRESS = 2.0  # seconds between looks at its steps
AGAIN = 1.0  # seconds between attempts to tell the end
PATIENCE = 86400.0  # seconds for which it is tried
# What the local system says of a launch that it can take again, and what it means here, where it is over.
UNSTARTED = {"withdrawn": "not_started", "no_spool": "node_fail", "taken": "lost", "superseded": "lost"}
STEPPER = Path(__file__).resolve().parent.parent / "jobs" / "stepper.py"


def perform(launch: str, lease: float) -> str:
    """Run one launch to its end, and return in a word what came of it; ``lease``: seconds."""
    job = get_current_job()
    if job is None:
        raise RuntimeError("this function is called by rq worker alone")
    owner, asked = secrets.token_hex(8), time.monotonic()
    record = PoolRecord(pool_server.like(job.connection, TIMEOUT))

    def take() -> list[str]:
        nonlocal asked
        asked = time.monotonic()
        return record.take(launch, owner, lease, run_folder.HOST, job.worker_name or "")

    answer = _surely(take)
    if answer[0] != "ok":
        return f"not started: it is {answer[0]}"
    return PoolTask(record, launch, owner, answer[2], json.loads(answer[1]), job.connection, lease).serve(asked)


class PoolTask:
    """One launch on this host."""

    def __init__(
        self,
        record: PoolRecord,
        launch: str,
        owner: str,
        token: str,
        specification: Mapping[str, Any],
        client: redis.Redis,
        lease: float,
    ) -> None:
        self._record, self._launch, self._owner, self._token = record, launch, owner, token
        self._terms: Mapping[str, Any] = specification["terms"]
        fields = dict(specification["submission"])
        fields["inputs"] = [Transfer(**it) for it in fields["inputs"]]
        self._submission = Submission(**fields)
        self._client = client
        self._grace = float(self._terms["kill_grace"])
        self._lease_time = lease
        self._end: ExitInfo | None = None
        self._left = LeftWords()
        files = dict(self._submission.files)
        wanted = files.pop(OUTPUTS, None)  # for us, not for the job
        self._submission = replace(self._submission, files=files)
        self._globs = _globs(wanted)

    def serve(self, asked: float) -> str:
        """Run it; ``asked``: time.monotonic() before its marker was taken."""
        try:
            place = root()
            sweep(place)
            room = PoolRoom(place, self._launch, self._token, self._terms.get("shared"))
        except OSError as error:
            words = f"cannot make its folder on {run_folder.HOST}: {error}"
            return self._tell(_unstarted(words, reason="node_fail"))  # another host may do better
        patient = PoolRecord(pool_server.like(self._client, beat_of(self._lease_time, self._grace) + 3))
        lease = PoolLease(
            patient, self._launch, self._owner, lease=self._lease_time, grace=self._grace, room=room.folder
        )
        lease.prolong(since=asked)
        lease.start()
        try:
            whole = self._run(room, lease)
            assert self._end is not None
            said = self._tell(self._end)
        finally:  # a room that stays as it is, is looked into by the next launch here
            lease.leave()
        if whole:
            room.remove()
        else:
            room.keep()
        return said

    def _run(self, room: PoolRoom, lease: PoolLease) -> bool:
        """Run the launch to its end, and bring what it left to the pool's server; False: not all of it."""
        shared = self._terms.get("shared") is not None
        try:
            folder = os.fsdecode(run_folder.enter(os.fsencode(room.folder), self._token))
            submission = _placed(self._submission, folder)
            if not shared:
                submission = self._prepared(submission, Path(folder), room.folder / "stage", lease)
        except StageStopped as error:
            self._end = _unstarted(str(error), reason="node_fail" if lease.lost or lease.ran_out else "not_started")
            return True
        except (OSError, StageFailed, SystemUnavailable, redis.RedisError, run_folder.Superseded) as error:
            self._end = _unstarted(f"cannot be prepared on {run_folder.HOST}: {error}", reason="stage_failed")
            return True
        system = LocalSystem(
            name="pool",
            spool=room.folder,
            slots=max(1, submission.cpus),
            kill_grace=self._grace,
            path=self._terms.get("path"),
            shell=self._terms.get("shell") or "/bin/sh",
            env=self._terms.get("env") or {},
        )
        try:
            (answer,) = system.submit([submission])
            if isinstance(answer, SubmitError):
                self._end = _unstarted(answer.message)
                return True
            self._watch(system, answer, lease)
        except SystemUnavailable as error:  # before anything was started: a guard, or a disk, that cannot be had
            self._end = _unstarted(str(error), reason="node_fail")
            return True
        finally:
            system.close()
        if shared or lease.lost:
            return True
        return self._bring(Path(folder), Path(submission.workdir or folder), lease)

    def _prepared(self, submission: Submission, folder: Path, stage: Path, lease: PoolLease) -> Submission:
        """Bring the inputs to this host, as long as they are wanted; a cut is waited out."""

        def progress(words: str) -> None:
            lease.progress = words
            if lease.lost or lease.ran_out:
                raise StageStopped(f"could not prolong its lease of {self._lease_time:g} s while its inputs came")
            if lease.wish:
                raise StageStopped("it was killed before it started")

        while submission.inputs:
            try:
                progress("stages in")
                inputs = PoolFiles(self._record.client, PREFIX, self._launch, "in")
                return place_inputs(inputs, submission, folder, stage, progress)
            except (redis.ConnectionError, redis.TimeoutError):
                time.sleep(AGAIN)
        return replace(submission, staged=None)

    def _bring(self, folder: Path, workdir: Path, lease: PoolLease) -> bool:
        """Bring what it left to the pool's server; False: not all of it is there."""
        globs = self._globs
        self._left = LeftWords(base_of(folder, workdir), globs or ())
        where = f"what it left is in {folder} on {run_folder.HOST} for a week"
        while True:
            try:
                out = PoolFiles(self._record.client, PREFIX, self._launch, "out")
                return bring(out, folder, workdir, globs, int(self._terms["keep"]))
            except (redis.ConnectionError, redis.TimeoutError):
                if lease.lost or lease.ran_out:
                    return False
                time.sleep(AGAIN)
            except (redis.RedisError, StageFailed, OSError) as error:  # a full server: the end is told anyway, and this
                self._left = self._left._replace(why=f"the files could not be brought ({error}); {where}")
                return False

    def _watch(self, system: LocalSystem, handle: str, lease: PoolLease) -> None:
        """Wait for the end; see to what is asked meanwhile."""
        poll = select.poll()
        for fd in (system.fileno(), lease.fileno()):
            if fd is not None:
                poll.register(fd, select.POLLIN)
        killed, unwatched, looked = 0, False, 0.0
        while self._end is None:
            lease.drain()
            over = lease.lost or lease.ran_out
            wish = 2 if over else lease.wish
            if wish > killed or over:
                system.kill([handle], force=wish > 1)
                killed = min(wish, 1)  # TERM once, KILL until it has done its work
            while lease.asks:
                self._answer(system, handle, lease.asks.popleft())
            now = time.monotonic()
            if now - looked > PROGRESS:
                look = system.status([handle])[handle]
                lease.progress, looked = look.progress or "", now
            wait = LOOK if wish > 1 or unwatched else min(PROGRESS, lease.beat)
            poll.poll(wait * 1000)
            for notice in system.ends():
                if isinstance(notice, Start):
                    with contextlib.suppress(redis.RedisError):
                        self._record.runs(self._launch, self._owner, notice.native_id)
                elif isinstance(notice, End):
                    self._end = ExitInfo.from_json(notice.exit)
                elif isinstance(notice, Unwatched):
                    unwatched = True
            if unwatched and self._end is None:
                self._end = _found(system, handle)
        self._clear(system, handle, lease)
        if self._end.reason in UNSTARTED:
            self._end = replace(self._end, reason=UNSTARTED[self._end.reason])
        if (lease.lost or lease.ran_out) and (self._end.term_sig or self._end.reason == "timeout"):
            words = f"could not prolong its lease of {self._lease_time:g} s, and stopped itself"
            self._end = replace(self._end, reason="node_fail", evidence=words)

    def _clear(self, system: LocalSystem, handle: str, lease: PoolLease) -> None:
        """End what the launch left running: with its end told, there is neither a lease nor a folder for it."""
        begun = time.monotonic()
        while True:
            force = lease.lost or lease.ran_out or lease.wish > 1 or time.monotonic() - begun >= self._grace
            if system.kill([handle], force=force)[handle]:
                return
            time.sleep(CLEAR)

    def _answer(self, system: LocalSystem, handle: str, words: list[Any]) -> None:
        """Give a part of a file to who asked for it: log, stream, offset, limit, list for the answer."""
        with contextlib.suppress(ValueError, TypeError, OverflowError, OSError, redis.RedisError):
            word, stream, offset, limit, key = words
            if word == "log" and str(key).startswith(f"{PREFIX}answer:"):
                part = system.logs(handle, str(stream), max(0, int(offset)), max(0, min(int(limit), PART)))
                with self._record.client.pipeline() as pipe:
                    pipe.rpush(key, part)
                    pipe.expire(key, 60)
                    pipe.execute()

    def _tell(self, info: ExitInfo) -> str:
        """Record the end, whatever time it takes to reach the server."""
        with contextlib.suppress(redis.RedisError):
            PoolFiles(self._record.client, PREFIX, self._launch, "in").drop()
        text = info.to_json()
        told = _surely(lambda: self._record.end(self._launch, self._owner, text, self._left))
        return str(info.exit_status) if told else "ended before: its lease had run out"


def _surely(say: Callable[[], Any]) -> Any:
    """Say something until there is an answer: a server that restarts is back in a while."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return say()
        except (redis.ConnectionError, redis.TimeoutError, OSError, redis.ReadOnlyError, redis.OutOfMemoryError):
            if time.monotonic() > deadline:
                raise
            time.sleep(AGAIN)


def _placed(it: Submission, folder: str) -> Submission:
    """Return the submission with the paths and programs of this host."""

    def real(text: str | None) -> str | None:
        if text is None or not (text == HERE or text.startswith(f"{HERE}/")):
            return text
        return os.path.normpath(folder + text[len(HERE) :])

    argv = tuple(it.argv)
    if argv == (STEPS,):
        argv = (sys.executable, "-I", "-S", str(STEPPER), folder)
    targets = [replace(each, target=real(each.target) or "") for each in it.inputs]
    paths = {name: real(getattr(it, name)) for name in ("workdir", "stdin", "stdout", "stderr")}
    return replace(it, argv=argv, inputs=targets, **paths)  # type: ignore[arg-type]  # texts, as the fields are


def _globs(wanted: str | None) -> list[str] | None:
    """Return the globs of what a launch is to leave; None where it does not say so."""
    with contextlib.suppress(ValueError, RecursionError):
        found = json.loads(wanted or "")
        if isinstance(found, list):
            return [str(glob) for glob in found]
    return None


def _found(system: LocalSystem, handle: str) -> ExitInfo | None:
    """Return the end of a launch whose guard and runner are gone; None while it runs."""
    info = system.exit_info([handle]).get(handle)
    if info is None:
        look = system.status([handle])[handle]
        if look.overdue:
            system.kill([handle], force=True)
        if look.state is NativeState.ABSENT:
            words = "guard and runner were killed, and nothing of it is left"
            return ExitInfo(exit_status=ExitStatus.UNDETERMINED, reason="lost", host=run_folder.HOST, evidence=words)
    return info


def _unstarted(message: str, reason: str = "start_failed") -> ExitInfo:
    return ExitInfo.from_json(run_folder.never_started(reason, message))
