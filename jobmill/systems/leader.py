"""The one starter of a system on this host: whoever holds a lock, which the kernel takes back with its process."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


class Leader:
    """One candidate."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd: int | None = None

    def lead(self) -> bool:
        """Try to lead; True while this one does. Raises OSError where the lock file cannot be made."""
        if self._fd is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                return False
            self._fd = fd
        return True

    def leave(self) -> None:
        """Let another lead."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
