"""The conformance suite on pbspro over the fake commands of PBS, with job history and without."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from test_pbspro import system

from jobmill.systems.system import ExecutionSystem
from jobmill.testing import Conformance
from jobmill.testing.schedulers.site import Site

pytestmark = pytest.mark.timeout(180)


class TestPbsPro(Conformance):
    """One node, with history."""

    quiet = 1.5
    patience = 60.0
    many: ClassVar[int] = 30
    site: Site

    @pytest.fixture(autouse=True)
    def _site(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        monkeypatch.setattr("jobmill.systems.batch.PATIENCE", 60.0)  # each fake command is a Python to be started
        self.site = Site(tmp_path / "pbs")
        yield
        self.site.close()

    def make(self, spool: Path) -> ExecutionSystem:
        return system(self.site, spool)

    def make_absent(self, spool: Path) -> ExecutionSystem:
        down = Site(spool / "down")
        for command in ("qsub", "qstat", "qselect", "qdel", "qrls", "qsig"):
            down.fault(command, "down")
        return system(down, spool)


class TestPbsProWithoutHistory(TestPbsPro):
    """A server that forgets a job when it ends: our records alone tell."""

    @pytest.fixture(autouse=True)
    def _site(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        monkeypatch.setattr("jobmill.systems.batch.PATIENCE", 60.0)  # each fake command is a Python to be started
        self.site = Site(tmp_path / "pbs", history=0)
        yield
        self.site.close()
