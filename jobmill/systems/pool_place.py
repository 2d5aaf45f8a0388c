"""What a launch left on the pool's server, as a place from which it is brought home."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable, Iterator

from jobmill.errors import StageFailed
from jobmill.systems.place import Entry, Kind, digest_of
from jobmill.systems.pool_files import PIECE, PoolFiles

ROOM = "/run"  # the run folder
WORK = "/work"  # the working directory, where that is another folder


class PoolPlace:
    """Files alone, and the folders that their names make; nothing is written here."""

    def __init__(self, files: PoolFiles) -> None:
        self._files = files
        self._folders: dict[str, dict[str, Entry]] = {ROOM: {}, WORK: {}}
        for name in files.names():
            path = path_of(name)
            facts = files.table()[name]
            entry = Entry(posixpath.basename(path), Kind.FILE, facts["size"], facts["mode"], (facts["mtime"],))
            self._enter(path, entry)

    def _enter(self, path: str, entry: Entry) -> None:
        above, name = posixpath.split(path)
        known = above in self._folders
        self._folders.setdefault(above, {})[name] = entry
        if not known:
            self._enter(above, Entry(posixpath.basename(above), Kind.FOLDER, mode=0o755))

    def entry(self, path: str, *, follow: bool = False) -> Entry | None:
        """Return what is there."""
        above, name = posixpath.split(posixpath.normpath(path))
        return self._folders.get(above, {}).get(name)

    def entries(self, folder: str) -> Iterable[Entry]:
        """Return what a folder holds; raise FileNotFoundError."""
        try:
            return self._folders[posixpath.normpath(folder)].values()
        except KeyError:
            raise FileNotFoundError(2, "No such file or directory", folder) from None

    def read(self, path: str) -> Iterator[bytes]:
        """Return the content of a file; raise StageFailed for one that was left out."""
        name, at = name_of(path), 0
        facts = self._files.table()[name]
        if "left" in facts:
            raise StageFailed(f"{posixpath.basename(path)}: {facts['left']}")
        while at < facts["size"]:
            piece = self._files.read(name, at, PIECE)
            if not piece:
                raise StageFailed(f"{name}: the pool's server has only {at} of {facts['size']} bytes of it")
            yield piece
            at += len(piece)

    def digest(self, path: str, tick: Callable[[], None]) -> str:
        """Return the digest of a file."""
        return digest_of(self.read(path), tick)

    def make_folder(self, path: str) -> None:
        """Refuse."""
        raise PermissionError(1, "nothing is written there", path)

    def write(self, path: str, pieces: Iterable[bytes], mode: int) -> None:
        """Refuse."""
        raise PermissionError(1, "nothing is written there", path)

    def target(self, link: str) -> str:
        """Refuse: there are no links."""
        raise PermissionError(1, "is no link", link)

    def link(self, target: str, path: str) -> None:
        """Refuse."""
        raise PermissionError(1, "nothing is written there", path)

    def rename(self, old: str, new: str, *, replace: bool) -> None:
        """Refuse."""
        raise PermissionError(1, "nothing is written there", old)

    def remove(self, path: str) -> None:
        """Refuse."""
        raise PermissionError(1, "nothing is written there", path)


def path_of(name: str) -> str:
    """Return the path of a name on the server; what is not in the working directory is in the run folder."""
    return posixpath.normpath(name if name.startswith(f"{WORK}/") else f"{ROOM}/{name}")


def name_of(path: str) -> str:
    """Return the name of a path."""
    return posixpath.normpath(path).removeprefix(f"{ROOM}/")
