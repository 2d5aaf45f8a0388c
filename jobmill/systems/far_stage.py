"""Brings the inputs of a launch to a far host, and home what it left there."""

from __future__ import annotations

import base64
import posixpath
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jobmill.errors import StageFailed, SystemUnavailable
from jobmill.systems.desk import Desk
from jobmill.systems.far_place import FarPlace
from jobmill.systems.place import Here, Kind, Place, entry_told
from jobmill.systems.retrieval import FIRST, OWN, bring_home
from jobmill.systems.staging import Item, Staging, put, shown, sweep, told, walk
from jobmill.systems.system import Progress, Submission, Token
from jobmill.systems.user_place import UserPlace

SMALL = 1 << 16  # bytes of a file that comes with the desk's answer
MARKER = 1 << 20  # bytes, more than any marker has
DEADLINE = 30.0  # seconds for an answer; nobody waits for this thread


def bring(
    desk: Desk, place: FarPlace, submission: Submission, progress: Progress, theirs: Place | None = None
) -> Submission:
    """Bring the inputs; return the submission with the folder from which its launch takes them, if it does.

    ``theirs``: files here as the job's user has them, where it runs as its user.
    """
    here = theirs or Here()
    if theirs is not None and submission.workdir is not None:
        raise StageFailed("inputs of a job that runs as its user come into its run folder; leave workdir: out")
    items = walk(here, submission.inputs, progress)
    stage, workdir = desk.ask("stage", deadline=DEADLINE, token=submission.token, workdir=submission.workdir)
    if workdir is not None:
        with told(workdir):
            found = place.entry(workdir, follow=True)
        if found is None or found.kind is not Kind.FOLDER:
            raise StageFailed(f"{shown(workdir)} is no folder there; make it, or leave workdir: out")
        _room(place, items, workdir, progress)
        Staging(here, place, progress).bring(items, workdir, replace=False)
        return submission
    with told(stage):
        place.make_folder(stage)
    _room(place, items, stage, progress)
    Staging(here, place, progress).bring(items, stage, replace=True)
    return replace(submission, staged=stage)


def fetch(desk: Desk, place: FarPlace, token: Token, home: Path, globs: Sequence[str], progress: Progress) -> list[str]:
    """Bring home what a launch left; return the globs that match nothing.

    Mostly that is a few small files, which come with one answer.
    """
    left = desk.ask("left", deadline=DEADLINE, token=token, names=[*FIRST, *OWN], most=SMALL)
    if not left:
        raise StageFailed("its run folder is not there any more")
    try:
        folder, workdir, files = str(left["folder"]), str(left["workdir"]), dict(left["files"])
        small = {name: base64.b64decode(content) for name, (_, content) in files.items() if content is not None}
    except (KeyError, TypeError, ValueError) as error:
        raise StageFailed(f"the host tells nonsense of what the launch left: {error!r}") from None
    if left.get("user"):
        return _fetch_as(desk, left, token, home, globs, progress)
    if globs or "job.yaml" in files or len(small) < len(files):
        return bring_home(place, folder, workdir, str(home), globs, progress)
    here = Here(durable=True)
    with told(str(home)):
        here.make_folder(str(home))
        sweep(str(home))
        for name in [name for name in (*FIRST, *OWN) if name in files]:
            put(here, str(home / name), small[name], entry_told(files[name][0], name).mode)
    return []


def _fetch_as(
    desk: Desk, left: dict[str, Any], token: Token, home: Path, globs: Sequence[str], progress: Progress
) -> list[str]:
    """Bring home what a launch left that ran as its user: read as that user, who may have put anything there."""
    here = Here(durable=True)
    with told(str(home)):
        here.make_folder(str(home))
        content = desk.read(token, "run", 0, MARKER, deadline=DEADLINE)
        put(here, str(home / "run"), content, 0o644)

    def ask(verb: str, arguments: dict[str, Any]) -> Any:
        return desk.file("as_user", deadline=DEADLINE, token=token, name=verb, arguments=arguments)

    place, first = UserPlace(ask), [name for name in FIRST if name != "run"]  # the marker is ours to tell
    return bring_home(place, left["folder"], left["workdir"], str(home), globs, progress, first=first)


def _room(place: FarPlace, items: Sequence[Item], folder: str, progress: Progress) -> None:
    """Refuse what the disk there can never hold, or cannot hold now, before any of it is sent."""
    with told(folder):
        free, whole = place.room(folder)
    files = [item for item in items if item.entry.kind is Kind.FILE]
    size = sum(item.entry.size for item in files)
    if size > whole:
        raise StageFailed(f"the inputs have {size:,} bytes, and the whole disk of {folder} there {whole:,}")
    if size > free:
        have = 0
        for item in files:
            progress("looks for room")
            with told(folder):
                found = place.entry(posixpath.join(folder, item.target), follow=True)
            have += 0 if found is None else found.size
        if size - have > free:
            raise SystemUnavailable(f"{folder}: the inputs need {size - have:,} bytes, {free:,} are free there")
