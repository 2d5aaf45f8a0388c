"""The fake `qsig` of PBS Pro."""

from __future__ import annotations

import getopt
from collections.abc import Sequence

from . import pbs
from .program import Told, run
from .store import RUNNING, Store, send, signal_number


def signal(store: Store, words: Sequence[str]) -> Told:
    """Send a signal to running jobs."""
    try:
        options, ids = getopt.getopt(list(words), "s:")
        number = signal_number(dict(options).get("-s", "TERM"))
    except (getopt.GetoptError, ValueError) as error:
        return Told(2, "", f"qsig: {error}\n")
    with store.open() as jobs:
        found, code, err = pbs.each(store, "qsig", ids, jobs)
        for job in found:
            if job["state"] == RUNNING:
                send(job, number)
            else:
                code, err = 168, f"{err}qsig: Request invalid for state of job {pbs.full(store, job['id'])}\n"
    return Told(code, "", err)


def main() -> None:
    """Run as qsig."""
    run("qsig", signal, pbs.down("qsig"))
