"""Inputs that wait in the spool of this machine for the start of their launch: ``<spool>/stage/<system>/<token>/``.

The runner moves them into the run folder once it has taken the marker, so no other life of the job's id ever has them.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from jobmill.errors import StageFailed, SystemUnavailable
from jobmill.systems import run_folder
from jobmill.systems.place import Here, Kind, Place
from jobmill.systems.staging import Item, Staging, shown, told, walk
from jobmill.systems.system import Progress, Submission, Token

GONE = ".gone-"  # begins the names of folders that are being removed
LEFT_OVER = 86400.0  # seconds after which what nobody took is removed


class SpoolStage:
    """Copies, never links: what a job writes must not change what its owner has."""

    def __init__(self, spool: Path, system: str) -> None:
        self._folder = spool / "stage" / system
        self._here = Here()
        self._remover: threading.Thread | None = None

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
            self._room(items, workdir, source, progress)
            Staging(source, source, progress).bring(items, workdir, replace=False)
            return submission
        folder = str(self._folder / submission.token)
        with told(folder):
            self._here.make_folder(folder)
        self._room(items, folder, self._here, progress)
        Staging(source, self._here, progress).bring(items, folder, replace=True)
        return replace(submission, staged=folder)

    def _room(self, items: Sequence[Item], folder: str, place: Place, progress: Progress) -> None:
        """Refuse what a disk can never hold, or cannot hold now, before any of it is copied."""
        with told(folder):
            free, whole = place.room(folder)
        size = sum(item.entry.size for item in items if item.entry.kind is Kind.FILE)
        if size > whole:
            raise StageFailed(f"the inputs have {size:,} bytes, and the whole disk of {folder} {whole:,}")
        if size <= free:
            return
        for item in items:  # some of it may be there
            if item.entry.kind is Kind.FILE:
                progress("looks for room")  # as another user it takes its time
                with told(folder):
                    found = place.entry(f"{folder}/{item.target}", follow=True)
                size -= item.entry.size if found is not None and found.size == item.entry.size else 0
        if size > free:
            raise SystemUnavailable(f"{folder}: the inputs need {size:,} bytes, {free:,} are free")

    def drop(self, token: Token) -> None:
        """Remove what waits for a launch that will not come; nothing there is fine."""
        if token and "/" not in token and token not in (".", ".."):
            folder = self._folder / token
            with contextlib.suppress(OSError):
                folder.rmdir()  # mostly it is empty, or not there
                return
            with contextlib.suppress(OSError):
                folder.rename(self._folder / f"{GONE}{os.getpid()}-{os.urandom(6).hex()}")
                self._remove()

    def tidy(self) -> None:
        """Remove what nobody took for a day: whoever staged it was killed. Only for who leads the system."""
        self._remove()

    def _remove(self) -> None:
        """Remove what is dropped beside our caller: a tree may be huge, and its loop has a lease."""
        if self._remover is None or not self._remover.is_alive():
            self._remover = threading.Thread(target=self._remove_all, daemon=True)
            self._remover.start()

    def _remove_all(self) -> None:
        again = True
        while again:
            again = False
            with contextlib.suppress(OSError), os.scandir(self._folder) as found:
                for one in found:
                    gone = one.name.startswith(GONE)
                    if gone or time.time() - one.stat(follow_symlinks=False).st_mtime > LEFT_OVER:
                        run_folder.remove(os.fsencode(one.path))
                        again = again or (gone and not os.path.lexists(one.path))
