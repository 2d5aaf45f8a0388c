"""When to linger: a busy loop waits some milliseconds to fill its batch, an idle one never."""

from __future__ import annotations

LINGER = 0.015  # seconds
BUSY = 30  # entries within a window that make a loop busy
WINDOW = 0.1  # seconds


class Pace:
    """Counts entries in the last window; the caller brings the clock."""

    def __init__(self) -> None:
        self._since = 0.0
        self._count = 0
        self._busy = False

    def note(self, entries: int, now: float) -> None:
        """Note that so many entries were handled."""
        if now - self._since > WINDOW:
            self._busy = self._count >= BUSY and now - self._since < 3 * WINDOW
            self._since, self._count = now, 0
        self._count += entries
        if self._count >= BUSY:
            self._busy = True

    def linger(self) -> float:
        """Return for how many seconds to wait before the next batch is taken."""
        return LINGER if self._busy else 0.0
