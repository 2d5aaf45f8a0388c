"""The `drmaa` system, over Grid Engine's library, keeps the contract of every system."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from grid_farm import Grid
from test_drmaa import system
from test_gridengine import up

from jobmill.systems.system import ExecutionSystem
from jobmill.testing import Conformance


@pytest.fixture(scope="module")
def cell() -> Iterator[Grid]:
    """One node."""
    yield from up()


class TestConformance(Conformance):
    """A session in a child process for each instance."""

    quiet = 3.0
    patience = 60.0
    many: ClassVar[int] = 60
    cell: Grid

    @pytest.fixture(autouse=True)
    def _cell(self, cell: Grid) -> None:
        self.cell = cell

    def make(self, spool: Path) -> ExecutionSystem:
        return system(self.cell, spool, late=3)

    def make_absent(self, spool: Path) -> ExecutionSystem:
        return system(self.cell, spool, env=self.cell.env | {"SGE_QMASTER_PORT": "1"})
