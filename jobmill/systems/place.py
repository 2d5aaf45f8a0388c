"""Where files are staged from and to: a place has files, folders and links, on this machine or at the end of a line.

Paths are absolute text, undecodable bytes in it as surrogates (`os.fsencode` gives the bytes back). Errors are OSError;
a place that cannot be reached raises SystemUnavailable.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

PIECE = 1 << 20  # bytes that are read at once


class Kind(enum.Enum):
    """What stands under a name."""

    FILE = "file"
    FOLDER = "folder"
    LINK = "link"
    OTHER = "neither a file nor a folder"  # a pipe, socket or device: to open one may never return


@dataclass(frozen=True, slots=True)
class Entry:
    """What a place has under a name; a link is not followed."""

    name: str
    kind: Kind
    size: int = 0  # bytes
    mode: int = 0o644  # permissions
    version: tuple[int, ...] = ()  # differs once it has been written to


class Place(Protocol):
    """The few things that staging does to files."""

    def entry(self, path: str, *, follow: bool = False) -> Entry | None:
        """Return what is there, None where there is nothing; with ``follow`` what a link leads to."""

    def entries(self, folder: str) -> Iterable[Entry]:
        """Return what a folder holds, in any order."""

    def read(self, path: str) -> Iterator[bytes]:
        """Return the content of a file, a piece at a time; never waits for a pipe's writer."""

    def write(self, path: str, pieces: Iterable[bytes], mode: int) -> None:
        """Make or replace a file, and return once it is written to the end."""

    def digest(self, path: str, tick: Callable[[], None]) -> str:
        """Return the BLAKE2b digest of a file's content there, in hex; calls ``tick`` often while that goes on."""

    def make_folder(self, path: str) -> None:
        """Make a folder and those above it; one that exists is fine."""

    def target(self, link: str) -> str:
        """Return where a link leads, as it says."""

    def link(self, target: str, path: str) -> None:
        """Make a link that leads to ``target``; raise FileExistsError where something is there."""

    def rename(self, old: str, new: str, *, replace: bool) -> None:
        """Give a file another name; without ``replace`` raise FileExistsError where something is there."""

    def remove(self, path: str) -> None:
        """Remove a file or link; one that is not there is fine."""

    def room(self, folder: str) -> tuple[int, int]:
        """Return the bytes that are free on a folder's disk, and all of it."""


def room_told(facts: Any, folder: str) -> tuple[int, int]:
    """Return what a stranger tells of a disk; OSError for what cannot be."""
    if not isinstance(facts, list) or len(facts) != 2 or not all(type(it) is int for it in facts):
        raise OSError(errno.EPROTO, "it tells nonsense of its disk", folder)
    return facts[0], facts[1]


def digest_of(pieces: Iterable[bytes], tick: Callable[[], None]) -> str:
    """Return the digest by which files are compared (Python 3.6 has it, too)."""
    found = hashlib.blake2b()
    for piece in pieces:
        found.update(piece)
        tick()
    return found.hexdigest()


class Here:
    """This machine."""

    def __init__(self, *, durable: bool = False) -> None:
        """``durable``: what is written survives a power cut, because its other copy is removed."""
        self._durable = durable

    def entry(self, path: str, *, follow: bool = False) -> Entry | None:
        """Return what is there."""
        try:
            return entry_of(os.path.basename(path), os.stat(path, follow_symlinks=follow))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def entries(self, folder: str) -> Iterator[Entry]:
        """Return what a folder holds; what vanishes meanwhile is left out."""
        with os.scandir(folder) as found:
            for one in found:
                try:
                    yield entry_of(one.name, one.stat(follow_symlinks=False))
                except FileNotFoundError:
                    continue

    def read(self, path: str) -> Iterator[bytes]:
        """Return the content of a file."""
        with opened(path) as file:
            while piece := file.read(PIECE):
                yield piece

    def write(self, path: str, pieces: Iterable[bytes], mode: int) -> None:
        """Make or replace a file."""
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with open(fd, "wb", buffering=0) as file:
            for piece in pieces:
                view = memoryview(piece)
                while view:
                    view = view[file.write(view) or 0 :]
            os.fchmod(fd, mode & 0o777)
            if self._durable:
                os.fsync(fd)

    def digest(self, path: str, tick: Callable[[], None]) -> str:
        """Return the digest of a file's content."""
        return digest_of(self.read(path), tick)

    def make_folder(self, path: str) -> None:
        """Make a folder and those above it."""
        os.makedirs(path, exist_ok=True)

    def target(self, link: str) -> str:
        """Return where a link leads."""
        return os.readlink(link)

    def link(self, target: str, path: str) -> None:
        """Make a link."""
        os.symlink(target, path)

    def rename(self, old: str, new: str, *, replace: bool) -> None:
        """Give a file another name; durable with its folder's entry."""
        if replace:
            os.replace(old, new)
        else:
            try:
                os.link(old, new, follow_symlinks=False)  # which never replaces, as a rename does
            except FileExistsError:
                raise
            except OSError:  # a file system without links
                if os.path.lexists(new):
                    raise FileExistsError(17, "File exists", new) from None
                os.rename(old, new)
            else:
                os.unlink(old)
        if self._durable:
            fd = os.open(os.path.dirname(new), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

    def remove(self, path: str) -> None:
        """Remove a file or link."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)

    def room(self, folder: str) -> tuple[int, int]:
        """Return the bytes that are free on a folder's disk, and all of it."""
        disk = os.statvfs(folder)
        return disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize


def entry_of(name: str, facts: os.stat_result) -> Entry:
    """Return the entry that `os.stat` tells of."""
    kinds = {stat.S_IFREG: Kind.FILE, stat.S_IFDIR: Kind.FOLDER, stat.S_IFLNK: Kind.LINK}
    kind = kinds.get(stat.S_IFMT(facts.st_mode), Kind.OTHER)
    version = (facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)
    return Entry(name, kind, facts.st_size, stat.S_IMODE(facts.st_mode), version)


def entry_told(facts: Any, known_as: str = "") -> Entry:
    """Return the entry that a stranger tells of, as what was asked for is called; OSError for one that cannot be.

    ``facts``: name, kind, size, mode, version. A name that is told leads nowhere but into its folder: paths are made of
    it here.
    """
    try:
        name, kind, size, mode, version = facts
        numbers = [size, mode, *version]
    except (TypeError, ValueError):
        raise OSError(errno.EPROTO, "it tells nonsense of a file", known_as) from None
    if not known_as and (not isinstance(name, str) or name in ("", ".", "..") or "/" in name or "\0" in name):
        raise OSError(errno.EPROTO, "it tells of a file whose name is none", str(name)[:200])
    if not all(type(number) is int for number in numbers) or min(size, mode) < 0:
        raise OSError(errno.EPROTO, "it tells nonsense of a file", str(name)[:200])
    kinds = {it.value: it for it in Kind}
    return Entry(known_as or name, kinds.get(str(kind), Kind.OTHER), size, mode, tuple(version))


def opened(path: str) -> BinaryIO:
    """Open a file that may have become a pipe since it was looked at."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(22, "is no file any more", path)
    return open(fd, "rb", buffering=0)
