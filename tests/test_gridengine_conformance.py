"""The `gridengine` system on real Grid Engine keeps the contract of every system."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from grid_farm import Grid
from test_gridengine import system, up

from jobmill.systems.system import ExecutionSystem
from jobmill.testing import Conformance


@pytest.fixture(scope="module")
def cell() -> Iterator[Grid]:
    """One node."""
    yield from up()


class TestConformance(Conformance):
    """By commands alone."""

    quiet = 3.0
    patience = 60.0
    many: ClassVar[int] = 60
    cell: Grid
    drmaa: ClassVar[bool] = False

    @pytest.fixture(autouse=True)
    def _cell(self, cell: Grid) -> None:
        self.cell = cell

    def make(self, spool: Path) -> ExecutionSystem:
        return system(self.cell, spool, late=3)

    def make_absent(self, spool: Path) -> ExecutionSystem:
        env = self.cell.env | {"SGE_QMASTER_PORT": "1"}
        return system(self.cell, spool, env=env)
