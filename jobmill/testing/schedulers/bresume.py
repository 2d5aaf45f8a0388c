"""The fake `bresume` of LSF."""

from __future__ import annotations

import time
from collections.abc import Sequence

from . import lsf
from .program import Told, run
from .store import HELD, QUEUED, Store


def resume(store: Store, words: Sequence[str]) -> Told:
    """Let held jobs line up."""
    out, err = "", ""
    with store.open() as jobs:
        for id_ in words:
            job = jobs.get(id_)
            if job is not None and job["state"] == HELD:
                job.update(state=QUEUED, released=time.time())
                out += f"Job <{id_}> is being resumed\n"
            else:
                err += f"Job <{id_}>: {'No matching job found' if job is None else 'Job is not suspended'}\n"
    return Told(255 if err else 0, out, err)


def main() -> None:
    """Run as bresume."""
    run("bresume", resume, lsf.DOWN)
