"""What an ended launch left is brought home: its exit record, stdout and stderr first, then the rest.

The run folder at home then looks as if the job had run here, with what its globs matched below ``outputs/``.
"""

from __future__ import annotations

import json
import os
import posixpath
from collections.abc import Sequence

from jobmill.systems.place import Entry, Here, Kind, Place
from jobmill.systems.place_search import search
from jobmill.systems.staging import Item, Staging, told, walk
from jobmill.systems.system import Progress, Transfer

FIRST = ("run", "stdout", "stderr")
OWN = ("error", "return.json", "steps", "outputs.json", "job.yaml", "script", "native.log")
WORDS = "brings home"
SPEC_MOST = 64 << 20  # characters of a job.yaml, more than any that was admitted has


def bring_home(
    there: Place,
    run_folder: str,
    workdir: str | None,
    home: str,
    globs: Sequence[str],
    progress: Progress,
    *,
    first: Sequence[str] = FIRST,
) -> list[str]:
    """Bring what a launch left in its run folder there to ``home``; return the globs that match nothing.

    Globs are relative to ``workdir`` (None: the run folder). Raises StageFailed, SystemUnavailable; may be repeated.
    """
    here = Here(durable=True)  # the other copy may be removed after this
    staging = Staging(there, here, progress, words=WORDS)
    for names in (first, OWN):
        staging.bring(_present(there, run_folder, names), home, replace=True, grows=True)
    staging.bring(_present(there, run_folder, step_logs(home)), home, replace=True, grows=True)
    base = workdir or run_folder
    unmatched: list[str] = []
    found: dict[str, None] = {}
    for glob in globs:
        matched = [path for path in search(there, base, glob, lambda: progress(WORDS)) if not _spare(path)]
        found.update(dict.fromkeys(matched))
        if not matched:
            unmatched.append(glob)
    roots = [path for path in found if not any(above in found for above in _above(path))]
    items = walk(there, [Transfer(source=posixpath.join(base, path), target=path) for path in roots], progress)
    staging.bring(items, posixpath.join(home, "outputs"), replace=True)
    return unmatched


def _present(there: Place, folder: str, names: Sequence[str]) -> list[Item]:
    """Return those of the launch's own files that exist; one that was sent elsewhere is a link that is followed."""
    items = []
    for name in names:
        path = posixpath.join(folder, name)
        with told(path):
            found: Entry | None = there.entry(path, follow=True)
        if found is not None and found.kind is Kind.FILE:
            items.append(Item(path, name, found))
    return items


def step_logs(home: str) -> list[str]:
    """Return the names of the logs of the launch's steps, by the job.yaml that has come to this run folder."""
    try:
        with open(os.path.join(home, "job.yaml"), encoding="utf-8") as file:
            steps = json.loads(file.read(SPEC_MOST)).get("steps", [])
        names = [str(step.get("log") or f"{step.get('name')}.log") for step in steps]
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):
        return []  # a job can write it anew
    return [name for name in names if "/" not in name and name not in (".", "..", *FIRST, *OWN)]


def _above(path: str) -> list[str]:
    return [path[:at] for at, sign in enumerate(path) if sign == "/"]


def _spare(path: str) -> bool:
    """Tell whether a match is a file that another transfer is about to rename."""
    name = posixpath.basename(path)
    return name.startswith(".jobmill-") and name.endswith(".new")
