"""The pause before a system is given again what it did not take."""

from __future__ import annotations

from jobmill.starter.setbacks import LONGEST, Setbacks


def test_it_grows_to_a_minute_counts_a_moment_once_and_ends_with_a_start() -> None:
    now = [100.0]
    setbacks = Setbacks(lambda: now[0])
    assert [setbacks.delay("local") for _ in range(5)] == [1.0] * 5  # one full disk, five jobs
    seen = []
    for _ in range(8):
        now[0] += 10
        seen.append(setbacks.delay("local"))
    assert seen == [2.0, 4.0, 8.0, 16.0, 32.0, LONGEST, LONGEST, LONGEST]
    assert setbacks.delay("other") == 1.0
    setbacks.over("local")
    assert setbacks.delay("local") == 1.0
