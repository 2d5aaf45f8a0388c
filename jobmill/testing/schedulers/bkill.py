"""The fake `bkill` of LSF."""

from __future__ import annotations

from collections.abc import Sequence

from . import lsf
from .program import Told, run
from .store import FINISHED, RUNNING, Store, send, signal_number, stop


def kill(store: Store, words: Sequence[str]) -> Told:
    """End jobs, or with ``-s`` signal those that run."""
    rest, number = list(words), 0
    if rest[:1] == ["-s"]:
        try:
            number = signal_number(rest[1])
        except (ValueError, IndexError):
            return Told(255, "", "bkill: Unknown signal\n")
        rest = rest[2:]
    out, err = "", ""
    with store.open() as jobs:
        for id_ in rest:
            job = jobs.get(id_)
            if job is None:
                err += f"Job <{id_}>: No matching job found\n"
            elif job["state"] == FINISHED:
                err += f"Job <{id_}>: Job has already finished\n"
            elif number and job["state"] == RUNNING:
                send(job, number)
                out += f"Job <{id_}> is being signaled\n"
            else:
                stop(store, job, "owner")
                out += f"Job <{id_}> is being terminated\n"
    return Told(255 if err else 0, out, err)


def main() -> None:
    """Run as bkill."""
    run("bkill", kill, lsf.DOWN)
