"""Files of one launch in the pool's Redis: what is brought to its host before it, and what it left there.

A table (name → size, mode, number) and one string for each file, written and read in pieces at their offsets, so that
any step may be repeated. A file is in the table once it is whole there.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, cast

import redis

from jobmill.errors import StageFailed

PIECE = 1 << 20  # bytes
KEEP = 7 * 86400  # seconds for which the server keeps what nobody forgets
NOTE = "?"  # the entry of the table that is no file


class PoolFiles:
    """One side (``in`` or ``out``) of one launch."""

    def __init__(self, client: redis.Redis, prefix: str, launch: str, side: str) -> None:
        self._client = client
        self.key = f"{prefix}{side}:{launch}"
        self._table: dict[str, dict[str, Any]] | None = None

    def table(self) -> Mapping[str, Mapping[str, Any]]:
        """Return name → size (bytes), mode, mtime and number, read once."""
        if self._table is None:
            found = cast("dict[bytes, bytes]", self._client.hgetall(self.key))
            self._table = {_name(k): json.loads(v) for k, v in found.items()}
        return self._table

    def total(self) -> int:
        """Return the bytes that are there."""
        return sum(int(entry.get("size", 0)) for entry in self.table().values())

    def put(
        self, name: str, path: Path, moved: Callable[[int], None] = lambda size: None, limit: int | None = None
    ) -> int:
        """Write one file, or its first ``limit`` bytes, and return how many; what is there as it is now, stays.

        ``moved`` takes the bytes of each piece.
        """
        table = self.table()
        with path.open("rb") as file:
            facts = os.fstat(file.fileno())
            size = facts.st_size if limit is None else min(limit, facts.st_size)
            entry = {"size": size, "mode": stat.S_IMODE(facts.st_mode), "mtime": facts.st_mtime_ns}
            known = table.get(name)
            if known is not None and known["size"] == entry["size"] and known["mtime"] == entry["mtime"]:
                return size
            number = known["n"] if known is not None else len(table)
            key, at = f"{self.key}:{number}", 0
            while at < size:
                piece = file.read(min(PIECE, size - at))
                if not piece:
                    raise StageFailed(f"{path}: became shorter while it was read")
                with self._client.pipeline() as pipe:
                    pipe.setrange(key, at, cast("Any", piece))
                    pipe.expire(key, KEEP)
                    pipe.execute()
                at += len(piece)
                moved(len(piece))
        self._enter(name, entry | {"n": number})
        return size

    def leave_out(self, name: str, path: Path, why: str) -> None:
        """Say that a file is not here, and why."""
        facts = path.stat()
        entry = {"size": facts.st_size, "mode": stat.S_IMODE(facts.st_mode), "mtime": facts.st_mtime_ns, "n": -1}
        self._enter(name, entry | {"left": why})

    def note(self, words: str) -> None:
        """Say something about all of it."""
        self._enter(NOTE, {"n": -1, "words": words})

    def noted(self) -> str:
        """Return what `note` said."""
        return str(self.table().get(NOTE, {}).get("words", ""))

    def names(self) -> list[str]:
        """Return the names of the files that are there."""
        return [name for name in self.table() if name != NOTE]

    def get(self, name: str, target: Path, moved: Callable[[int], None] = lambda size: None) -> None:
        """Write one file to ``target``, whole or not at all."""
        entry = self.table()[name]
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name[:200]}.{os.getpid()}.part")
        try:
            with partial.open("wb") as file:
                at = 0
                while at < entry["size"]:
                    piece = self.read(name, at, PIECE)
                    if not piece:
                        raise StageFailed(f"{name}: the pool's server has only {at} of {entry['size']} bytes of it")
                    file.write(piece)
                    at += len(piece)
                    moved(len(piece))
            partial.chmod(entry["mode"] & 0o777 | 0o600)
            partial.replace(target)
        finally:
            with contextlib.suppress(FileNotFoundError):
                partial.unlink()

    def read(self, name: str, offset: int, limit: int) -> bytes:
        """Return a part of a file, b"" when it is not there."""
        entry = self.table().get(name)
        if entry is None or entry["n"] < 0 or offset >= entry["size"] or limit <= 0:
            return b""
        return cast("bytes", self._client.getrange(f"{self.key}:{entry['n']}", offset, offset + limit - 1))

    def drop(self) -> None:
        """Remove all of it."""
        numbers = [entry["n"] for entry in self.table().values()]
        self._client.unlink(*(f"{self.key}:{number}" for number in numbers), self.key)
        self._table = None

    def _enter(self, name: str, entry: dict[str, Any]) -> None:
        with self._client.pipeline() as pipe:
            pipe.hset(self.key, cast("Any", name.encode("utf-8", "surrogateescape")), json.dumps(entry))
            pipe.expire(self.key, KEEP)
            pipe.execute()
        self.table()
        assert self._table is not None
        self._table[name] = entry


def below(folder: Path, name: str) -> Path:
    """Return the path of a name in a folder; raise StageFailed for one that leads out of it."""
    parts = PurePosixPath(name)
    if not name or parts.is_absolute() or ".." in parts.parts:
        raise StageFailed(f"{name!r} leads out of its folder")
    return folder / name


def _name(key: bytes) -> str:
    return key.decode("utf-8", "surrogateescape")
