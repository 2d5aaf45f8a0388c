"""The `slurm` system on real Slurm keeps the contract of every system."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from slurm_farm import Slurm
from test_slurm import system, up

from jobmill.systems.slurm import SlurmSystem
from jobmill.systems.system import ExecutionSystem
from jobmill.testing import Conformance


@pytest.fixture(scope="module")
def cluster() -> Iterator[Slurm]:
    """One node, with accounting."""
    yield from up(books=True)


class TestConformance(Conformance):
    """One node, with accounting."""

    quiet = 3.0
    patience = 60.0
    many: ClassVar[int] = 60
    cluster: Slurm

    @pytest.fixture(autouse=True)
    def _cluster(self, cluster: Slurm) -> None:
        self.cluster = cluster

    def make(self, spool: Path) -> ExecutionSystem:
        return system(self.cluster, spool, late=3)

    def make_absent(self, spool: Path) -> ExecutionSystem:
        conf = spool / "slurm.conf"
        port = self.cluster.ports["slurmctld"]
        conf.write_text(self.cluster.conf.read_text().replace(f"SlurmctldPort={port}", "SlurmctldPort=1"))
        return SlurmSystem.build("slurm", {"env": {"SLURM_CONF": str(conf)}}, spool)
