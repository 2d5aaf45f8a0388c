"""What ended launches left on systems that share no files with us is brought home, beside the loop.

The exit record stands in the job's record meanwhile, so any fetcher goes on where another died; who brings it holds the
job by a poll that is a lease away. A system out of reach is tried again, for as long as its `stage_patience`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobmill.errors import JobmillError, StageFailed, SystemUnavailable
from jobmill.fetcher.output_look import Launch
from jobmill.ledger import poll
from jobmill.ledger.poll import Due, Seen
from jobmill.ledger.record import Record, batches
from jobmill.systems import run_folder
from jobmill.systems.launch_token import life
from jobmill.systems.system import ExecutionSystem, ExitInfo, Progress
from jobmill.worker.carriers import Carriers, Load

RENEW = 1.0  # seconds between two words on how far they are, each of which renews the hold
LAST = 10.0  # seconds that the logs of a job that was cancelled are waited for
LONGEST = 60.0  # seconds between two attempts


@dataclass(frozen=True, kw_only=True)
class Brought:
    """How it went."""

    unmatched: Sequence[str] = ()  # globs that match nothing
    failed: str = ""  # why not all of it came home
    stopped: bool = False  # outputs were left behind, because somebody cancelled the job


@dataclass(eq=False)
class Trip:
    """One launch whose files are on their way."""

    job: Due
    info: ExitInfo
    globs: tuple[str, ...]
    since: float  # time.monotonic() at which its end was known
    load: Load | None = None  # None: it waits for the next attempt
    again_at: float = 0.0
    attempts: int = 0
    why: str = ""  # what the last attempt met
    last: bool = False  # somebody cancelled it: the logs come, and only for `LAST` seconds
    skipped: bool = False  # outputs were left behind
    brought: Brought | None = None
    until: float = field(default=float("inf"))  # time.monotonic()


class Homecoming:
    """All trips of one fetcher."""

    def __init__(
        self,
        record: Record,
        spool: Path,
        systems: Mapping[str, ExecutionSystem],
        build: Callable[[str], ExecutionSystem],  # makes another instance, for a thread
        *,
        lease: float,  # seconds after which another fetcher goes on
    ) -> None:
        self._record = record
        self._spool = spool
        self._systems = {name: system for name, system in systems.items() if system.stages}
        self._carriers = Carriers(build)
        self._trips: dict[Launch, Trip] = {}
        self._renew_at = 0.0
        self._news = False
        self._lease = lease

    @property
    def any(self) -> bool:
        """True where a system shares no files with us."""
        return bool(self._systems)

    def filenos(self) -> list[int]:
        """Return the descriptors that are readable when a trip may have ended."""
        return self._carriers.filenos()

    def woken(self) -> None:
        """Note that a trip may have ended."""
        self._news = bool(self._carriers.ended()) or self._news

    def serves(self, system: str) -> bool:
        """Tell whether what launches of this system leave has to be brought home."""
        return system in self._systems

    def collecting(self, job_id: str, run: int, arrival: int, exit_text: str, poll_in: float) -> Seen:
        """Return what the record has to be told before anything is brought: it keeps the exit record."""
        fields = {"exited": exit_text, "exited_at": "now", "progress": "brings its files home"}
        return Seen(job_id=job_id, run=run, arrival=arrival, state="collecting", poll_in=poll_in, fields=fields)

    def collect(self, over: Sequence[tuple[Due, ExitInfo, Sequence[str]]]) -> dict[Launch, Brought]:
        """Return those whose files are home, or will not come; begin with the others."""
        found: dict[Launch, Brought] = {}
        fresh: list[Trip] = []
        for job, info, globs in over:
            trip = self._trips.get(_launch(job))
            if trip is None:
                since = time.monotonic() - (max(0.0, job.now - job.exited_at) if job.exited_at else 0.0)
                fresh.append(Trip(job=job, info=info, globs=tuple(globs), since=since))
                continue
            if job.wish and not trip.last:
                self._hurry(trip)
            self._judge(trip)
            if trip.brought is not None:
                found[_launch(job)] = trip.brought
        if not fresh:
            return found
        seen = [self.collecting(t.job.job_id, t.job.run, t.job.arrival, t.info.to_json(), self._lease) for t in fresh]
        for trip, word in zip(fresh, poll.touch(self._record, seen), strict=True):
            if word == "ok":
                self._trips[_launch(trip.job)] = trip
                if trip.job.wish:
                    self._hurry(trip)
                else:
                    self._set_out(trip)
        return found

    def forget(self, launches: Sequence[Launch]) -> None:
        """These ended: what is known of their trips is not needed any more."""
        for launch in launches:
            if (trip := self._trips.pop(launch, None)) is not None and trip.load is not None:
                trip.load.stop(unwanted=False)

    def home(self) -> list[tuple[Due, ExitInfo]]:
        """Return what can be judged now, as the record has it; what went on without us is dropped."""
        if not self._news:
            return []
        for trip in self._trips.values():
            self._judge(trip)
        ready = [trip for trip in self._trips.values() if trip.brought is not None]
        found: list[tuple[Due, ExitInfo]] = []
        for some in batches(ready):
            for trip, job in zip(some, poll.facts(self._record, [t.job.job_id for t in some]), strict=True):
                if job is None or _launch(job) != _launch(trip.job) or not job.exited:
                    self.forget([_launch(trip.job)])
                else:
                    found.append((job, trip.info))
        self._news = False
        return found

    def tick(self, now: float) -> None:
        """Replace carriers that stand still, set out again, tell how far all are and hold them for another lease."""
        self._carriers.tick()
        if now < self._renew_at:
            return
        self._renew_at = now + RENEW
        self._news = bool(self._trips)
        for trip in self._trips.values():
            if trip.load is None and trip.brought is None and time.monotonic() >= trip.again_at:
                self._set_out(trip)
        for some in batches([trip for trip in self._trips.values() if trip.brought is None]):
            seen = [
                Seen(
                    job_id=t.job.job_id,
                    run=t.job.run,
                    arrival=t.job.arrival,
                    state="collecting",
                    poll_in=self._lease,
                    fields={"progress": self._words(t)},
                )
                for t in some
            ]
            for trip, word in zip(some, poll.touch(self._record, seen), strict=True):
                if word == "stale":
                    self.forget([_launch(trip.job)])

    def _words(self, trip: Trip) -> str:
        words = trip.load.words if trip.load is not None else ""
        if trip.load is None and trip.why:
            return f"its files cannot be brought home now: {trip.why}; tries again"
        return words or "brings its files home"

    def _set_out(self, trip: Trip) -> None:
        job, globs = trip.job, trip.globs
        spool = str(self._spool)
        identity = self._record.identity()
        token = f"{life(identity, job.arrival)}:{job.job_id}:{job.run}"
        folder = self._spool / "jobs" / job.job_id / f"run.{job.run}"

        def bring(system: ExecutionSystem, progress: Progress) -> Any:
            try:
                run_folder.enter(os.fsencode(spool), token)
            except OSError as error:
                raise SystemUnavailable(f"{folder}: {error.strerror}") from error
            except run_folder.Superseded as error:
                raise StageFailed(str(error)) from error
            return system.stage_out(job.handle, folder, globs, progress)

        trip.attempts += 1
        trip.load = Load(job.system, bring)
        self._carriers.add(trip.load)

    def _hurry(self, trip: Trip) -> None:
        """Somebody cancelled the job: only its logs are brought, and not for long."""
        if trip.load is not None:
            trip.load.stop(unwanted=False)
        trip.brought = None if trip.brought is None or trip.brought.failed else trip.brought
        trip.last, trip.skipped = True, trip.skipped or (trip.brought is None and bool(trip.globs))
        trip.globs = ()
        trip.until = time.monotonic() + LAST
        if trip.brought is None:
            self._set_out(trip)

    def _judge(self, trip: Trip) -> None:
        """Conclude from the load's end, if it has ended."""
        now, load = time.monotonic(), trip.load
        if trip.brought is not None:
            return
        if load is not None and load.ended:
            trip.load = None
            if load.error is None:
                unmatched = [str(glob) for glob in load.result or ()]
                trip.brought = Brought(unmatched=unmatched, stopped=trip.skipped)
                return
            error: JobmillError = load.error
            trip.why = str(error)
            trip.again_at = now + min(LONGEST, 2.0 ** min(trip.attempts - 1, 10))
            patience = self._systems[trip.job.system].stage_patience
            if isinstance(error, StageFailed) or now - trip.since > patience:
                trip.brought = Brought(failed=trip.why, stopped=trip.skipped)
        if trip.brought is None and now > trip.until:
            if load is not None:
                load.stop(unwanted=False)
            why = trip.why or "the job was cancelled, and its files did not come in time"
            trip.brought = Brought(failed=why, stopped=trip.skipped)


def _launch(job: Due) -> Launch:
    return job.job_id, job.run, job.arrival
