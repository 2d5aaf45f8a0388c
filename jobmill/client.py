"""The Python side: submit jobs, wait for them, read what came of them."""

from __future__ import annotations

import getpass
import json
import os
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from jobmill.errors import PermanentError, ServerUnavailable, SpecError, UnknownName
from jobmill.jobs.identifier import new_id
from jobmill.jobs.states import ENDED, State
from jobmill.ledger import capacity, dead, listing, wish
from jobmill.ledger.following import Following
from jobmill.ledger.listing import JobRow
from jobmill.ledger.record import Record, batches
from jobmill.ledger.secret import mask

if TYPE_CHECKING:
    from jobmill.jobs.spec import JobSpec
    from jobmill.systems.system import ExecutionSystem

PATIENCE = 30.0  # seconds for which a push is repeated while the server does not answer
RECHECK = 2.0  # seconds between looks for ids that are nowhere


class Client:
    """One pipeline, seen by a user. Raises the errors of `jobmill.errors`.

    >>> client = Client()                                      # the server of jobmill.yaml, or the embedded one
    >>> job_id = client.submit({"command": "echo hello"})
    >>> client.wait(job_id).state
    <State.DONE: 'done'>
    """

    def __init__(self, url: str | None = None, *, prefix: str = "", record: Record | None = None) -> None:
        """``url``: redis, rediss, unix or sentinel; None: $JOBMILL_REDIS_URL, jobmill.yaml, the embedded server."""
        if record is None:
            if url is None:
                from jobmill.config import load
                from jobmill.daemon.address import address

                config = load()
                url, prefix = config.redis.url or address(config.state), config.redis.prefix
            record = Record(url, prefix=prefix)
        self.record = record
        self._systems: dict[str, ExecutionSystem] = {}

    def submit(self, job: str | Path | Mapping[str, Any] | JobSpec, **changes: Any) -> str:
        """Submit one job (a file, a mapping, a spec) and return its id; raise SpecError for what cannot be a job."""
        return self.submit_many([job], **changes)[0]

    def submit_many(self, jobs: Iterable[str | Path | Mapping[str, Any] | JobSpec], **changes: Any) -> list[str]:
        """Submit jobs in order and return their ids. A file may hold several; ``changes`` hold for each job."""
        specs = [
            self.complete(spec.with_(**changes) if changes else spec, Path(job).parent if _is_file(job) else None)
            for job in jobs
            for spec in read(job)
        ]
        return self.send(specs)

    def send(self, specs: Sequence[JobSpec]) -> list[str]:
        """Push complete specs in order and return their ids."""
        for some in batches([spec.canonical() for spec in specs]):
            self._push(some)
        return [spec.id for spec in specs if spec.id is not None]

    def complete(self, spec: JobSpec, folder: Path | None = None) -> JobSpec:
        """Fill in what a client knows: an id (so that a push can be repeated), the user, the folder.

        A relative ``workdir`` is relative to ``folder``, where the job file is; without one it is the current folder,
        but for a job with ``inputs``: they come to its run folder. What they come from is relative to the current one.
        """
        known: dict[str, Any] = {}
        if spec.id is None:
            known["id"] = new_id()
        if spec.user is None:
            known["user"] = getpass.getuser()
        if spec.inputs:
            known["inputs"] = tuple(one.model_copy(update={"source": _here(one.source)}) for one in spec.inputs)
        if spec.workdir is None:
            if not spec.inputs and spec.container is None:  # which may not see it: it runs in its run folder
                known["workdir"] = known["submit_dir"] = str(Path.cwd())
        elif not spec.workdir.startswith(("/", "~")):
            known["workdir"] = os.path.normpath((folder or Path.cwd()).absolute() / spec.workdir)
        return spec.model_copy(update=known) if known else spec

    def _push(self, texts: Sequence[str]) -> None:
        """Push, again while the server does not answer: the same id with the same spec is a no-op."""
        deadline, pause = time.monotonic() + PATIENCE, 0.05
        while True:
            try:
                self.record.call("RPUSH", self.record.keys("Job_Queue"), *texts)
                return
            except ServerUnavailable:
                if time.monotonic() > deadline:
                    raise
                time.sleep(random.uniform(0.5, 1.0) * pause)
                pause = min(2.0, pause * 2)

    def wait(
        self,
        job_ids: str | Sequence[str],
        *,
        timeout: float | None = None,
        on_change: Callable[[str, str], None] | None = None,
    ) -> Any:
        """Wait until jobs ended; return their `JobRow` (for a single id) or rows by id.

        Raise SpecError when one was refused, UnknownName when one is nowhere to be found, TimeoutError after
        ``timeout`` seconds. ``on_change`` is told id and state (some may be missed: the record is the truth).
        """
        ids = [job_ids] if isinstance(job_ids, str) else list(job_ids)
        deadline = float("inf") if timeout is None else time.monotonic() + timeout
        following = Following(self.record)
        following.add(ids)
        missed: list[str] = []
        look_at = time.monotonic() + RECHECK
        while following.left:
            now = time.monotonic()
            if now >= deadline:
                raise TimeoutError(f"{len(following.left)} of {len(ids)} jobs have not ended after {timeout:g} s")
            for job_id in following.step(min(1.0, deadline - now)):
                if on_change is not None:
                    on_change(job_id, following.states[job_id])
            for job_id, reason in following.refused.items():
                raise SpecError(f"job {job_id} was refused: {reason} (jobmill dead list)")
            if now >= look_at and not following.outage:
                look_at = now + RECHECK
                try:
                    gone = following.nowhere()
                except ServerUnavailable:  # an outage says nothing of any id
                    gone = []
                if gone and gone == missed:
                    raise UnknownName(f"no job {gone[0]!r} in the record at {mask(self.record.url)} or in Job_Queue")
                missed = gone
        rows = following.rows(ids)
        return rows[ids[0]] if isinstance(job_ids, str) else rows

    def _refused(self, job_ids: Sequence[str]) -> None:
        """Raise SpecError when one of these jobs stands in Dead_Queue."""
        wanted = set(job_ids)
        for entry in reversed(dead.entries(self.record, -1000)):
            if entry.job_id in wanted:
                raise SpecError(f"job {entry.job_id} was refused: {entry.reason} (jobmill dead list)")

    def job(self, job_id: str) -> JobRow:
        """Return the record of one job; raise UnknownName."""
        rows = listing.jobs(self.record, [job_id])
        if not rows:
            self._refused([job_id])
            raise UnknownName(f"no job {job_id!r} in the record at {mask(self.record.url)} (jobmill list)")
        return rows[0]

    def result(self, job_id: str, *, timeout: float | None = None) -> Any:
        """Wait for a job and return the JSON that it wrote to $JOBMILL_RETURN_FILE (None where it wrote none).

        Raise PermanentError with the reason when the job did not end as done.
        """
        row = self.wait(job_id, timeout=timeout)
        if row.state is not State.DONE:
            why = row.exit.get("message") or row.exit.get("reason") or row.exit.get("exit_status", "")
            raise PermanentError(f"job {job_id} ended {row.state}: {why}")
        data = self.log(row, "return.json")
        try:
            return json.loads(data) if data.strip() else None
        except ValueError as error:
            raise PermanentError(f"the return file of job {job_id} is no JSON: {error}") from None

    def log(self, row: JobRow, stream: str = "stdout", offset: int = 0, *, most: int | None = None) -> bytes:
        """Return what a job's current run wrote to a stream (or a file of its run folder) from an offset on.

        With ``most`` no more is read than a little above so many bytes.
        """
        handle = row.facts.get("handle")
        if not handle:
            return b""
        parts, size = [], 0
        while (most is None or size <= most) and (part := self.part(row, stream, offset + size)):
            parts.append(part)
            size += len(part)
        return b"".join(parts)

    def part(self, row: JobRow, stream: str, offset: int, limit: int = 1 << 20) -> bytes:
        """Return up to ``limit`` bytes of a file of the current run's folder: from home once it was brought there."""
        handle = row.facts.get("handle")
        if not handle:
            return b""
        system = self.system(row.system)
        if system.stages and row.state in (*ENDED, State.COLLECTING):
            folder = self.folder(row)
            try:
                with (folder / stream).open("rb") as file:
                    file.seek(offset)
                    return file.read(limit)
            except FileNotFoundError:
                if row.ended and (folder / "run").exists():  # all came home, and this was not there
                    return b""
        return system.logs(handle, stream, offset, limit)

    def folder(self, row: JobRow, run: int | None = None) -> Path:
        """Return the run folder of a job, as its host knows it."""
        copy = self._copy(row.system)
        return Path(str(copy.get("spool", ""))) / "jobs" / row.id / f"run.{run or row.run}"

    def _copy(self, name: str) -> dict[str, Any]:
        copies = capacity.systems(self.record)
        if name not in copies:
            raise UnknownName(f"system {name!r} is not in the record; known: {', '.join(sorted(copies)) or 'none'}")
        found: dict[str, Any] = json.loads(copies[name])
        return found

    def system(self, name: str) -> ExecutionSystem:
        """Return the system of a name, built from its copy in the record."""
        if name not in self._systems:
            from jobmill.config import find
            from jobmill.rules.site import load_site_plugins
            from jobmill.systems.registry import system_class

            load_site_plugins(find(None, os.environ))
            copy = self._copy(name)
            kind = system_class(copy["kind"])
            self._systems[name] = kind.build(name, copy.get("options", {}), Path(copy["spool"]))
        return self._systems[name]

    def cancel(self, job_ids: Sequence[str], why: str = "", who: str | None = None) -> dict[str, str]:
        """Wish that jobs end; say of each: cancelled (at once), wished, its end state, or unknown."""
        return wish.cancel(self.record, job_ids, who=who or getpass.getuser(), why=why)

    def hold(self, job_ids: Sequence[str]) -> dict[str, str]:
        """Hold jobs that have not begun."""
        return wish.hold(self.record, job_ids)

    def release(self, job_ids: Sequence[str]) -> dict[str, str]:
        """Release held jobs."""
        return wish.unhold(self.record, job_ids)

    def retry(self, job_ids: Sequence[str]) -> dict[str, str]:
        """Run ended jobs again, each as a new run."""
        return wish.retry(self.record, job_ids)

    def runs(self, job_id: str) -> list[dict[str, Any]]:
        """Return the earlier runs of a job."""
        return listing.runs(self.record, job_id)

    def spec(self, job_id: str) -> dict[str, Any]:
        """Return a job's spec as it was admitted, with canonical names."""
        canonical = listing.spec(self.record, job_id)
        return json.loads(canonical) if canonical else {}

    def last(self) -> str:
        """Return the id of the job that was admitted last."""
        return listing.last(self.record)

    def close(self) -> None:
        """Drop the connections."""
        self.record.close()
        for system in self._systems.values():
            system.close()
        self._systems.clear()


def _here(path: str) -> str:
    return os.path.normpath(Path.cwd() / os.path.expanduser(path))  # noqa: PTH111 - Path's raises for unknown users


def _is_file(job: object) -> TypeGuard[str | Path]:
    return isinstance(job, (str, Path))


def read(job: str | Path | Mapping[str, Any] | JobSpec) -> list[JobSpec]:
    """Return the specs of a file (one or several documents), a mapping or a spec; raise SpecError."""
    from jobmill.jobs.job_file import read_specs
    from jobmill.jobs.spec import JobSpec

    if isinstance(job, JobSpec):
        return [job]
    if not isinstance(job, (Mapping, str, Path)):
        raise SpecError(
            f"a job is a mapping, a JobSpec or the name of a file, not {type(job).__name__}; several: submit_many"
        )
    if isinstance(job, Mapping):
        return [JobSpec.parse(job)]
    return read_specs(job)
