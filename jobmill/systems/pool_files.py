"""Files of one launch in the pool's Redis: what is brought to its host before it, and what it left there.

A table (name → size, mode, number) and one string for each file, written and read in pieces at their offsets, so that
any step may be repeated. A file is in the table once it is whole there.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import redis

from jobmill.errors import StageFailed
from jobmill.systems.place import Entry, Kind, opened

PIECE = 1 << 20  # bytes
KEEP = 7 * 86400  # seconds for which the server keeps what nobody forgets
NOTE = "?"  # the entry of the table that is no file
KINDS = tuple(kind.value for kind in Kind)
TEXTS = ("left", "words", "kind", "to")  # what an entry may say beside its numbers


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
            self._table = {_name(k): self._entry(v) for k, v in found.items()}
        return self._table

    def _entry(self, text: bytes) -> dict[str, Any]:
        """Read an entry; raise StageFailed for one that nobody of us wrote."""
        try:
            entry = json.loads(text)
            good = all(type(entry.get(key, 0)) is int for key in ("n", "size", "mode", "mtime")) and "n" in entry
            good = good and entry.get("size", 0) >= 0 and entry.get("kind", "file") in KINDS
            if good and all(isinstance(entry.get(k, ""), str) for k in TEXTS):
                return {"size": 0, "mode": 0o644, "mtime": 0, **entry}
        except (ValueError, AttributeError, RecursionError):
            pass
        raise StageFailed(f"{self.key} on the pool's server holds what is no file of a launch: {text[:80]!r}")

    def put(
        self, name: str, path: Path, moved: Callable[[int], None] = lambda size: None, limit: int | None = None
    ) -> int:
        """Write one file, or its first ``limit`` bytes, and return how many; what is there as it is now, stays.

        ``moved`` takes the bytes of each piece.
        """
        table = self.table()
        with opened(str(path)) as file:  # it may have become a pipe since it was looked at
            facts = os.fstat(file.fileno())
            size = facts.st_size if limit is None else min(limit, facts.st_size)
            entry = {"size": size, "mode": stat.S_IMODE(facts.st_mode), "mtime": facts.st_mtime_ns}
            known = table.get(name)
            known = known if known is not None and known["n"] >= 0 else None
            if known is not None and known["size"] == entry["size"] and known["mtime"] == entry["mtime"]:
                return size
            number = known["n"] if known is not None else 1 + max((it["n"] for it in table.values()), default=-1)
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

    def leave_out(self, name: str, it: Entry, why: str) -> None:
        """Say that a file is not here, and why."""
        self._enter(name, {"size": it.size, "mode": it.mode, "n": -1, "left": why})

    def shape(self, name: str, leads: str = "") -> None:
        """Say that there is a folder, or a link that ``leads`` somewhere."""
        what = {"kind": Kind.LINK.value, "to": leads} if leads else {"kind": Kind.FOLDER.value, "mode": 0o755}
        self._enter(name, {"n": -1, **what})

    def note(self, words: str) -> None:
        """Say something about all of it."""
        self._enter(NOTE, {"n": -1, "words": words})

    def noted(self) -> str:
        """Return what `note` said."""
        return str(self.table().get(NOTE, {}).get("words", ""))

    def names(self) -> list[str]:
        """Return the names of the files that are there."""
        return [name for name in self.table() if name != NOTE]

    def read(self, name: str, offset: int, limit: int) -> bytes:
        """Return a part of a file, b"" when it is not there."""
        entry = self.table().get(name)
        if entry is None or entry["n"] < 0 or offset >= entry["size"] or limit <= 0:
            return b""
        return cast("bytes", self._client.getrange(f"{self.key}:{entry['n']}", offset, offset + limit - 1))

    def drop(self) -> None:
        """Remove all of it."""
        count = self._client.hlen(self.key)  # and one more, which was being written when its writer died
        for some in range(0, count + 1, 1000):
            self._client.unlink(*(f"{self.key}:{n}" for n in range(some, min(some + 1000, count + 1))))
        self._client.unlink(self.key)
        self._table = None

    def _enter(self, name: str, entry: dict[str, Any]) -> None:
        with self._client.pipeline() as pipe:
            pipe.hset(self.key, cast("Any", name.encode("utf-8", "surrogateescape")), json.dumps(entry))
            pipe.expire(self.key, KEEP)
            pipe.execute()
        self.table()
        assert self._table is not None
        self._table[name] = {"size": 0, "mode": 0o644, "mtime": 0, **entry}


def _name(key: bytes) -> str:
    return key.decode("utf-8", "surrogateescape")
