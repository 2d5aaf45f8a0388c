"""The fleet against moto: launched once whatever breaks, ended for certain, within the budget, no other's touched."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import ec2world
import pytest
from ec2world import CREDENTIALS, IMAGE, PORT, REGION, Cloud, cloud_in, until

from jobmill.systems import ec2_cloud
from jobmill.systems.ec2_claims import HOLD
from jobmill.systems.ec2_fleet import Fleet
from jobmill.systems.ec2_fleet_host import FleetHost
from jobmill.systems.ec2_host_key import HostKeys
from jobmill.systems.ec2_options import Ec2Options
from jobmill.systems.ec2_plan import Want

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with cloud_in(tmp_path_factory.mktemp("ec2")) as cloud:
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", cloud.folder / "id"], check=True)
        yield cloud


@pytest.fixture
def cloud(whole: Cloud, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    for key, value in CREDENTIALS.items():
        monkeypatch.setenv(key, value)
    whole.forget()
    return whole


def options(cloud: Cloud, **more: Any) -> Ec2Options:
    given = {
        "image": IMAGE,
        "instance_type": "t3.micro",
        "key": str(cloud.folder / "id"),
        "region": REGION,
        "endpoint_url": cloud.url,
        "subnet": cloud.subnet,
        "port": PORT,
        "max_instances": 3,
        "idle": 0,
    }
    return Ec2Options.of("aws", {**given, **more})


class Ways:
    """Stands for the way to the instances: what each visit says, and which leases were renewed."""

    def __init__(self) -> None:
        self.answers: dict[str, int | None] = {}
        self.usual: int | None = 0
        self.renewed: list[str] = []
        self.kept: list[str] = []

    def keep(self, names: Collection[str]) -> None:
        self.kept = sorted(names)

    def __call__(self, host: FleetHost, *, renew: bool) -> int | None:
        if renew:
            self.renewed.append(host.name)
        return self.answers.get(host.name, self.usual)


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def fleet(
    cloud: Cloud, tmp_path: Path, visit: Any = None, *, leads: bool = True, clock: Any = None, **more: Any
) -> Fleet:
    given = options(cloud, **more)
    made = Fleet(
        name="aws",
        options=given,
        keys=HostKeys(given.key),
        folder=tmp_path,
        visit=visit or Ways(),
        leads=leads,
        clock=clock or time.monotonic,
    )
    made.serve(cloud.record)
    return made


def wants(cloud: Cloud, *names: str) -> list[Want]:
    return [Want(intent=f"{cloud.record}.1:{name}") for name in names]


def ended(cloud: Cloud, one: Fleet, turns: int = 5) -> None:
    """Let nobody wait, and see that all is gone, and that the fleet knows it."""
    one.want([])
    for _ in range(turns):
        one.turn()
        if not cloud.live(record=cloud.record):
            break
    assert cloud.live(record=cloud.record) == []
    one.turn()
    assert all(it.state == "terminated" for it in one.instances)


def test_without_a_record_nothing_is_asked(cloud: Cloud, tmp_path: Path) -> None:
    one = fleet(cloud, tmp_path)
    one.serve("")
    one.want(wants(cloud, "a"))
    one.turn()
    assert cloud.calls == []


def test_from_a_waiting_job_to_the_end_of_its_instance(cloud: Cloud, tmp_path: Path) -> None:
    ways = Ways()
    one = fleet(cloud, tmp_path, ways)
    one.want(wants(cloud, "a"))
    one.turn()
    (id_,) = cloud.live(record=cloud.record, system="aws")
    assert one.hosts() == []  # nobody has been there
    one.turn()
    (host,) = one.hosts()
    assert (host.name, host.port, host.user) == (id_, PORT, "ec2-user") and host.address.startswith(cloud.net)
    assert host.host_key == HostKeys(host.key).public(f"{cloud.record}.1:a:0")
    assert one.place(id_, 1)
    one.want([])
    one.turn()
    assert cloud.live(record=cloud.record) == [id_]
    ways.usual = 1  # its result was not fetched yet
    one.report({})
    one.turn()
    assert cloud.live(record=cloud.record) == [id_] and id_ in ways.renewed
    ways.usual = 0
    ways.answers.clear()
    one.report({})
    ended(cloud, one)
    assert not one.place(id_, 1)
    assert one.fate(id_) == "node_fail" and one.fate("i-none") is None
    assert cloud.count("RunInstances") == 1


def test_a_claim_that_nobody_renews_keeps_no_instance(cloud: Cloud, tmp_path: Path) -> None:
    one = fleet(cloud, tmp_path, clock=(clock := Clock()))
    (want,) = wants(cloud, "a")
    assert one.claim("t:a:1", want) is None
    one.turn()
    one.turn()
    (id_,) = cloud.live(record=cloud.record)
    assert one.claim("t:a:1", want) == id_
    for _ in range(3):
        clock.now += HOLD - 1
        one.renew(["t:a:1", "t:b:1"])
        one.turn()
        assert cloud.live(record=cloud.record) == [id_]
        assert not one.place(id_, 1, "t:b:1")
    clock.now += HOLD - 1
    assert one.claim("t:a:1", want) == id_  # renews, too
    clock.now += HOLD + 1
    ended(cloud, one)
    assert one.claim("t:a:1", want) is None
    clock.now += HOLD + 1  # and whoever waited is gone
    one.turn()
    assert cloud.live(record=cloud.record) == []


def test_everything_that_keeps_it_from_being_forgotten_is_in_the_one_call(cloud: Cloud, tmp_path: Path) -> None:
    one = fleet(cloud, tmp_path, spot=True, max_price=0.005, tags={"team": "x"}, key_name="k", security_groups=["sg-1"])
    one.want(wants(cloud, "a"))
    cloud.fails["RunInstances"] = ["InvalidGroup.NotFound"]
    one.turn()
    (asked,) = [asked for action, asked in cloud.calls if action == "RunInstances"]
    given = "TagSpecification.1.Tag"
    tags = {asked[f"{given}.{n}.Key"][0]: asked[f"{given}.{n}.Value"][0] for n in range(1, 7)}
    assert tags == {
        "team": "x",
        "Name": "jobmill aws",
        "jobmill:record": cloud.record,
        "jobmill:system": "aws",
        "jobmill:launch": f"{cloud.record}.1:a:0",
        "jobmill:lease": "900",
    }
    assert asked["InstanceInitiatedShutdownBehavior"] == ["terminate"]
    assert asked["InstanceMarketOptions.SpotOptions.MaxPrice"] == ["0.005"]
    assert asked["MetadataOptions.HttpTokens"] == ["required"]
    assert len(asked["ClientToken"][0]) == 64
    assert "InvalidGroup.NotFound" in one.held


def test_a_launch_whose_reply_is_lost_stays_one(cloud: Cloud, tmp_path: Path) -> None:
    one = fleet(cloud, tmp_path, clock=(clock := Clock()))
    one.want(wants(cloud, "a"))
    cloud.cuts["RunInstances"] = 3  # all that botocore tries
    one.turn()
    assert len(cloud.live(record=cloud.record)) == 1
    cloud.blind = 2  # and EC2 does not show it yet
    clock.now += 60
    one.turn()
    clock.now += 60
    one.turn()
    assert cloud.count("RunInstances") == 4 and len(cloud.live(record=cloud.record)) == 1
    ended(cloud, one)


def test_a_launch_whose_reply_is_lost_before_it_is_throttled_stays_one(cloud: Cloud, tmp_path: Path) -> None:
    one = fleet(cloud, tmp_path, clock=(clock := Clock()), instance_type=["t3.micro", "t3.small"])
    one.want(wants(cloud, "a"))
    cloud.fails["RunInstances"] = ["InsufficientInstanceCapacity"] * 3
    cloud.cuts["RunInstances"] = 1
    cloud.on["after RunInstances"] = lambda: cloud.fails.update(RunInstances=["RequestLimitExceeded"] * 2)
    one.turn()
    assert "RequestLimitExceeded" in one.held and len(cloud.live(record=cloud.record)) == 1
    cloud.blind = 1
    clock.now += 60
    one.turn()
    assert len(cloud.live(record=cloud.record)) == 1
    ended(cloud, one)


def test_two_leaders_on_two_machines_launch_the_same(cloud: Cloud, tmp_path: Path) -> None:
    fleets = [fleet(cloud, tmp_path / name) for name in "ab"]
    for one in fleets:
        one.want(wants(cloud, "a", "b"))
        cloud.blind = 1
        one.turn()
    assert len(cloud.live(record=cloud.record)) == 2
    for one in fleets:
        ended(cloud, one)


def test_a_second_life_of_a_job_gets_a_second_instance(cloud: Cloud, tmp_path: Path) -> None:
    one = fleet(cloud, tmp_path)
    one.want(wants(cloud, "a"))
    one.turn()
    ended(cloud, one)
    late = fleet(cloud, tmp_path / "late")
    late.want(wants(cloud, "a"))
    cloud.blind = 2  # EC2 shows an ended instance for an hour, and knows its client token for a day
    late.turn()
    assert cloud.live(record=cloud.record) == []
    late.turn()
    assert len(cloud.live(record=cloud.record)) == 1
    ended(cloud, late)


def test_another_configuration_with_the_same_intent_does_not_launch_twice(cloud: Cloud, tmp_path: Path) -> None:
    one = fleet(cloud, tmp_path)
    one.want(wants(cloud, "a"))
    one.turn()
    other = fleet(cloud, tmp_path / "other", tags={"new": "yes"})
    other.want(wants(cloud, "a"))
    cloud.blind = 1
    other.turn()  # IdempotentParameterMismatch
    other.turn()  # now it is seen
    other.turn()
    assert len(cloud.live(record=cloud.record)) == 1
    ended(cloud, other)


def test_where_ec2_has_none_of_a_type_the_next_one_is_taken(cloud: Cloud, tmp_path: Path) -> None:
    one = fleet(cloud, tmp_path, instance_type=["t3.micro", "t3.small"])
    one.want(wants(cloud, "a"))
    cloud.fails["RunInstances"] = ["InsufficientInstanceCapacity"] * 3  # a server's error: tried thrice
    one.turn()
    (found,) = [it for it in one.instances if it.live]
    assert found.type == "t3.small" and one.held == ""
    ended(cloud, one)


@pytest.mark.parametrize(
    ("code", "times"), [("InstanceLimitExceeded", 1), ("UnauthorizedOperation", 1), ("RequestLimitExceeded", 3)]
)
def test_a_refused_launch_is_back_pressure_with_ec2_s_own_words(
    cloud: Cloud, tmp_path: Path, code: str, times: int
) -> None:
    one = fleet(cloud, tmp_path, clock=(clock := Clock()))
    one.want(wants(cloud, "a"))
    cloud.fails["RunInstances"] = [code] * times
    one.turn()
    assert code in one.held and "next try in 10 s" in one.held
    calls = cloud.count("RunInstances")
    assert calls == times
    clock.now += 5
    one.turn()
    assert cloud.count("RunInstances") == calls and code in one.held
    clock.now += 6
    one.turn()
    assert len(cloud.live(record=cloud.record)) == 1
    one.turn()
    assert one.held == ""
    ended(cloud, one)


def test_an_outage_of_ec2_pauses_the_looks_and_heals(cloud: Cloud, tmp_path: Path) -> None:
    one = fleet(cloud, tmp_path, clock=(clock := Clock()))
    one.want(wants(cloud, "a"))
    cloud.fails["DescribeInstances"] = ["RequestLimitExceeded"] * 9
    for _ in range(3):
        one.turn()
    assert "RequestLimitExceeded" in one.held and cloud.count("DescribeInstances") == 9
    one.turn()  # paused
    assert cloud.count("DescribeInstances") == 9
    clock.now += 2
    one.turn()
    assert one.held == "" and len(cloud.live(record=cloud.record)) == 1
    ended(cloud, one)


def test_the_budget_is_a_ceiling(cloud: Cloud, tmp_path: Path) -> None:
    budget = {"per_hour": 0.025, "per_day": 1, "price": {"t3.micro": 0.0104}}
    one = fleet(cloud, tmp_path, budget=budget)
    one.want(wants(cloud, "a", "b", "c"))
    one.turn()
    one.turn()
    assert len(cloud.live(record=cloud.record)) == 2 and "budget of $0.025 an hour" in one.held
    ended(cloud, one)


def test_nothing_that_lacks_one_of_both_tags_is_touched(cloud: Cloud, tmp_path: Path) -> None:
    def run(**tags: str) -> str:
        listed = [{"Key": key.replace("_", ":"), "Value": value} for key, value in tags.items()]
        specs = [{"ResourceType": "instance", "Tags": listed}] if listed else []
        made = cloud.ec2.run_instances(
            ImageId=IMAGE, MinCount=1, MaxCount=1, SubnetId=cloud.subnet, TagSpecifications=specs
        )
        return str(made["Instances"][0]["InstanceId"])

    foreign = [
        run(),
        run(Name="jobmill aws"),
        run(jobmill_record=cloud.record),
        run(jobmill_system="aws"),
        run(jobmill_record=cloud.record + "0", jobmill_system="aws"),
        run(jobmill_record=cloud.record, jobmill_system="aws-2"),
        run(jobmill_record=cloud.record, jobmill_system="AWS"),
        run(jobmill_record="*", jobmill_system="*"),
    ]
    strange = run(jobmill_record=cloud.record, jobmill_system="aws")  # both, and no launch of ours: an orphan
    ours = fleet(cloud, tmp_path)
    assert ours.turn() and [it.id for it in ours.instances] == [strange]
    later = Fleet(
        name="aws",
        options=ours.options,
        keys=HostKeys(ours.options.key),
        folder=tmp_path,
        visit=Ways(),
        leads=True,
        now=lambda: time.time() + 601,
    )
    later.serve(cloud.record)
    later.turn()
    assert sorted(cloud.live()) == sorted(foreign)
    wild = fleet(cloud, tmp_path / "wild")
    wild.serve("*")
    wild.turn()
    assert wild.instances == []
    for _, asked in [call for call in cloud.calls if call[0] == "TerminateInstances"]:
        assert [value for key, value in asked.items() if key.startswith("InstanceId")] == [[strange]]


def test_an_end_is_asked_for_until_it_is_seen(cloud: Cloud, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    one = fleet(cloud, tmp_path, clock=(clock := Clock()))
    one.want(wants(cloud, "a", "b"))
    one.turn()
    one.want([])
    cloud.fails["TerminateInstances"] = ["OperationNotPermitted"] * 3 + ["InternalError"] * 3
    with caplog.at_level(logging.ERROR):
        one.turn()
    assert "EC2 does not end" in caplog.text and len(cloud.live(record=cloud.record)) == 2
    one.turn()  # not asked again at once
    assert cloud.count("TerminateInstances") == 3
    clock.now += 6
    one.turn()
    assert len(cloud.live(record=cloud.record)) == 2
    ended(cloud, one)


def test_one_that_was_placed_on_meanwhile_is_not_ended(cloud: Cloud, tmp_path: Path) -> None:
    one = fleet(cloud, tmp_path)
    one.want(wants(cloud, "a"))
    one.turn()
    one.turn()
    (id_,) = cloud.live(record=cloud.record)
    one.want([])
    cloud.on["after DescribeInstances"] = lambda: assert_(one.place(id_, 1))
    one.turn()
    assert cloud.live(record=cloud.record) == [id_]
    one.report({})
    ended(cloud, one)


def assert_(true: bool) -> None:
    assert true


def test_a_stopped_instance_is_ended_too(cloud: Cloud, tmp_path: Path) -> None:
    one = fleet(cloud, tmp_path)
    one.want(wants(cloud, "a"))
    one.turn()
    (id_,) = cloud.live(record=cloud.record)
    cloud.ec2.stop_instances(InstanceIds=[id_])
    one.want([])
    one.turn()
    one.turn()
    assert [it.state for it in one.instances] == ["terminated"]


def test_a_spot_instance_that_ec2_took_back_is_told_apart(cloud: Cloud, tmp_path: Path) -> None:
    one = fleet(cloud, tmp_path, spot=True, idle=1000)
    one.want(wants(cloud, "a", "b"))
    one.turn()
    one.want([])
    first, second = cloud.live(record=cloud.record)
    assert one.fate(first) is None
    cloud.take_away(first)
    cloud.ec2.terminate_instances(InstanceIds=[second])
    one.turn()
    assert (one.fate(first), one.fate(second)) == ("preempted", "node_fail")


def test_who_does_not_lead_renews_where_jobs_are_and_changes_nothing(cloud: Cloud, tmp_path: Path) -> None:
    leader = fleet(cloud, tmp_path)
    leader.want(wants(cloud, "a", "b"))
    leader.turn()
    first, second = cloud.live(record=cloud.record)
    ways = Ways()
    ways.answers[first] = 1
    clock = Clock()
    looks = fleet(cloud, tmp_path / "other", ways, leads=False, clock=clock)
    looks.want(wants(cloud, "c", "d", "e", "f"))
    for _ in range(3):
        looks.turn()
        clock.now += 100
    assert {host.name for host in looks.hosts()} == {first, second}
    assert set(ways.renewed) == {first}
    assert len(cloud.live(record=cloud.record)) == 2 and cloud.count("RunInstances") == 2
    ended(cloud, leader)


LEADER = """
import sys, time
sys.path[:0] = sys.argv[1:3]
from pathlib import Path
from test_ec2_fleet import Ways, fleet, wants
class Known:
    def __init__(self, url, folder, subnet, record):
        self.url, self.folder, self.subnet, self.record = url, Path(folder), subnet, record
