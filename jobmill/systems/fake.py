"""The `fake` system: a cluster that runs no processes, hands handles out, holds submissions, and fails as told.

For trying out, for benchmarks of the pipeline, and for authors of plug-ins: what a job "does" is said by its own `env`
(FAKE_SECONDS, FAKE_EXIT, FAKE_SIGNAL), its command is never run. What goes wrong: `fake_faults.py`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any, ClassVar

from jobmill.errors import ConfigError, SystemUnavailable, nearest
from jobmill.systems.fake_cluster import FakeCluster, Job
from jobmill.systems.fake_faults import NAMES, Faults, checked
from jobmill.systems.fake_job import HOST, job_of, record_of
from jobmill.systems.fake_queue import ENDED, HELD, QUEUED, RUNNING
from jobmill.systems.system import (
    Check,
    ExecutionSystem,
    ExitInfo,
    Handle,
    Launch,
    NativeState,
    Observation,
    Settled,
    Submission,
    SubmitError,
    SubmitFailure,
    Token,
)

OPTIONS = ("slots", "seconds", "poll_interval", "folder", *(name for name in NAMES if name != "limit"))
KEEP = 3600.0  # seconds for which the cluster knows what has ended

ABSENT = Observation(state=NativeState.ABSENT)
SEEN = {
    HELD: Observation(state=NativeState.SUBMITTED, native_state="HELD", held=True, alive=True),
    QUEUED: Observation(state=NativeState.SUBMITTED, native_state="PENDING", reason="Resources", alive=True),
    RUNNING: Observation(state=NativeState.RUNNING, native_state="RUNNING", host=HOST, alive=True),
    ENDED: Observation(state=NativeState.ENDED, native_state="ENDED", host=HOST),
}
WRONG = (  # what an observation may say against the truth; the state of another comes on top
    Observation(state=NativeState.UNKNOWN, native_state="\x1b[7mR?\x00%s{{"),
    Observation(state=NativeState.ENDED, native_state="COMPLETED"),
    Observation(state=NativeState.SUBMITTED, native_state="PENDING", alive=True),
)


class FakeSystem(ExecutionSystem):
    """A cluster that runs no processes, for trying out and for tests. A handle is ``<boot>.<number>``."""

    kind: ClassVar[str] = "fake"
    one_host: ClassVar[bool] = True  # its clock is this host's
    surveys: ClassVar[bool] = True
    runs_containers: ClassVar[bool] = True  # as it runs everything: it pretends

    def __init__(
        self,
        *,
        name: str,
        cluster: FakeCluster,
        slots: int | None = None,  # None: no bound
        seconds: float = 0.0,  # how long a job runs that does not say
        poll_interval: float = 1.0,  # seconds
    ) -> None:
        self.name = name
        self.cluster = cluster
        self.slots = slots
        self.seconds = seconds
        self.poll_interval = poll_interval  # type: ignore[misc]  # of this one, not of all

    @classmethod
    def build(cls, name: str, options: Mapping[str, Any], spool: Path) -> FakeSystem:
        """Make the system from its mapping; raise ConfigError for an unknown option or a value that cannot be."""
        where = f"systems.{name}"
        for key in options:
            if key not in OPTIONS:
                known = ", ".join(OPTIONS)
                raise ConfigError(f"{where}: unknown option {key!r}{nearest(key, OPTIONS)}; a fake system has {known}")
        numbers = {"seconds": 0.0, "poll_interval": 1.0}
        for key in numbers:
            value = options.get(key, numbers[key])
            if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1e9:
                raise ConfigError(f"{where}.{key}: {value!r} is not a number of seconds")
            numbers[key] = float(value)
        slots = options.get("slots")
        if slots is not None and (type(slots) is not int or slots < 0):
            raise ConfigError(f"{where}.slots: {slots!r} is not a number of slots; write a whole number from 0")
        folder = options.get("folder", f"{spool}/fake/{name}")
        if not isinstance(folder, str) or not folder.startswith("/"):
            raise ConfigError(f"{where}.folder: {folder!r} is no absolute path")
        faults = checked({key: value for key, value in options.items() if key in NAMES}, where)
        cluster = FakeCluster(folder, keep=KEEP, faults=faults)
        return cls(name=name, cluster=cluster, slots=slots, **numbers)

    @classmethod
    def limits(cls, slots: int | None, limit: int | None, options: Mapping[str, Any]) -> Mapping[str, int | None]:
        """Submissions on the cluster at once, and how many of them run where ``slots`` says so."""
        return {"queue": limit} | ({} if slots is None else {"slots": slots})

    def submit(self, submissions: Sequence[Submission]) -> Sequence[Handle | SubmitError]:
        """Accept launches, held."""
        faults, draw = self._verb("submit")
        answers: dict[int, Handle | SubmitError] = {}
        jobs: list[tuple[int, Submission, Job]] = []
        room = None if faults.limit is None else max(0, faults.limit - len(self.cluster.look().alive))
        for i, it in enumerate(submissions):
            try:
                job = job_of(it, self.seconds)
            except ValueError as error:
                answers[i] = SubmitError(failure=SubmitFailure.PERMANENT, message=str(error))
                continue
            if draw.random() < faults.refuse:
                words = "fake: socket timed out on send/recv operation, nothing was sent"
                answers[i] = SubmitError(failure=SubmitFailure.TRANSIENT, message=words)
            elif room is not None and len(jobs) >= room:
                words = f"fake: submit limit of {faults.limit} reached"
                answers[i] = SubmitError(failure=SubmitFailure.LIMIT, message=words)
            else:
                jobs.append((i, it, job))
        if self.slots is not None and self.cluster.look().slots is None:
            self.cluster.set_slots(self.slots)
        twice = {it.token for _, it, _ in jobs if draw.random() < faults.duplicate}
        handles = self.cluster.submit([(it.token, job) for _, it, job in jobs], twice=twice)
        for (i, _, _), handle in zip(jobs, handles, strict=True):
            if handle is None:
                answers[i] = SubmitError(failure=SubmitFailure.TRANSIENT, message="fake: the journal's disk is full")
            elif draw.random() < faults.unclear:
                answers[i] = SubmitError(failure=SubmitFailure.UNCLEAR, message="fake: timed out waiting for an answer")
            else:
                answers[i] = handle
        return [answers[i] for i in range(len(submissions))]

    def release(self, handles: Sequence[Handle]) -> None:
        """Let held submissions line up for slots."""
        self._verb("release")
        self.cluster.release(handles)

    def status(self, handles: Sequence[Handle]) -> Mapping[Handle, Observation]:
        """Tell what the journal and the time say of each."""
        faults, draw = self._verb("status")
        if draw.random() < faults.empty:
            return dict.fromkeys(handles, ABSENT)
        found = self.cluster.find(handles)
        seen = {h: ABSENT if it is None else SEEN[it.state] for h, it in zip(handles, found, strict=True)}
        return _distorted(seen, faults, draw)

    def exit_info(self, handles: Sequence[Handle]) -> Mapping[Handle, ExitInfo]:
        """Return the records of what has ended, ``late`` seconds after its end."""
        faults, _ = self._verb("exit_info")
        found = self.cluster.find(handles)
        queue = self.cluster.look()
        return {
            handle: record_of(it, handle)
            for handle, it in zip(handles, found, strict=True)
            if it is not None and it.ended is not None and it.ended + faults.late <= queue.now
        }

    def settle(self, launches: Sequence[Launch]) -> Mapping[Token, Handle | Settled]:
        """Find launches by their token; one that appears later is held, and never released."""
        faults, draw = self._verb("settle")
        if draw.random() < faults.empty:
            return {it.token: Settled.NOT_STARTED for it in launches}
        queue = self.cluster.look()
        answers: dict[Token, Handle | Settled] = {}
        for launch in launches:
            known = queue.of_token(launch.token)
            answers[launch.token] = self.cluster.handle(known[0].number) if known else Settled.NOT_STARTED
        return answers

    def survey(self, record: str) -> Mapping[Handle, Observation]:
        """Tell of what is held, in line, or running."""
        faults, draw = self._verb("survey")
        if draw.random() < faults.empty:
            return {}
        alive, ours, boot = self.cluster.look().alive, _tokens_of(record), self.cluster.boot
        seen = {f"{boot}.{number}": SEEN[it.state] for number, it in alive.items() if it.token.startswith(ours)}
        return _distorted(seen, faults, draw)

    def inventory(self, record: str) -> Mapping[Handle, Token]:
        """Return what is held, in line, or running."""
        faults, draw = self._verb("inventory")
        if draw.random() < faults.empty:
            return {}
        alive = self.cluster.look().alive.values()
        ours = _tokens_of(record)
        return {self.cluster.handle(it.number): it.token for it in alive if it.token.startswith(ours)}

    def kill(self, handles: Sequence[Handle], *, force: bool) -> Mapping[Handle, bool]:
        """End each at once."""
        self._verb("kill")
        self.cluster.kill(handles, 9 if force else 15)
        return dict.fromkeys(handles, True)

    def logs(self, handle: Handle, stream: str, offset: int, limit: int = 1 << 20) -> bytes:
        """Return what was asked to run as ``stdout``; every other file is empty."""
        (it,) = self.cluster.find([handle])
        if it is None or stream != "stdout" or it.started is None:
            return b""
        text = f"fake: {it.token} ran nothing; it was asked to run: {it.what}\n".encode()
        return text[offset : offset + limit]

    def set_slots(self, slots: int) -> None:
        """Set how many slots the cluster has."""
        self._verb("set_slots")
        self.slots = slots
        self.cluster.set_slots(slots)

    def close(self) -> None:
        """Close the journal."""
        self.cluster.close()

    def check(self) -> Sequence[Check]:
        """Say that nothing is run, what the cluster has, and what goes wrong."""
        words = "runs no processes: jobs only pretend (FAKE_SECONDS, FAKE_EXIT, FAKE_SIGNAL in their env)"
        checks = [Check(name="fake", ok=True, detail=words)]
        try:
            queue = self.cluster.look()
            detail = f"{self.cluster.journal}: {len(queue.alive)} held, in line or running"
            checks.append(Check(name="journal", ok=True, detail=detail))
        except SystemUnavailable as error:
            checks.append(Check(name="journal", ok=False, detail=str(error), fix="make its folder writable"))
        faults = self.cluster.fault_file.told()
        fix = "take `down` back: FakeCluster(folder).faults(down=False)" if self.cluster.faults().down else ""
        return [*checks, Check(name="faults", ok=not fix, detail=faults or "none", fix=fix)]

    def _verb(self, verb: str) -> tuple[Faults, Random]:
        """Begin a verb: take its time, fail when the cluster is down; return the faults and this call's chances."""
        faults = self.cluster.faults()
        if faults.delay:
            time.sleep(faults.delay)
        if faults.down:
            raise SystemUnavailable("connection refused")
        return faults, self.cluster.fault_file.draw(verb)


def _tokens_of(record: str) -> tuple[str, str]:
    """Return with what the tokens of this record begin; with the second since before lives were told apart."""
    return f"{record}.", f"{record}:"


def _distorted(seen: dict[Handle, Observation], faults: Faults, draw: Random) -> dict[Handle, Observation]:
    """Return the answer with as much wrong in it as the faults say."""
    if faults.wrong:
        true = list(seen.values())
        for handle in seen:
            if draw.random() < faults.wrong:
                seen[handle] = draw.choice((*WRONG, draw.choice(true)))
    return seen
