"""What a scenario is: it does something to a pipeline so that its processes pass certain points, in 0.1-3 s mostly.

It pushes jobs and may do things to them and to processes; it waits for nothing that it need not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.chaos.batch import Batch

Scenario = Callable[[Batch], None]
ANY = frozenset({"done", "failed", "cancelled", "not_run", "lost"})


def failing(*reasons: str) -> dict[str, Any]:
    """Return a plan of a job that fails for one of these reasons."""
    return {"may": frozenset({"failed"}), "reasons": frozenset(reasons)}


def probe(batch: Batch) -> None:
    """Ask for proof of life."""
    batch.add(0)
    batch.fake(0)
    if batch.homes:
        batch.far(0)
    batch.push()
