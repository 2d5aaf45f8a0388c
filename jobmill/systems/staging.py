"""Staging: files are brought from one place to another, whole or not at all, and what is there already is kept.

A file comes under a temporary name, is compared by size and digest, and gets its name then: nobody ever sees a part of
it. Doing it again goes on where it stopped: what is there with the same size and digest is not brought again.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import posixpath
import re
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from jobmill.errors import StageFailed, SystemUnavailable
from jobmill.systems import process_tree, run_folder
from jobmill.systems.place import Entry, Here, Kind, Place
from jobmill.systems.system import Progress, Transfer

MOST = 1_000_000  # files and folders of one launch: each is some 650 bytes of memory until all are there
ATTEMPTS = 3  # copies of a file that is written to meanwhile
NAME = re.compile(r"\.jobmill-(?:([0-9a-f]+)-)?([0-9]+)-[0-9a-f]+\.new")  # of a file that is not whole yet
HOST = f"{zlib.crc32(f'{run_folder.BOOT}/{run_folder.NAMESPACE}'.encode()):08x}"  # this boot, this process table
LEFT_OVER = 86400.0  # seconds without a write after which such a file of another machine is nobody's
PASSING = frozenset(  # what another time may be over: a full disk, a file server that is sick, too many open files
    {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH}
    | {errno.ENETDOWN, errno.ENETUNREACH, errno.ENOTCONN, errno.ECONNRESET, errno.ENOMEM, errno.EMFILE, errno.ENFILE}
)


@dataclass(frozen=True, slots=True)
class Item:
    """One file, folder or link to be brought."""

    source: str  # absolute
    target: str  # relative to the folder it is brought to
    entry: Entry
    leads: str = ""  # of a link that is brought as a link


@contextlib.contextmanager
def told(path: str) -> Iterator[None]:
    """Turn an OSError into StageFailed, or SystemUnavailable where it may pass; both name the file."""
    try:
        yield
    except OSError as error:
        name = error.filename if isinstance(error.filename, str) else path
        words = f"{shown(name)}: {error.strerror or error}"
        if error.errno in PASSING:
            raise SystemUnavailable(words) from error
        raise StageFailed(words) from error
    except ValueError as error:  # NUL, or text that no file system can hold
        raise StageFailed(f"{shown(path)}: {error}") from error


def shown(path: str) -> str:
    """Return a path as people can read it on one line, whatever bytes it has."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def own_name(folder: str) -> str:
    """Return a path in a folder for a file that is not whole yet; nobody else has it."""
    return posixpath.join(folder, f".jobmill-{HOST}-{os.getpid()}-{os.urandom(6).hex()}.new")


def put(here: Here, path: str, content: bytes, mode: int) -> None:
    """Make or replace a small file here, whole; raise OSError."""
    own = own_name(posixpath.dirname(path))
    try:
        here.write(own, [content], mode)
        here.rename(own, path, replace=True)
    except BaseException:
        here.remove(own)
        raise


def sweep(folder: str) -> None:
    """Remove what transfers that were killed have left in a folder here."""
    with contextlib.suppress(OSError), os.scandir(folder) as found:
        for one in found:
            if not one.name.startswith(".jobmill-") or not (name := NAME.fullmatch(one.name)):
                continue
            with contextlib.suppress(OSError):
                ours, old = name[1] == HOST, time.time() - one.stat(follow_symlinks=False).st_mtime > LEFT_OVER
                if old or (ours and process_tree.process(int(name[2])) is None):
                    os.unlink(one.path)


def walk(place: Place, transfers: Iterable[Transfer], progress: Progress) -> list[Item]:
    """Return everything that these transfers bring, folders before what is in them.

    What a transfer names is followed where it is a link. Within a folder, links that stay inside of it come as links;
    others as the file that they lead to. Raises StageFailed for all that is neither file nor folder.
    """
    items: list[Item] = []
    for transfer in transfers:
        with told(transfer.source):
            found = place.entry(transfer.source, follow=True)
        if found is None:
            raise StageFailed(f"{shown(transfer.source)} does not exist")
        _take(items, transfer.source, transfer.target, found)
        stack = [(transfer.source, transfer.target)] if found.kind is Kind.FOLDER else []
        while stack:
            folder, target = stack.pop()
            with told(folder):
                entries = sorted(place.entries(folder), key=lambda one: one.name)
            for one in entries:
                progress(f"finds {len(items)} files")
                path, there = posixpath.join(folder, one.name), posixpath.join(target, one.name)
                if one.kind is Kind.LINK:
                    _link(items, place, transfer.source, path, there, one)
                    continue
                _take(items, path, there, one)
                if one.kind is Kind.FOLDER:
                    stack.append((path, there))
    return items


def _take(items: list[Item], source: str, target: str, entry: Entry) -> None:
    if entry.kind is Kind.OTHER:
        raise StageFailed(f"{shown(source)} is {entry.kind.value}")
    if len(items) >= MOST:
        raise StageFailed(f"more than {MOST:,} files, at {shown(source)}; put them into an archive")
    items.append(Item(source, target, entry))


def _link(items: list[Item], place: Place, top: str, path: str, target: str, entry: Entry) -> None:
    with told(path):
        leads = place.target(path)
        depth = len([part for part in posixpath.dirname(path)[len(top.rstrip("/")) :].split("/") if part])
        if _stays_inside(leads, depth):
            items.append(Item(path, target, entry, leads))
            return
        found = place.entry(path, follow=True)
    if found is None or found.kind is not Kind.FILE:
        what = "nothing" if found is None else "a folder outside" if found.kind is Kind.FOLDER else found.kind.value
        raise StageFailed(f"{shown(path)} is a link that leads to {what} ({shown(leads)})")
    items.append(Item(path, target, found))


