"""The fake `qrls` of PBS Pro."""

from __future__ import annotations

import time
from collections.abc import Sequence

from . import pbs
from .program import Told, run
from .store import HELD, QUEUED, Store


def release(store: Store, words: Sequence[str]) -> Told:
    """Let held jobs line up; one that is not held stays as it is."""
    with store.open() as jobs:
        found, code, err = pbs.each(store, "qrls", list(words), jobs)
        for job in found:
            if job["state"] == HELD:
                job.update(state=QUEUED, released=time.time())
    return Told(code, "", err)


def main() -> None:
    """Run as qrls."""
    run("qrls", release, pbs.down("qrls"))
