"""The fake cluster's queue: what became of each launch, computed from the acts of a journal and the time alone.

Whoever replays the same acts to the same time finds the same starts and ends, so no process has to run for them. Times
are seconds of one clock (the host's `time.monotonic`); acts come in its order.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

HELD, QUEUED, RUNNING, ENDED = "held", "queued", "running", "ended"


@dataclass(slots=True, kw_only=True)
class FakeLaunch:
    """One submission."""

    number: int
    token: str
    submitted: float
    seconds: float = 0.0  # how long it would run
    exit: int = 0
    signal: int = 0  # the signal that ends it, 0: none
    walltime: float | None = None
    cpus: int = 1
    what: str = ""  # the command that is not run
    state: str = HELD
    width: int = 1  # slots that it took
    released: float | None = None
    started: float | None = None
    ended: float | None = None
    killed: int = 0  # the signal by which it was killed, 0: it was not

    @property
    def over(self) -> bool:
        """True when the walltime ends it."""
        return self.walltime is not None and self.seconds > self.walltime


@dataclass(slots=True)
class FakeQueue:
    """First come (by release), first served, over ``slots``."""

    keep: float = math.inf  # seconds for which what has ended stays known
    slots: int | None = None  # None: as many as there are jobs
    now: float = 0.0
    last: int = 0  # the last number given
    launches: dict[int, FakeLaunch] = field(default_factory=dict)
    alive: dict[int, FakeLaunch] = field(default_factory=dict)  # held, queued or running
    _tokens: dict[str, list[int]] = field(default_factory=dict)
    _line: deque[FakeLaunch] = field(default_factory=deque)
    _ends: list[tuple[float, int]] = field(default_factory=list)
    _history: deque[FakeLaunch] = field(default_factory=deque)  # in order of their ends
    _used: int = 0

    def apply(self, act: Sequence[Any]) -> None:
        """Take one act of the journal; raise ValueError, KeyError, TypeError or IndexError for what is none."""
        verb, when = act[0], float(act[1])
        if verb == "submit":
            number, token, what = int(act[2]), str(act[3]), act[4]
            launch = FakeLaunch(number=number, token=token, submitted=when, **what)
            self.last = max(self.last, number)
            self.launches[number] = self.alive[number] = launch
            self._tokens.setdefault(token, []).append(number)
        elif verb == "release":
            self._release(int(act[2]), when)
        elif verb == "kill":
            self._kill(int(act[2]), when, int(act[4]))
        elif verb == "slots":
            self.advance(when)
            self.slots = None if act[2] is None else int(act[2])
            self._fill(when)
        else:
            raise ValueError(f"no act: {verb!r}")

    def advance(self, now: float) -> None:
        """Let time pass: end what is over, start what is next."""
        ends = self._ends
        while ends and ends[0][0] <= now:
            when, number = heapq.heappop(ends)
            launch = self.launches.get(number)
            if launch is not None and launch.state == RUNNING:
                self._end(launch, when)
                self._fill(when)
        while self._history and self._history[0].ended is not None and self._history[0].ended < now - self.keep:
            self._drop(self._history.popleft())
        self.now = max(self.now, now)

    def of_token(self, token: str) -> list[FakeLaunch]:
        """Return the submissions of a token, the first one first; those killed before their start are none."""
        found = [self.launches[n] for n in self._tokens.get(token, ())]
        return [launch for launch in found if not (launch.killed and launch.started is None)]

    def _release(self, number: int, when: float) -> None:
        launch = self.launches.get(number)
        if launch is not None and launch.state == HELD:
            self.advance(when)
            launch.state, launch.released = QUEUED, when
            self._line.append(launch)
            self._fill(when)

    def _kill(self, number: int, when: float, signal: int) -> None:
        self.advance(when)
        launch = self.launches.get(number)
        if launch is not None and launch.state != ENDED:
            launch.killed = signal
            self._end(launch, when)
            self._fill(when)

    def _fill(self, when: float) -> None:
        while self._line:
            launch = self._line[0]
            if launch.state != QUEUED:  # killed in line
                self._line.popleft()
                continue
            if self.slots is not None:
                width = max(1, min(launch.cpus, self.slots))  # what is wider than the cluster takes all of it
                if self._used + width > self.slots:
                    return
                launch.width = width
            self._line.popleft()
            launch.state, launch.started = RUNNING, when
            self._used += launch.width
            lasts = launch.seconds if launch.walltime is None else min(launch.seconds, launch.walltime)
            heapq.heappush(self._ends, (when + lasts, launch.number))

    def _end(self, launch: FakeLaunch, when: float) -> None:
        if launch.state == RUNNING:
            self._used -= launch.width
        launch.state, launch.ended = ENDED, when
        del self.alive[launch.number]
        self._history.append(launch)

    def _drop(self, launch: FakeLaunch) -> None:
        del self.launches[launch.number]
        numbers = self._tokens[launch.token]
        numbers.remove(launch.number)
        if not numbers:
            del self._tokens[launch.token]
