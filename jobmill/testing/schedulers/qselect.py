"""The fake `qselect` of PBS Pro: by user and by name."""

from __future__ import annotations

import getopt
from collections.abc import Sequence

from . import pbs
from .program import Told, run
from .store import FINISHED, Store


def select(store: Store, words: Sequence[str]) -> Told:
    """Return ids, one a line; nothing, and 0, where none is found."""
    try:
        options, _ = getopt.getopt(list(words), "xu:N:s:")
    except getopt.GetoptError as error:
        return Told(2, "", f"qselect: {error}\nusage: …\n")
    given = dict(options)
    history = "-x" in given
    if history and not store.settings()["history"]:
        return Told(0, "", f"qselect: {pbs.NO_HISTORY}\n")
    with store.open() as jobs:
        found = [
            job["id"]
            for job in jobs.values()
            if given.get("-u") in (None, job["owner"])
            and given.get("-N") in (None, job["name"])
            and (history or job["state"] != FINISHED)
        ]
    return Told(0, "".join(f"{pbs.full(store, it)}\n" for it in found))


def main() -> None:
    """Run as qselect."""
    run("qselect", select, pbs.down("qselect"))
