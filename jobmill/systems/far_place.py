"""A far host's files as a place to stage from and to: content goes by SFTP, all else by the desk.

SFTP has no digest, no rename that never replaces, and as paramiko has it no names but UTF-8.
"""

from __future__ import annotations

import contextlib
import errno
import os
import posixpath
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import paramiko

from jobmill.errors import SystemUnavailable
from jobmill.systems.desk import Desk
from jobmill.systems.place import PIECE, Entry, entry_told, room_told

PATIENCE = 30.0  # seconds for an answer about a file
AHEAD = 64  # requests that are under way at once when a file is read: of 32 KiB each
WINDOW = 64 << 20  # bytes that are asked for ahead; the library keeps a list of them, whatever the size of the file


class FarPlace:
    """One host for one staging; `close` ends the SFTP session. Not shared between threads."""

    def __init__(self, desk: Desk, sftp: Callable[[], paramiko.SFTPClient]) -> None:
        self._desk = desk
        self._open = sftp
        self._sftp: paramiko.SFTPClient | None = None

    @property
    def busy(self) -> bool:
        """True while there is an SFTP session."""
        return self._sftp is not None

    def close(self) -> None:
        """End the SFTP session."""
        if self._sftp is not None:
            with contextlib.suppress(Exception):
                self._sftp.close()
            self._sftp = None

    def entry(self, path: str, *, follow: bool = False) -> Entry | None:
        """Return what is there."""
        found = self._ask("entry", path=path, follow=follow)
        return None if found is None else entry_told(found, posixpath.basename(path) or "/")

    def entries(self, folder: str) -> Iterable[Entry]:
        """Return what a folder holds."""
        found = self._ask("entries", folder=folder)
        if not isinstance(found, list):
            raise OSError(errno.EPROTO, "the host tells nonsense of a folder", folder)
        return [entry_told(facts) for facts in found]

    def read(self, path: str) -> Iterator[bytes]:
        """Return the content of a file; several requests are under way at once."""
        with self._transfer(path) as sftp, sftp.open(os.fsencode(path), "rb") as file:
            size = file.stat().st_size or 0
            done = ahead = 0
            while True:
                if done >= ahead and done < size:
                    ahead = min(size, done + WINDOW)
                    file.prefetch(ahead, max_concurrent_requests=AHEAD)
                piece = file.read(PIECE if done >= size else min(PIECE, ahead - done))
                if not piece:
                    return
                done += len(piece)
                yield piece

    def write(self, path: str, pieces: Iterable[bytes], mode: int) -> None:
        """Make or replace a file, and wait until the disk there has it."""
        with self._transfer(path) as sftp, sftp.open(os.fsencode(path), "wb") as file:
            file.set_pipelined(True)
            for piece in pieces:
                file.write(piece)
        self._ask("finish", path=path, mode=mode)

    def digest(self, path: str, tick: Callable[[], None]) -> str:
        """Return the digest of a file's content, made there."""
        found: str | None = self._ask("digest", path=path, begin=True)
        while found is None:
            tick()
            found = self._ask("digest", path=path, begin=False)
        return found

    def make_folder(self, path: str) -> None:
        """Make a folder and those above it."""
        self._ask("make_folder", path=path)

    def target(self, link: str) -> str:
        """Return where a link leads."""
        return str(self._ask("target", link=link))

    def link(self, target: str, path: str) -> None:
        """Make a link."""
        self._ask("link", to=target, path=path)

    def rename(self, old: str, new: str, *, replace: bool) -> None:
        """Give a file another name."""
        self._ask("rename", old=old, new=new, replace=replace)

    def remove(self, path: str) -> None:
        """Remove a file or link."""
        self._ask("remove", path=path)

    def room(self, folder: str) -> tuple[int, int]:
        """Return the bytes that are free on a folder's disk, and all of it."""
        return room_told(self._ask("room", folder=folder), folder)

    def _ask(self, verb: str, *, deadline: float = PATIENCE, **values: Any) -> Any:
        return self._desk.file(verb, deadline=deadline, **values)

    @contextlib.contextmanager
    def _transfer(self, path: str) -> Iterator[paramiko.SFTPClient]:
        """Give the session; what breaks it is no fault of the file."""
        if self._sftp is None:
            self._sftp = self._open()
        try:
            yield self._sftp
        except (paramiko.SSHException, EOFError, TimeoutError, ConnectionError) as error:
            self.close()
            raise SystemUnavailable(f"the transfer of {path!r} broke off: {error or type(error).__name__}") from error
        except OSError as error:
            if error.errno is not None:  # what SFTP can say of a file: not there, not permitted
                raise
            self.close()  # "Failure", which is all that it says of a full disk
            raise self._failure(path, error) from error

    def _failure(self, path: str, error: OSError) -> OSError:
        """Say what is behind SFTP's only word for most errors."""
        free = None
        with contextlib.suppress(OSError, SystemUnavailable):
            free = self.room(posixpath.dirname(path))[0]
        if free is not None and free < PIECE:
            return OSError(28, "No space left on device", path)  # ENOSPC
        return OSError(5, f"SFTP says: {error}", path)  # EIO
