"""The fake `qdel` of PBS Pro: it answers at once, what runs ends later."""

from __future__ import annotations

from collections.abc import Sequence

from . import pbs
from .program import Told, run
from .store import Store, stop


def delete(store: Store, words: Sequence[str]) -> Told:
    """Delete jobs; unknown ones do not disturb the others."""
    with store.open() as jobs:
        found, code, err = pbs.each(store, "qdel", list(words), jobs)
        for job in found:
            stop(store, job, "owner")
    return Told(code, "", err)


def main() -> None:
    """Run as qdel."""
    run("qdel", delete, pbs.down("qdel"))
