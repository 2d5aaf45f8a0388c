"""Every kind of system that this project has, its worked example included, keeps the contract.

A system to come needs one class here: `make`, `make_absent`, and what it declares (docs/conformance.md).
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, ClassVar

import pytest
import redis
from conftest import Server
from ec2world import CREDENTIALS, PORT, REGION, Cloud, Machines, cloud_in
from engines import IMAGE, Dockerd, Podman, engine_for_tests, podman_for_tests
from farm import Missing, Sshd, free_port, make_key, one_sshd
from planted_systems import Detached, Far, Held, Polled
from rq_pool import Pool

from jobmill.systems.docker import DockerSystem
from jobmill.systems.ec2 import Ec2System
from jobmill.systems.fake import FakeSystem
from jobmill.systems.fake_cluster import FakeCluster
from jobmill.systems.local import LocalSystem
from jobmill.systems.pool import PoolSystem
from jobmill.systems.ssh import SshSystem
from jobmill.systems.system import ExecutionSystem, Submission
from jobmill.testing import Conformance
from jobmill.testing.batches import Batches
from jobmill.testing.crashes import Crashes
from jobmill.testing.kills import Kills
from jobmill.testing.lives import Lives
from jobmill.testing.looks import Looks
from jobmill.testing.outcomes import Outcomes
from jobmill.testing.stages import Stages


class TestLocal(Conformance):
    """This machine."""

    keeps_slots = True

    def make(self, spool: Path) -> ExecutionSystem:
        return LocalSystem.build("local", {"slots": 4, "kill_grace": 0.5}, spool)

    def make_absent(self, spool: Path) -> ExecutionSystem:
        (spool / "file").touch()
        return LocalSystem.build("local", {}, spool / "file" / "below")


class TestFake(Conformance):
    """The cluster that runs nothing."""

    cannot = {"commands": "its jobs only pretend, as FAKE_SECONDS and FAKE_EXIT of their env say"}  # noqa: RUF012

    def make(self, spool: Path) -> ExecutionSystem:
        return FakeSystem.build("fake", {}, spool)

    def make_absent(self, spool: Path) -> ExecutionSystem:
        return FakeSystem.build("fake", {"folder": str(spool / "elsewhere"), "down": True}, spool)

    def pretend(self, *, seconds: float, exit: int) -> Mapping[str, str]:
        return {"FAKE_SECONDS": str(seconds), "FAKE_EXIT": str(exit)}

    def starts(self, submission: Submission) -> int:
        launches = FakeCluster(self.spool / "fake" / "fake").launches()
        return sum(it.token == submission.token and it.started is not None for it in launches)


class TestDetached(Conformance):
    """The worked example for authors of plug-ins."""

    cannot = {  # noqa: RUF012
        "absent": "its endpoint is this machine",
        "fled": "it signals the process group; what left it is seen by its lock, and not reached",
    }
    holds = False
    signals = "128+n"
    walltime = "refused"

    def make(self, spool: Path) -> ExecutionSystem:
        return Detached.build("side", {}, spool)  # type: ignore[no-any-return]


class TestFar(Stages):
    """The example, in a place that shares no files with us."""

    walltime = "refused"

    def make(self, spool: Path) -> ExecutionSystem:
        return Far.build("far", {}, spool)  # type: ignore[no-any-return]


class TestHeld(Lives, Batches, Looks, Kills, Crashes):
    """The example, as a scheduler that holds what it is given."""

    cannot = {"fled": TestDetached.cannot["fled"]}  # noqa: RUF012

    def make(self, spool: Path) -> ExecutionSystem:
        return Held.build("held", {}, spool)  # type: ignore[no-any-return]


class TestPolled(Kills):
    """The example, with a walltime that a poll enforces."""

    walltime = "by_poll"
    cannot = {"fled": TestDetached.cannot["fled"]}  # noqa: RUF012
    test_the_walltime = Outcomes.test_the_walltime

    def make(self, spool: Path) -> ExecutionSystem:
        return Polled.build("polled", {}, spool)  # type: ignore[no-any-return]


class TestSsh(Conformance):
    """A host behind SSH: a real sshd on loopback, and a folder of its own there."""

    keeps_slots = True
    server: ClassVar[Sshd]

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _sshd(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        try:
            with one_sshd(tmp_path_factory.mktemp("sshd")) as cls.server:
                yield
        except Missing as error:
            if os.environ.get("CI") == "true":
                pytest.fail(f"CI has to have every component: {error}", pytrace=False)
            pytest.skip(str(error))

    def make(self, spool: Path) -> ExecutionSystem:
        options = self.server.options(folder=f"{spool}/there", slots=4, kill_grace=0.5, idle=1)
        return SshSystem.build("bird", options, spool)

    def make_absent(self, spool: Path) -> ExecutionSystem:
        options = self.server.options(folder=f"{spool}/there", port=free_port(), connect_timeout=2, idle=1)
        return SshSystem.build("absent", options, spool)


class TestPool(Conformance):
    """Two RQ workers on a server of their own."""

    patience = 60  # a launch is a call of RQ, a guard and a runner: some ten in a second on an idle machine
    many = 50

    @pytest.fixture(autouse=True)
    def _workers(self, running_server: Callable[[str], Server], tmp_path: Path) -> Iterator[None]:
        self.pool = Pool(running_server("valkey").url, tmp_path)
        for _ in range(2):
            self.pool.work()
        with redis.Redis.from_url(self.pool.url) as client:
            self.pool.until(lambda: client.scard("rq:workers") == 2)
        yield
        self.pool.stop()

    def make(self, spool: Path) -> ExecutionSystem:
        return PoolSystem.build("pool", self.pool.options, spool)

    def make_absent(self, spool: Path) -> ExecutionSystem:
        return PoolSystem.build("absent", {"url": f"unix://{spool}/nothing"}, spool)


class TestDocker(Conformance):
    """A real engine of the tests' own, with one image that has a shell and nothing else."""

    signals = "128+n"
    walltime = "by_poll"
    quiet = 1.5
    patience = 40.0
    many = 60
    engine: ClassVar[Dockerd]

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _engine(cls) -> Iterator[None]:
        with engine_for_tests() as cls.engine:
            yield

    def make(self, spool: Path) -> ExecutionSystem:
        known = {"host": self.engine.host, "image": IMAGE, "poll_interval": 0.2, "volumes": [str(spool.parent)]}
        return DockerSystem.build("docker", known, spool)

    def job(self, *argv: str, record: str | None = None, **fields: Any) -> Submission:
        return super().job(*argv, record=record, container=self._container(), **fields)

    def body(self, *, seconds: float = 0.0, exit: int = 0, **fields: Any) -> Submission:
        return super().body(seconds=seconds, exit=exit, container=self._container(), **fields)

    def _container(self) -> dict[str, Any]:
        return {"volumes": [str(self.shared)]}

    def make_absent(self, spool: Path) -> ExecutionSystem:
        return DockerSystem.build(
            "docker", {"host": f"unix://{spool}/none", "image": IMAGE, "volumes": [str(spool.parent)]}, spool
        )


