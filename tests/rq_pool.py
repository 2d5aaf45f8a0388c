"""A pool for tests: real `rq worker` processes on a real server, and the system that uses them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokens import RECORD

from jobmill.systems.pool import PoolSystem
from jobmill.systems.system import End, ExitInfo, NativeState, Start, Submission, SubmitError

RQ = Path(sys.executable).with_name("rq")


class Pool:
    """Workers of one server. Whatever a test leaves running is killed by `stop`."""

    def __init__(self, url: str, folder: Path, **options: Any) -> None:
        self.url = url
        self.folder = folder
        self.rooms = folder / "rooms"
        self.log = folder / "rq.log"
        self.options = {"url": url, "lease": 60, "kill_grace": 0.5, **options}
        self.system = self.another()
        self.workers: list[subprocess.Popen[bytes]] = []
        self.starts: list[str] = []
        self.ends: dict[str, ExitInfo] = {}

    def another(self) -> PoolSystem:
        """Return the system as another process would have it."""
        return PoolSystem.build("pool", self.options, self.folder / "spool")

    def work(
        self,
        *queues: str,
        before: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        url: str = "",
        by_environment: bool = False,
    ) -> subprocess.Popen[bytes]:
        """Start a worker; ``before``: words in front of its command; ``by_environment``: its address too."""
        address = () if by_environment else ("-u", url or self.url)
        with self.log.open("ab") as log:
            worker = subprocess.Popen(
                [*before, str(RQ), "worker", *address, *(queues or ("default",))],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | {"JOBMILL_POOL_FOLDER": str(self.rooms), **(env or {})},
                start_new_session=True,
            )
        self.workers.append(worker)
        return worker

    def job(self, name: str, *argv: str, run: int = 1, **fields: Any) -> Submission:
        return Submission(token=f"{RECORD}.1:{name}:{run}", job_id=name, run=run, argv=argv, **fields)

    def sh(self, name: str, text: str, **fields: Any) -> Submission:
        return self.job(name, "/bin/sh", "-c", text, **fields)

    def hold(self, *jobs: Submission) -> list[str]:
        answers = self.system.submit(jobs)
        assert not [a for a in answers if isinstance(a, SubmitError)]
        return [str(a) for a in answers]

    def launch(self, *jobs: Submission) -> list[str]:
        """Submit and release, as the starter does once the record has the handles."""
        self.system.fileno()
        handles = self.hold(*jobs)
        self.system.release(handles)
        return handles

    def pump(self) -> None:
        for notice in self.system.ends():
            if isinstance(notice, Start):
                self.starts.append(notice.token)
            elif isinstance(notice, End):
                self.ends[notice.token] = ExitInfo.from_json(notice.exit)

    def until(self, true: Callable[[], Any], seconds: float = 20.0) -> None:
        """Wait for something to become true; fail with the end of the workers' log."""
        deadline = time.monotonic() + seconds
        while not true():
            self.pump()
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {seconds} s; the workers say:\n{self.tail()}")
            time.sleep(0.02)

    def end(self, handle: str, seconds: float = 20.0) -> ExitInfo:
        """Wait for the exit record of a launch."""
        self.until(lambda: handle in self.system.exit_info([handle]), seconds)
        return self.system.exit_info([handle])[handle]

    def state(self, handle: str) -> NativeState:
        return self.system.status([handle])[handle].state

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-4000:] if self.log.exists() else ""

    def horses(self, worker: subprocess.Popen[bytes]) -> list[int]:
        """Return the work-horses of a worker."""
        return [child for child in children(worker.pid) if b"rq" in command(child)]

    def all_pids(self) -> list[int]:
        """Return guards, runners and jobs of this pool's rooms."""
        mark = str(self.rooms).encode()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                words = read(f"/proc/{entry.name}/cmdline")
                if mark in words or mark in read(f"/proc/{entry.name}/environ").partition(b"JOBMILL_RUN_FOLDER=")[2]:
                    found.append(int(entry.name))
        return found

    def stop(self) -> None:
        """Kill all that was started here, whatever state it is in."""
        self.system.close()
        for worker in self.workers:
            for pid in [*children(worker.pid), worker.pid]:
                kill(pid)
            worker.wait(10)
        for _ in range(50):
            left = self.all_pids()
            for pid in left:
                kill(pid)
            if not left:
                return
            time.sleep(0.05)


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""


def command(pid: int) -> bytes:
    return read(f"/proc/{pid}/cmdline")


def children(pid: int) -> list[int]:
    """Return the child processes, zombies left out."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            fields = read(f"/proc/{entry.name}/stat").rpartition(b") ")[2].split()
            if len(fields) > 1 and fields[0] != b"Z" and int(fields[1]) == pid:
                found.append(int(entry.name))
    return found
