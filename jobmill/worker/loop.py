"""The loop of every worker: wait for lists and descriptors, beat, survive outages, stop warm or cold.

One thread. A watchdog (a timer in the interpreter that needs no Python to run) ends the process with all stacks in the
log when the loop makes no progress, so that its supervisor starts another.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import random
import select
import signal
import time
from collections.abc import Callable
from types import FrameType

from jobmill.errors import Evicted, TransientError
from jobmill.ledger.admission import Batch
from jobmill.ledger.doorbell import Doorbell
from jobmill.ledger.membership import Membership
from jobmill.ledger.record import BATCH, Record, batches
from jobmill.worker.pace import Pace
from jobmill.worker.work import Work

logger = logging.getLogger("jobmill")

ANEW = -1  # what `run` returns when the process shall begin anew with a changed configuration
BEAT = 2.0  # seconds between heartbeats
TICK = 1.0  # seconds between ticks
LOOK = 10.0  # seconds between looks at the private lists without a bell
STUCK = 60.0  # seconds without progress after which the watchdog ends the process
DEPART = 3.0  # seconds that a warm stop may take to hand back what was taken


class Loop:
    """Runs one `Work` until it is told to stop."""

    def __init__(
        self,
        record: Record,
        work: Work,
        *,
        parent: int | None = None,  # a descriptor that ends with the supervisor
        changed: Callable[[], bool] = lambda: False,  # asked at a HUP: begin anew?
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._record = record
        self._work = work
        self._clock = clock
        self._parent = parent
        self._member = Membership(record=record, role=work.role, lane=work.lane, digest=work.digest)
        self._bells: dict[str, Doorbell] = {}
        self._paces: dict[str, Pace] = {}
        self._heads: dict[str, Batch] = {}  # queue -> what its bell brought
        self._look: dict[str, float] = {}  # queue -> when to look without waiting for its bell
        self._entered = False
        self._stop = 0  # signals seen: 1 warm, 2 cold
        self._reload = False
        self._changed = changed
        self._anew = False
        self._outage = 0
        self._beat_at = self._tick_at = self._pet_at = self._look_at = 0.0
        self._turns = 0
        self._wake_r, self._wake_w = os.pipe()
        os.set_blocking(self._wake_w, False)
        os.set_blocking(self._wake_r, False)

    def run(self) -> int:
        """Serve until TERM or INT (once: warm; twice: cold); return the exit code, or ANEW after a HUP."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._signalled)
        signal.set_wakeup_fd(self._wake_w, warn_on_full_buffer=False)
        logger.info("starts", extra={"pid": os.getpid()})
        try:
            while not self._stop:
                self._pet()
                try:
                    self._turn()
                    self._outage = 0
                except Evicted as error:
                    logger.warning("was declared dead and registers anew", extra={"old": str(error)})
                    self._drop()
                    self._member.name = ""
                except TransientError as error:
                    self._pause(error)
            return self._depart()
        finally:
            faulthandler.cancel_dump_traceback_later()

    def _turn(self) -> None:
        if not self._member.name:
            self._member.register()
            self._bells, self._heads = {}, {}
            self._entered = False
            self._beat_at = self._tick_at = 0.0
        if not self._entered:  # nothing is taken before this has gone through
            self._work.enter(self._member)
            self._bells = {q: self._bell(q) for q in self._work.queues()}
            self._paces = {q: Pace() for q in self._bells}
            self._look = dict.fromkeys(self._bells, 0.0)
            self._entered = True
        if self._reload:
            self._reload = False
            if self._changed():
                logger.info("begins anew with the changed configuration")
                self._stop, self._anew = 1, True
                return
        self._periodic()  # first: whatever is refused below, this process is alive
        now = self._clock()
        wait = max(0.0, min(self._beat_at, self._tick_at) - now)
        more = self._work.flush(now)
        wait = wait if more is None else min(wait, more)
        for queue, bell in self._bells.items():
            if bell.armed or not self._work.wants(queue):
                continue
            due = self._look.get(queue)
            if due is None:
                bell.arm()
            else:
                wait = min(wait, max(0.0, due - now))
        ready = self._select(wait)
        for queue, bell in self._bells.items():
            if bell.armed:
                if bell.fileno() in ready:
                    if head := bell.answer():
                        self._heads[queue] = head
                        self._look[queue] = 0.0
                elif bell.overdue():
                    bell.drop()
        now = self._clock()
        for queue in self._bells:
            due = self._look.get(queue)
            if due is not None and due <= now and self._work.wants(queue):
                self._take(queue, now)
        self._work.flush(self._clock())

    def _bell(self, queue: str) -> Doorbell:
        return Doorbell(self._record, queue, self._member.name, lambda: self._work.taking(queue))

    def _take(self, queue: str, now: float) -> None:
        if self._bells[queue].armed:  # it looks by itself, within `BLOCK`, and would tell again what is dealt with here
            self._look.pop(queue, None)
            return
        count = self._work.ring(queue, self._heads.pop(queue, None))
        pace = self._paces[queue]
        pace.note(count, now)
        if count >= BATCH:
            self._look[queue] = 0.0
        elif count and pace.linger():
            self._look[queue] = self._clock() + pace.linger()
        else:
            self._look.pop(queue, None)

    def _periodic(self) -> None:
        now = self._clock()
        if now >= self._beat_at:
            self._turns += 1
            self._beat_at = now + BEAT * random.uniform(0.8, 1.0)
            for some in batches(self._work.starting()) or [()]:
                wishes = self._member.beat(str(self._turns), list(some), self._work.lease)
                if wishes:
                    self._work.wished(wishes)
        if now >= self._look_at:  # a move whose reply was lost may have filled our list unseen
            self._look_at = now + LOOK
            self._look = dict.fromkeys(self._bells, 0.0)
        if now >= self._tick_at:
            self._tick_at = now + TICK * random.uniform(0.9, 1.1)
            self._work.tick(now)

    def _select(self, wait: float) -> set[int]:
        fds = [b.fileno() for b in self._bells.values() if b.armed]
        extra = list(self._work.filenos())
        watched = [*fds, *extra, self._wake_r, *([self._parent] if self._parent is not None else [])]
        poller = select.poll()
        for fd in watched:
            poller.register(fd, select.POLLIN)
        ready = {fd for fd, _ in poller.poll(wait * 1000)}
        if self._wake_r in ready:
            os.read(self._wake_r, 4096)
        if self._parent is not None and self._parent in ready:
            logger.info("the supervisor is gone: stops")
            self._stop = max(self._stop, 1)
        if ready.intersection(extra):
            self._work.readable()
        return ready

    def _pause(self, error: TransientError) -> None:
        """Wait before the next attempt, longer each time and never in step with others; read what others push."""
        if self._outage in (0, 10) or self._outage % 100 == 0:
            logger.warning("%s; tries again", error, extra={"attempt": self._outage + 1})
        self._outage += 1
        self._drop()
        self._look = dict.fromkeys(self._bells, 0.0)
        until = self._clock() + random.uniform(0.3, 1.0) * min(2.0, 0.05 * 2 ** min(self._outage, 10))
        while not self._stop and (left := until - self._clock()) > 0:
            self._select(left)
            self._pet()

    def _depart(self) -> int:
        """Warm: finish what is in hand, give back what was taken, leave. Cold: go; another process recovers it."""
        self._drop()  # nothing more is taken
        self._work.close()
        if self._stop < 2 and self._member.name:
            until = self._clock() + DEPART
            while self._stop < 2 and self._clock() < until:
                try:
                    self._work.flush(float("inf"))
                    self._drop()  # a move under way may still fill our list: others look there for a day
                    self._member.leave(list(self._work.queues()))
                    break
                except Evicted:
                    break
                except TransientError as error:
                    logger.warning("%s; cannot say good-bye yet", error)
                    time.sleep(0.1)
        else:
            self._drop()
        logger.info("stopped", extra={"how": "warm" if self._stop < 2 else "cold"})
        return ANEW if self._anew and self._stop < 2 else 0

    def _drop(self) -> None:
        self._heads = {}
        for bell in self._bells.values():
            bell.drop()

    def _pet(self) -> None:
        now = self._clock()
        if now >= self._pet_at:
            self._pet_at = now + STUCK / 10
            faulthandler.dump_traceback_later(STUCK, exit=True)

    def _signalled(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            self._reload = True
        else:
            self._stop += 1
