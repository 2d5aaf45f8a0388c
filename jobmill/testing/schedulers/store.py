"""What the fake commands share: one folder with the jobs and the settings, changed under a lock; and the queue's turn.

There is no daemon. Whoever holds the lock starts what may start: a command, or the keeper of a job that ended.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

VARIABLE = "JOBMILL_SCHEDULERS"  # names the folder
SETTINGS: dict[str, Any] = {
    "slots": 8,  # CPUs of the one node
    "history": 3600.0,  # seconds for which an end is known; 0: none is kept
    "exiting": 0.1,  # seconds between the last process and the end in the books
    "delay": 0.0,  # seconds in line before a job may start
    "kill_delay": 1.0,  # seconds between TERM and KILL
    "most": 100_000,  # jobs that one user may have
    "server": "pbshost",
    "queues": ["workq", "normal"],
    "walltimes": True,  # the scheduler ends what is over its time
    "plain": False,  # an old one: bjobs knows no -json, Torque's qstat no -x
    "torque": "",  # PBS: the version of the Torque that it is, in place of PBS Pro
    "faults": {},  # command -> [how, how often]
}
HELD, QUEUED, RUNNING, EXITING, FINISHED = "held", "queued", "running", "exiting", "finished"
Job = dict[str, Any]
STARTED: list[subprocess.Popen[bytes]] = []  # keepers of ours, where a test looked at its site when there was room


class Store:
    """The folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextlib.contextmanager
    def open(self) -> Iterator[dict[str, Job]]:
        """Hold the jobs by their numbers; what is changed is kept, and what may start is started."""
        with (self.folder / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            state = self._read("jobs.json", {"next": 1, "jobs": {}})
            self.state = state
            self._forget(state["jobs"])
            yield state["jobs"]
            self._turn(state["jobs"])
            self._write("jobs.json", state)

    def add(self, **values: Any) -> Job:
        """Add a job, while it is open."""
        number = self.state["next"]
        self.state["next"] = number + 1
        job: Job = {"id": number, "submitted": time.time(), "code": None, "by": None, "pid": None, "started": None}
        job.update(ended=None, released=time.time(), **values)
        self.state["jobs"][str(number)] = job
        return job

    def settings(self) -> dict[str, Any]:
        """Return how it behaves."""
        return SETTINGS | self._read("settings.json", {})

    def adjust(self, **values: Any) -> None:
        """Change how it behaves."""
        with (self.folder / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._write("settings.json", self._read("settings.json", {}) | values)

    def fault(self, command: str) -> str:
        """Return what is wrong with this call of a command, "" mostly; it is counted."""
        found = self.settings()["faults"].get(command)
        if not found:
            return ""
        how, times = found
        faults = self.settings()["faults"] | {command: [how, times - 1]}
        self.adjust(faults={name: fault for name, fault in faults.items() if fault[1] > 0})
        return str(how)

    def _forget(self, jobs: dict[str, Job]) -> None:
        keep, now = self.settings()["history"], time.time()
        for number in [it for it, job in jobs.items() if job["state"] == FINISHED and job["ended"] + keep <= now]:
            del jobs[number]

    def _turn(self, jobs: dict[str, Job]) -> None:
        """Start what is in line and has room; the order is that of arrival, and small ones pass large ones."""
        settings, now = self.settings(), time.time()
        free = settings["slots"] - sum(job["slots"] for job in jobs.values() if job["state"] in (RUNNING, EXITING))
        for job in jobs.values():
            if not _satisfied(jobs, job.get("waits_for")):
                continue
            if job["state"] == QUEUED and job["slots"] <= free and job["released"] + settings["delay"] <= now:
                free -= job["slots"]
                job.update(state=RUNNING, started=now)
                keeper = str(Path(__file__).parent / "launcher.py")
                keeping = subprocess.Popen(
                    [sys.executable, "-IS", keeper, "keeper", str(self.folder), str(job["id"])],
                    env={"PATH": os.defpath},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
                STARTED[:] = [*(it for it in STARTED if it.poll() is None), keeping]

    def kill_file(self, number: int) -> Path:
        """Return the file by which a job's keeper is told to end it."""
        return self.folder / f"kill.{number}"

    def _read(self, name: str, default: dict[str, Any]) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((self.folder / name).read_text())
        except FileNotFoundError:
            return default
        return found

    def _write(self, name: str, value: object) -> None:
        own = self.folder / f".{name}.{os.getpid()}"
        own.write_text(json.dumps(value))
        own.replace(self.folder / name)


def _satisfied(jobs: dict[str, Job], condition: list[str] | None) -> bool:
    """Tell whether what a job waits for has come: that another started, or ended. What is forgotten has ended."""
    if condition is None:
        return True
    word, number = condition
    other = jobs[number]["state"] if number in jobs else FINISHED
    return other == FINISHED or (word == "started" and other in (RUNNING, EXITING))


def stop(store: Store, job: Job, by: str) -> None:
    """End a job as an owner's request does: what waits is over at once, what runs gets TERM, then KILL."""
    if job["state"] in (HELD, QUEUED):
        job.update(state=FINISHED, ended=time.time(), by=by)
    elif job["state"] == RUNNING:
        job["by"] = job["by"] or by
        store.kill_file(job["id"]).touch()


def send(job: Job, number: int) -> None:
    """Send a signal to the processes of a job."""
    if job["pid"]:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(job["pid"], number)


def signal_number(text: str) -> int:
    """Return the number of ``TERM``, ``SIGTERM`` or ``15``; raise ValueError for none of them."""
    if text.isdecimal():
        return int(text)
    try:
        return int(signal.Signals[f"SIG{text.removeprefix('SIG')}"])
    except KeyError:
        raise ValueError(text) from None
