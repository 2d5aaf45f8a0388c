"""Carriers: threads beside the loop that bring files in and home, each with an instance of the system of its own.

A system has a quick line and a slow one, with carriers of their own: what is large, or takes long while others wait,
goes over to the slow line, where it goes on where it stopped. So small loads never wait for large ones. A carrier that
stands in a file system that does not answer is given up, and another takes its place.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from jobmill.errors import JobmillError, StageFailed, StageStopped, SystemUnavailable
from jobmill.systems.system import ExecutionSystem, Progress

logger = logging.getLogger("jobmill")

SEATS = 2  # carriers of each line of a system: each may have a connection of its own
QUICK = 2.0  # seconds after which a load leaves the quick line when others wait there
STUCK = 60.0  # seconds without any progress after which a carrier is given up
LOST = 32  # carriers that may stand somewhere before no other is started


class Load:
    """One call of a system that takes its time, with what came of it."""

    def __init__(
        self,
        system: str,
        work: Callable[[ExecutionSystem, Progress], Any],
        *,
        heavy: Callable[[], bool] = lambda: False,  # called beside the loop: does it belong to the slow line?
        drop: Callable[[ExecutionSystem], None] = lambda _: None,  # removes what it brought, once it is not wanted
    ) -> None:
        self.system = system
        self.work = work
        self.heavy = heavy
        self.drop = drop
        self.words = ""  # how far it is
        self.ended = False
        self.result: Any = None
        self.error: JobmillError | None = None
        self.stopped = False
        self.unwanted = False
        self._lock = threading.Lock()

    def end(self, result: Any = None, error: JobmillError | None = None) -> bool:
        """Tell what came of it, once; False: that was told before."""
        with self._lock:
            if self.ended:
                return False
            self.result, self.error, self.ended = result, error, True
            return True

    def stop(self, *, unwanted: bool) -> None:
        """Let it end where it is, now; ``unwanted``: and remove what it brought."""
        self.unwanted = unwanted
        self.stopped = True
        self.end(error=StageStopped("it is not wanted any more"))


class Carriers:
    """All loads of one worker."""

    def __init__(self, build: Callable[[str], ExecutionSystem]) -> None:
        """``build``: makes an instance of a configured system; called by each carrier."""
        self._build = build
        self._lines: dict[tuple[str, bool], SimpleQueue[Load]] = {}
        self._carriers: list[Carrier] = []
        self._lost: list[Carrier] = []
        self._ended: deque[Load] = deque()
        self._reader = self._writer = -1  # a pipe, made with the first load

    def filenos(self) -> list[int]:
        """Return the descriptors that are readable when a load has ended."""
        return [self._reader] if self._reader >= 0 else []

    def add(self, load: Load) -> None:
        """Put a load in line."""
        if self._reader < 0:
            self._reader, self._writer = os.pipe()
            os.set_blocking(self._reader, False)
            os.set_blocking(self._writer, False)
        self._line(load.system, quick=True).put(load)
        self._man(load.system)

    def ended(self) -> list[Load]:
        """Return the loads that ended since the last call, but for those that were stopped."""
        with contextlib.suppress(BlockingIOError):
            while self._reader >= 0 and os.read(self._reader, 4096):
                pass
        found = []
        while self._ended:
            found.append(self._ended.popleft())
        return [load for load in found if not load.stopped]

    def tick(self) -> None:
        """Give up carriers that stand somewhere, and put others in their places."""
        now = time.monotonic()
        self._lost = [carrier for carrier in self._lost if not carrier.back]
        for carrier in [c for c in self._carriers if c.stands(now) > STUCK]:
            if len(self._lost) >= LOST:
                return
            load = carrier.load
            carrier.given_up = True
            self._carriers.remove(carrier)
            self._lost.append(carrier)
            if load is not None:
                words = f"nothing moved for {STUCK:g} s ({load.words or 'not begun'}): a file system does not answer"
                logger.warning("%s: %s", load.system, words)
                self.tell(load, error=SystemUnavailable(words))
            self._man(carrier.name)

    def tell(self, load: Load, result: Any = None, error: JobmillError | None = None) -> None:
        """End a load, and wake the loop."""
        if load.end(result, error):
            self._ended.append(load)
            with contextlib.suppress(OSError):  # full: it is awake; closed: nobody wants to know
                os.write(self._writer, b".")

    def _line(self, system: str, *, quick: bool) -> SimpleQueue[Load]:
        return self._lines.setdefault((system, quick), SimpleQueue())

    def _man(self, system: str) -> None:
        lines = self._line(system, quick=True), self._line(system, quick=False)
        for quick in (True, False):
            there = sum(1 for c in self._carriers if c.name == system and c.quick is quick)
            for _ in range(SEATS - there):
                carrier = Carrier(system, quick, lines, self.tell, self._build)
                self._carriers.append(carrier)
                threading.Thread(target=carrier.serve, daemon=True).start()  # it must not keep us from our end


class Carrier:
    """A thread that carries one load after another."""

    def __init__(
        self,
        name: str,
        quick: bool,
        lines: tuple[SimpleQueue[Load], SimpleQueue[Load]],
        tell: Callable[..., None],
        build: Callable[[str], ExecutionSystem],
    ) -> None:
        self.name = name
        self.quick = quick
        self.given_up = False
        self.back = False  # given up, and free again
        self.load: Load | None = None
        self._quick_line, self._slow_line = lines
        self._tell = tell
        self._build = build
        self._system: ExecutionSystem | None = None
        self._began = self._moved = 0.0  # time.monotonic()
        self._passed_on = False

    def stands(self, now: float) -> float:
        """Return for how many seconds it has made no progress."""
        return now - self._moved if self.load is not None else 0.0

    def serve(self) -> None:
        """Carry until another has taken this one's place."""
        line = self._quick_line if self.quick else self._slow_line
        while not self.given_up:
            load = line.get()
            self._began = self._moved = time.monotonic()
            self._passed_on = False
            self.load = load
            self._carry(load)
            self.load = None
        if self._system is not None:
            self._system.close()
        self.back = True

    def _carry(self, load: Load) -> None:
        result: Any = None
        error: JobmillError | None = None
        try:
            if self._system is None:
                self._system = self._build(self.name)
            if load.stopped:
                error = StageStopped("it was stopped in line")
            elif self.quick and load.heavy():
                self._slow_line.put(load)
                return
            else:
                result = load.work(self._system, self._progress)
        except StageStopped as stopped:
            if self._passed_on and not load.stopped:
                self._slow_line.put(load)
                return
            error = stopped
        except JobmillError as failed:
            error = failed
        except Exception as broken:  # a stranger's system: its job ends, we do not
            logger.exception("a transfer of system %s broke", self.name)
            error = StageFailed(f"{type(broken).__name__}: {broken}")
        told = isinstance(error, StageFailed) and not load.ended
        if (load.unwanted or told) and self._system is not None:
            with contextlib.suppress(Exception):  # what is left over is removed a day later
                load.drop(self._system)
        self._tell(load, result, error)

    def _progress(self, words: str) -> None:
        assert self.load is not None
        self.load.words = words
        self._moved = now = time.monotonic()
        if self.load.stopped or self.given_up:
            raise StageStopped("it is not wanted any more")
        if self.quick and now - self._began > QUICK and not self._quick_line.empty():
            self._passed_on = True
            raise StageStopped("others wait, and it takes long")
