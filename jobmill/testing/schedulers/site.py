"""A fake scheduler for one test: its folder, its commands on a PATH, its faults.

site = Site(folder)
PbsProSystem.build("pbs", {"path": site.path, "env": site.env}, spool)
site.fault("qsub", "lost")
site.close()
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .store import FINISHED, HELD, QUEUED, RUNNING, VARIABLE, Job, Store, send

COMMANDS = ("qsub", "qstat", "qselect", "qdel", "qrls", "qsig", "bsub", "bjobs", "bkill", "bresume")
CLOSE = 8.0  # seconds


class Site:
    """One node, one queue, all commands."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        """``settings``: as in `store.SETTINGS`."""
        folder.mkdir(parents=True, exist_ok=True)
        self.store = Store(folder)
        self.store.adjust(**settings)
        bin_ = folder / "bin"
        bin_.mkdir(exist_ok=True)
        launcher = shlex.join([sys.executable, "-IS", str(Path(__file__).parent / "launcher.py")])
        for name in COMMANDS:
            (bin_ / name).write_text(f'#!/bin/sh\nexec {launcher} {name} "$@"\n')
            (bin_ / name).chmod(0o755)
        self.env: Mapping[str, str] = {VARIABLE: str(folder)}
        self.path = f"{bin_}:{os.defpath}"

    def adjust(self, **settings: Any) -> None:
        """Change how it behaves from now on."""
        self.store.adjust(**settings)

    def fault(self, command: str, how: str, times: int = 1_000_000) -> None:
        """Have a command fail as `program` says, so often; how="": not any more."""
        faults = {name: fault for name, fault in self.store.settings()["faults"].items() if name != command}
        self.store.adjust(faults=faults | ({command: [how, times]} if how else {}))

    def jobs(self) -> list[Job]:
        """Return what it knows of its jobs."""
        with self.store.open() as jobs:
            return [dict(job) for job in jobs.values()]

    def next_id(self, number: int) -> None:
        """Give out ids from this one on: ids are used again where a server was set up anew."""
        with self.store.open():
            self.store.state["next"] = number

    def close(self) -> None:
        """End all that runs, and wait for its keepers."""
        self.adjust(kill_delay=0.2, exiting=0.0)
        for number in (signal.SIGUSR2, signal.SIGKILL):  # our own program on the node ends its job by the first
            with self.store.open() as jobs:
                for job in jobs.values():
                    if job["state"] in (HELD, QUEUED):
                        job.update(state=FINISHED, ended=0.0)
                    elif job["state"] == RUNNING:
                        send(job, number)
                        send(job, signal.SIGCONT)
            until = time.monotonic() + CLOSE
            while any(job["state"] != FINISHED for job in self.jobs()):
                if time.monotonic() > until:
                    break
                time.sleep(0.1)
            else:
                return