def _stays_inside(leads: str, depth: int) -> bool:
    """Tell whether a link goes up first, at most to the top folder, and then only down.

    After a name, that may be a link, ``..`` leads anywhere; from above, the top folder may have another name there.
    """
    parts = [part for part in leads.split("/") if part not in ("", ".")]
    up = next((at for at, part in enumerate(parts) if part != ".."), len(parts))
    return not leads.startswith("/") and ".." not in parts[up:] and up <= depth


class Staging:
    """Brings items to a folder of another place, and tells how far it is."""

    def __init__(self, source: Place, target: Place, progress: Progress, *, words: str = "stages in") -> None:
        self._source = source
        self._target = target
        self._progress = progress
        self._words = words
        self._files = self._bytes = self._all_files = self._all_bytes = 0

    def bring(self, items: Sequence[Item], folder: str, *, replace: bool, grows: bool = False) -> None:
        """Bring all; raises StageFailed, SystemUnavailable, and whatever ``progress`` raises.

        ``replace``: what is there with other content gives way, else StageFailed says so; the folder is ours alone, and
        nothing is brought through a link in it. ``grows``: a file that is appended to meanwhile comes as long as it was
        at first, else it is tried again and then given up.
        """
        files = [item for item in items if item.entry.kind is Kind.FILE]
        self._all_files += len(files)
        self._all_bytes += sum(item.entry.size for item in files)
        self._tell()
        made: set[str] = set()
        for item in items:
            path = posixpath.join(folder, item.target)
            above = path if item.entry.kind is Kind.FOLDER else posixpath.dirname(path)
            with told(path):
                if above not in made:
                    if replace:
                        self._no_link(folder, above)
                    self._target.make_folder(above)
                    made.add(above)
                    if isinstance(self._target, Here):
                        sweep(above)
                if item.leads:
                    self._link(item, path, replace)
                elif item.entry.kind is Kind.FILE:
                    self._file(item, path, replace, grows)
                    self._files += 1
            self._tell()

    def _no_link(self, folder: str, above: str) -> None:
        """Refuse to go through a link: what was brought as one, and is a folder by now, leads out of ours."""
        while len(above) > len(folder.rstrip("/")):
            there = self._target.entry(above)
            if there is not None and there.kind is Kind.LINK:
                raise StageFailed(f"{shown(above)} is a link that came before; nothing is brought through it")
            above = posixpath.dirname(above)

    def _link(self, item: Item, path: str, replace: bool) -> None:
        there = self._target.entry(path)
        if there is not None and there.kind is Kind.LINK and self._target.target(path) == item.leads:
            return
        if there is not None and (not replace or there.kind is Kind.FOLDER):
            raise StageFailed(f"{shown(path)} is there, and it is not what {shown(item.source)} is")
        self._target.remove(path)
        self._target.link(item.leads, path)

    def _file(self, item: Item, path: str, replace: bool, grows: bool) -> None:
        if self._is_there(item, path, replace):
            self._bytes += item.entry.size
            return
        began = self._bytes
        own = own_name(posixpath.dirname(path))
        try:
            for _ in range(ATTEMPTS):
                self._bytes = began
                if self._copied(item, own, grows):
                    try:
                        self._target.rename(own, path, replace=replace)
                    except FileExistsError:  # somebody else has brought it meanwhile
                        if not self._is_there(item, path, replace):
                            raise
                    return
        finally:
            with contextlib.suppress(OSError, SystemUnavailable):
                self._target.remove(own)
        raise StageFailed(f"{shown(item.source)} changes while it is copied; let it be written to its end first")

    def _is_there(self, item: Item, path: str, replace: bool) -> bool:
        there = self._target.entry(path, follow=not replace)
        if there is None:
            return False
        if there.kind is Kind.FILE and there.size == item.entry.size:
            ours = self._source.digest(item.source, self._tell)
            if ours == self._target.digest(path, self._tell):
                return True
        if not replace or there.kind is Kind.FOLDER:
            raise StageFailed(
                f"{shown(path)} is there with other content than {shown(item.source)}; remove or rename one of them, "
                "or say another to:"
            )
        return False

    def _copied(self, item: Item, own: str, grows: bool) -> bool:
        """Copy under a temporary name; tell whether all of it came, and as it is."""
        before = self._source.entry(item.source, follow=True)
        if before is None:
            raise StageFailed(f"{shown(item.source)} does not exist any more")
        sent = hashlib.blake2b()
        length = 0

        def pieces() -> Iterator[bytes]:
            nonlocal length
            for piece in self._source.read(item.source):
                some = piece[: before.size - length] if grows else piece
                sent.update(some)
                length += len(some)
                self._bytes += len(some)
                yield some
                self._tell()
                if length > before.size or (grows and length == before.size):
                    return  # a file that is written to as fast as it is read has no end

        self._target.write(own, pieces(), before.mode)
        after = self._source.entry(item.source, follow=True)
        whole = length == before.size and (grows or (after is not None and after.version == before.version))
        return whole and self._target.digest(own, self._tell) == sent.hexdigest()

    def _tell(self) -> None:
        words = f"{self._words} {self._files}/{self._all_files}"
        if self._all_bytes:
            words += f", {amounts(min(self._bytes, self._all_bytes), self._all_bytes)}"
        self._progress(words)


def amounts(some: int, whole: int) -> str:
    """Return ``2.1 of 5 GB``: bytes in the unit that suits the whole."""
    for size, unit in ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if whole >= size:
            return f"{some / size:.4g} of {whole / size:.4g} {unit}"
    return f"{some} of {whole} bytes"
