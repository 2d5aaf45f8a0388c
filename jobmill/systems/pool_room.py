"""The folder of one launch on a worker's host: a private spool with guard, runner and run folder."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import time
from pathlib import Path

from jobmill.systems import process_tree, run_folder, slot_table
from jobmill.systems.system import Token

KEPT = 7 * 86400.0  # seconds for which what could not be brought home stays
HALF_MADE = 60.0  # seconds in which a room that is being made says whose it is
WORDS = "launch"  # the file that says whose room it is


def root() -> Path:
    """Make and return the folder that holds the rooms of this user: $JOBMILL_POOL_FOLDER, or one in /var/tmp.

    Raises OSError when it belongs to somebody else: others can write where it stands.
    """
    given = os.environ.get("JOBMILL_POOL_FOLDER")
    folder = Path(given) if given else Path("/var/tmp") / f"jobmill-pool-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700, parents=bool(given))
    facts = folder.lstat()
    if not given and (not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.getuid() or facts.st_mode & 0o022):
        raise PermissionError(f"{folder} is not this user's alone; remove it, or set JOBMILL_POOL_FOLDER")
    return folder


class PoolRoom:
    """One launch's folder; as long as its maker lives, it is locked."""

    def __init__(self, place: Path, launch: str, token: Token, shared: str | None) -> None:
        """Make it; ``shared``: the spool of the starter, where the run folder stands. Raises OSError."""
        self.folder = place / launch
        self.folder.mkdir(mode=0o700)
        self._lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        if shared is not None:
            jobs = Path(shared) / "jobs"
            if not jobs.is_dir():
                words = f"{jobs} is not on {run_folder.HOST}; share it there, or set `shared: false`"
                raise FileNotFoundError(2, words)
            (self.folder / "jobs").symlink_to(jobs)
        (self.folder / WORDS).write_text(f"{run_folder.NAMESPACE} {token}\n", errors="surrogateescape")

    def remove(self) -> None:
        """Remove all of it but a shared run folder."""
        shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self._lock)

    def keep(self) -> None:
        """Leave it to whoever looks for what could not be brought home; a sweep removes it in time."""
        (self.folder / "kept").touch()
        os.close(self._lock)


def sweep(place: Path) -> None:
    """End what tasks that died left running on this host, and remove their rooms."""
    for folder in place.iterdir():
        with contextlib.suppress(OSError, ValueError):
            _sweep(folder)


def _sweep(folder: Path) -> None:
    """Deal with one room; a room whose maker lives is locked."""
    fd = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if (folder / "kept").exists():
            if time.time() - (folder / "kept").stat().st_mtime > KEPT:
                shutil.rmtree(folder, ignore_errors=True)
            return
        if not (folder / WORDS).exists():
            if time.time() - folder.stat().st_mtime > HALF_MADE:
                shutil.rmtree(folder, ignore_errors=True)
            return
        namespace, _, token = (folder / WORDS).read_text(errors="surrogateescape").rstrip("\n").partition(" ")
        if int(namespace) != run_folder.NAMESPACE:
            return  # in another container: its processes cannot be seen from here
        spool = os.fsencode(folder)
        run = run_folder.folder_of(spool, token)
        gone = process_tree.kill(token, run, force=True, patience=0.2)
        guards = folder / "guards" / "pool"
        tables = [path.name for path in guards.glob("*.table")] if guards.is_dir() else []
        if gone and not any(slot_table.locked(spool, f"pool/{name}") for name in tables):
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(fd)