cloud = Known(*sys.argv[3:7])
one = fleet(cloud, Path(sys.argv[7]))
one.want(wants(cloud, "a", "b"))
for n in range(40):
    one.turn()
    if n == 2:
        one.want([])
    time.sleep(0.05)
"""


@pytest.mark.parametrize("action", ["DescribeInstances", "RunInstances", "TerminateInstances"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_whoever_leads_after_a_kill_ends_what_there_is(cloud: Cloud, tmp_path: Path, when: str, action: str) -> None:
    here = Path(__file__).parent
    words = [
        str(here),
        str(here.parent),
        cloud.url,
        str(cloud.folder),
        cloud.subnet,
        cloud.record,
        str(tmp_path / "spend"),
    ]
    leader = subprocess.Popen([sys.executable, "-c", textwrap.dedent(LEADER), *words])
    cloud.on[f"{when} {action}"] = lambda: os.kill(leader.pid, signal.SIGKILL)
    try:
        assert leader.wait(60) == -signal.SIGKILL
    finally:
        leader.kill()
        leader.wait()
    one = fleet(cloud, tmp_path / "next")
    if action == "RunInstances":
        one.want(wants(cloud, "a", "b"))
        cloud.blind = 1  # the one that was launched last may not be shown yet
        one.turn()
        assert len(cloud.live(record=cloud.record)) == 2
    ended(cloud, one)


def test_its_thread_does_all_that_and_stops(cloud: Cloud, tmp_path: Path) -> None:
    one = fleet(cloud, tmp_path)
    began = time.monotonic()
    one.start()
    one.want(wants(cloud, "a"))
    assert time.monotonic() - began < 0.1  # who launches jobs never waits for EC2
    until(lambda: len(cloud.live(record=cloud.record)) == 1)
    until(lambda: len(one.hosts()) == 1)
    one.want([])
    until(lambda: not cloud.live(record=cloud.record), 30)
    one.close()


def test_a_library_that_raises_anything_does_not_end_the_thread(
    cloud: Cloud, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[float] = []

    def broken() -> ec2_cloud.Cloud:
        calls.append(time.monotonic())
        raise RuntimeError("a library's own")

    given = options(cloud)
    one = Fleet(
        name="aws", options=given, keys=HostKeys(given.key), folder=tmp_path, visit=Ways(), leads=True, cloud=broken
    )
    one.serve(cloud.record)
    one.start()
    until(lambda: len(calls) == 1)
    one.want(wants(cloud, "a"))
    until(lambda: len(calls) == 2)
    one.close()
    assert "a library's own" in caplog.text


def test_a_thousand_instances_are_told_page_by_page_or_not_at_all(
    cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ec2_cloud, "PAGE", 100)
    one = fleet(cloud, tmp_path)
    one.want(wants(cloud, "a"))
    one.turn()
    cloud.copies = 1080
    cloud.calls.clear()
    there = ec2_cloud.Cloud(region=REGION, endpoint_url=cloud.url)
    assert len({it.id for it in there.instances(cloud.record, "aws")}) == 1080
    assert cloud.count("DescribeInstances") == 11
    cloud.on["after DescribeInstances"] = lambda: cloud.fails.update(DescribeInstances=["UnauthorizedOperation"])
    with pytest.raises(ec2_cloud.SystemUnavailable, match="UnauthorizedOperation"):
        there.instances(cloud.record, "aws")
    cloud.copies = 1
    ended(cloud, one)


def test_a_new_leader_that_does_not_reach_an_old_instance_at_once_does_not_end_it(cloud: Cloud, tmp_path: Path) -> None:
    first = fleet(cloud, tmp_path)
    first.want(wants(cloud, "a"))
    first.turn()
    (id_,) = cloud.live(record=cloud.record)
    ways = Ways()
    ways.answers[id_] = None  # the network is down, or the key file was changed
    for more in ({}, {"address": "public"}):
        given = options(cloud, **more)
        later = Fleet(
            name="aws",
            options=given,
            keys=HostKeys(given.key),
            folder=tmp_path,
            visit=ways,
            leads=True,
            now=lambda: time.time() + 7200,
        )
        later.serve(cloud.record)
        later.turn()
        later.turn()
        assert cloud.live(record=cloud.record) == [id_]
    ended(cloud, first)


def test_an_outage_of_ec2_ends_no_job(cloud: Cloud, tmp_path: Path) -> None:
    one = fleet(cloud, tmp_path, ways := Ways(), clock=(clock := Clock()), idle=300)
    one.want(wants(cloud, "a", "b"))
    one.turn()
    one.want([])
    one.turn()
    busy, _ = cloud.live(record=cloud.record)
    assert one.place(busy, 1)
    ways.answers[busy] = 1
    cloud.fails["DescribeInstances"] = ["InternalError"] * 1000
    ways.renewed.clear()
    for _ in range(40):
        clock.now += min(one.turn(), 225)
    assert clock.now > 2000
    assert set(ways.renewed) == {busy} and len(ways.renewed) >= 10  # the other's lease may end it


def test_credentials_that_ran_out_are_read_anew(cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(key)
    file = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))

    def log_in(key: str) -> None:
        file.write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = x\n")
        cloud.key = key

    log_in("first")
    one = fleet(cloud, tmp_path, clock=(clock := Clock()))
    one.turn()
    assert one.held == ""
    cloud.key = "second"
    for _ in range(4):
        one.turn()
    assert "RequestExpired" in one.held and "log in again" in one.held
    log_in("second")
    clock.now += 60
    one.turn()
    assert one.held == ""


def test_a_page_of_a_proxy_is_no_answer_of_ec2(cloud: Cloud, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    one = fleet(cloud, tmp_path, clock=(clock := Clock()))
    one.want(wants(cloud, "a"))
    cloud.nonsense["DescribeInstances"] = 1
    one.turn()
    cloud.nonsense["RunInstances"] = 1  # it may have been launched
    one.turn()
    assert len(cloud.live(record=cloud.record)) == 1 and "RunInstances" in one.held
    cloud.blind = 1
    clock.now += 60
    one.turn()
    assert len(cloud.live(record=cloud.record)) == 1
    ended(cloud, one)
    assert "Traceback" not in caplog.text


def test_many_launches_do_not_keep_the_leases_waiting(
    cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, launch = Clock(), ec2_cloud.Cloud.launch

    def slow(self: ec2_cloud.Cloud, request: Any) -> Any:
        clock.now += 6
        return launch(self, request)

    monkeypatch.setattr(ec2_cloud.Cloud, "launch", slow)
    one = fleet(cloud, tmp_path, clock=clock, max_instances=5)
    one.want(wants(cloud, *"abcde"))
    for n in (2, 4, 5):
        one.turn()
        assert len(cloud.live(record=cloud.record)) == n
    ended(cloud, one)


def test_one_that_was_closed_meanwhile_launches_nothing(cloud: Cloud, tmp_path: Path) -> None:
    one = fleet(cloud, tmp_path)
    one.want(wants(cloud, "a"))
    cloud.on["after DescribeInstances"] = one.close
    one.turn()
    assert not cloud.count("RunInstances")


def test_what_only_a_decoder_reads_is_not_told(cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = (
        "You are not authorized to perform: ec2:RunInstances. Encoded authorization failure message: " + "aB3-_" * 99
    )
    monkeypatch.setitem(ec2world.WORDS, "UnauthorizedOperation", (403, words))
    one = fleet(cloud, tmp_path)
    one.want(wants(cloud, "a"))
    cloud.fails["RunInstances"] = ["UnauthorizedOperation"]
    one.turn()
    assert "perform: ec2:RunInstances. (see the rights" in one.held and len(one.held) < 300


def test_tags_that_somebody_removed_prove_no_end(cloud: Cloud, tmp_path: Path) -> None:
    one = fleet(cloud, tmp_path, clock=(clock := Clock()), idle=300)
    one.want(wants(cloud, "a"))
    one.turn()
    one.turn()
    (id_,) = cloud.live(record=cloud.record)
    one.want([])
    cloud.ec2.delete_tags(Resources=[id_], Tags=[{"Key": "jobmill:system"}])
    for _ in range(10):
        assert one.fate(id_) is None and one.fate("i-0123456789abcdef0") == ("node_fail" if clock.now >= 1060 else None)
        clock.now += 20
        one.turn()
    assert one.instances == [] and "removed our tags" in one.words(id_)
    cloud.ec2.terminate_instances(InstanceIds=[id_])
    one.turn()
    assert one.fate(id_) == "node_fail"


def test_what_never_comes_up_is_not_launched_again_and_again(cloud: Cloud, tmp_path: Path) -> None:
    ways = Ways()
    ways.usual = None  # a wrong image, a wrong security group
    one = fleet(cloud, tmp_path, ways, clock=(clock := Clock()), max_instances=2, boot=60)
    one.want(wants(cloud, "a", "b"))
    there = []
    for _ in range(120):
        one.turn()
        there.append(len(cloud.live(record=cloud.record)))
        clock.now += 60
    assert cloud.count("RunInstances") <= 10 and sum(there) < 20  # minutes of two hours
    assert "did not come up in 60 s" in one.held and "next try" in one.held
    ways.usual = 0  # mended
    for _ in range(62):
        one.turn()
        clock.now += 60
        if len(one.hosts()) == 2:
            break
    else:
        pytest.fail("it does not launch any more")
    ended(cloud, one)


def test_what_ends_at_once_is_told_with_ec2_s_words(cloud: Cloud, tmp_path: Path) -> None:
    one = fleet(cloud, tmp_path, clock=(clock := Clock()), visit=dead())
    one.want(wants(cloud, "a"))
    for _ in range(30):
        one.turn()
        for id_ in cloud.live(record=cloud.record):  # a disk whose key it may not use: pending, then terminated
            cloud.ec2.terminate_instances(InstanceIds=[id_])
        clock.now += 5
    assert cloud.count("RunInstances") <= 3 and "did not come up: " in one.held, one.held
    assert "initiated" in one.held  # EC2's words


def dead() -> Ways:
    ways = Ways()
    ways.usual = None
    return ways


def test_a_clock_ahead_of_ec2_s_ends_nothing_that_boots(cloud: Cloud, tmp_path: Path) -> None:
    one = fleet(cloud, tmp_path, dead(), boot=60)
    one._now = lambda: time.time() + 240
    one.want(wants(cloud, "a"))
    for _ in range(3):
        one.turn()
    assert len(cloud.live(record=cloud.record)) == 1 and cloud.count("RunInstances") == 1


def test_nothing_is_kept_for_an_instance_that_is_gone(cloud: Cloud, tmp_path: Path) -> None:
    one = fleet(cloud, tmp_path, ways := Ways())
    one.want(wants(cloud, "a"))
    one.turn()
    one.turn()
    assert ways.kept == cloud.live(record=cloud.record)
    ended(cloud, one)
    one.turn()
    assert ways.kept == []


def test_a_thousand_hosts_are_named_in_no_time(cloud: Cloud) -> None:
    keys = HostKeys(cloud.folder / "id")
    first = [keys.public(f"r.1:{n}:0") for n in range(1000)]
    began = time.monotonic()
    assert [keys.public(f"r.1:{n}:0") for n in range(1000)] == first
    assert time.monotonic() - began < 0.05
