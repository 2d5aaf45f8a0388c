"""On a worker's host: the inputs of a launch made ready for it, and what it left put on the pool's server."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from jobmill.errors import StageFailed, SystemUnavailable
from jobmill.systems import run_folder
from jobmill.systems.place import Entry, Here, Kind
from jobmill.systems.place_search import search
from jobmill.systems.pool_files import PoolFiles
from jobmill.systems.pool_place import ROOM, WORK, PoolPlace
from jobmill.systems.pool_words import OUTPUTS
from jobmill.systems.retrieval import FIRST, OWN, step_logs
from jobmill.systems.staging import Item, Staging, shown, walk
from jobmill.systems.system import Progress, Submission, Transfer

STREAMS = ("stdout", "stderr")
MOST = 10_000  # files that are brought at most
SMALL = 1 << 20  # bytes of a file that nobody asked for, and that comes all the same: it may be a log


class Left(NamedTuple):
    """One thing that a launch left, by its name on the server; `why` it cannot come, if so."""

    name: str
    item: Item
    wanted: bool = True
    why: str = ""


def place_inputs(
    inputs: PoolFiles, submission: Submission, folder: Path, stage: Path, progress: Progress
) -> Submission:
    """Bring the inputs to this host; return the submission with the folder from which the runner takes them.

    ``folder``: its run folder, where nothing may be before the marker is. Into another working directory they come at
    once, and nothing that is there gives way. Raises StageFailed, SystemUnavailable.
    """
    there, here = PoolPlace(inputs), Here()
    early: list[Transfer] = []
    late: list[Transfer] = []
    workdir = submission.workdir or str(folder)
    if not _within(str(folder), workdir) and not Path(workdir).is_dir():
        raise StageFailed(f"{shown(workdir)} is no folder on {run_folder.HOST}; make it, or leave workdir: out")
    for number, each in enumerate(submission.inputs):
        source = f"{ROOM}/{number}"
        if there.entry(source) is None:
            raise StageFailed(f"input {each.source} is not on the pool's server; it was dropped, or never brought")
        target = posixpath.normpath(posixpath.join(workdir, each.target))
        if not each.target.startswith("/") and not _within(workdir, target):
            raise StageFailed(f"input {shown(each.target)} leads out of the working directory")
        if _within(str(folder), target):
            late.append(Transfer(source=source, target=posixpath.relpath(target, folder)))
        else:
            early.append(Transfer(source=source, target=target))
    staging = Staging(there, here, progress)
    staging.bring(walk(there, early, progress), "/", replace=False)
    if not late:
        return replace(submission, staged=None)
    stage.mkdir(exist_ok=True)
    staging.bring(walk(there, late, progress), str(stage), replace=True)
    return replace(submission, staged=str(stage))


def base_of(folder: Path, workdir: Path) -> str:
    """Return what the working directory is called on the server."""
    real, above = os.path.realpath(workdir), os.path.realpath(folder)
    return posixpath.normpath(f"{ROOM}/{posixpath.relpath(real, above)}") if _within(above, real) else WORK


def bring(out: PoolFiles, folder: Path, workdir: Path, globs: Sequence[str] | None, keep: int) -> bool:
    """Put what a launch left on the server, up to ``keep`` bytes; return whether all that is wanted is there."""
    left, whole = keep, True
    where = f"it is in {folder} on {os.uname().nodename} for a week"
    for count, (name, item, wanted, why) in enumerate(_left(folder, workdir, globs)):
        if count > 2 * MOST:
            return False
        if item.entry.kind is Kind.FOLDER or item.leads:
            out.shape(name, item.leads)
            continue
        size, path = item.entry.size, Path(item.source)
        if not why and (count > MOST or (size > left and name not in STREAMS)):
            why = f"{size} bytes are more than is left of `keep`; {where}"
        try:
            if not why:
                put = out.put(name, path, limit=left)
                left -= put
                if put < size:
                    whole = False
                    out.note(f"{name} has {size} bytes, of which the first {put} came home (`keep`); {where}")
                continue
        except FileNotFoundError:
            continue
        except (OSError, StageFailed) as error:
            why = str(error)
        if wanted:
            whole = False
            out.leave_out(name, item.entry, why)
    return whole


def _left(folder: Path, workdir: Path, globs: Sequence[str] | None) -> Iterator[Left]:
    """Give what a launch left, the most wanted first: its own files, what ``globs`` match, the rest of its folder.

    ``globs`` None: nobody has said what is wanted, so all of the folder is.
    """
    here, given = Here(), set[str]()
    for name in (*FIRST, *OWN, *step_logs(str(folder))):
        found = here.entry(str(folder / name), follow=True)
        if found is not None and found.kind is Kind.FILE and name not in given:
            given.add(name)
            yield Left(name, Item(str(folder / name), name, found))
    base = base_of(folder, workdir)
    for pattern in globs or ():
        for match in search(here, str(workdir), pattern, lambda: None):
            for it in _all_of(here, str(workdir / match), posixpath.join(base, match).removeprefix(f"{ROOM}/")):
                if it.name not in given and ".." not in it.name.split("/"):
                    given.add(it.name)
                    yield it
    for path in _rest(folder, deep=globs is None):
        name = str(path.relative_to(folder))
        found = here.entry(str(path), follow=True)
        if found is None or found.kind is not Kind.FILE or name in given or name == OUTPUTS or name.startswith("run."):
            continue
        if globs is None or found.size <= SMALL:
            yield Left(name, Item(str(path), name, found), wanted=globs is None)


def _all_of(here: Here, path: str, name: str) -> Iterator[Left]:
    """Give what a match stands for; as one thing that cannot come where any of it cannot."""
    try:
        for item in walk(here, [Transfer(source=path, target=name)], lambda words: None):
            yield Left(item.target, item)
    except (StageFailed, SystemUnavailable) as error:
        yield Left(name, Item(path, name, Entry(posixpath.basename(name), Kind.FILE)), why=str(error))


def _rest(folder: Path, *, deep: bool) -> Iterator[Path]:
    for above, folders, names in os.walk(folder):
        folders[:] = sorted(folders) if deep else []
        for name in sorted(names):
            yield Path(above) / name


def _within(folder: str, path: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")
