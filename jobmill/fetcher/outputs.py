"""Required outputs, looked for beside the loop: a tree may be huge, its file server slow or dead.

pathlib's glob cannot be interrupted, and one job with `**/*.bam` below a large folder kept the ends of all other jobs
waiting; here every look has an end, and nobody waits for it.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from fnmatch import fnmatchcase
from glob import has_magic
from pathlib import Path
from queue import SimpleQueue
from typing import Any

THREADS = 8  # looks at a time
PATIENCE = 0.1  # seconds that the loop waits for a batch of looks: most take far less than one
LIMIT = 60.0  # seconds after which a look is given up
KEPT = 600.0  # seconds that a result is kept for a job whose end was recorded otherwise
MANY = 1000  # looks in memory before those are searched for

Launch = tuple[str, int, int]  # job id, run, arrival


class Late(Exception):
    """A look took too long."""


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

    def missing(self) -> str:
        """Return in words what is missing; empty: nothing."""
        until = time.monotonic() + LIMIT
        try:
            gone = [glob for glob in self.globs if not any(exists(folder, glob, until) for folder in self.folders)]
        except Late:
            words = f"required outputs were not found within {LIMIT:g} s"
            return f"{words}: {', '.join(self.globs)} (in {self.folders[0]}, which is too large or too slow)"
        return f"required outputs are missing: {', '.join(gone)} (looked in {self.folders[0]})" if gone else ""


class Outputs:
    """Looks under way."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._looks: dict[Launch, tuple[Future[str], float]] = {}
        self._line: SimpleQueue[tuple[Look, Future[str]]] = SimpleQueue()
        self._started = False

    def missing(self, asked: Sequence[Look]) -> dict[Launch, str | None]:
        """Return in words what each run lacks: empty for nothing, None while that is not known; then ask again."""
        answer: dict[Launch, str | None] = {look.launch: "" for look in asked if not look.globs}
        futures = {look.launch: self._begun(look) for look in asked if look.globs}
        wait(futures.values(), timeout=PATIENCE)
        for launch, future in futures.items():
            answer[launch] = future.result() if future.done() else None
            if future.done():
                self._looks.pop(launch, None)
        return answer

    def _begun(self, look: Look) -> Future[str]:
        if look.launch in self._looks:
            return self._looks[look.launch][0]
        if not self._started:
            self._started = True
            for _ in range(THREADS):  # daemons: a dead file server must not keep this process from its end
                threading.Thread(target=self._work, daemon=True).start()
        now = self._clock()
        if len(self._looks) >= MANY:
            self._looks = {k: v for k, v in self._looks.items() if not (v[0].done() and now - v[1] > KEPT)}
        future: Future[str] = Future()
        self._looks[look.launch] = future, now
        self._line.put((look, future))
        return future

    def _work(self) -> None:
        while True:
            look, future = self._line.get()
            try:
                future.set_result(look.missing())
            except Exception as error:
                future.set_result(f"required outputs cannot be looked for: {error} (in {look.folders[0]})")


def exists(folder: Path, glob: str, until: float) -> bool:
    """Tell whether a file matches, as `Path.glob` matches; what cannot be read has none.

    Raises Late after ``until`` (`time.monotonic`).
    """
    parts = Path(glob).parts
    last = len(parts) - 1
    stack = [(str(folder), 0)]
    while stack:
        if time.monotonic() > until:
            raise Late
        where, at = stack.pop()
        part = parts[at]
        try:
            if part == "**":
                if at == last and os.path.isdir(where):  # noqa: PTH112
                    return True
                with os.scandir(where) as entries:
                    stack += [(e.path, at) for e in _timed(entries, until) if e.is_dir(follow_symlinks=False)]
                if at < last:
                    stack.append((where, at + 1))  # what is near is looked at first
            elif has_magic(part):
                with os.scandir(where) as entries:
                    found = (e.path for e in _timed(entries, until) if fnmatchcase(e.name, part))
                    if at == last and next(found, None) is not None:
                        return True
                    stack += [(path, at + 1) for path in found]
            elif at == last:
                if os.path.exists(os.path.join(where, part)):  # noqa: PTH110, PTH118
                    return True
            else:
                stack.append((os.path.join(where, part), at + 1))  # noqa: PTH118
        except (OSError, ValueError):
            continue
    return False


def _timed(entries: Iterable[os.DirEntry[str]], until: float) -> Iterator[os.DirEntry[str]]:
    for n, entry in enumerate(entries):
        if n % 1000 == 999 and time.monotonic() > until:
            raise Late
        yield entry
