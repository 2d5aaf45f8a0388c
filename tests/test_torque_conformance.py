"""The conformance suite on torque over its fake commands, with XML and without."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from test_torque import VERSION, system

from jobmill.systems.system import ExecutionSystem
from jobmill.testing import Conformance
from jobmill.testing.schedulers.site import Site

pytestmark = pytest.mark.timeout(180)


class TestTorque(Conformance):
    """One node, a server that keeps completed jobs for an hour."""

    quiet = 1.5
    patience = 60.0
    many: ClassVar[int] = 30
    settings: ClassVar[dict[str, Any]] = {}
    site: Site

    @pytest.fixture(autouse=True)
    def _site(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        monkeypatch.setattr("jobmill.systems.batch.PATIENCE", 60.0)  # each fake command is a Python to be started
        self.site = Site(tmp_path / "pbs", torque=VERSION, **self.settings)
        yield
        self.site.close()

    def make(self, spool: Path) -> ExecutionSystem:
        return system(self.site, spool)

    def make_absent(self, spool: Path) -> ExecutionSystem:
        down = Site(spool / "down", torque=VERSION)
        for command in ("qsub", "qstat", "qdel", "qrls", "qsig"):
            down.fault(command, "down")
        return system(down, spool)


class TestTorqueOfAnOldOne(TestTorque):
    """A Torque without XML, which forgets a job when it ends: our records alone tell."""

    settings: ClassVar[dict[str, Any]] = {"plain": True, "history": 0.0}
