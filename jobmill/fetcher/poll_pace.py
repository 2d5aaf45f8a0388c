"""When an endpoint is asked next: often after news, ever more seldom while its launches tell all news themselves."""

from __future__ import annotations

FRESH = 30.0  # seconds between polls, at most, while launches are committed: some of them may never start
GROWTH = 2.0


class PollPace:
    """Times are its loop's, in seconds. A pace that cannot grow polls once an interval, as it was told."""

    def __init__(self, least: float, most: float | None = None) -> None:
        self._least, self._most = least, max(least, most or least)
        self.interval = least
        self.last = float("-inf")  # when the last poll ended

    def polled(self, spent: float, *, news: bool) -> float:
        """Return the seconds to the next poll after one that took so many; ``news``: which nobody else had told."""
        self.interval = self._least if news else min(self._most, self.interval * GROWTH)
        return max(self.interval - spent, self.interval / 4)

    def fresh(self, now: float, at: float) -> float:
        """Return when to poll instead of ``at`` where launches were committed."""
        return min(at, max(self.last + min(FRESH, self._most), now + self._least))

    def hurry(self, now: float, at: float) -> float:
        """Return when to poll instead of ``at`` where a launch has ended and only the endpoint can tell why."""
        return min(at, max(self.last + self._least, now))
