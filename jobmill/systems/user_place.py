"""Files as the user of a job has them: what that user may not read or write, a job brings nowhere.

Each question is a process of that user's, some 50 ms: fine for a few files, slow for thousands. What it answers may be
the user's own invention, so it is read as a stranger's words: a name leads nowhere but into its folder.
"""

from __future__ import annotations

import base64
import errno
import posixpath
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from jobmill.systems.place import Entry, digest_of, entry_told, room_told

Ask = Callable[[str, dict[str, Any]], Any]  # a verb of `far_files`, `piece` or `append`, and its arguments


class UserPlace:
    """A place, on whatever host ``ask`` asks. Errors are that user's, with the path."""

    def __init__(self, ask: Ask) -> None:
        self._do = ask

    def entry(self, path: str, *, follow: bool = False) -> Entry | None:
        """Return what is there."""
        found = self._ask("entry", path, path=path, follow=follow)
        return None if found is None else entry_told(found, posixpath.basename(path) or "/")

    def entries(self, folder: str) -> Iterable[Entry]:
        """Return what a folder holds."""
        found = self._ask("entries", folder, folder=folder)
        if not isinstance(found, list):
            raise OSError(errno.EPROTO, "it tells nonsense of a folder", folder)
        return [entry_told(facts) for facts in found]

    def read(self, path: str) -> Iterator[bytes]:
        """Return the content of a file."""
        offset = 0
        while piece := _piece(self._ask("piece", path, path=path, offset=offset), path):
            yield piece
            offset += len(piece)

    def write(self, path: str, pieces: Iterable[bytes], mode: int) -> None:
        """Make or replace a file."""
        self._ask("append", path, path=path, data="", begin=True)
        for piece in pieces:
            data = base64.b64encode(piece).decode("ascii")
            self._ask("append", path, path=path, data=data, begin=False)
        self._ask("finish", path, path=path, mode=mode)

    def digest(self, path: str, tick: Callable[[], None]) -> str:
        """Return the digest of a file's content."""
        return digest_of(self.read(path), tick)

    def make_folder(self, path: str) -> None:
        """Make a folder and those above it."""
        self._ask("make_folder", path, path=path)

    def target(self, link: str) -> str:
        """Return where a link leads."""
        return str(self._ask("target", link, link=link))

    def link(self, target: str, path: str) -> None:
        """Make a link."""
        self._ask("link", path, to=target, path=path)

    def rename(self, old: str, new: str, *, replace: bool) -> None:
        """Give a file another name."""
        self._ask("rename", new, old=old, new=new, replace=replace)

    def remove(self, path: str) -> None:
        """Remove a file or link."""
        self._ask("remove", path, path=path)

    def room(self, folder: str) -> tuple[int, int]:
        """Return the bytes that are free on a folder's disk, and all of it."""
        return room_told(self._ask("room", folder, folder=folder), folder)

    def _ask(self, verb: str, where: str, **arguments: Any) -> Any:
        try:
            return self._do(verb, arguments)
        except OSError as error:
            raise OSError(error.errno, error.strerror or str(error), where) from error


def _piece(data: Any, path: str) -> bytes:
    try:
        return base64.b64decode(data)
    except (ValueError, TypeError):
        raise OSError(errno.EPROTO, "it tells nonsense of a file", path) from None
