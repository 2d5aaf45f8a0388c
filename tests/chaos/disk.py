"""A small disk of its own that can be filled to the last byte (tmpfs; needs the right to mount)."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path


class Disk:
    """A mounted folder of limited size."""

    def __init__(self, folder: Path, mib: int) -> None:
        """Mount it; raise PermissionError where this user may not."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._filler = folder / "filler"
        if not available():
            raise PermissionError("a disk of limited size needs root: run as root, or leave the disk faults out")
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m,mode=0700", "tmpfs", str(folder)], check=True)

    def fill(self) -> None:
        """Leave no byte free."""
        fd = os.open(self._filler, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        try:
            for piece in (1 << 20, 1 << 12, 1):
                with contextlib.suppress(OSError):
                    while True:
                        os.write(fd, b"\0" * piece)
        finally:
            os.close(fd)

    def free(self) -> None:
        """Give the room back."""
        self._filler.unlink(missing_ok=True)

    def unmount(self) -> None:
        """Take it away, with all that it holds."""
        subprocess.run(["umount", "-l", str(self.folder)], check=False)


def available() -> bool:
    """Tell whether this user may mount."""
    return os.geteuid() == 0
