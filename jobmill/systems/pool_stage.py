"""On this side: inputs put on the pool's server, and what a launch left taken from it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import redis

from jobmill.errors import StageFailed
from jobmill.systems.place import Here, Kind
from jobmill.systems.pool_files import PoolFiles
from jobmill.systems.pool_place import ROOM, PoolPlace
from jobmill.systems.pool_record import PREFIX, PoolRecord
from jobmill.systems.retrieval import bring_home
from jobmill.systems.staging import shown, told, walk
from jobmill.systems.system import Progress, Transfer

MIB = 1 << 20


def give(client: redis.Redis, launch: str, inputs: Sequence[Transfer], keep: int, progress: Progress) -> str:
    """Put inputs on the server and return the key under which they are; what is there already stays.

    Raises StageFailed for an input that is not there, or for more than ``keep`` bytes of them.
    """
    transfers = [Transfer(source=it.source, target=str(number)) for number, it in enumerate(inputs)]
    items = walk(Here(), transfers, progress)
    files = [item for item in items if item.entry.kind is Kind.FILE]
    total = sum(item.entry.size for item in files)
    if total > keep:
        words = f"inputs of {_size(total)} are more than the {_size(keep)} of `keep`; raise it, or use `shared`"
        raise StageFailed(words)
    there = PoolFiles(client, PREFIX, launch, "in")
    done = brought = 0
    for item in items:
        progress(f"stages in {brought}/{len(files)}, {_size(done)} of {_size(total)}")
        if item.entry.kind is not Kind.FILE or item.leads:
            there.shape(item.target, item.leads)
            continue
        with told(item.source):
            before = done
            done += there.put(item.target, Path(item.source), lambda size: progress("stages in"))
            brought += 1
        if done - before > item.entry.size and done > keep:
            raise StageFailed(f"{shown(item.source)} grows while it is copied; let it be written to its end first")
    return there.key


def fetch(record: PoolRecord, launch: str, folder: Path, globs: Sequence[str], progress: Progress) -> Sequence[str]:
    """Bring home what a launch left; return the globs that match nothing.

    Raises StageFailed when something that is wanted was left out, is only there in part, or cannot be known of.
    """
    left = record.left(launch)
    if left is None:
        raise StageFailed("the pool's server does not know the launch any more, nor its files")
    there = PoolFiles(record.client, PREFIX, launch, "out")
    unmatched = bring_home(PoolPlace(there), ROOM, left.base, str(folder), globs, progress)
    if left.why:
        raise StageFailed(left.why)
    undeclared = [] if left.base.startswith(ROOM) else [it for it in unmatched if it not in left.globs]
    if undeclared:
        words = "was not said to be wanted before the launch, which ran in a folder of its own on its host"
        raise StageFailed(f"{undeclared[0]}: {words}")
    if there.noted():
        raise StageFailed(f"{there.noted()}; raise `keep` of the system, or use `shared`")
    return unmatched


def _size(count: int) -> str:
    return f"{count / MIB:.1f} MiB" if count >= MIB else f"{count} bytes"
