"""A breaker: a system that does not answer is left alone, for longer and longer, and tried again.

Pure: clock and random numbers are given, and nothing is called. Whoever asks a system tells it what came of that.
"""

from __future__ import annotations

from collections.abc import Callable

FAILURES = 3  # in a row, after which it opens
FIRST = 1.0  # seconds of the first pause; each next one is twice as long
LONGEST = 60.0  # seconds
JITTER = 0.2  # of a pause, more or less, so that many workers do not come back in step


class Breaker:
    """Closed: ask. Open: do not ask until the pause is over; then one try, which closes it or opens it for longer."""

    def __init__(self, clock: Callable[[], float], chance: Callable[[], float]) -> None:
        """``clock``: seconds; ``chance``: a number from 0 to 1 (`random.random`)."""
        self._clock = clock
        self._chance = chance
        self._failures = 0
        self._pauses = 0
        self._first = 0.0
        self._until = 0.0
        self.why = ""  # the words of the last failure

    @property
    def open(self) -> bool:
        """True until an answer has come, also while a try is due."""
        return self._pauses > 0

    @property
    def pause(self) -> float:
        """Seconds for which nothing is asked; 0: ask."""
        return max(0.0, self._until - self._clock()) if self._pauses else 0.0

    @property
    def age(self) -> float:
        """Seconds since the first of the failures in a row; 0 without one."""
        return self._clock() - self._first if self._failures else 0.0

    def failed(self, why: str) -> bool:
        """Note that nothing answered; True when this opens it, or opens it again."""
        now = self._clock()
        if not self._failures:
            self._first = now
        self._failures += 1
        self.why = why
        if self._failures < FAILURES:
            return False
        length = min(LONGEST, FIRST * 2 ** min(self._pauses, 16))
        self._pauses += 1
        self._until = now + length * (1 + JITTER * (2 * self._chance() - 1))
        return True

    def worked(self) -> bool:
        """Note an answer; True when this closes it."""
        was_open = self.open
        self._failures = self._pauses = 0
        return was_open
