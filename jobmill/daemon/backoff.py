"""How long to wait before something that died is started again."""

from __future__ import annotations

import random
from collections.abc import Callable

FIRST = 0.1  # seconds: one death is bad luck
LONGEST = 10.0  # seconds
HEALTHY = 30.0  # seconds of life after which the count begins anew


class Backoff:
    """Quick at first, doubling to `LONGEST` while it keeps dying, jittered so that many do not come at once."""

    def __init__(self, *, jitter: Callable[[], float] = random.random) -> None:
        """``jitter`` gives numbers from 0 to 1."""
        self._jitter = jitter
        self._deaths = 0

    def died(self, *, lived: float) -> float:
        """Count a death after ``lived`` seconds of life; return the seconds to wait, half of them jitter."""
        self._deaths = 1 if lived >= HEALTHY else self._deaths + 1
        longest = min(LONGEST, FIRST * 2.0 ** min(self._deaths - 1, 16))
        return longest * (0.5 + 0.5 * self._jitter())
