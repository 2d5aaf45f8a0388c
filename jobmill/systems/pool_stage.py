"""On this side: inputs put on the pool's server, and what a launch left taken from it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import redis

from jobmill.errors import StageFailed
from jobmill.systems.pool_files import PoolFiles
from jobmill.systems.pool_place import ROOM, WORK, PoolPlace
from jobmill.systems.pool_record import PREFIX
from jobmill.systems.retrieval import bring_home
from jobmill.systems.system import Progress, Transfer

MIB = 1 << 20


def give(client: redis.Redis, launch: str, inputs: Sequence[Transfer], keep: int, progress: Progress) -> str:
    """Put inputs on the server and return the key under which they are; what is there already stays.

    Raises StageFailed for an input that is not there, or for more than ``keep`` bytes of them.
    """
    files: list[tuple[str, Path]] = []
    folders: list[str] = []
    for number, each in enumerate(inputs):
        source = Path(each.source)
        if source.is_dir():
            folders.append(str(number))
            for base, _, names in os.walk(source):
                paths = [Path(base) / name for name in names]
                files += [(f"{number}/{path.relative_to(source)}", path) for path in paths if path.is_file()]
        elif source.is_file():
            files.append((str(number), source))
        else:
            raise StageFailed(f"input {each.source}: there is no such file or folder; correct `inputs`")
    try:
        total = sum(path.stat().st_size for _, path in files)
        if total > keep:
            words = f"inputs of {_size(total)} are more than the {_size(keep)} of `keep`; raise it, or use `shared`"
            raise StageFailed(words)
        there = PoolFiles(client, PREFIX, launch, "in")
        done = 0
        for at, (name, path) in enumerate(files):
            progress(f"stages in {at}/{len(files)}, {_size(done)} of {_size(total)}")
            done += there.put(name, path)
        there.note(" ".join(folders))
        return there.key
    except OSError as error:
        raise StageFailed(f"input {error.filename}: {error.strerror}") from None


def fetch(client: redis.Redis, launch: str, folder: Path, globs: Sequence[str], progress: Progress) -> Sequence[str]:
    """Bring home what a launch left; return the globs that match nothing.

    Raises StageFailed when something that is wanted was left out, or is only there in part.
    """
    there = PoolFiles(client, PREFIX, launch, "out")
    place = PoolPlace(there)
    workdir = WORK if list(place.entries(WORK)) else None
    unmatched = bring_home(place, ROOM, workdir, str(folder), globs, progress)
    if there.noted():
        raise StageFailed(f"{there.noted()}; raise `keep` of the system, or use `shared`")
    return unmatched


def _size(count: int) -> str:
    return f"{count / MIB:.1f} MiB" if count >= MIB else f"{count} bytes"
