"""What is kept on a far host: who may read it, what becomes of launches when it is removed, and how many are killed."""

from __future__ import annotations

import os
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from farm import Sshd, one_sshd
from tokens import RECORD

from jobmill.systems.ssh import SshSystem
from jobmill.systems.system import End, Launch, NativeState, Start, Submission, Transfer

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[Sshd]:
    with one_sshd(tmp_path / "sshd") as host:
        yield host


@pytest.fixture
def made() -> Iterator[list[SshSystem]]:
    systems: list[SshSystem] = []
    yield systems
    for system in systems:
        system.close()


def build(made: list[SshSystem], sshd: Sshd, tmp_path: Path, **options: Any) -> SshSystem:
    options = {"folder": str(tmp_path / "far"), "slots": 4, **options}
    made.append(SshSystem.build("lab", sshd.options(**options), tmp_path / f"spool{len(made)}"))
    return made[-1]


def job(name: str, text: str, **fields: Any) -> Submission:
    return Submission(token=f"{RECORD}.1:{name}:1", job_id=name, run=1, argv=("/bin/sh", "-c", text), **fields)


def until(system: SshSystem, what: type[Any], count: int = 1, seconds: float = 30.0) -> list[Any]:
    found: list[Any] = []
    end = time.monotonic() + seconds
    while len(found) < count:
        assert time.monotonic() < end, f"{len(found)} of {count} {what.__name__} within {seconds} s"
        found += [it for it in system.ends() if isinstance(it, what)]
        time.sleep(0.01)
    return found


def test_nobody_else_reads_what_jobs_are_given_and_leave(sshd: Sshd, made: list[SshSystem], tmp_path: Path) -> None:
    old = os.umask(0o002)
    try:
        system = build(made, sshd, tmp_path)
        (tmp_path / "secret").write_text("x")
        transfer = Transfer(source=str(tmp_path / "secret"), target="secret")
        one = system.stage_in(job("one", "true", inputs=[transfer]), lambda _: None)
        far = tmp_path / "far"
        places = [far, *(it for it in far.glob("*")), *far.glob("spool/*"), *far.glob("spool/*/*")]
        assert {it.name for it in places} >= {"far", "lib", "spool", RECORD, "jobs", "stage", "guards"}
        for place in places:
            assert stat.S_IMODE(place.stat().st_mode) in (0o700, 0o600), place
        system.submit([one])
        until(system, End)
    finally:
        os.umask(old)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away: run the tests as root")
def test_code_of_others_is_not_executed(sshd: Sshd, made: list[SshSystem], tmp_path: Path) -> None:
    """Somebody was first at a folder below /tmp."""
    far = tmp_path / "far"
    far.mkdir()
    os.chown(far, 12345, 12345)
    (check,) = build(made, sshd, tmp_path).check()
    assert not check.ok and "is not ours" in check.detail and str(far) in check.detail
    os.chown(far, 0, 0)
    far.chmod(0o777)
    (check,) = build(made, sshd, tmp_path).check()
    assert not check.ok and "chmod 700" in check.detail
    far.chmod(0o1777)  # as /tmp
    assert build(made, sshd, tmp_path).check()[0].ok
    far.chmod(0o755)
    assert build(made, sshd, tmp_path).check()[0].ok


def test_a_launch_whose_folder_was_removed_runs_on_and_is_not_started_again(
    sshd: Sshd, made: list[SshSystem], tmp_path: Path
) -> None:
    system = build(made, sshd, tmp_path)
    one = job("one", "sleep 60")
    handle = system.handle_for(one.token)
    system.submit([one])
    until(system, Start)
    shutil.rmtree(tmp_path / "far" / "spool")
    other = build(made, sshd, tmp_path)
    look = other.status([handle])[handle]
    assert look.state is NativeState.RUNNING and look.reason == "its run folder was removed"
    assert other.settle([Launch(token=one.token, handle=handle)]) == {one.token: handle}
    end = time.monotonic() + 20
    while not other.kill([handle], force=True)[handle]:
        assert time.monotonic() < end
    assert other.status([handle])[handle].state in (NativeState.ENDED, NativeState.ABSENT)


def test_200_are_killed_within_a_heartbeat(sshd: Sshd, made: list[SshSystem], tmp_path: Path) -> None:
    system = build(made, sshd, tmp_path, slots=200)
    handles = [str(it) for it in system.submit([job(f"j{n}", "sleep 100 & sleep 100") for n in range(200)])]
    until(system, Start, 200, 60)
    other = build(made, sshd, tmp_path)
    other.status(handles[:1])
    left, rounds = handles, 0
    began = time.monotonic()
    while left:
        gone = other.kill(left, force=rounds > 2)
        left, rounds = [handle for handle in left if not gone[handle]], rounds + 1
    assert time.monotonic() - began < 10
    until(system, End, 200, 30)
    assert len(other.exit_info(handles)) == 200


def test_two_starters_on_two_machines_share_a_hosts_slots(sshd: Sshd, made: list[SshSystem], tmp_path: Path) -> None:
    """Each has a guard of its own there, and neither knows of the other."""
    systems = [build(made, sshd, tmp_path, slots=3) for _ in range(2)]
    running = tmp_path / "running"
    running.mkdir()
    mine = f"{running}/$JOBMILL_JOB_ID"
    text = f"touch {mine}; ls {running} | wc -l >> {tmp_path}/most; sleep 0.2; rm {mine}"
    for k, system in enumerate(systems):
        system.submit([job(f"s{k}", "true")])
    for system in systems:
        until(system, End)
    ends = 0
    for turn in range(3):
        for k, system in enumerate(systems):
            system.submit([job(f"s{k}t{turn}n{n}", text) for n in range(10)])
    end = time.monotonic() + 60
    while ends < 60:
        assert time.monotonic() < end, ends
        ends += sum(isinstance(it, End) for system in systems for it in system.ends())
        time.sleep(0.01)
    assert max(int(line) for line in (tmp_path / "most").read_text().split()) <= 3
