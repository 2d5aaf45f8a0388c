"""When an endpoint is asked next."""

from __future__ import annotations

from jobmill.fetcher.poll_pace import FRESH, PollPace


def test_it_grows_without_news_to_its_limit_and_is_quick_again_after_news() -> None:
    pace = PollPace(5.0, 180.0)
    assert [pace.polled(0, news=False) for _ in range(8)] == [10, 20, 40, 80, 160, 180, 180, 180]
    assert pace.polled(0, news=True) == 5
    assert pace.polled(0, news=False) == 10


def test_a_pace_without_a_limit_is_constant_and_a_slow_poll_counts() -> None:
    pace = PollPace(8.0)
    assert [pace.polled(spent, news=False) for spent in (0, 3, 7, 100)] == [8, 5, 2, 2]


def test_what_is_committed_is_looked_for_soon_but_not_for_each() -> None:
    pace = PollPace(5.0, 180.0)
    assert pace.fresh(100.0, 400.0) == 105  # it was never polled, or long ago
    pace.last = 100.0
    assert pace.fresh(101.0, 280.0) == 100 + FRESH
    assert pace.fresh(170.0, 280.0) == 175
    assert pace.fresh(101.0, 103.0) == 103  # no later than it was meant


def test_an_end_that_needs_its_word_brings_it_forward_to_the_least_interval() -> None:
    pace = PollPace(5.0, 180.0)
    pace.last = 100.0
    assert pace.hurry(101.0, 280.0) == 105
    assert pace.hurry(200.0, 280.0) == 200
