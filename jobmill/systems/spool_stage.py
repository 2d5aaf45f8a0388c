"""Inputs that wait in the spool of this machine for the start of their launch: ``<spool>/stage/<system>/<token>/``.

The runner moves them into the run folder once it has taken the marker, so no other life of the job's id ever has them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from jobmill.errors import StageFailed, SystemUnavailable
from jobmill.systems.place import Here, Kind, Place
from jobmill.systems.staging import Item, Staging, shown, told, walk
from jobmill.systems.system import Progress, Submission, Token

LEFT_OVER = 86400.0  # seconds after which what nobody took is removed


class SpoolStage:
    """Copies, never links: what a job writes must not change what its owner has."""

    def __init__(self, spool: Path, system: str) -> None:
        self._folder = spool / "stage" / system
        self._here = Here()

    def bring(self, submission: Submission, progress: Progress, theirs: Place | None = None) -> Submission:
        """Bring the inputs; return the submission with the folder from which its launch takes them, if it does.

        ``theirs``: files as the job's user has them, where that is not our own.
        """
        source = theirs or self._here
        items = walk(source, submission.inputs, progress)
        workdir = submission.workdir
        if workdir is not None:
            with told(workdir):
                found = source.entry(workdir, follow=True)
            if found is None or found.kind is not Kind.FOLDER:
                raise StageFailed(f"{shown(workdir)} is no folder; make it, or leave workdir: out")
            self._room(items, workdir, source)
            Staging(source, source, progress).bring(items, workdir, replace=False)
            return submission
        folder = str(self._folder / submission.token)
        with told(folder):
            self._here.make_folder(folder)
        self._room(items, folder, self._here)
        Staging(source, self._here, progress).bring(items, folder, replace=True)
        return replace(submission, staged=folder)

    def _room(self, items: Sequence[Item], folder: str, place: Place) -> None:
        """Refuse what a disk can never hold, or cannot hold now, before any of it is copied."""
        with told(folder):
            disk = shutil.disk_usage(folder)
            there = [place.entry(f"{folder}/{item.target}", follow=True) for item in items]
        sizes = [item.entry.size for item in items if item.entry.kind is Kind.FILE]
        missing = [
            item.entry.size
            for item, found in zip(items, there, strict=True)
            if item.entry.kind is Kind.FILE and (found is None or found.size != item.entry.size)
        ]
        if sum(sizes) > disk.total:
            raise StageFailed(f"the inputs have {sum(sizes):,} bytes, and the whole disk of {folder} {disk.total:,}")
        if sum(missing) > disk.free:
            raise SystemUnavailable(f"{folder}: the inputs need {sum(missing):,} bytes, {disk.free:,} are free")

    def drop(self, token: Token) -> None:
        """Remove what waits for a launch that will not come; nothing there is fine."""
        if token and "/" not in token and token not in (".", ".."):
            with contextlib.suppress(OSError):
                (self._folder / token).rmdir()  # mostly it is empty, or not there
                return
            shutil.rmtree(self._folder / token, ignore_errors=True)

    def tidy(self) -> None:
        """Remove what nobody took for a day: whoever staged it was killed. Only for who leads the system."""
        threading.Thread(target=self._tidy, daemon=True).start()  # a tree may be huge

    def _tidy(self) -> None:
        with contextlib.suppress(OSError), os.scandir(self._folder) as found:
            for one in found:
                if time.time() - one.stat(follow_symlinks=False).st_mtime > LEFT_OVER:
                    shutil.rmtree(one.path, ignore_errors=True)
