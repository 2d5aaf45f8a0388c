"""What RQ's workers run: found by name, so it has a module of its own."""

from __future__ import annotations


def noop(number: int) -> int:
    """Return the number."""
    return number
