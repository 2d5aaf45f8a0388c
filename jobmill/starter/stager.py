"""Launches whose inputs are on their way: staged in beside the loop, under a lease that the heartbeat renews."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from jobmill.errors import JobmillError
from jobmill.ledger import poll
from jobmill.ledger.poll import Seen
from jobmill.ledger.record import Record, batches
from jobmill.starter.flight import Flight
from jobmill.systems.system import ExecutionSystem, Progress, Submission, Token, Transfer
from jobmill.worker.carriers import Carriers, Load

TELL = 1.0  # seconds between two words on how far they are
LARGE = 16 << 20  # bytes from which inputs belong to the slow line
MANY = 200  # files


@dataclass
class Staging:
    """One launch that waits for its inputs."""

    flight: Flight
    submission: Submission
    load: Load
    told: str = ""  # what the record says of how far it is


class Stager:
    """Stages inputs in; nothing of a launch has started before that is done."""

    def __init__(self, record: Record, build: Callable[[str], ExecutionSystem]) -> None:
        self._record = record
        self._carriers = Carriers(build)
        self._under_way: dict[Token, Staging] = {}
        self._tell_at = 0.0
        self._some = False  # have ended, and are still under way here

    def filenos(self) -> list[int]:
        """Return the descriptors that are readable when one is done."""
        return self._carriers.filenos()

    def add(self, flight: Flight, submission: Submission) -> None:
        """Begin to stage a launch in."""
        if (old := self._under_way.get(submission.token)) is not None:
            old.load.stop(unwanted=False)

        def drop(system: ExecutionSystem) -> None:
            _drop(system, submission.token)

        load = Load(
            flight.system,
            lambda system, progress: system.stage_in(submission, progress),
            heavy=lambda: large(submission.inputs),
            drop=drop,
        )
        self._under_way[submission.token] = Staging(flight, submission, load)
        self._carriers.add(load)

    def starting(self) -> Sequence[str]:
        """Return the jobs whose leases are to be renewed."""
        return [staging.flight.job_id for staging in self._under_way.values()]

    def done(self) -> list[tuple[Flight, Submission | JobmillError]]:
        """Return launches that are ready to be submitted, or why they are not."""
        self._some = bool(self._carriers.ended()) or self._some
        if not self._some:
            return []
        ready = [token for token, staging in self._under_way.items() if staging.load.ended]
        self._tell({token: "" for token in ready if self._under_way[token].told})  # were this to fail, all is as it was
        self._some = False
        found: list[tuple[Flight, Submission | JobmillError]] = []
        for token in ready:
            staging = self._under_way.pop(token)
            staging.flight.staged = token if staging.load.error is None else ""
            found.append((staging.flight, staging.load.error or staging.load.result))
        return found

    def drop(self, flights: Sequence[Flight]) -> None:
        """Remove what was brought for launches that were cancelled before they started; beside the loop, too."""
        for flight in flights:
            if flight.staged:
                self._carriers.add(Load(flight.system, partial(_forgotten, flight.staged)))

    def stop(self, job_ids: Collection[str] | None = None, *, unwanted: bool) -> list[Flight]:
        """Stop staging these jobs, or all; return their launches. ``unwanted``: what was brought is removed."""
        tokens = [t for t, s in self._under_way.items() if job_ids is None or s.flight.job_id in job_ids]
        found = []
        for token in tokens:
            staging = self._under_way.pop(token)
            staging.load.stop(unwanted=unwanted)
            found.append(staging.flight)
        return found

    def tick(self, now: float) -> None:
        """Replace what stands still; tell the record how far the others are."""
        self._carriers.tick()
        if now >= self._tell_at:
            self._tell_at = now + TELL
            news = {t: s.load.words for t, s in self._under_way.items() if s.load.words not in ("", s.told)}
            self._tell(news)

    def _tell(self, news: dict[Token, str]) -> None:
        for some in batches(list(news.items())):
            flights = [self._under_way[token].flight for token, _ in some]
            seen = [
                Seen(job_id=f.job_id, run=f.run, arrival=f.arrival, state="", poll_in=None, fields={"progress": words})
                for f, (_, words) in zip(flights, some, strict=True)
            ]
            poll.touch(self._record, seen)
            for token, words in some:
                self._under_way[token].told = words


def _drop(system: ExecutionSystem, token: Token) -> None:
    if system.launches_at_once:
        system.forget([system.handle_for(token)])


def _forgotten(token: Token, system: ExecutionSystem, progress: Progress) -> None:
    _drop(system, token)


def large(transfers: Sequence[Transfer]) -> bool:
    """Tell whether inputs are many or large; looks at no more of them than it has to."""
    files = size = 0
    for path in _files(transfers):
        try:
            size += os.stat(path).st_size  # noqa: PTH116
        except OSError:
            continue
        files += 1
        if files > MANY or size > LARGE:
            return True
    return False


def _files(transfers: Sequence[Transfer]) -> Iterator[str]:
    for transfer in transfers:
        yield transfer.source
        for folder, _, names in os.walk(transfer.source):
            for name in names:
                yield f"{folder}/{name}"