class TestPodman(TestDocker):
    """The same by podman, which has no daemon."""

    many = 10  # each is a process of its own: what a second cannot take is told as transient
    podman: ClassVar[Podman]

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _engine(cls) -> Iterator[None]:
        with podman_for_tests() as cls.podman:
            yield

    def make(self, spool: Path) -> ExecutionSystem:
        options = {"engine": self.podman.program, "image": IMAGE, "poll_interval": 0.2, "volumes": [str(spool.parent)]}
        return DockerSystem.build("docker", options, spool)

    def make_absent(self, spool: Path) -> ExecutionSystem:
        options = {"engine": str(spool / "podman"), "image": IMAGE, "volumes": [str(spool.parent)]}
        return DockerSystem.build("docker", options, spool)


class TestEc2(Conformance):
    """One warm instance of a cloud of the tests' own, which boots for the first test and serves all."""

    patience = 30.0  # an instance may have to boot
    many = 60
    cloud: ClassVar[Cloud]
    lease: ClassVar[Path]
    tests: ClassVar[Iterator[int]] = itertools.count(1)

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _cloud(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch, cloud_in(tmp_path_factory.mktemp("ec2")) as cls.cloud:
            for key, value in CREDENTIALS.items():
                patch.setenv(key, value)
            make_key(cls.cloud.folder / "id")
            cls.cloud.record, cls.lease = f"c{os.urandom(5).hex()}", cls.cloud.folder / "run"
            machines = Machines(cls.cloud, cls.cloud.folder / "machines", cls.lease)
            try:
                yield
            finally:
                machines.close()

    @pytest.fixture(autouse=True)
    def _record(self, _subject: None) -> None:
        self.record = self.cloud.record  # an instance is one record's: the numbers tell the tests' tokens apart
        self._numbers = itertools.count(1000 * next(self.tests))

    def make(self, spool: Path) -> ExecutionSystem:
        return self._made(spool, endpoint_url=self.cloud.url)

    def make_absent(self, spool: Path) -> ExecutionSystem:
        return self._made(spool.parent / "absent", endpoint_url=f"http://127.0.0.1:{free_port()}")

    def _made(self, spool: Path, **more: str) -> ExecutionSystem:
        options = {
            "image": "ami-12c6146b",
            "instance_type": "t3.micro",
            "key": str(self.cloud.folder / "id"),
            "region": REGION,
            "subnet": self.cloud.subnet,
            "port": PORT,
            "user": "root",
            "slots": 4,
            "idle": 3600,
            "kill_grace": 0.5,
            "lease_folder": str(self.lease),
        }
        return Ec2System.build("aws", {**options, **more}, spool)


# A class for each system to come stands above this line.

COVERED = {"local", "fake", "ssh", "rq", "docker", "ec2"}


def test_every_kind_is_here() -> None:
    declared = {
        point.name for point in entry_points(group="jobmill.systems")
    }  # other tests register kinds of their own
    others = {
        path.stem[5:-12].partition("_")[0] for path in Path(__file__).parent.glob("test_*_conformance.py")
    }  # with clusters of their own
    assert declared == COVERED | others, "a new kind needs a class in this file, or a file test_<kind>_conformance.py"


def test_an_abstract_suite_says_what_it_needs() -> None:
    with pytest.raises(NotImplementedError, match=r"make\(self, spool\)"):
        Conformance().make(Path())


def test_without_pytest_the_line_that_installs_it_is_told() -> None:
    code = "import sys; sys.modules['pytest_timeout'] = None; import importlib.util as u; f = u.find_spec\n"
    code += "u.find_spec = lambda name, *more: None if name == 'pytest_timeout' else f(name, *more)\n"
    code += "import jobmill.testing"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "needs the package 'pytest-timeout'" in done.stderr
    assert "-m pip install 'jobmill[testing]'" in done.stderr


class Wrong(Conformance):
    """Declares what there is not."""

    cannot = {"comands": "because"}  # noqa: RUF012


def test_a_declaration_has_to_be_right() -> None:
    with pytest.raises(AssertionError, match=r"Wrong\.cannot: no promise 'comands' \(did you mean 'commands'\?\)"):
        Wrong()._check_declarations()
