"""The ec2 system from launch to end: moto, and machines that are booted from the user data and answer over SSH."""

from __future__ import annotations

import dataclasses
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from ec2world import CREDENTIALS, IMAGE, PORT, REGION, Cloud, Machines, cloud_in, remove, until

from jobmill.errors import StageFailed, SystemUnavailable
from jobmill.jobs.registry import class_for, job_class
from jobmill.jobs.spec import JobSpec
from jobmill.systems import registry
from jobmill.systems.ec2 import Ec2System
from jobmill.systems.system import (
    End,
    ExitInfo,
    ExitStatus,
    Launch,
    NativeState,
    Settled,
    Start,
    Submission,
    SubmitError,
    SubmitFailure,
    Transfer,
    Unwatched,
)

pytestmark = pytest.mark.timeout(120)


@dataclasses.dataclass
class World:
    """A cloud with machines, and systems that use it."""

    cloud: Cloud
    machines: Machines
    folder: Path
    systems: list[Ec2System] = dataclasses.field(default_factory=list)

    def system(self, spool: str = "spool", **more: Any) -> Ec2System:
        """Make a system, as a process of its own would; the lease and the times are short."""
        lease = more.pop("lease", 60)
        given = {
            "image": IMAGE,
            "instance_type": "t3.micro",
            "key": str(self.cloud.folder / "id"),
            "region": REGION,
            "endpoint_url": self.cloud.url,
            "subnet": self.cloud.subnet,
            "port": PORT,
            "user": "root",
            "max_instances": 2,
            "idle": 0,
            "lease_folder": str(self.folder / "run"),
            **more,
        }
        made = registry.system_class("ec2").build("aws", given, self.folder / spool)
        assert isinstance(made, Ec2System)
        made.options = dataclasses.replace(made.options, lease=lease)
        self.systems.append(made)
        return made

    def token(self, name: str, run: int = 1) -> str:
        return f"{self.cloud.record}.1:{name}:{run}"

    def submission(self, name: str, command: str, **more: Any) -> Submission:
        return Submission(token=self.token(name), job_id=name, run=1, argv=("/bin/sh", "-c", command), **more)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with cloud_in(tmp_path_factory.mktemp("ec2")) as cloud:
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", cloud.folder / "id"], check=True)
        yield cloud


