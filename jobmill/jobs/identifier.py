"""Ids of jobs: short, unique, in the order of time, and plain text to every reader."""

from __future__ import annotations

import os
import threading
import time

ID_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"  # what an id may look like, whoever drew it

_DIGITS = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: in ASCII order, without i l o u
_LEADING = "abcdefghjkmnpqrstvwxyz"  # the first is a letter: YAML must never take an id for a number
_RANDOM_BITS = 40

_lock = threading.Lock()
_last = (0, 0)  # the newest id's milliseconds and random part


def new_id() -> str:
    """Return a new id of 17 characters; those of one process sort in the order in which they were drawn.

    Nine characters of Unix milliseconds and eight of randomness; within one millisecond, or when the clock goes back,
    the random part counts up, so that one process never draws the same twice.
    """
    global _last
    now = time.time_ns() // 1_000_000
    with _lock:
        then, tail = _last
        if now > then:
            then, tail = now, _random()
        else:
            tail += 1
            if tail >> _RANDOM_BITS:
                then, tail = then + 1, _random()
        _last = then, tail
    number = then << _RANDOM_BITS | tail
    text = ""
    for _ in range(16):
        text = _DIGITS[number & 31] + text
        number >>= 5
    return _LEADING[number] + text


def _random() -> int:
    """Return random bits, but for the top one: it stays free, to leave room for counting up."""
    return int.from_bytes(os.urandom(_RANDOM_BITS // 8), "big") >> 1


def drawn_at(job_id: str) -> float | None:
    """Return when `new_id` drew this id (Unix time, whole seconds, up to 2 s early); None for what it never drew."""
    if len(job_id) != 17:
        return None
    number = _LEADING.find(job_id[0])
    for digit in job_id[1:7]:  # the milliseconds but their last ten bits
        value = _DIGITS.find(digit)
        if number < 0 or value < 0:
            return None
        number = number << 5 | value
    return float((number << 10) // 1000)


def _forget() -> None:
    """Start anew in a forked child, which would otherwise count on from its parent's last id."""
    global _lock, _last
    _lock, _last = threading.Lock(), (0, 0)


os.register_at_fork(after_in_child=_forget)
