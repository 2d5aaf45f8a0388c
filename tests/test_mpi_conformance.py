"""The `mpi` system keeps the contract of every system: by mpirun on this machine, near and as if it were elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from mpi_ranks import MPIRUN, mpirun_for_tests, options

from jobmill.systems.mpi import MpiSystem
from jobmill.systems.pilot_line import ALLOCATIONS, Line
from jobmill.systems.pilot_room import Room
from jobmill.systems.system import ExecutionSystem
from jobmill.testing import Conformance


@pytest.fixture(scope="module", autouse=True)
def _mpirun() -> None:
    mpirun_for_tests()


def stop(spool: Path, name: str = "mpi") -> None:
    """End the allocations of a test: its ranks start nothing more, and leave."""
    line = Line(bytes(spool), name)
    rooms = [Room(line, int(name)) for name in line.names(ALLOCATIONS) if name.isdigit()]
    for room in rooms:
        with contextlib.suppress(OSError):
            room.put("stop", "")
    until = time.monotonic() + 15
    while any(room.has("began") and not room.has("ended") for room in rooms) and time.monotonic() < until:
        time.sleep(0.1)


class Pilot(Conformance):
    """Two ranks of two slots each."""

    patience = 40.0
    quiet = 1.2
    more: ClassVar[dict[str, object]] = {}

    @pytest.fixture(autouse=True)
    def _stopped(self, tmp_path: Path) -> Iterator[None]:
        yield
        stop(tmp_path / "spool")

    def make(self, spool: Path) -> ExecutionSystem:
        return MpiSystem.build("mpi", options(**self.more), spool)

    def make_absent(self, spool: Path) -> ExecutionSystem:
        (spool / "file").touch()
        return MpiSystem.build("mpi", options(), spool / "file" / "below")


class TestNear(Pilot):
    """The ranks are on this host: it sees and kills their jobs itself."""


class TestFar(Pilot):
    """The ranks have a process table of their own, as on another host: they are asked by files alone."""

    more: ClassVar[dict[str, object]] = {
        "launcher": ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", *MPIRUN, "{ranks}"]
    }
