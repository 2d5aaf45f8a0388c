"""The doorbell: wakes at once, times out and is armed again, and a connection that is dead is dropped."""

from __future__ import annotations

import select
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Server
from driver import Driver
from servers import locate

from jobmill.errors import Evicted, ServerUnavailable
from jobmill.ledger import admission, connection, doorbell
from jobmill.ledger.admission import Batch
from jobmill.ledger.doorbell import Doorbell
from jobmill.ledger.exchange import Call
from jobmill.ledger.membership import Membership
from jobmill.ledger.record import Record


@pytest.fixture
def driver(server: Server) -> Driver:
    return Driver(Record(server.url))


def taking(member: Membership) -> Call[Batch]:
    return admission.taking(member, "Job_Queue", 250)


def ready(bell: Doorbell, seconds: float) -> bool:
    return bool(select.select([bell.fileno()], [], [], seconds)[0])


@pytest.fixture
def bell(driver: Driver) -> Iterator[Doorbell]:
    bell = Doorbell(driver.record, "Job_Queue", driver.manager.name, lambda: taking(driver.manager))
    yield bell
    bell.drop()


def test_it_wakes_within_50_ms_and_the_entry_stands_in_the_private_list(driver: Driver, bell: Doorbell) -> None:
    bell.arm()
    assert bell.armed
    assert not ready(bell, 0.02)
    times = []
    for _ in range(5):
        bell.arm()
        begin = time.monotonic()
        driver.push("x")
        assert ready(bell, 2)
        times.append(time.monotonic() - begin)
        assert bell.answer()
        assert not bell.armed
    assert sorted(times)[2] < 0.05
    assert len(admission.take(driver.manager, "Job_Queue", 250).entries) == 5


def test_a_move_that_the_server_breaks_off_is_an_outage_that_passes(driver: Driver, bell: Doorbell) -> None:
    bell.arm()  # a failover does the same: the instance becomes a replica
    clients = driver.record.client.client_list()
    while not (blocked := [c["id"] for c in clients if c["cmd"].lower() == "blmove" and "b" in c["flags"]]):
        clients = driver.record.client.client_list()
    driver.record.call("CLIENT", "UNBLOCK", blocked[0], "ERROR")
    assert ready(bell, 1)
    with pytest.raises(ServerUnavailable, match="cannot serve now: UNBLOCKED"):
        bell.answer()
    assert not bell.armed


def test_it_wakes_for_what_was_there_before(driver: Driver, bell: Doorbell) -> None:
    driver.push("x", "y")
    bell.arm()
    assert ready(bell, 1)
    batch = bell.answer()
    assert batch is not None and list(batch.entries) == [b"x", b"y"]  # the look that travels with the move takes more
    assert driver.where("Job_Queue") == []


def test_it_times_out_and_is_armed_again(driver: Driver, bell: Doorbell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doorbell, "BLOCK", 0.1)
    bell = Doorbell(driver.record, "Job_Queue", driver.manager.name, lambda: taking(driver.manager))
    bell.arm()
    bell.arm()  # one move under way is enough
    assert ready(bell, 2)
    assert bell.answer() is None
    assert not bell.armed
    bell.arm()
    driver.push("x")
    assert ready(bell, 2)
    assert bell.answer()
    assert not ready(bell, 0.05)
    bell.drop()


def test_a_move_that_was_under_way_when_it_was_dropped_fills_the_private_list_at_most(
    driver: Driver, bell: Doorbell
) -> None:
    bell.arm()
    bell.drop()
    assert not bell.armed
    driver.push("x")
    found = admission.take(driver.manager, "Job_Queue", 250)
    assert list(found.entries) == [b"x"]
    bell.arm()  # and it can be used again
    driver.push("y")
    assert ready(bell, 1)
    assert bell.answer()


def test_a_connection_that_was_cut_is_told_and_armed_anew(driver: Driver, bell: Doorbell) -> None:
    bell.arm()
    assert not ready(bell, 0.02)
    for client in driver.client.client_list():
        if client["cmd"] == "blmove":
            driver.client.client_kill_filter(_id=client["id"])
    assert ready(bell, 1)
    with pytest.raises(ServerUnavailable):
        bell.answer()
    assert not bell.armed
    bell.arm()
    driver.push("x")
    assert ready(bell, 1)
    assert bell.answer()


def test_a_server_that_has_forgotten_the_script_is_asked_again(driver: Driver, bell: Doorbell) -> None:
    bell.arm()
    driver.client.script_flush()
    driver.push("x")
    assert ready(bell, 1)
    batch = bell.answer()
    assert batch is not None and list(batch.entries) == [b"x"]


def test_who_was_declared_dead_is_told_and_takes_nothing_more(driver: Driver, bell: Doorbell) -> None:
    bell.arm()
    driver.client.hset(f"Process:{driver.manager.name}", "evicted", "1")
    driver.push("x", "y")
    assert ready(bell, 1)
    with pytest.raises(Evicted):
        bell.answer()
    assert driver.where("Job_Queue") == ["y"]


def test_arming_without_a_server_is_told(tmp_path: Path) -> None:
    record = Record(f"unix://{tmp_path}/none")
    nobody = Membership(record=record, role="manager", name="p")
    bell = Doorbell(record, "Job_Queue", "p", lambda: taking(nobody))
    with pytest.raises(ServerUnavailable):
        bell.arm()
    assert not bell.armed
    assert not bell.overdue()


def test_a_server_that_sleeps_makes_it_overdue_and_then_it_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doorbell, "BLOCK", 0.1)
    monkeypatch.setattr(doorbell, "TIMEOUT", 0.2)
    path = tmp_path / "s"
    words = [locate("valkey"), "--port", "0", "--unixsocket", str(path), "--save", "", "--dir", str(tmp_path)]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    url = f"unix://{path}"
    try:
        deadline = time.monotonic() + 10
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        record = Record(url, client=connection.connect(url, timeout=0.3))
        record.ping()
        member = Membership(record=record, role="manager")
        member.register()
        bell = Doorbell(record, "Job_Queue", member.name, lambda: taking(member))
        bell.arm()
        process.send_signal(signal.SIGSTOP)
        assert not bell.overdue()
        assert not ready(bell, 0.35)
        assert bell.overdue()
        bell.drop()
        assert not bell.armed
        process.send_signal(signal.SIGCONT)
        record.call("RPUSH", "Job_Queue", "x")
        bell.arm()
        assert ready(bell, 1)
        assert bell.answer()
        bell.drop()
        record.close()
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait(10)
