"""A search by glob in any place: what matches, as `Path.glob` means it (``**`` at the end stands for all files)."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from glob import has_magic

from jobmill.systems.place import Entry, Kind, Place


def search(place: Place, folder: str, glob: str, tick: Callable[[], None]) -> Iterator[str]:
    """Yield the paths below ``folder``, relative to it, that match; folders that cannot be read have none.

    Links to folders are followed where they are named or matched, never by ``**``.
    """
    parts: list[str] = []
    for part in glob.split("/"):
        if part not in ("", ".") and not (part == "**" and parts[-1:] == ["**"]):
            parts.append(part)
    found: set[str] = set()
    stack = [("", 0)]
    while stack:
        where, at = stack.pop()
        part, last = parts[at], at == len(parts) - 1
        tick()
        if part != "**" and not has_magic(part):
            there = posixpath.join(where, part)
            if not last:
                stack.append((there, at + 1))
            elif there not in found and _is(place, posixpath.join(folder, there)):
                found.add(there)
                yield there
            continue
        if part == "**" and last:  # all that is there; a folder stands for what is in it
            part = "*"
        if part == "**":
            stack.append((where, at + 1))
        for one in _entries(place, posixpath.join(folder, where)):
            path = posixpath.join(where, one.name)
            if part == "**":
                if one.kind is Kind.FOLDER:
                    stack.append((path, at))
            elif fnmatchcase(one.name, part):
                if not last:
                    stack.append((path, at + 1))
                elif path not in found and (one.kind is not Kind.LINK or _is(place, posixpath.join(folder, path))):
                    found.add(path)
                    yield path


def _entries(place: Place, folder: str) -> list[Entry]:
    try:
        return list(place.entries(folder))
    except (OSError, ValueError):
        return []


def _is(place: Place, path: str) -> bool:
    try:
        return place.entry(path, follow=True) is not None
    except (OSError, ValueError):
        return False
