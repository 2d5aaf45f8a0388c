"""What people see, without a server: durations, widths, replies, selections."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobmill.errors import UnknownName
from jobmill.jobs.states import ENDED, State
from jobmill.ledger.selection import parse_states
from jobmill.screen import table, terminal
from jobmill.screen.moment import duration
from jobmill.screen.progress import _fraction
from jobmill.screen.reply import reply_lines
from jobmill.screen.table import Column, cells, lines, shortened


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (-1, "0.00s"),
        (0.994, "0.99s"),
        (1.54, "1.5s"),
        (9.96, "10s"),
        (59.4, "59s"),
        (59.6, "1m00s"),
        (125, "2m05s"),
        (3599.9, "1h00m"),
        (11040, "3h04m"),
        (183600, "2d03h"),
    ],
)
def test_durations_read_well(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@given(st.text(max_size=60), st.integers(1, 40))
def test_shortened_text_fits(text: str, most: int) -> None:
    clean = terminal.clean(text)
    assert cells(shortened(clean, most)) <= most
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in clean)


def test_tables_align_by_what_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = (Column("NAME", cut=True), Column("N", right=True))
    assert lines(columns, [("日本", "1"), ("abcd", "10")]) == ["NAME   N", "日本   1", "abcd  10"]
    monkeypatch.setattr(terminal, "width", lambda: 14)
    assert lines(columns, [("a" * 40, "123")])[1] == "a" * 8 + "…  123"
    assert table.bar(1, 2, 4) == "██░░" and table.bar(9, 2, 4) == "████" and table.bar(0, None) == ""


def test_replies_read_as_in_redis_cli() -> None:
    reply = [b"a", 1, None, [b'q"\n', []]]
    assert reply_lines(reply, formatted=True) == [
        '1) "a"',
        "2) (integer) 1",
        "3) (nil)",
        '4) 1) "q\\"\\n"',
        "   2) (empty array)",
    ]
    assert reply_lines(reply, formatted=False) == ["a", "1", "", 'q"\n']
    assert reply_lines(b"OK", formatted=True) == ["OK"]


def test_states_by_name_and_group() -> None:
    assert parse_states(["running,not-run", "ended"]) == ENDED | {State.RUNNING}
    with pytest.raises(UnknownName, match="did you mean 'running'"):
        parse_states(["runing"])


@pytest.mark.parametrize(
    ("words", "want"),
    [
        ("3/7 map", (3, 7)),
        ("3/7", (3, 7)),
        ("stages in 3/7, 2.1 of 5 GB", (3, 7)),
        ("brings home 0/1", (0, 1)),
        ("", None),
        ("brings its files home", None),
        ("3/x", None),
        ("a/b/3/7", None),
    ],
)
def test_what_progress_says_in_numbers(words: str, want: tuple[int, int] | None) -> None:
    assert _fraction(words) == want
