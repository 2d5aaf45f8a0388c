"""On a worker's host: the inputs of a launch put in their places, and what it left put on the pool's server."""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from jobmill.errors import StageFailed
from jobmill.systems.pool_files import PoolFiles, below
from jobmill.systems.system import Submission

STREAMS = ("stdout", "stderr")
FIRST = ("error", "return.json", "steps")  # own files that come before the outputs
OURS = ("run", "spawned", "outputs.json")  # of the run folder, and of no use at home
NAMED = 5  # files left out that are named


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
    left, out_of_it = keep, []
    for name, path in left_behind(folder, workdir, globs):
        try:
            size = path.stat().st_size
            if size > left and name not in STREAMS:
                out_of_it.append(f"{name} ({size} bytes)")
                continue
            put = out.put(name, path, limit=left)
            left -= put
            if put < size:
                out_of_it.append(f"the end of {name} ({size} bytes)")
        except FileNotFoundError:
            continue
        except (PermissionError, StageFailed) as error:
            out_of_it.append(f"{name} ({error})")
    if out_of_it:
        more = f" and {len(out_of_it) - NAMED} more" if len(out_of_it) > NAMED else ""
        words = f"{', '.join(out_of_it[:NAMED])}{more}; they are in {folder} on {os.uname().nodename} for a week"
        out.note(words)
    return not out_of_it


def left_behind(folder: Path, workdir: Path, globs: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """Give the files that a launch left, the most wanted first, by the names that they have at home."""
    for name in (*STREAMS, *FIRST):
        if (folder / name).is_file():
            yield name, folder / name
    wanted: dict[str, Path] = {}
    for pattern in globs:
        for match in glob.iglob(pattern, root_dir=workdir, recursive=True, include_hidden=True):  # noqa: PTH207
            found = workdir / match
            if found.is_dir():
                for base, _, names in os.walk(found):
                    for name in names:
                        path = Path(base) / name
                        wanted.setdefault(os.path.relpath(path, workdir), path)
            elif found.is_file():
                wanted.setdefault(os.path.normpath(match), found)
    for name, path in wanted.items():
        if not name.startswith(("/", "../")) and path.is_file():
            yield f"outputs/{name}", path
    here = {os.path.realpath(path) for path in wanted.values()}
    for path in sorted(folder.iterdir()):
        plain = stat.S_ISREG(path.lstat().st_mode) and os.path.realpath(path) not in here
        if plain and path.name not in (*STREAMS, *FIRST, *OURS) and not path.name.startswith("run."):
            yield path.name, path
