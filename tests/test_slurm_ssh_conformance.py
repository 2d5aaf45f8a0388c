"""The `slurm` system behind SSH, on real Slurm and a real sshd, keeps the contract of every system."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from farm import Missing, Sshd, one_sshd
from slurm_farm import Slurm
from test_slurm import up

from jobmill.systems.slurm import SlurmSystem
from jobmill.systems.system import ExecutionSystem
from jobmill.testing import Conformance


@pytest.fixture(scope="module")
def cluster() -> Iterator[Slurm]:
    """One node, with accounting."""
    yield from up(books=True)


@pytest.fixture(scope="module")
def login(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """A login node that talks: its profile prints, and says nothing of where Slurm is."""
    try:
        with one_sshd(tmp_path_factory.mktemp("login")) as host:
            (host.home / ".bashrc").write_text("echo WELCOME TO THE CLUSTER; echo 'JOBID|STATE|' >&2\n")
            yield host
    except Missing as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error), pytrace=False)
        pytest.skip(str(error))


def system(cluster: Slurm, login: Sshd, spool: Path, **options: Any) -> SlurmSystem:
    """Return the system; its folder there is not below the spool here."""
    there = {"folder": str(spool.parent / "there"), "keepalive": 3, "connect_timeout": 3}
    here = {"env": cluster.env, "poll_interval": 1, "kill_grace": 0.5, "late": 3, "ssh_config": "none"}
    return SlurmSystem.build("slurm", login.options(**there) | here | options, spool)


class TestConformance(Conformance):
    """One node, with accounting."""

    quiet = 3.0
    patience = 60.0
    many: ClassVar[int] = 60
    cluster: Slurm
    login: Sshd

    @pytest.fixture(autouse=True)
    def _cluster(self, cluster: Slurm, login: Sshd) -> Iterator[None]:
        self.cluster, self.login = cluster, login
        yield
        assert not (self.spool / "jobs").exists(), "what lies behind SSH has been looked for here"

    def make(self, spool: Path) -> ExecutionSystem:
        return system(self.cluster, self.login, spool)

    def make_absent(self, spool: Path) -> ExecutionSystem:
        return system(self.cluster, self.login, spool, port=1)


def test_the_record_of_a_system_holds_what_builds_it(cluster: Slurm, login: Sshd, tmp_path: Path) -> None:
    """Its options are plain data: a client builds the system from the record."""
    options = login.options() | {"env": cluster.env}
    assert SlurmSystem.build("slurm", json.loads(json.dumps(options)), tmp_path).stages
