"""On a worker's host: the inputs of a launch put in their places, and what it left put on the pool's server."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from jobmill.errors import StageFailed
from jobmill.systems.place import Here
from jobmill.systems.place_search import search
from jobmill.systems.pool_files import PoolFiles, below
from jobmill.systems.pool_place import WORK
from jobmill.systems.pool_words import OUTPUTS
from jobmill.systems.retrieval import FIRST, OWN
from jobmill.systems.system import Submission

STREAMS = ("stdout", "stderr")
MOST = 10_000  # files that are brought at most


def place_inputs(inputs: PoolFiles, submission: Submission, folder: Path) -> None:
    """Write the inputs to where they are wanted; raise StageFailed when one is not on the server, OSError."""
    workdir = Path(submission.workdir or folder)
    for number, each in enumerate(submission.inputs):
        target = workdir / each.target
        mine = [name for name in inputs.names() if name == str(number) or name.startswith(f"{number}/")]
        if not mine and str(number) not in inputs.noted().split():
            raise StageFailed(f"input {each.source} is not on the pool's server; it was dropped, or never brought")
        if str(number) not in mine:
            target.mkdir(parents=True, exist_ok=True)
        for name in mine:
            _, _, rest = name.partition("/")
            inputs.get(name, below(target, rest) if rest else target)


def bring(out: PoolFiles, folder: Path, workdir: Path, globs: Sequence[str], keep: int) -> bool:
    """Put what a launch left on the server, up to ``keep`` bytes; return whether that is all of it."""
    left, whole = keep, True
    where = f"it is in {folder} on {os.uname().nodename} for a week"
    for count, (name, path) in enumerate(left_behind(folder, workdir, globs)):
        try:
            size = path.stat().st_size
            if count > MOST or (size > left and name not in STREAMS):
                whole = False
                if count > 2 * MOST:
                    break
                out.leave_out(name, path, f"{size} bytes are more than is left of `keep`; {where}")
                continue
            put = out.put(name, path, limit=left)
            left -= put
            if put < size:
                whole = False
                out.note(f"{name} has {size} bytes, of which the first {put} came home (`keep`); {where}")
        except FileNotFoundError:
            continue
        except (PermissionError, StageFailed) as error:
            whole = False
            out.leave_out(name, path, str(error))
    return whole


def left_behind(folder: Path, workdir: Path, globs: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """Give the files that a launch left, the most wanted first: its own, what ``globs`` match, all in its folder."""
    given: set[str] = set()
    for name in (*FIRST, *OWN):
        if (folder / name).is_file():
            given.add(name)
            yield name, folder / name
    prefix = "" if os.path.realpath(workdir) == os.path.realpath(folder) else f"{WORK}/"
    for pattern in globs:
        for match in search(Here(), str(workdir), pattern, lambda: None):
            for name in _files(workdir, match):
                if prefix + name not in given:
                    given.add(prefix + name)
                    yield prefix + name, workdir / name
    for name in _files(folder, ""):
        if name not in given and name != OUTPUTS and not name.startswith("run."):
            yield name, folder / name


def _files(base: Path, match: str) -> Iterator[str]:
    """Give the files that a match stands for, relative to ``base``; never what is not a plain file."""
    found = base / match
    if found.is_file():
        yield os.path.normpath(match)
    for above, folders, names in os.walk(found):
        folders.sort()
        for name in sorted(names):
            path = Path(above) / name
            if path.is_file():
                yield str(path.relative_to(base))
