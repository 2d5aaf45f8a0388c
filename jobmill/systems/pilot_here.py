"""This machine as the scheduler of a pilot's allocations: each is a process of its own that starts the launcher.

It has the verbs that a batch scheduler gives. Nothing is held in a queue: an allocation that was sent and not freed is
a folder with a script, and nothing runs. Whether one runs is told by a lock, which no reuse of a pid can fake.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from jobmill.systems import process_tree, run_folder, slot_table
from jobmill.systems.batch_row import Phase, Row
from jobmill.systems.command_call import KEPT
from jobmill.systems.pilot_head import LOCK
from jobmill.systems.pilot_line import ALLOCATIONS, Line
from jobmill.systems.pilot_room import LEFT, Room
from jobmill.systems.system import Submission, SubmitError, Token

# detached: it outlives the worker that starts it, and is nobody's child whom it could leave a zombie
DETACH = '"$@" </dev/null >>"$0" 2>&1 &'


class PilotHere:
    """Allocations of this machine. An id is ``<number>@<boot id>``."""

    kind = "mpirun"
    id_variable = ""
    keeps_words = True
    queries = 0  # files alone are asked

    def __init__(self, line: Line, *, path: str | None, token: str) -> None:
        """``token``: what the tokens of the pilot's allocations begin with; a number follows."""
        self._line = line
        self._path = path or os.environ.get("PATH") or os.defpath
        self.token = token

    def send(self, it: Submission, folder: str, script: str) -> str | SubmitError:
        """Name an allocation; nothing starts before `free`."""
        return f"{it.run}@{run_folder.BOOT}"

    def free(self, ids: Sequence[str]) -> None:
        """Start allocations that have not begun; one that is started twice begins once."""
        for native in ids:
            room = self._room(native)
            if room is None or room.has("began") or room.has("ended"):
                continue
            env = {key: os.environ[key] for key in KEPT if key in os.environ} | {"PATH": self._path}
            script, log = os.fsdecode(room.path("script")), os.fsdecode(room.path("native.log"))
            subprocess.run(
                ["/bin/sh", "-c", DETACH, log, "/bin/sh", script],
                env=env,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                timeout=5,
                check=False,
            )

    def queue(self) -> Sequence[Row]:
        """Return every allocation that there is a folder of."""
        rows = []
        for name in self._line.names(ALLOCATIONS):
            if name.isdigit():
                room = Room(self._line, int(name))
                native = room.text("native")
                if native or room.has("script"):
                    rows.append(self._row(room, native or f"{room.number}@{run_folder.BOOT}"))
        return rows

    def look(self, ids: Sequence[str]) -> Mapping[str, Row]:
        """Return those of them that are of this machine and this boot."""
        found = {}
        for native in ids:
            room = self._room(native)
            if room is not None:
                found[native] = self._row(room, native)
        return found

    def books(self, ids: Sequence[str], tokens: Sequence[Token]) -> Sequence[Row]:
        """Nothing is booked here."""
        return ()

    def cancel(self, rows: Sequence[Row], *, force: bool) -> None:
        """Tell the first process of each, and whoever is a rank."""
        self._signal([row.native for row in rows], signal.SIGKILL if force else signal.SIGTERM)

    def destroy(self, ids: Sequence[str]) -> None:
        """Kill the first process of each: its launcher, and then the ranks, follow it."""
        self._signal(ids, signal.SIGKILL)

    def _signal(self, ids: Sequence[str], number: int) -> None:
        for native in ids:
            room = self._room(native)
            if room is None:
                continue
            lock = os.path.realpath(room.path(LOCK))
            for process in process_tree.table().values():
                if process.pid != os.getpid() and _holds(process.pid, lock):
                    process_tree.send(process.pid, process.start, number)

    def _room(self, native: str) -> Room | None:
        number, _, boot = native.partition("@")
        return Room(self._line, int(number)) if number.isdecimal() and boot == run_folder.BOOT else None

    def _row(self, room: Room, native: str) -> Row:
        token = f"{self.token}{room.number}"
        if native.partition("@")[2] != run_folder.BOOT:
            return Row(native=native, token=token, phase=Phase.NODE_FAIL, state="the machine was started anew")
        alive = _locked(room.path(LOCK))
        if not room.has("began"):
            state = "starts" if alive else "not started"
            return Row(native=native, token=token, phase=Phase.RUNNING if alive else Phase.HELD, state=state)
        if alive or self._ranks_live(room):
            return Row(native=native, token=token, phase=Phase.RUNNING, state="running", host=run_folder.HOST)
        return Row(native=native, token=token, phase=Phase.FAILED, state="its first process is gone")

    def _ranks_live(self, room: Room) -> bool:
        """Tell whether any rank has not left, by the locks of their tables."""
        return any(
            slot_table.locked(self._line.spool, str(it.get("table")))
            for it in room.ranks().values()
            if it.get("state") != LEFT
        )


def _locked(path: bytes) -> bool:
    """Tell whether somebody holds the lock of a file; False where there is none."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    else:
        fcntl.flock(fd, fcntl.LOCK_UN)
        return False
    finally:
        os.close(fd)


def _holds(pid: int, path: bytes) -> bool:
    """Tell whether a process has a file open."""
    folder = Path(f"/proc/{pid}/fd")
    try:
        return any(os.readlink(os.fsencode(it)) == path for it in folder.iterdir())
    except OSError:
        return False
