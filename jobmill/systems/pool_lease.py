"""The right of a task to run its launch: a lease in the pool's Redis, prolonged by a thread beside the launch.

Why a launch never runs in two places. Let L be the lease and K the `margin`, in which a tree is killed for certain
(TERM, the grace, KILL). The task reads its own monotonic clock before it asks for another lease, t; the server
then sets the end of the lease to its own time + L, which cannot be before t + L. Only when that answer is here is the
launch's *leash* prolonged, to t + L - K: a time in a file, at which guard and runner, two processes that outlive the
task and one another, end the whole tree. So wherever the task is dead, stopped or cut off, nothing of the launch is
left at t + L. The pool gives a launch up by the server's clock alone, and not before the end of its lease + L/10
(clocks that run apart by less than a tenth): later than that. From then on the record has an end, in the same script
that would have found a lease prolonged meanwhile; so a task that comes back is refused, its result dropped, and a
retry elsewhere has begun when nothing of the first run was left.

It rests on this: the server's clock is not set forward by more than L/10; the server does not lose what it has
confirmed (`appendfsync always`); guard and runner are not killed together with the task while the job's own
processes stay (the next launch on that host sweeps those up); a host that was suspended wakes with a few moments of
the launch before its leash is looked at.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any, cast

import redis

from jobmill.systems.pool_record import PREFIX, PoolRecord
from jobmill.systems.watch import LEASH

AGAIN = 0.5  # seconds between attempts to reach a server that does not answer
SLACK = 0.1  # of the lease: by so much clocks may run apart


def margin(grace: float) -> float:
    """Return the seconds that the end of a whole tree may take, with ``grace`` between TERM and KILL."""
    return grace + 2.0


class PoolLease(threading.Thread):
    """One launch's lease; whoever made it looks at its fields when the descriptor is readable."""

    def __init__(self, record: PoolRecord, launch: str, owner: str, *, lease: float, grace: float, room: Path) -> None:
        """``record``: for this thread alone, and patient for `beat` seconds and more; ``room``: takes the leash."""
        super().__init__(daemon=True, name="pool-lease")
        self.progress = ""  # told with the next beat
        self.wish = 0  # 1: TERM, 2: KILL
        self.lost = False  # the pool gave the launch up
        self.asks: deque[list[Any]] = deque()
        self.beat = beat_of(lease, grace)
        self._record, self._launch, self._owner = record, launch, owner
        self._lease, self._margin = lease, margin(grace)
        self._leash = os.open(room / os.fsdecode(LEASH), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._until = 0.0  # time.monotonic() at which the launch has to be ended
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        self._over = threading.Event()

    def fileno(self) -> int:
        """Return the descriptor that is readable when there is news."""
        return self._reader

    def drain(self) -> None:
        """Take note of the news."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._reader, 4096)

    @property
    def ran_out(self) -> bool:
        """Tell whether the launch has to be ended because the lease could not be prolonged in time."""
        return time.monotonic() >= self._until

    def prolong(self, since: float | None = None) -> bool:
        """Ask for another lease, counted from now or from ``since`` (time.monotonic()); False: it is given up."""
        asked = time.monotonic() if since is None else since
        if self._until and self.ran_out:
            return False  # the launch is being ended: no answer brings it back
        if since is None:
            self.wish = max(self.wish, said := self._record.beat(self._launch, self._owner, self._lease, self.progress))
            if said < 0:
                self.lost = True
                self._write(0.0)
                return False
            if self._until and self.ran_out:
                return False  # the answer came too late: guard and runner have begun
        self._write(asked + self._lease - self._margin)
        return True

    def run(self) -> None:
        """Prolong until told to leave; between beats wait for what is asked of the launch."""
        while not self._over.is_set():
            try:
                if not self.prolong():
                    break
                self._tell()
                asked = self._record.client.blpop([f"{PREFIX}ask:{self._launch}"], timeout=self.beat)
                if asked is not None:
                    self._hear(cast("tuple[bytes, bytes]", asked)[1])
            except (redis.RedisError, OSError):
                self._over.wait(min(AGAIN, self.beat))
        self._tell()

    def leave(self) -> None:
        """Stop; nothing more is started or kept alive under this lease."""
        self._over.set()

    def _hear(self, text: bytes) -> None:
        with contextlib.suppress(ValueError, RecursionError):
            words = json.loads(text)
            if isinstance(words, list) and words and words[0] != "kill":  # a wish comes with the beat that follows
                self.asks.append(words)

    def _write(self, until: float) -> None:
        """Move the end of the leash; one write of one length, over the old one."""
        self._until = until
        os.pwrite(self._leash, b"%024.6f" % until, 0)

    def _tell(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._writer, b"x")


def beat_of(lease: float, grace: float) -> float:
    """Return the seconds between two beats: several of them may fail before the leash ends."""
    return max(0.2, (lease - margin(grace)) / 5)
