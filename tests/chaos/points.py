"""The crash points of one chaos folder: an instrumented copy of the package, and what is to happen at its points.

    points = Points(folder)                     # makes <folder>/jobmill; it must not exist yet
    env = os.environ | points.env               # for the workers; guard and runner follow their starter
    points.arm("starter.starter:Starter._prepare:kind", "starter")     # die after that step, once
    fired = points.fired()                      # None, or who it was: pid, role, name
    points.disarm()
    points.hits()["runner"]                     # the names of the points that a runner has passed so far
    points.offset("fetcher", 3600)              # the clock of all fetchers is an hour ahead
    points.reboot()                             # another boot id; kill the processes yourself

Roles: manager, starter, fetcher, guard, runner; janitor (what Janitor.tick calls, within a fetcher's process);
client (any other process of the copy).
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.chaos.hook import ARMED, HEAD, ROLES, SEEN, UNSEEN
from tests.chaos.instrument import BOOT_ID, PACKAGE, Point, instrument

Action = Literal["KILL", "STOP"]


@dataclass(frozen=True, kw_only=True)
class Fired:
    """One point that was acted on."""

    pid: int
    role: str
    name: str
    action: str


class Points:
    """The control of one instrumented copy, for the process that makes chaos; any number of processes run the copy."""

    def __init__(self, folder: Path, package: Path = PACKAGE) -> None:
        """``package``: what is copied, `jobmill` of this tree."""
        self.folder = folder.absolute()
        self.package = self.folder  # what PYTHONPATH has to name
        (self.folder / "armed").mkdir(parents=True)
        (self.folder / "boot_id").write_text(Path(BOOT_ID).read_text())
        self.points: list[Point] = instrument(self.folder, package)
        self._number = {point.name: point.number for point in self.points}
        control = self.folder / "control"
        control.write_bytes(bytes(HEAD + len(ROLES) * len(self.points)))
        with control.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)

    @property
    def env(self) -> dict[str, str]:
        """Return what makes Python load the copy, from any folder."""
        return {"PYTHONPATH": str(self.package), "PYTHONSAFEPATH": "1"}

    def arm(self, name: str, role: str | None = None, action: Action = "KILL", nth: int = 1) -> None:
        """Let the one process of a role (None: of any) that passes a point for the nth time from now on die or stop.

        Several may be armed at once. Raises KeyError for a point or role that is not there.
        """
        number = self._number[name]
        places = [self._place(one, number) for one in ((role,) if role else ROLES)]
        with self._locked():
            (self.folder / "armed" / f"{role or 'any'}.{number}").write_text(f"{action} {nth}")
            for place in places:
                self._map[place] = ARMED

    def take_back(self, name: str, role: str) -> bool:
        """Take one order back; False: somebody has acted on it."""
        number = self._number[name]
        with self._locked():
            order = self.folder / "armed" / f"{role}.{number}"
            if not order.exists():
                return False
            order.unlink()
            self._map[self._place(role, number)] = SEEN
            return True

    def fired(self) -> Fired | None:
        """Return who acted since the last `disarm`, the first of several; None: nobody has."""
        return next(iter(self.firings()), None)

    def firings(self) -> list[Fired]:
        """Return all who acted since the last `disarm`, in order."""
        with self._locked():
            for order in (self.folder / "armed").iterdir():  # a first pass may have overwritten the mark
                role, _, number = order.name.partition(".")
                for one in (role,) if role != "any" else ROLES:
                    self._map[self._place(one, int(number))] = ARMED
            return self._firings()

    def disarm(self) -> list[Fired]:
        """Take back what is armed, and return who acted before."""
        with self._locked():
            for order in (self.folder / "armed").iterdir():
                role, _, number = order.name.partition(".")
                order.unlink()
                for one in (role,) if role != "any" else ROLES:
                    self._map[self._place(one, int(number))] = SEEN if role != "any" else UNSEEN
            found = self._firings()
            (self.folder / "fired").unlink(missing_ok=True)
            return found

    def hits(self) -> dict[str, set[str]]:
        """Return role -> names of the points that it has passed since the last `forget_hits`."""
        return {role: self.reached(role) for role in ROLES}

    def reached(self, role: str) -> set[str]:
        """Return the names of the points that a role has passed."""
        start = self._place(role, 0)
        row = self._map[start : start + len(self.points)]
        return {point.name for point, seen in zip(self.points, row, strict=True) if seen == SEEN}

    def forget_hits(self) -> None:
        """Begin to count anew."""
        self._map[HEAD:] = bytes(len(ROLES) * len(self.points))

    def offset(self, role: str, seconds: float) -> None:
        """Set the wall clock (`time.time`) of a role off."""
        struct.pack_into("d", self._map, 8 * ROLES.index(role), seconds)

    def misread(self, role: str) -> int:
        """Return how often this role has read its clock while it was off."""
        return int(struct.unpack_from("d", self._map, 8 * (len(ROLES) + ROLES.index(role)))[0])

    def reboot(self) -> None:
        """Let processes that start from now on see another boot of the machine."""
        new = self.folder / "boot_id.new"
        new.write_text(f"{uuid.uuid4()}\n")
        new.replace(self.folder / "boot_id")

    def close(self) -> None:
        """Let the control file go; processes of the copy keep theirs."""
        self._map.close()

    def _place(self, role: str, number: int) -> int:
        try:
            return HEAD + ROLES.index(role) * len(self.points) + number
        except ValueError:
            raise KeyError(f"no role {role!r}; there are {', '.join(ROLES)}") from None

    def _firings(self) -> list[Fired]:
        file = self.folder / "fired"
        rows = [line.split() for line in file.read_text().splitlines()] if file.exists() else []
        return [Fired(pid=int(r[0]), role=r[1], name=self.points[int(r[2])].name, action=r[3]) for r in rows]

    @contextmanager
    def _locked(self) -> Iterator[None]:
        lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)
