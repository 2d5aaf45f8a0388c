"""The keeper of one running job, as the daemon of its node: starts it, bounds its time, notes its end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from .store import EXITING, FINISHED, Store, send, signal_number

LOOK = 0.03  # seconds


def main() -> None:
    """Run as ``keeper <folder> <number>``."""
    store, number = Store(Path(sys.argv[1])), sys.argv[2]
    with store.open() as jobs:
        job = jobs[number]
        try:
            process = subprocess.Popen(
                job["argv"],
                env=job["env"],
                cwd=job["cwd"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError:
            job.update(state=FINISHED, code=254, ended=time.time())
            return
        job["pid"] = process.pid
    settings = store.settings()
    until = time.monotonic() + job["walltime"] if job["walltime"] and settings["walltimes"] else None
    by, kill_at = None, 0.0
    while process.poll() is None:
        now = time.monotonic()
        if by is None and until is not None and now > until:
            by = "walltime"
        elif by is None and store.kill_file(int(number)).exists():
            by = "asked"
        if by is not None and not kill_at:
            first = job.get("limit_signal", "TERM") if by == "walltime" else "TERM"
            send({"pid": process.pid}, signal_number(first))
            kill_at = now + settings["kill_delay"]
        elif kill_at and now > kill_at:
            send({"pid": process.pid}, signal.SIGKILL)
        time.sleep(LOOK)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # what is left of its session
    with store.open() as jobs:
        jobs[number].update(
            state=EXITING, code=process.returncode, by="walltime" if by == "walltime" else jobs[number]["by"]
        )
    time.sleep(settings["exiting"])
    with store.open() as jobs:
        jobs[number].update(state=FINISHED, ended=time.time())
    store.kill_file(int(number)).unlink(missing_ok=True)
