"""The line of a pilot: each launch is a file, and where it lies says how far it is.

Standard library only, Python 3.6 and later; it lies on the file system that the nodes share:

    <spool>/pilots/<system>/held/        submitted, not released
                            line/        released; the ranks take from here
                            work/<a>.<r>/  taken by rank r of allocation a
                            done/        ended, until the record has its end
                            kills/<a>.<r>/ what rank r is to kill: the name for TERM, the name and `.kill` for KILL
                            allocations/<a>/ what is known of one allocation (`pilot_room`)

A move is a rename, which one of many gets done. It only says who tries next: the right to start a launch is the marker
in its run folder, so one that is put back by mistake, while its rank lives, is not started twice. A file holds the
launch as a line for the runner. Its name, ``<cpus>x<walltime>,<token>``, says what a rank has to know beforehand.
"""

import errno
import json
import math
import os
import re

from jobmill.systems import launch_token, run_folder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

HELD, LINE, WORK, DONE, KILLS, ALLOCATIONS = b"held", b"line", b"work", b"done", b"kills", b"allocations"
FORCE = b".kill"  # after the name of what is to be killed by force
_NAME = re.compile(rb"([0-9]{1,6})x([0-9]{1,9}),([^\s:/]{1,40}:[A-Za-z0-9][A-Za-z0-9._-]{0,63}:[0-9]{1,6})")
DIGITS, LONGEST = 6, 999999999  # of the number of an allocation, or a rank; seconds of a walltime that a name can say
_RANK = re.compile(rb"([0-9]{1,6})\.([0-9]{1,6})")


class Entry:
    """One launch in line, as its name says."""

    __slots__ = ("cpus", "name", "order", "token", "walltime")

    def __init__(self, cpus: int, walltime: int, token: str) -> None:
        self.cpus = cpus
        self.walltime = walltime  # seconds, rounded up; 0: none is known
        self.token = token
        self.name = b"%dx%d,%s" % (cpus, walltime, run_folder.encode(token))
        life, job, run = launch_token.split(token)
        self.order = (launch_token.record_and_arrival(life)[1], job, run)  # as the record admitted them


def entry(cpus: int, walltime: "float | None", token: str) -> Entry:
    """Return what the launch of a token is in line."""
    return Entry(cpus, math.ceil(min(walltime or 0, LONGEST)), token)


def entry_of(name: bytes) -> "Entry | None":
    """Return what a name says; None for a file that is not of the line."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    return Entry(int(found.group(1)), int(found.group(2)), found.group(3).decode("utf-8", "surrogateescape"))


def launch_line(token: str, cpus: int, fields: "list[Any]") -> bytes:
    """Return the line by which a runner takes a launch; ``fields``: as `runner` tells them."""
    return run_folder.encode("%s %d %s\n" % (token, cpus, json.dumps(fields)))


def rank_of(name: bytes) -> "tuple[int, int] | None":
    """Return (allocation, rank) of the name of a rank's folder."""
    found = _RANK.fullmatch(name)
    return None if found is None else (int(found.group(1)), int(found.group(2)))


def rank_name(allocation: int, rank: int) -> bytes:
    """Return the name of a rank's folders."""
    return b"%d.%d" % (allocation, rank)


class Line:
    """The folders of one pilot. Every method raises OSError where the file system does not do it."""

    def __init__(self, spool: bytes, system: str) -> None:
        self.spool = spool  # bytes, absolute
        self.folder = b"%s/pilots/%s" % (spool, run_folder.encode(system))

    def make(self) -> None:
        """Make the folders that are not there."""
        for name in (HELD, LINE, WORK, DONE, KILLS, ALLOCATIONS):
            os.makedirs(self.path(name), exist_ok=True)

    def path(self, *names: bytes) -> bytes:
        """Return a path below the pilot's folder."""
        return b"/".join((self.folder, *names))

    def names(self, *place: bytes) -> "list[bytes]":
        """Return the names in a folder; one that is not there has none."""
        try:
            return os.listdir(self.path(*place))
        except FileNotFoundError:
            return []

    def entries(self, *place: bytes) -> "list[Entry]":
        """Return the launches in a folder, in no order."""
        return [found for found in map(entry_of, self.names(*place)) if found is not None]

    def allocations(self) -> "list[int]":
        """Return the numbers of all allocations that have a folder; what else is there is none of ours."""
        names = [it for it in self.names(ALLOCATIONS) if it.isdigit() and len(it) <= DIGITS and not it.startswith(b"0")]
        return [int(it) for it in names if os.path.isdir(self.path(ALLOCATIONS, it))]

    def ranks(self) -> "list[tuple[int, int]]":
        """Return (allocation, rank) of every rank that has a folder for its work."""
        return sorted(found for found in map(rank_of, self.names(WORK)) if found is not None)

    def put(self, name: bytes, text: bytes) -> None:
        """Put a launch among the held ones, whole; the same one again replaces itself."""
        own = self.path(HELD, b".%d.%s" % (os.getpid(), name[:150]))
        write(own, text, 0o600)
        os.rename(own, self.path(HELD, name))

    def move(self, name: bytes, source: bytes, target: bytes) -> bool:
        """Move a launch from one folder (below ours) to another; False: it is not there, another has moved it."""
        try:
            os.rename(self.path(source, name), self.path(target, name))
        except FileNotFoundError:
            if not os.path.isdir(self.path(target)):
                raise
            return False
        return True

    def drop(self, name: bytes, *places: bytes) -> None:
        """Take a launch out of these folders; nothing there is fine."""
        for place in places:
            try:
                os.unlink(self.path(place, name))
            except FileNotFoundError:
                pass

    def where(self) -> "dict[str, tuple[Entry, bytes]]":
        """Return {token: (launch, folder)} of all; the folders are read in the order in which launches go through."""
        found: "dict[str, tuple[Entry, bytes]]" = {}
        for place in (HELD, LINE):
            found.update((it.token, (it, place)) for it in self.entries(place))
        for allocation, rank in self.ranks():
            place = WORK + b"/" + rank_name(allocation, rank)
            found.update((it.token, (it, place)) for it in self.entries(place))
        found.update((it.token, (it, DONE)) for it in self.entries(DONE))
        return found


def write(path: bytes, text: bytes, mode: int = 0o644) -> None:
    """Write a file that only we write."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        run_folder.write(fd, text)
    finally:
        os.close(fd)


def put(path: bytes, text: bytes, mode: int = 0o644) -> None:
    """Write a file whole, in the place of an old one: who reads it meanwhile finds the old one or the new one."""
    own = b"%s.%d.%d" % (path, os.getpid(), run_folder.NAMESPACE)
    try:
        write(own, text, mode)
        os.rename(own, path)
    except OSError:
        try:
            os.unlink(own)
        except OSError:
            pass
        raise


def put_first(path: bytes, text: bytes) -> bool:
    """Write a file whole unless there is one; False: another was first."""
    own = b"%s.%d.%d" % (path, os.getpid(), run_folder.NAMESPACE)
    try:
        write(own, text)
        try:
            os.link(own, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
                raise
            if os.path.lexists(path):  # a file system without links
                return False
            os.rename(own, path)
        return True
    finally:
        try:
            os.unlink(own)
        except OSError:
            pass


def read(path: bytes) -> "bytes | None":
    """Return a file's bytes, None where there is none; OSError where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None
