"""A search for files in steps: pathlib's glob cannot be interrupted, and goes on for minutes below a large folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from fnmatch import fnmatchcase
from glob import has_magic
from pathlib import Path

STEP = 200  # entries between two steps


def search(folder: Path, glob: str) -> Iterator[bool]:
    """Yield False now and then, and True as the last where a file matches as `Path.glob` matches.

    What cannot be read has none. Links to folders are followed where they are named or matched, never by ``**``.
    """
    parts = _parts(glob)
    last = len(parts) - 1
    stack = [(str(folder), 0)]
    seen = 0
    while stack:
        where, at = stack.pop()
        part = parts[at]
        seen += 1
        if seen % STEP == 0:
            yield False
        if part == "**" and at == last and os.path.isdir(where):  # noqa: PTH112
            yield True
            return
        if part != "**" and not has_magic(part):
            there = os.path.join(where, part)  # noqa: PTH118
            if at < last:
                stack.append((there, at + 1))
            elif _exists(there):
                yield True
                return
            continue
        for entry in _entries(where):
            seen += 1
            if seen % STEP == 0:
                yield False
            if part == "**":
                if _is_folder(entry, links=False):
                    stack.append((entry.path, at))
            elif fnmatchcase(entry.name, part):
                if at == last:
                    yield True
                    return
                if _is_folder(entry, links=True):
                    stack.append((entry.path, at + 1))
        if part == "**" and at < last:
            stack.append((where, at + 1))  # what is near is looked at first


def _parts(glob: str) -> list[str]:
    parts: list[str] = []
    for part in Path(glob).parts:
        if part != "**" or parts[-1:] != ["**"]:  # twice means no more than once
            parts.append(part)
    return parts


def _entries(folder: str) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            yield from found
    except (OSError, ValueError):
        return


def _is_folder(entry: os.DirEntry[str], *, links: bool) -> bool:
    try:
        return entry.is_dir(follow_symlinks=links)
    except OSError:
        return False


def _exists(path: str) -> bool:
    try:
        return os.path.exists(path)  # noqa: PTH110
    except ValueError:
        return False
