"""A look for the required outputs of one run, a slice of time after another."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobmill.fetcher.glob_search import search

SLICE = 0.05  # seconds of a look before the next one has its turn
LIMIT = 60.0  # seconds of its own after which a look is given up

Launch = tuple[str, int, int]  # job id, run, arrival


@dataclass(frozen=True)
class Look:
    """What one run has to have left behind."""

    launch: Launch
    globs: tuple[str, ...]
    folders: tuple[Path, ...]  # any of them will do; the first is named in messages

    @classmethod
    def of(cls, launch: Launch, terms: Mapping[str, Any], folder: Path) -> Look:
        """Read the terms of a spec. Raises ValueError, TypeError for what no jobmill wrote."""
        globs = tuple(str(glob) for glob, required in terms.get("outputs", ()) if required)
        base = folder / os.path.expanduser(terms.get("workdir") or "")  # noqa: PTH111 - Path's raises for unknown users
        return cls(launch, globs, (base, folder))


class Scan:
    """One look: how far it is, and what it has found."""

    def __init__(self, look: Look, since: float) -> None:
        self.look = look
        self.since = since
        self.words: Future[str] = Future()
        self.began = 0.0  # the slice under way (monotonic); 0: none is
        self._spent = 0.0  # seconds in slices
        self._gone: list[str] = []
        self._steps = self._search()

    def go_on(self) -> bool:
        """Look for a slice of time; return whether there is more to do."""
        self.began = began = time.monotonic()
        try:
            for _ in self._steps:
                if time.monotonic() - began > SLICE:
                    break
            else:
                self.tell(self._missing())
        except Exception as error:  # a file system may say anything: it is the job's end, not ours
            self.tell(f"required outputs cannot be looked for: {error} (in {self.look.folders[0]})")
        self._spent += time.monotonic() - began
        self.began = 0.0
        if self._spent > LIMIT:
            self.tell(self.late())
        return not self.words.done()

    def tell(self, words: str) -> None:
        """Answer, once."""
        with suppress(InvalidStateError):
            self.words.set_result(words)

    def late(self) -> str:
        """Return the words for a look that took too long."""
        globs = ", ".join(self.look.globs)
        return f"required outputs were not found within {LIMIT:g} s: {globs} (in {self.look.folders[0]})"

    def _missing(self) -> str:
        gone = ", ".join(self._gone)
        return f"required outputs are missing: {gone} (looked in {self.look.folders[0]})" if gone else ""

    def _search(self) -> Iterator[None]:
        for glob in self.look.globs:
            for folder in self.look.folders:
                there = False
                for there in search(folder, glob):  # noqa: B007 - the last word counts
                    yield
                if there:
                    break
            else:
                self._gone.append(glob)
