"""How a fake command answers, and how it is made to fail.

Faults: ``down`` (its server is), ``slow`` (3 s later), ``mute`` (nothing is done, and no answer), ``lost`` (done, and
no answer), ``empty``, ``half``, ``banner``, ``noise`` (other words instead of its own).
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from .store import VARIABLE, Store

SLOW, SILENT = 3.0, 60.0  # seconds
BANNER = "*** Welcome to { this } cluster ***\n{ 12.34 }\n"
NOISE = "<html><body>502 Bad Gateway</body></html>\n"


@dataclass(frozen=True)
class Told:
    """The answer of one command."""

    code: int = 0
    out: str = ""
    err: str = ""


def run(command: str, verb: Callable[[Store, Sequence[str]], Told], down: Told) -> NoReturn:
    """Do what the command does, or what its fault says; ``down``: its answer where there is no server."""
    store = Store(Path(os.environ[VARIABLE]))
    how = store.fault(command)
    if how == "mute":
        time.sleep(SILENT)
    if how == "slow":
        time.sleep(SLOW)
    told = down if how == "down" else verb(store, sys.argv[1:])
    out = told.out
    if how == "lost":
        time.sleep(SILENT)
    if how == "half":
        out = out[: len(out) // 2]
    elif how == "banner":
        out = BANNER + out
    elif how in ("empty", "noise"):
        told, out = Told(), NOISE if how == "noise" else ""
    sys.stdout.write(out)
    sys.stderr.write(told.err)
    sys.exit(told.code)
