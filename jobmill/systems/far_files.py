"""The files of a far host, as the desk shows them: what SFTP alone cannot do, or not for every name.

Standard library only, Python 3.6 and later. Paths and names are text in which undecodable bytes are surrogates.
"""

import base64
import errno
import hashlib
import os
import stat
import time

from jobmill.systems import handover, run_folder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Facts = list[Any]  # name, kind, size, mode, version: the fields of an Entry

VERBS = ("entry", "entries", "digest", "make_folder", "target", "link", "rename", "finish", "remove", "room")
PATIENCE = 2.0  # seconds of one question
PIECE = 1 << 20  # bytes that are read at once
_digests: "dict[str, tuple[int, Any]]" = {}  # path -> those that are being made
KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFLNK: "link"}


def entry(path: str, follow: bool) -> "Facts | None":
    """Return what is there, None where there is nothing."""
    place = run_folder.encode(path)
    try:
        return _facts(os.path.basename(place), os.stat(place) if follow else os.lstat(place))
    except (FileNotFoundError, NotADirectoryError):
        return None


def entries(folder: str) -> "list[Facts]":
    """Return what a folder holds; what vanishes meanwhile is left out."""
    found = []
    place = run_folder.encode(folder)
    for name in os.listdir(place):
        try:
            found.append(_facts(name, os.lstat(os.path.join(place, name))))
        except FileNotFoundError:
            continue
    return found


def digest(path: str, begin: bool) -> "str | None":
    """Return the BLAKE2b digest of a file's content in hex, or None after some seconds: then ask on."""
    if begin and path in _digests:
        os.close(_digests.pop(path)[0])
    if path not in _digests:
        _digests[path] = (_open(run_folder.encode(path)), hashlib.blake2b())
    fd, found = _digests[path]
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        piece = os.read(fd, PIECE)
        if not piece:
            os.close(fd)
            del _digests[path]
            return str(found.hexdigest())
        found.update(piece)
    return None


def make_folder(path: str) -> None:
    """Make a folder and those above it."""
    os.makedirs(run_folder.encode(path), exist_ok=True)


def target(link: str) -> str:
    """Return where a link leads."""
    return os.readlink(run_folder.encode(link)).decode("utf-8", "surrogateescape")


def link(to: str, path: str) -> None:
    """Make a link."""
    os.symlink(run_folder.encode(to), run_folder.encode(path))


def rename(old: str, new: str, replace: bool) -> None:
    """Give a file another name; without ``replace`` FileExistsError where something is there."""
    before, after = run_folder.encode(old), run_folder.encode(new)
    if replace:
        os.replace(before, after)
        return
    try:
        os.link(before, after, follow_symlinks=False)  # which never replaces, as a rename does
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        if os.path.lexists(after):
            raise FileExistsError(errno.EEXIST, "File exists", new) from None
        os.rename(before, after)
    else:
        os.unlink(before)


def finish(path: str, mode: int) -> None:
    """Give a file that was written its permissions, and wait until the disk has it."""
    place = run_folder.encode(path)
    os.chmod(place, mode & 0o777)
    fd = os.open(place, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def remove(path: str) -> None:
    """Remove a file or link; one that is not there is fine."""
    try:
        os.unlink(run_folder.encode(path))
    except FileNotFoundError:
        pass


def room(folder: str) -> "list[int]":
    """Return the bytes that are free on a folder's disk, and all of it."""
    disk = os.statvfs(run_folder.encode(folder))
    return [disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize]


def small(folder: bytes, names: "list[str]", most: int, uid: "int | None" = None) -> "dict[str, list[Any]]":
    """Return {name: [facts, content in base64]} of the files that a folder has; no content over ``most``.

    ``uid``: of the user to whom the run folder was given, who may have put anything in place of a file.
    """
    found = {}
    for name in names:
        try:
            if uid is not None and name != "run":
                fd = handover.open_own(folder, run_folder.encode(name), uid)
            else:
                fd = _open(os.path.join(folder, run_folder.encode(name)))
        except OSError:
            continue
        try:
            facts = os.fstat(fd)
            data = base64.b64encode(os.read(fd, most)).decode("ascii") if facts.st_size <= most else None
            found[name] = [_facts(run_folder.encode(name), facts), data]
        finally:
            os.close(fd)
    return found


def _facts(name: bytes, found: os.stat_result) -> "Facts":
    kind = KINDS.get(stat.S_IFMT(found.st_mode), "other")
    version = [found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]
    return [name.decode("utf-8", "surrogateescape"), kind, found.st_size, stat.S_IMODE(found.st_mode), version]


def _open(path: bytes) -> int:
    """Open a plain file; one that has become a pipe is none."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "is no file", path)
    return fd
