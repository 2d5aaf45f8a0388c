"""How long to wait before a system is given again what it did not take: longer each time, until something starts."""

from __future__ import annotations

import time
from collections.abc import Callable

FIRST = 1.0  # seconds
LONGEST = 60.0  # seconds


class Setbacks:
    """Counts refusals of each system; those of one moment are one."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._counts: dict[str, tuple[int, float]] = {}  # system -> refusals in a row, when the last one was counted

    def delay(self, system: str) -> float:
        """Note a refusal and return after how many seconds to try again (jitter is added where it is applied)."""
        now = self._clock()
        count, last = self._counts.get(system, (0, now - LONGEST))
        if now - last > FIRST / 2:
            count, last = count + 1, now
            self._counts[system] = count, last
        return min(LONGEST, FIRST * 2.0 ** (count - 1))

    def over(self, system: str) -> None:
        """Something started there."""
        self._counts.pop(system, None)
