"""The `torque` system over the real commands in Torque's form that Slurm has: it works by our records alone."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import slurm_torque
from farm import Missing
from slurm_farm import Slurm
from test_slurm import up
from tokens import RECORD

from jobmill.errors import SystemUnavailable
from jobmill.systems.system import ExecutionSystem, ExitStatus, Launch, NativeState, Submission, SubmitError
from jobmill.systems.torque import TorqueSystem
from jobmill.testing import Conformance

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def place() -> Path:
    """Where the commands are."""
    try:
        return slurm_torque.provide()
    except Missing as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error), pytrace=False)
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def cluster(place: Path) -> Iterator[Slurm]:
    """One node, without accounting."""
    yield from up()


def system(cluster: Slurm, place: Path, spool: Path, **options: Any) -> TorqueSystem:
    env = cluster.env | slurm_torque.environment(place)
    values = {"env": env, "path": f"{place / 'bin'}:{os.defpath}", "poll_interval": 1, "kill_grace": 0.5, "late": 3}
    return TorqueSystem.build("torque", {**values, **options}, spool)


class TestConformance(Conformance):
    """One node; no XML, no variables, no signals, no exit status."""

    quiet = 3.0
    patience = 60.0
    many: ClassVar[int] = 40
    cluster: Slurm
    place: Path

    @pytest.fixture(autouse=True)
    def _cluster(self, cluster: Slurm, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("jobmill.systems.batch.PATIENCE", 60.0)  # each command is a Perl that starts another
        self.cluster, self.place = cluster, place

    def make(self, spool: Path) -> ExecutionSystem:
        return system(self.cluster, self.place, spool)

    def make_absent(self, spool: Path) -> ExecutionSystem:
        conf = spool / "slurm.conf"
        port = self.cluster.ports["slurmctld"]
        conf.write_text(self.cluster.conf.read_text().replace(f"SlurmctldPort={port}", "SlurmctldPort=1"))
        return system(self.cluster, self.place, spool, env={"SLURM_CONF": str(conf)})


def test_by_the_record_alone(cluster: Slurm, place: Path, tmp_path: Path) -> None:
    """Found by its name after a crash, held until it is released, its end from our record; doctor tells whose it is."""
    ours, token = system(cluster, place, tmp_path), f"{RECORD}x{time.monotonic_ns()}.1:a.b-7:1"
    text = "echo $SLURM_JOB_ID; exit 7"
    it = Submission(token=token, job_id="a.b-7", run=1, argv=("/bin/sh", "-c", text), cpus=2, walltime=90.0, memory=50)
    (handle,) = ours.submit([it])
    assert isinstance(handle, str), handle
    other = system(cluster, place, tmp_path)
    assert other.settle([Launch(token=token)]) == {token: handle}
    look = other.status([handle])[handle]
    assert look.held and look.state is NativeState.SUBMITTED, look
    assert cluster.command("squeue", "-ho", "%C %m %l", "-j", handle.partition("/")[0]).split() == ["2", "50M", "2:00"]
    ours.release([handle])
    until = time.monotonic() + 30
    while not (ends := ours.exit_info([handle])):
        assert time.monotonic() < until
        time.sleep(0.2)
    end = ends[handle]
    assert (end.exit_status, end.exit_value, end.native_state) == (ExitStatus.FINISHED_REGULARLY, 7, "C"), end
    assert ours.logs(handle, "stdout", 0).decode().strip() == handle.partition("/")[0]
    assert "Slurm" in ours.check()[-1].detail


def test_words_that_a_shell_would_take_for_its_own(cluster: Slurm, place: Path, tmp_path: Path) -> None:
    """Slurm's qsub hands what it is told to a shell."""
    ours = system(cluster, place, tmp_path)
    for number, more in enumerate(({"queue": "a;touch x"}, {"account": "$(id)"}, {"native": "-p '`id`'"})):
        token = f"{RECORD}x{time.monotonic_ns()}.1:w{number}:1"
        (answer,) = ours.submit([Submission(token=token, job_id=f"w{number}", run=1, argv=("true",), **more)])  # type: ignore[arg-type]
        assert isinstance(answer, SubmitError) and "Slurm's qsub cannot be told" in answer.message, answer
    with pytest.raises(SystemUnavailable):
        system(cluster, place, tmp_path, env={}).survey(RECORD)  # its libraries are not found
