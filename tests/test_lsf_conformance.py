"""The conformance suite on lsf over its fake commands, with bjobs -json and without."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from test_lsf import system

from jobmill.systems.system import ExecutionSystem
from jobmill.testing import Conformance
from jobmill.testing.schedulers.site import Site

pytestmark = pytest.mark.timeout(180)


class TestLsf(Conformance):
    """One node, an LSF that answers in JSON."""

    quiet = 1.5
    patience = 60.0
    many: ClassVar[int] = 30
    settings: ClassVar[dict[str, Any]] = {}
    site: Site

    @pytest.fixture(autouse=True)
    def _site(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        monkeypatch.setattr("jobmill.systems.batch.PATIENCE", 60.0)  # each fake command is a Python to be started
        self.site = Site(tmp_path / "lsf", **self.settings)
        yield
        self.site.close()

    def make(self, spool: Path) -> ExecutionSystem:
        return system(self.site, spool)

    def make_absent(self, spool: Path) -> ExecutionSystem:
        down = Site(spool / "down")
        for command in ("bsub", "bjobs", "bkill", "bresume"):
            down.fault(command, "down")
        return system(down, spool)


class TestLsfOfAnOldOne(TestLsf):
    """An LSF that knows no -json, and forgets a job when it ends: our records alone tell."""

    settings: ClassVar[dict[str, Any]] = {"plain": True, "history": 0.0}
