"""Durations and amounts of memory: one strict parser each, one formatter each for people.

Nothing is guessed: what could mean two things is refused or has the one reading that is written here. The parsers
raise ValueError with words that fit behind ``key: ``.
"""

from __future__ import annotations

import math
import re

MAX_SECONDS = 3_153_600_000  # 100 years: anything longer is a slip of the unit
MAX_BYTES = 1 << 60  # one EiB, likewise

_SECONDS = {
    **dict.fromkeys(("ms", "millisecond", "milliseconds"), 0.001),
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), 1),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), 60),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), 3600),
    **dict.fromkeys(("d", "day", "days"), 86400),
    **dict.fromkeys(("w", "week", "weeks"), 604800),
}
_BYTES = {"b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}

_NUMBER = re.compile(r"[0-9]{1,18}(?:\.[0-9]{1,18})?", re.ASCII)
_PART = re.compile(r"\s*([0-9]{1,18}(?:\.[0-9]{1,18})?)\s*([a-z]+)", re.ASCII)
_CLOCK = re.compile(
    r"(?:(?P<d>[0-9]{1,6})-)?(?P<a>[0-9]{1,9})(?::(?P<b>[0-9]{1,2}))?(?::(?P<c>[0-9]{1,2}))?(?P<f>\.[0-9]{1,9})?"
)
_AMOUNT = re.compile(r"([0-9]{1,18})(?:\.([0-9]{1,18}))?\s*(?:([bkmgtp])|([kmgtp])i?b)?", re.ASCII)

_DURATION_HINT = "write 90 (seconds), 90s, 1h 30m, 01:30:00 or 1-12:00:00 (days-hours)"
_MEMORY_HINT = "write 512 (MiB), 512M, 4G or 1.5T (powers of 1024)"


def parse_duration(value: str | int | float) -> float:
    """Return the seconds that ``value`` means; raise ValueError for anything that is not plainly a duration.

    A bare number is seconds. Units go from large to small, each once (``1d 2h``). Clocks are read as Slurm, PBS and
    Grid Engine do (and as YAML 1.1 reads such numbers): ``hh:mm:ss``, ``mm:ss``, ``d-hh``, ``d-hh:mm``, ``d-hh:mm:ss``.
    """
    if isinstance(value, str):
        seconds = _duration_of_text(value.strip().lower())
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        seconds = value
    else:
        raise ValueError(f"is no duration; {_DURATION_HINT}")
    if not 0 <= seconds <= MAX_SECONDS:  # false for NaN as well
        raise ValueError("must lie between 0 and 100 years")
    return float(seconds)


def _duration_of_text(text: str) -> float:
    if _NUMBER.fullmatch(text):
        return float(text)
    if clock := _CLOCK.fullmatch(text):
        return _duration_of_clock(text, clock)
    total, last, end = 0.0, math.inf, 0
    while part := _PART.match(text, end):
        unit = _SECONDS.get(part[2])
        if unit is None or unit >= last:
            break
        total, last, end = total + float(part[1]) * unit, unit, part.end()
    if not end or end != len(text):
        raise ValueError(f"{_shown(text)} is no duration; {_DURATION_HINT}")
    return round(total, 9)  # 0.001 has no exact double; 1.1 s + 300 ms must be 1.4


def _duration_of_clock(text: str, clock: re.Match[str]) -> float:
    days, first, second, third = (None if clock[k] is None else int(clock[k]) for k in "dabc")
    fraction = float(clock["f"] or 0)
    if first is None or (days is None and second is None) or (fraction and (second is None or third is None)):
        raise ValueError(f"{_shown(text)} is no duration; {_DURATION_HINT}")
    if days is not None:
        hours, minutes, seconds = first, second or 0, third or 0
        if hours > 23:
            raise ValueError(f"{_shown(text)} has more than 23 hours beside its days; {_DURATION_HINT}")
    elif third is not None:
        hours, minutes, seconds = first, second or 0, third
    else:
        hours, minutes, seconds = 0, first, second or 0
    # minutes may exceed 59 only where they lead ("90:00"), as in Slurm
    if seconds > 59 or (minutes > 59 and (days is not None or third is not None)):
        raise ValueError(f"{_shown(text)} has more than 59 minutes or seconds; {_DURATION_HINT}")
    return (days or 0) * 86400 + hours * 3600 + minutes * 60 + seconds + fraction


def format_duration(seconds: float) -> str:
    """Return ``seconds`` for people: ``250ms``, ``1.5s``, ``1h 30m``; whole seconds from a minute up.

    `parse_duration` reads it back, to the millisecond below a minute and to the second above.
    """
    if seconds < 60:
        millis = round(seconds * 1000)
        if millis < 60_000:
            return f"{millis}ms" if 0 < millis < 1000 else f"{millis / 1000:g}s"
    left, parts = round(seconds), []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count}{unit}")
    return " ".join(parts)


def parse_bytes(value: str | int | float) -> int:
    """Return the bytes that ``value`` means, rounded up; raise ValueError for what is not plainly an amount.

    ``4G``, ``4GB`` and ``4GiB`` are all 4 x 1024³ bytes, as schedulers read them; a bare number is MiB.
    """
    if isinstance(value, str):
        found = _AMOUNT.fullmatch(value.strip().lower())
        if found is None:
            raise ValueError(f"{_shown(value)} is no amount of memory; {_MEMORY_HINT}")
        whole, fraction, unit = found[1], found[2] or "", found[3] or found[4] or "m"
        # in whole numbers: 1.1T must not grow by a MiB because 1.1 has no exact double
        size: int = -(-int(whole + fraction) * _BYTES[unit] // 10 ** len(fraction))
    elif type(value) is not int and not (type(value) is float and math.isfinite(value)):
        raise ValueError(f"is no amount of memory; {_MEMORY_HINT}")
    else:
        size = math.ceil(max(-1, min(value, MAX_BYTES)) * _BYTES["m"])  # in bounds, or too large for math.ceil
    if not 0 <= size <= MAX_BYTES:
        raise ValueError("must lie between 0 and 1024P")
    return size


def parse_memory(value: str | int | float) -> int:
    """Return the MiB that ``value`` means, rounded up; raise ValueError as `parse_bytes` does."""
    return -(-parse_bytes(value) >> 20)


def format_memory(mebibytes: int) -> str:
    """Return MiB for people, exact: ``512M``, ``8G``, ``1536M``; `parse_memory` reads it back."""
    size, unit = mebibytes, 0
    while size and size % 1024 == 0 and unit < 3:
        size, unit = size // 1024, unit + 1
    return f"{size}{'MGTP'[unit]}"


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")