@pytest.fixture
def world(whole: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    for key, value in CREDENTIALS.items():
        monkeypatch.setenv(key, value)
    whole.forget()
    machines = Machines(whole, tmp_path / "machines", tmp_path / "run")
    made = World(whole, machines, tmp_path)
    yield made
    for system in made.systems:
        system.close()
    machines.close()
    remove(tmp_path)


class Notices:
    """What a system pushed, gathered while something is waited for."""

    def __init__(self, system: Ec2System) -> None:
        self.system = system
        self.starts: dict[str, Start] = {}
        self.ends: dict[str, ExitInfo] = {}
        self.unwatched: list[str] = []

    def look(self) -> None:
        for it in self.system.ends():
            if isinstance(it, Start):
                self.starts[it.token] = it
            elif isinstance(it, End):
                self.ends[it.token] = ExitInfo.from_json(it.exit)
            elif isinstance(it, Unwatched):
                self.unwatched.append(it.token)

    def until(self, true: Any, seconds: float = 60.0) -> None:
        def check() -> bool:
            self.look()
            return bool(true())

        until(check, seconds, 0.05)


def test_launch_run_collect_and_terminate(world: World, tmp_path: Path) -> None:
    system = world.system()
    assert system.lead()
    told = Notices(system)
    began = time.monotonic()
    (handle,) = system.submit([world.submission("a", "echo hello; echo $JOBMILL_JOB_ID; exit 3")])
    assert time.monotonic() - began < 1.0 and isinstance(handle, str)
    told.until(lambda: told.ends)
    end = told.ends[world.token("a")]
    assert (end.exit_status, end.exit_value) == (ExitStatus.FINISHED_REGULARLY, 3)
    (id_,) = world.cloud.live(record=world.cloud.record)
    other = world.system()  # a fetcher, which only looks
    until(lambda: other.exit_info([handle]), 30, 0.3)
    assert other.logs(handle, "stdout", 0) == b"hello\na\n"
    time.sleep(6)
    told.look()
    assert world.cloud.live(record=world.cloud.record) == [id_]  # its results are still needed
    other.stage_out(handle, tmp_path / "home", ["*"], print)
    assert (tmp_path / "home" / "stdout").read_bytes() == b"hello\na\n"
    told.until(lambda: not world.cloud.live(record=world.cloud.record))
    until(lambda: id_ not in world.machines.up)
    assert (
        world.system().stage_out(handle, tmp_path / "home", ["*"], print) == []
    )  # whoever brought it died: it is here
    until(lambda: other.status([handle])[handle].state is NativeState.ABSENT, 40, 0.3)  # nobody remembers it any more
    assert world.cloud.count("RunInstances") == 1


def test_an_idle_instance_takes_the_next_job_and_two_slots_take_two(world: World) -> None:
    system = world.system(idle=60, slots=2)
    assert system.lead()
    told = Notices(system)
    system.submit([world.submission(name, "sleep 1") for name in "ab"])
    told.until(lambda: len(told.ends) == 2)
    system.submit([world.submission(name, "true") for name in "cdef"])
    told.until(lambda: len(told.ends) == 6)
    assert world.cloud.count("RunInstances") == 1
    assert all(info.exit_value == 0 for info in told.ends.values())
    refused, taken = system.submit([world.submission("g", "true", cpus=3), world.submission("h", "true")])
    assert isinstance(refused, SubmitError) and refused.failure is SubmitFailure.PERMANENT
    assert "has 2" in refused.message and isinstance(taken, str)
    told.until(lambda: world.token("h") in told.ends)


def test_inputs_are_brought_to_an_instance_that_is_started_for_them(world: World, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("seven\n")
    system = world.system(max_instances=1)
    assert system.lead()
    told = Notices(system)
    launch = world.submission(
        "a", "cat in; echo more >out", inputs=(Transfer(source=str(tmp_path / "in"), target="in"),)
    )
    with ThreadPoolExecutor(1) as pool:  # a carrier of the starter
        carrier = world.system()
        carrier.options = dataclasses.replace(carrier.options, boot=20.0)
        carried = pool.submit(carrier.stage_in, launch, lambda words: None)
        told.until(carried.done, 60)
        staged = carried.result()
    (id_,) = world.cloud.live(record=world.cloud.record)
    assert staged.place == id_
    system.submit([world.submission("b", "true")])  # waits: the slot is kept for the one with inputs
    time.sleep(6)
    told.look()
    assert not told.starts and world.cloud.live(record=world.cloud.record) == [id_]
    (handle,) = system.submit([staged])
    told.until(lambda: len(told.ends) == 2)
    other = world.system()
    until(lambda: other.status([str(handle)])[str(handle)].state is NativeState.ENDED, 30, 0.3)
    assert other.stage_out(str(handle), tmp_path / "home", ["out", "none"], print) == ["none"]
    assert (tmp_path / "home" / "stdout").read_text() == "seven\n"
    assert (tmp_path / "home" / "outputs" / "out").read_text() == "more\n"
    lost = dataclasses.replace(staged, token=world.token("c"), place="i-gone")
    system.submit([lost])
    told.until(lambda: world.token("c") in told.ends)
    assert "had its inputs" in (told.ends[world.token("c")].message or "")


def test_inputs_of_what_cannot_run_cost_no_instance(world: World, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("seven\n")
    system = world.system(slots=2)
    assert system.lead()
    there, missing = (Transfer(source=str(tmp_path / name), target="in") for name in ("in", "none"))
    for launch, words in (
        (world.submission("a", "cat in", inputs=(there,), cpus=3), "has 2"),
        (world.submission("b", "cat in", inputs=(missing,)), "none"),
    ):
        with pytest.raises(StageFailed, match=words):
            system.stage_in(launch, lambda words: None)
    assert not world.cloud.count("RunInstances")


def test_a_claim_goes_to_another_instance_when_its_own_is_gone(world: World, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("seven\n")
    system = world.system(idle=300)
    assert system.lead()
    told = Notices(system)
    launch = world.submission("a", "cat in", inputs=(Transfer(source=str(tmp_path / "in"), target="in"),))
    carrier = world.system()
    there: list[str] = []

    def progress(words: str) -> None:
        found = world.cloud.live(record=world.cloud.record)
        if words == "waits for its instance" and not there:
            there.extend(found)
            world.cloud.ec2.terminate_instances(InstanceIds=found)

    def bring() -> Submission:
        until = time.monotonic() + 60
        while True:
            try:
                return carrier.stage_in(launch, progress)
            except SystemUnavailable:  # one that is just coming up; who launches tries it again as well
                assert time.monotonic() < until
                time.sleep(0.5)

    hosts, carrier._follow = carrier._follow, lambda: None  # type: ignore[method-assign]
    with ThreadPoolExecutor(1) as pool:
        carried = pool.submit(bring)
        told.until(lambda: there, 60)
        carrier._follow = hosts  # type: ignore[method-assign]
        told.until(carried.done, 60)
        assert carried.result().place not in there


def test_an_instance_that_ec2_took_back_preempts_its_job(world: World) -> None:
    system = world.system(spot=True)
    assert system.lead()
    told = Notices(system)
    (handle,) = system.submit([world.submission("a", "sleep 600")])
    told.until(lambda: told.starts)
    other = world.system()
    until(lambda: other.status([str(handle)])[str(handle)].state is NativeState.RUNNING, 30, 0.3)
    (id_,) = world.cloud.live(record=world.cloud.record)
    world.cloud.take_away(id_)
    told.until(lambda: told.unwatched == [world.token("a")])

    def seen() -> ExitInfo | None:
        return other.exit_info([str(handle)]).get(str(handle))

    until(seen, 40, 0.3)
    info = seen()
    assert info is not None and info.reason == "preempted" and info.host == id_
    assert info.evidence is not None and "Server.SpotInstanceTermination" in info.evidence
    assert other.kill([str(handle)], force=True) == {str(handle): True}
    assert not world.machines.up


def test_a_kill_is_not_proved_by_other_instances_while_its_own_was_not_met(world: World) -> None:
    system = world.system(idle=300)
    assert system.lead()
    told = Notices(system)
    first, second = system.submit([world.submission(name, "sleep 600") for name in "ab"])
    told.until(lambda: len(told.starts) == 2)
    other = world.system()  # a fetcher, which knows both, and has not met one of them yet
    until(lambda: (other.status([str(first), str(second)]), len(other.hosts) == 2)[1], 30, 0.3)
    placed = other._placed.of(world.token("a"))
    assert placed is not None and other._fleet is not None
    other._fleet.close()
    other._fleet._use.pop(placed)
    other._places.forget([world.token("a"), world.token("b")])
    assert other.kill([str(first)], force=True) == {str(first): False}
    assert list(other.hosts) != [placed] and len(other.hosts) == 1
    other._places.forget([world.token("b")])
    assert other.kill([str(second)], force=True) == {str(second): True}


def test_another_region_in_the_configuration_proves_nothing(world: World, tmp_path: Path) -> None:
    system = world.system(idle=300)
    assert system.lead()
    told = Notices(system)
    (handle,) = system.submit([world.submission("a", "sleep 600")])
    assert isinstance(handle, str)
    told.until(lambda: told.starts)
    moved = world.system(region="us-east-1", subnet=None)
    until(lambda: (moved.status([handle]), moved._begun().whole)[1], 30, 0.3)
    moved._begun()._fates._proved.update(world.cloud.live())
    look = moved.status([handle])[handle]
    assert look.state is NativeState.UNKNOWN and "set region: eu-west-1" in (look.reason or "")
    assert moved.exit_info([handle]) == {} and moved.kill([handle], force=True) == {handle: False}
    assert moved.settle([Launch(token=world.token("a"), handle=handle)]) == {world.token("a"): Settled.UNKNOWN}
    with pytest.raises(SystemUnavailable, match="set region"):
        moved.stage_out(handle, tmp_path / "home", ["*"], print)
    assert system.status([handle])[handle].state is NativeState.RUNNING


def test_a_job_whose_instance_somebody_stopped_is_not_lost_while_it_may_be_started_again(world: World) -> None:
    system = world.system(idle=300)
    assert system.lead()
    told = Notices(system)
    handle, _ = system.submit([world.submission("a", "sleep 600"), world.submission("b", "sleep 600")])
    assert isinstance(handle, str)
    told.until(lambda: len(told.starts) == 2)
    placed = system._placed.of(world.token("a"))
    assert placed is not None
    world.cloud.fails["TerminateInstances"] = ["OperationNotPermitted"]
    world.cloud.ec2.stop_instances(InstanceIds=[placed])
    looks = []

    def gone() -> bool:
        told.look()
        looks.append(system.status([handle])[handle])
        return looks[-1].state is NativeState.ABSENT

    until(gone, 40, 0.3)
    assert looks[-1].reason == "its instance is gone" and looks[-1].host == placed
    assert any(placed in (look.reason or "") for look in looks if look.state is NativeState.UNKNOWN)


def test_what_cannot_be_noted_is_not_sent(world: World) -> None:
    system = world.system()
    assert system.lead()
    placed = world.folder / "spool" / "ec2" / "aws" / "placed"
    placed.rename(placed.with_name("full"))
    placed.mkdir()  # nothing can be written there
    told = Notices(system)
    (handle,) = system.submit([world.submission("a", "true")])
    told.until(lambda: system.hosts and all(host.ready for host in system.hosts.values()))
    time.sleep(1)
    told.look()
    assert not told.starts and system.status([str(handle)])[str(handle)].state is NativeState.SUBMITTED
    placed.rmdir()
    told.until(lambda: told.ends)


def test_a_launch_of_another_machine_is_not_taken_for_one_that_never_started(world: World) -> None:
    first, second = world.system("one"), world.system("two")  # two starters that began in the same second
    assert first.lead() and second.lead()
    second._since = first._since
    second._origin = dataclasses.replace(second._origin, since=first._since)
    told = Notices(first)
    (handle,) = first.submit([world.submission("a", "sleep 600")])
    told.until(lambda: told.starts)
    (id_,) = world.cloud.live(record=world.cloud.record)
    world.cloud.ec2.terminate_instances(InstanceIds=[id_])
    launch = Launch(token=world.token("a"), handle=str(handle))
    answer = [Settled.UNKNOWN]

    def settled() -> bool:
        answer[0] = second.settle([launch])[launch.token]  # type: ignore[call-overload]
        return answer[0] is not Settled.UNKNOWN

    until(settled, 30, 0.3)
    assert answer[0] is Settled.LOST
    old = handle.replace(f"{first._since}@", "1000@") if isinstance(handle, str) else ""
    world.cloud.ec2.create_tags(Resources=[id_], Tags=[{"Key": "jobmill:record", "Value": "other"}])  # as if forgotten
    until(lambda: second._begun().instances == [] and second._begun().whole, 30, 0.3)
    assert second.settle([Launch(token=world.token("b"), handle=old)]) == {world.token("b"): Settled.LOST}


def test_a_key_that_cannot_be_read_is_the_system_s_own_matter(world: World, tmp_path: Path) -> None:
    system = world.system(key=str(tmp_path / "none"))
    assert system.lead() and system.ends() == []
    with pytest.raises(SystemUnavailable, match="private key"):
        system.submit([world.submission("a", "true")])
    system.withdraw([world.token("a")])
    subprocess.run(["cp", world.cloud.folder / "id", tmp_path / "none"], check=True)
    assert system.lead()
    told = Notices(system)
    system.submit([world.submission("a", "true")])
    told.until(lambda: told.ends)


def test_a_full_disk_under_the_known_hosts_stops_nobody(world: World) -> None:
    system = world.system()
    known = world.folder / "spool" / "ec2" / "aws" / "known_hosts"
    assert system.lead()
    told = Notices(system)
    system.submit([world.submission("a", "true")])
    until(lambda: system._fleet is not None and system._fleet.hosts(), 30)
    known.rename(known.with_name("full"))
    known.touch()  # nothing can be written there
    system.ends()
    assert system.hosts == {}
    known.unlink()
    told.until(lambda: told.ends)


def test_a_host_with_another_key_is_not_talked_to(world: World, tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "other"], check=True)
    world.machines.host_key = (tmp_path / "other").read_text()
    system = world.system()
    assert system.lead()
    told = Notices(system)
    (handle,) = system.submit([world.submission("a", "true")])
    until(lambda: world.machines.up)
    time.sleep(8)
    told.look()
    assert system.hosts == {} and not told.starts
    assert system.status([str(handle)])[str(handle)].state is NativeState.SUBMITTED
    (id_,) = world.machines.up
    assert "Accepted" not in (world.machines.folder(id_) / "sshd.log").read_text()


def test_a_leader_that_is_gone_leaves_an_instance_that_ends_itself(world: World) -> None:
    system = world.system(lease=8, idle=300)
    assert system.lead()
    told = Notices(system)
    system.submit([world.submission("a", "sleep 600")])
    told.until(lambda: told.starts)
    time.sleep(12)
    told.look()
    assert world.cloud.live(record=world.cloud.record)  # it is renewed
    system.close()
    until(lambda: not world.cloud.live(record=world.cloud.record), 40)
    until(lambda: not world.machines.up)


def test_who_leads_next_adopts_what_runs_and_ends_the_rest(world: World) -> None:
    first = world.system(idle=300)
    assert first.lead()
    told = Notices(first)
    (handle,) = first.submit([world.submission("a", "sleep 8; echo done")])
    told.until(lambda: told.starts)
    first.close()
    second = world.system(idle=0)
    assert second.lead()  # knows the record from before
    answers: dict[str, Any] = {}

    def settled() -> bool:
        second.ends()
        launches = [Launch(token=world.token("a"), handle=str(handle)), Launch(token=world.token("b"))]
        answers.update(second.settle(launches))
        return Settled.UNKNOWN not in answers.values()

    until(settled, 30, 0.3)
    assert answers == {world.token("a"): handle, world.token("b"): Settled.NOT_STARTED}
    until(lambda: second.exit_info([str(handle)]), 30, 0.3)
    assert second.logs(str(handle), "stdout", 0) == b"done\n"
    second.forget([str(handle)])
    later = Notices(second)
    later.until(lambda: not world.cloud.live(record=world.cloud.record))
    assert world.cloud.count("RunInstances") == 1


def test_what_waits_while_there_is_no_capacity_is_given_back_with_the_reason(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobmill.systems.ec2.PATIENCE", 0.5)
    world.cloud.fails["RunInstances"] = ["InstanceLimitExceeded"] * 9
    system = world.system()
    assert system.lead()
    told = Notices(system)
    (handle,) = system.submit([world.submission("a", "true")])
    until(lambda: "InstanceLimitExceeded" in (system.status([str(handle)])[str(handle)].reason or ""), 30, 0.2)
    told.until(lambda: told.ends)
    info = told.ends[world.token("a")]
    assert info.reason == "unreachable" and info.message is not None and "current instance limit" in info.message


def test_a_job_that_is_withdrawn_before_its_instance_is_up_lets_it_go(world: World) -> None:
    system = world.system()
    assert system.lead()
    told = Notices(system)
    world.machines.boots = False
    system.submit([world.submission("a", "true")])
    until(lambda: world.cloud.live(record=world.cloud.record))
    system.withdraw([world.token("a")])
    told.until(lambda: told.ends)
    assert told.ends[world.token("a")].reason == "withdrawn"
    world.machines.boots = True
    told.until(lambda: not world.cloud.live(record=world.cloud.record))


def test_its_job_class_and_its_checks(world: World, tmp_path: Path) -> None:
    system = world.system(budget={"per_day": 5, "price": {"t3.micro": 0.0104}})
    assert class_for(None, "ec2") is job_class("EC2")
    spec = JobSpec.from_canonical('{"command":"true","ClassType":"EC2"}')
    job = class_for("EC2", "ec2")(spec, job_id="a", run=1, record="r.1", system=system, spool=tmp_path)
    assert job.prepare().argv == ("/bin/sh", "-c", "true")
    checks = {check.name: check for check in system.check()}
    assert all(check.ok for check in checks.values()), checks
    assert "dry run" in checks["launch"].detail and "$0 in the last 24 hours" in checks["spend"].detail
    world.cloud.fails["RunInstances"] = ["UnauthorizedOperation"]
    assert not {check.name: check for check in system.check()}["launch"].ok
    nobody = world.system(key=str(tmp_path / "none"))
    (check,) = nobody.check()
    assert not check.ok and "private key" in check.detail
