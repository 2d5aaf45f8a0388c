"""The slot table of one runner: which launch each slot holds, kept outside of the process for its guard.

Standard library only, Python 3.6 and later. One fixed-length line a slot in ``<spool>/guards/<system>/``; the runner
writes a slot's line before a spawn (pid 0) and again after it, so that at most one spawn is ambiguous when it dies.
The file is flocked as long as its guard, its runner or a child between fork and exec lives: a free lock proves that
nothing of it will start any more.
"""

import fcntl
import os
import time

from jobmill.systems import process_tree, run_folder

LINE = 256  # bytes; a token is at most 120
FOLDER = b"guards"


class Entry:
    """One slot's line."""

    __slots__ = ("began", "cpus", "pid", "slot", "start", "started", "token", "walltime")

    def __init__(self, slot: int, fields: "list[bytes]") -> None:
        self.slot = slot
        self.token = fields[0].decode("utf-8", "surrogateescape")
        self.pid, self.start, self.cpus = int(fields[1]), int(fields[2]), int(fields[3])
        self.began, self.started, self.walltime = float(fields[4]), float(fields[5]), float(fields[6])


def create(spool: bytes, name: bytes) -> int:
    """Create a locked table under its name and return its descriptor; it appears only once it is locked."""
    path = os.path.join(spool, FOLDER, name)
    folder, own = os.path.split(path)
    os.makedirs(folder, exist_ok=True)
    hidden = os.path.join(folder, b"." + own)
    fd = os.open(hidden, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
    fcntl.flock(fd, fcntl.LOCK_EX)
    os.rename(hidden, path)
    return fd


def write(
    fd: int,
    slot: int,
    token: str,
    pid: int,
    start: int,
    cpus: int,
    began: float,
    started: float,
    walltime: float,
) -> None:
    """Write one slot's line; ``pid`` 0: about to be spawned."""
    line = b"%s %d %d %d %.3f %.3f %.3f" % (run_folder.encode(token), pid, start, cpus, began, started, walltime or 0.0)
    os.pwrite(fd, line.ljust(LINE - 1) + b"\n", slot * LINE)


def clear(fd: int, slot: int) -> None:
    """Blank one slot's line: its launch is not ours."""
    try:
        os.pwrite(fd, b"\n".rjust(LINE), slot * LINE)
    except OSError:
        pass  # the disk is full and the line was never written


def entries(fd: int) -> "list[Entry]":
    """Return the `Entry`s that were ever written, one a slot, the last launch of each."""
    found = []
    size = os.fstat(fd).st_size
    text = os.pread(fd, size, 0)
    for slot in range(size // LINE):
        fields = text[slot * LINE : (slot + 1) * LINE].split()
        if len(fields) == 7:
            found.append(Entry(slot, fields))
    return found


def locked(spool: bytes, name: "str | None") -> bool:
    """Tell whether the guard, the runner or an unfinished spawn of this table still lives."""
    if not name:
        return False
    try:
        fd = os.open(os.path.join(spool, FOLDER, run_folder.encode(name)), os.O_RDONLY)
    except OSError:
        return False
    try:
        return not _free(fd)
    finally:
        os.close(fd)


def overdue(spool: bytes, name: "str | None", token: str) -> bool:
    """Tell whether a launch of this table, made since the machine's boot, is past its walltime."""
    try:
        fd = os.open(os.path.join(spool, FOLDER, run_folder.encode(name or "")), os.O_RDONLY)
    except OSError:
        return False
    try:
        mine = [entry for entry in entries(fd) if entry.token == token and entry.walltime]
        return any(time.monotonic() - entry.began > entry.walltime for entry in mine)
    except OSError:
        return False  # the name is a folder's
    finally:
        os.close(fd)


def occupied(spool: bytes, own: bytes) -> "tuple[int, int]":
    """Return how many slots the launches of this system's other tables on this host hold, and how many tables count.

    ``own``: the table that is left out. Tables that hold nothing and are dead are removed.
    """
    folder, own = os.path.split(os.path.join(spool, FOLDER, own))
    total = tables = 0
    here = run_folder.encode(run_folder.HOST) + b"."
    for name in os.listdir(folder):
        if name == own or not name.startswith(here) or not name.endswith(b".table"):
            continue
        path = os.path.join(folder, name)
        try:
            fd = os.open(path, os.O_RDONLY)
        except OSError:
            continue
        try:
            dead = _free(fd)
            held = sum(entry.cpus for entry in entries(fd) if _holds(spool, entry, dead))
            if dead and not held:
                os.unlink(path)
                continue
            total += held
            tables += 1
        except OSError:
            continue
        finally:
            os.close(fd)
    return total, tables


def _holds(spool: bytes, entry: Entry, dead: bool) -> bool:
    """Tell whether the launch of a line still takes its slot; of a dead table only a live process does."""
    if entry.pid and not dead:
        run = run_folder.read(run_folder.folder_of(spool, entry.token))
        if run is None or run.token != entry.token:  # removed, or moved aside for a later life of its id
            return process_tree.alive(entry.pid, entry.start)
        return run.end is None
    if dead:
        pid, start = entry.pid, entry.start
        run = run_folder.read(run_folder.folder_of(spool, entry.token))
        if run is not None and run.token == entry.token:
            if run.end is not None or run.boot != run_folder.BOOT:
                return False
            pid, start = run.pid or pid, run.start or start
        return bool(pid) and process_tree.alive(pid, start)
    run = run_folder.read(run_folder.folder_of(spool, entry.token))
    return run is not None and run.token == entry.token and run.end is None


def _free(fd: int) -> bool:
    """Tell whether nobody holds the lock; a shared try, so that two who look at once do not see each other."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return False
    fcntl.flock(fd, fcntl.LOCK_UN)
    return True
