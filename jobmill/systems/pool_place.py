"""What is on the pool's server of a launch, as a place from which it is brought: to its host, or home."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable, Iterator

from jobmill.errors import StageFailed
from jobmill.systems.place import Entry, Kind, digest_of
from jobmill.systems.pool_files import PIECE, PoolFiles

ROOM = "/run"  # the run folder
WORK = "/work"  # the working directory, where that is another folder


LINKS = 40  # that are followed in one path


class PoolPlace:
    """Files, links, and the folders that their names make; nothing is written here."""

    def __init__(self, files: PoolFiles) -> None:
        self._files = files
        self._folders: dict[str, dict[str, Entry]] = {ROOM: {}, WORK: {}}
        self._names: dict[str, str] = {}
        for name in files.names():
            path = path_of(name)
            if any(part in ("", ".", "..") for part in path[1:].split("/")) or "\0" in path:
                raise StageFailed(f"{name!r} on the pool's server is no name of a file")
            facts = files.table()[name]
            self._names[path] = name
            kind = Kind(facts.get("kind", Kind.FILE.value))
            if kind is Kind.FOLDER:
                self._folders.setdefault(path, {})
            entry = Entry(posixpath.basename(path), kind, facts["size"], facts["mode"], (facts["mtime"],))
            self._enter(path, entry)

    def _enter(self, path: str, entry: Entry) -> None:
        above, name = posixpath.split(path)
        known = above in self._folders
        self._folders.setdefault(above, {})[name] = entry
        if not known:
            self._enter(above, Entry(posixpath.basename(above), Kind.FOLDER, mode=0o755))

    def entry(self, path: str, *, follow: bool = False) -> Entry | None:
        """Return what is there."""
        above, name = posixpath.split(self._real(path, last=follow))
        return self._folders.get(above, {}).get(name)

    def entries(self, folder: str) -> Iterable[Entry]:
        """Return what a folder holds; raise FileNotFoundError."""
        try:
            return self._folders[self._real(folder)].values()
        except KeyError:
            raise FileNotFoundError(2, "No such file or directory", folder) from None

    def read(self, path: str) -> Iterator[bytes]:
        """Return the content of a file; raise StageFailed for one that was left out."""
        path = self._real(path)
        name, at = self._names.get(path), 0
        if name is None:
            raise FileNotFoundError(2, "No such file or directory", path)
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
        """Return where a link leads."""
        name = self._names.get(self._real(link, last=False))
        return str(self._files.table()[name]["to"]) if name is not None else ""

    def _real(self, path: str, *, last: bool = True) -> str:
        """Return a path without links in it, but for its ``last`` part; raise OSError where they go round."""
        done, todo, links = "", path.split("/")[::-1], 0
        while todo:
            part = todo.pop()
            if part in ("", "."):
                continue
            if part == "..":
                done = posixpath.dirname(done)
                continue
            there = self._folders.get(done or "/", {}).get(part)
            if there is not None and there.kind is Kind.LINK and (last or any(todo)):
                links += 1
                if links > LINKS:
                    raise OSError(40, "Too many levels of symbolic links", path)
                leads = self.target(f"{done}/{part}")
                done = "" if leads.startswith("/") else done
                todo += leads.split("/")[::-1]
            else:
                done = f"{done}/{part}".replace("//", "/")
        return done or "/"

    def link(self, target: str, path: str) -> None:
        """Refuse."""
        raise PermissionError(1, "nothing is written there", path)

    def rename(self, old: str, new: str, *, replace: bool) -> None:
        """Refuse."""
        raise PermissionError(1, "nothing is written there", old)

    def remove(self, path: str) -> None:
        """Refuse."""
        raise PermissionError(1, "nothing is written there", path)

    def room(self, folder: str) -> tuple[int, int]:
        """Refuse."""
        raise PermissionError(1, "nothing is written there", folder)


def path_of(name: str) -> str:
    """Return the path of a name on the server; what is not in the working directory is in the run folder."""
    return name if name.startswith(f"{WORK}/") or name == WORK else f"{ROOM}/{name}"
