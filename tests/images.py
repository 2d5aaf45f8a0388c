"""Images without a registry, made of what is installed here: tar files for `docker import`.

Programs bring the libraries that ldd names. What is in an image lies where it lies on this machine.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path

PATH = os.environ.get("PATH", "") + ":/usr/sbin:/usr/bin:/sbin:/bin"
LEFT_OUT = {
    "site-packages",
    "dist-packages",
    "test",
    "tests",
    "idlelib",
    "lib2to3",
    "ensurepip",
    "tkinter",
}
REDIS = ("redis-server", "redis-cli")


class Image:
    """A tar file that grows: nothing is put in twice, and folders are open to everybody."""

    def __init__(self) -> None:
        self._data = io.BytesIO()
        self._tar = tarfile.open(fileobj=self._data, mode="w")  # noqa: SIM115 - closed by `bytes`
        self._names: set[str] = set()

    def folder(self, path: str, mode: int = 0o755, owner: int = 0) -> None:
        """Put in a folder, with those above it."""
        name = path.strip("/")
        if not name or name in self._names:
            return
        self.folder(name.rpartition("/")[0])
        entry = tarfile.TarInfo(name)
        entry.type, entry.mode, entry.uid, entry.gid = tarfile.DIRTYPE, mode, owner, owner
        self._add(entry, None)

    def link(self, path: str, target: str) -> None:
        """Put in a symbolic link."""
        entry = tarfile.TarInfo(path.strip("/"))
        entry.type, entry.linkname = tarfile.SYMTYPE, target
        self._add(entry, None)

    def text(self, path: str, text: str, mode: int = 0o644) -> None:
        """Put in a small file."""
        entry = tarfile.TarInfo(path.strip("/"))
        entry.size, entry.mode = len(text.encode()), mode
        self._add(entry, text.encode())

    def file(self, source: Path, path: str) -> None:
        """Put in a file of this machine, links followed."""
        data = source.read_bytes()
        entry = tarfile.TarInfo(path.strip("/"))
        entry.size, entry.mode = len(data), 0o755 if os.access(source, os.X_OK) else 0o644
        entry.mtime = int(source.stat().st_mtime)  # by which Python knows what it has compiled
        self._add(entry, data)

    def tree(self, source: Path, path: str, leave_out: Iterable[str] = ()) -> list[Path]:
        """Put in a folder with all below it; return what was put in that may need libraries."""
        skipped, programs = set(leave_out), []
        for folder, folders, files in os.walk(source):
            folders[:] = [name for name in folders if name not in skipped and not name.startswith("config-")]
            for name in files:
                file = Path(folder) / name
                if file.exists() and file.suffix != ".a":
                    self.file(file, f"{path}/{file.relative_to(source)}")
                    if ".so" in file.suffixes or name.endswith("-server"):
                        programs.append(file)
        return programs

    def libraries(self, programs: Sequence[Path]) -> None:
        """Put in the libraries of programs, and the loader."""
        words = subprocess.run(["ldd", *programs], capture_output=True, text=True, timeout=60, check=False).stdout
        for word in {word for line in words.splitlines() for word in line.split() if word.startswith("/")}:
            if not word.endswith(":") and ".so" in word:
                self.file(Path(word), word)

    def shell(self) -> None:
        """Put in busybox under all its names, /tmp, and the users root and jobmill (1000)."""
        found = shutil.which("busybox", path=PATH)
        assert found is not None, "apt-get install busybox-static"
        self.file(Path(found), "bin/busybox")
        names = subprocess.run([found, "--list"], capture_output=True, text=True, timeout=10, check=True).stdout.split()
        for name in sorted({*names, "sh"} - {"busybox"}):
            self.link(f"bin/{name}", "busybox")
        self.folder("tmp", 0o1777)
        self.text("etc/passwd", "root:x:0:0:root:/root:/bin/sh\njobmill:x:1000:1000::/home/jobmill:/bin/sh\n")
        self.text("etc/group", "root:x:0:\njobmill:x:1000:\n")
        self.folder("home/jobmill", owner=1000)

    def bytes(self) -> bytes:
        """Return the tar file."""
        self._tar.close()
        return self._data.getvalue()

    def _add(self, entry: tarfile.TarInfo, data: bytes | None) -> None:
        if entry.name in self._names:
            return
        self.folder(entry.name.rpartition("/")[0])
        self._names.add(entry.name)
        self._tar.addfile(entry, None if data is None else io.BytesIO(data))


def busybox() -> bytes:
    """Return an image of nothing but a shell."""
    image = Image()
    image.shell()
    return image.bytes()


def python(packages: Path | None = None) -> bytes:
    """Return an image with this Python as /usr/local/bin/python3; ``packages``: a folder of `pip install --target`."""
    image = Image()
    image.shell()
    program = Path(os.path.realpath(sys.executable))
    standard = Path(sysconfig.get_path("stdlib"))
    image.file(program, str(program))
    for name in ("python3", "python", Path(sys.executable).name):
        if f"/usr/local/bin/{name}" != str(program):
            image.link(f"usr/local/bin/{name}", str(program))
    found = [program, *image.tree(standard, str(standard), LEFT_OUT)]
    if packages is not None:
        found += image.tree(packages, "/packages", {"bin"})
        for script in (packages / "bin").glob("jobmill*"):
            body = script.read_text().split("\n", 1)[1]
            image.text(f"usr/local/bin/{script.name}", f"#!/usr/local/bin/python3\n{body}", 0o755)
        image.folder("var/spool/jobmill", owner=1000)
        image.folder("etc/jobmill", owner=1000)
    image.libraries(found)
    return image.bytes()


def redis() -> bytes:
    """Return an image with this machine's Redis server and client, and a shell.

    As in the official image, the server is not in protected mode: it serves the network of its containers.
    """
    image = Image()
    image.shell()
    found = [Path(os.path.realpath(shutil.which(name, path=PATH) or name)) for name in REDIS]
    for name, program in zip(REDIS, found, strict=True):
        image.file(program, f"usr/bin/{name}")
    open_server = '#!/bin/sh\nexec /usr/bin/redis-server "$@" --protected-mode no\n'
    image.text("usr/local/bin/redis-server", open_server, 0o755)
    image.libraries(found)
    image.folder("data", 0o777)
    return image.bytes()
