"""Required outputs, looked for beside the loop: a tree may be huge, its file server slow or dead.

A scanner is a thread that gives each look a slice of time in turn, so that a quick one never waits for the end of a
slow one. A look has a limit, which counts its own time alone. A scanner that stands in one call to a file system is
given up, and another takes its place; what it looks for is answered all the same.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import wait
from queue import SimpleQueue

from jobmill.fetcher.output_look import LIMIT, Launch, Look, Scan

logger = logging.getLogger("jobmill")

SCANNERS = 2  # more of them only wait for one another, and the loop for them
LOST = 32  # scanners that may stand in a file system that does not answer, before no other is started
PATIENCE = 0.1  # seconds that the loop waits for a batch of looks: most take far less than one
STUCK = 5.0  # seconds in one slice after which a scanner is given up
KEPT = 600.0  # seconds that a result is kept for a job whose end was recorded otherwise
MANY = 1000  # looks in memory before those are searched for


class Outputs:
    """Looks under way."""

    def __init__(self) -> None:
        self._looks: dict[Launch, Scan] = {}
        self._line: SimpleQueue[Scan] = SimpleQueue()
        self._scanners: list[Scanner] = []
        self._lost: list[Scanner] = []

    def missing(self, asked: Sequence[Look]) -> dict[Launch, str | None]:
        """Return in words what each run lacks: empty for nothing, None while that is not known; then ask again."""
        scans = {look.launch: self._begun(look) for look in asked if look.globs}
        if scans:
            self._man()
            wait([scan.words for scan in scans.values()], timeout=PATIENCE)
        answer: dict[Launch, str | None] = {look.launch: "" for look in asked if not look.globs}
        for launch, scan in scans.items():
            answer[launch] = scan.words.result() if scan.words.done() else None
            if scan.words.done():
                self._looks.pop(launch, None)
        return answer

    def _begun(self, look: Look) -> Scan:
        scan = self._looks.get(look.launch)
        if scan is None:
            now = time.monotonic()
            if len(self._looks) >= MANY:
                self._looks = {k: v for k, v in self._looks.items() if not (v.words.done() and now - v.since > KEPT)}
            scan = self._looks[look.launch] = Scan(look, now)
            self._line.put(scan)
        return scan

    def _man(self) -> None:
        """Start scanners: the first ones, and those in the place of such as stand in one call."""
        now = time.monotonic()
        self._lost = [scanner for scanner in self._lost if not scanner.back]
        for scanner in [s for s in self._scanners if s.stands(now) > STUCK]:
            if len(self._lost) < LOST:
                logger.warning("a file system does not answer: %s", scanner.where())
                scanner.given_up = True
                self._scanners.remove(scanner)
                self._lost.append(scanner)
        for scan in self._looks.values():
            if scan.began and now - scan.began > LIMIT:
                scan.tell(scan.late())
        while len(self._scanners) < SCANNERS:
            scanner = Scanner(self._line)
            self._scanners.append(scanner)
            threading.Thread(target=scanner.work, daemon=True).start()  # it must not keep this process from its end


class Scanner:
    """A thread that gives looks their slices."""

    def __init__(self, line: SimpleQueue[Scan]) -> None:
        self.given_up = False
        self.back = False  # given up, and free again
        self._line = line
        self._scan: Scan | None = None

    def stands(self, now: float) -> float:
        """Return for how many seconds it has been at one slice."""
        scan = self._scan
        return now - scan.began if scan is not None and scan.began else 0.0

    def where(self) -> str:
        """Return the folder at which it is."""
        scan = self._scan
        return str(scan.look.folders[0]) if scan is not None else ""

    def work(self) -> None:
        """Serve the line until another has taken this one's place."""
        while not self.given_up:
            self._scan = scan = self._line.get()
            if scan.go_on():
                self._line.put(scan)
            self._scan = None
        self.back = True
