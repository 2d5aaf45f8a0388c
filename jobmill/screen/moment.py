"""Times and durations for people."""

from __future__ import annotations

import time


def duration(seconds: float | None) -> str:
    """Return seconds in at most seven characters: ``0.01s``, ``1.5s``, ``2m05s``, ``3h04m``, ``2d03h``; ``-``: none."""
    if seconds is None:
        return "-"
    seconds = max(0.0, seconds)
    if seconds < 9.95:
        return f"{seconds:.2f}s" if seconds < 1 else f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"


def ago(then: float | None, now: float) -> str:
    """Return how long ago a moment was: ``3s ago``, ``2m05s ago``; ``-``: never."""
    if not then:
        return "-"
    passed = round(now - then)
    return "now" if passed < 1 else f"{passed}s ago" if passed < 60 else f"{duration(passed)} ago"


def moment(then: float | None) -> str:
    """Return a moment in local time: ``2026-11-21 01:39:04``; ``-``: never."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(then)) if then else "-"


def clock(then: float) -> str:
    """Return the time of day."""
    return time.strftime("%H:%M:%S", time.localtime(then))
