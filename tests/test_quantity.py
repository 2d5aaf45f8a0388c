"""Durations and memory: what each text means, and what is refused."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobmill.jobs.quantity import (
    format_duration,
    format_memory,
    parse_bytes,
    parse_duration,
    parse_memory,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        (90, 90),
        (1.5, 1.5),
        ("90s", 90),
        ("90 s", 90),
        ("1h 30m", 5400),
        ("1h30m", 5400),
        ("2H", 7200),
        ("01:30:00", 5400),
        ("1:30:00", 5400),
        ("100:00:00", 360000),
        ("1:30", 90),
        ("90:00", 5400),
        ("1-12:00:00", 129600),
        ("1-12", 129600),
        ("1-12:30", 131400),
        ("0:00:01.5", 1.5),
        ("250ms", 0.25),
        ("1w 2d", 777600),
        ("1.5 hours", 5400),
        ("3 days", 259200),
        (0, 0),
        (" 5 ", 5),
        ("1.1s 300ms", 1.4),
    ],
)
def test_durations(text: str | float, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ",
        "h",
        "1x",
        "1h 2h",
        "30m 1h",
        "1h 30",
        "-5",
        "1:60:00",
        "1:00:60",
        "1-24:00:00",
        "1-00:60",
        "1:2:3:4",
        "1e3",
        "1_000",
        "inf",
        "nan",
        "UNLIMITED",
        "1..5h",
        "1h,30m",
        "٣s",
        "1-",
        ":30",
        "9" * 30,
        "101 years",
        "1 h m",
        True,
        None,
        [],
        math.inf,
        math.nan,
        -1,
        4e9,
        "1.5:00",
        "5.5-1",
        "1:30.5",
    ],
)
def test_what_is_no_duration(text: object) -> None:
    with pytest.raises(ValueError, match=r"write 90|must lie"):
        parse_duration(text)  # type: ignore[arg-type]


@given(st.integers(0, 3_000_000_000))
def test_duration_round_trip(seconds: int) -> None:
    assert parse_duration(format_duration(seconds)) == seconds


@given(st.integers(0, 59_999))
def test_duration_below_a_minute_keeps_milliseconds(millis: int) -> None:
    assert parse_duration(format_duration(millis / 1000)) == millis / 1000


def test_format_duration() -> None:
    assert [format_duration(s) for s in (0, 0.25, 1.5, 59.9999, 90, 5400, 129600, 3599.6)] == [
        "0s",
        "250ms",
        "1.5s",
        "1m",
        "1m 30s",
        "1h 30m",
        "1d 12h",
        "1h",
    ]


@given(st.text(max_size=20))
def test_any_text_is_a_quantity_or_a_value_error(text: str) -> None:
    for parse in (parse_duration, parse_memory):
        try:
            assert parse(text) >= 0
        except ValueError as bad:
            assert "\n" not in str(bad)


@pytest.mark.parametrize(
    ("text", "mebibytes"),
    [
        (512, 512),
        ("512", 512),
        ("4G", 4096),
        ("4g", 4096),
        ("4GB", 4096),
        ("4GiB", 4096),
        ("4 GiB", 4096),
        ("1T", 1 << 20),
        ("1K", 1),
        ("1025K", 2),
        ("1B", 1),
        ("1048576b", 1),
        ("1048577B", 2),
        ("1.5G", 1536),
        (1.5, 2),
        ("0.1G", 103),
        ("1.1T", 1153434),
        ("0.0000001M", 1),
        (0, 0),
        ("1P", 1 << 30),
        ("512M", 512),
        ("512mib", 512),
    ],
)
def test_memory(text: str | float, mebibytes: int) -> None:
    assert parse_memory(text) == mebibytes


@pytest.mark.parametrize(
    "text",
    [
        "",
        "G",
        "4X",
        "4 G B",
        "4iB",
        "-1G",
        "1e3",
        "lots",
        "4G4M",
        "٤G",
        True,
        None,
        math.nan,
        math.inf,
        -1,
        "9" * 30,
        "2000P",
        {},
    ],
)
def test_what_is_no_memory(text: object) -> None:
    with pytest.raises(ValueError, match=r"write 512|must lie"):
        parse_memory(text)  # type: ignore[arg-type]


@given(st.integers(0, 1 << 39))
def test_memory_round_trip(mebibytes: int) -> None:
    assert parse_memory(format_memory(mebibytes)) == mebibytes


@given(st.integers(0, 10**9), st.integers(0, 10**6), st.sampled_from("KMGT"))
def test_memory_is_rounded_up_never_down(whole: int, fraction: int, unit: str) -> None:
    text = f"{whole}.{fraction}{unit}"
    size = {"K": 1, "M": 2, "G": 3, "T": 4}[unit]
    digits = len(str(fraction))
    exact = int(f"{whole}{fraction}") * 1024**size  # over 10**digits
    try:
        count = parse_memory(text)
    except ValueError:
        assert exact > 10**digits * (1 << 60)
        return
    assert (count - 1) * 2**20 * 10**digits < exact <= count * 2**20 * 10**digits


def test_bytes() -> None:
    assert parse_bytes("4 MiB") == 4 << 20
    assert parse_bytes("100B") == 100
    assert parse_bytes("1.5K") == 1536
