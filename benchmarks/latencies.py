"""How long single jobs took from submission to the moment when their end was seen, and what is said of many."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

RATE = 100.0  # jobs a second of the open loop


@dataclass(frozen=True, kw_only=True)
class Latencies:
    """One round: milliseconds of each job, one after the other (closed) and at a fixed rate of arrivals (open)."""

    closed: Sequence[float]
    open: Sequence[float]

    @classmethod
    def read(cls, answer: dict[str, Any]) -> Latencies:
        """Make it from what a client program answered."""
        return cls(closed=answer["closed"], open=answer["open"])

    def figures(self) -> dict[str, float]:
        """Return p50, p99 and the longest of each loop, in milliseconds."""
        found = {}
        for loop, values in (("", self.closed), ("open_", self.open)):
            found[f"{loop}p50_ms"] = quantile(values, 50)
            found[f"{loop}p99_ms"] = quantile(values, 99)
            found[f"{loop}max_ms"] = max(values)
        return found


def quantile(values: Sequence[float], percent: int) -> float:
    """Return what so many per cent of the values do not exceed, interpolated between neighbours."""
    if len(values) == 1:
        return values[0]
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]
