"""Taking is a move (law 2); a stream of documents is split in place; a turn is applied once."""

from __future__ import annotations

import threading

import pytest
from conftest import Server
from driver import Driver, entry

from jobmill.errors import Evicted
from jobmill.ledger import admission, membership
from jobmill.ledger.record import Record


@pytest.fixture
def driver(server: Server) -> Driver:
    return Driver(Record(server.url))


def test_taking_is_a_move_and_the_head_stays_until_it_is_dealt_with(driver: Driver) -> None:
    driver.push("a: 1", "b: 2", "c: 3")
    first = admission.take(driver.manager, "Job_Queue", 2)
    again = admission.take(driver.manager, "Job_Queue", 2)
    assert first == again
    assert list(first.entries) == [b"a: 1", b"b: 2"]
    assert driver.where("Job_Queue") == ["c: 3"]
    assert driver.where(f"Job_Queue:taken:{driver.manager.name}") == ["a: 1", "b: 2"]


def test_taking_fills_up_what_the_private_list_has(driver: Driver) -> None:
    driver.push("a", "b", "c")
    admission.take(driver.manager, "Job_Queue", 1)
    assert list(admission.take(driver.manager, "Job_Queue", 250).entries) == [b"a", b"b", b"c"]


def test_an_empty_queue_gives_nothing_and_makes_no_key(driver: Driver) -> None:
    before = set(driver.client.keys("*"))
    assert list(admission.take(driver.manager, "Job_Queue", 250).entries) == []
    assert set(driver.client.keys("*")) == before


def test_a_process_that_was_declared_dead_is_refused_everywhere(driver: Driver) -> None:
    driver.push("a")
    batch = admission.take(driver.manager, "Job_Queue", 1)
    membership.recover(driver.record, driver.manager.name, ["Job_Queue"], proved=True)
    for act in (
        lambda: admission.take(driver.manager, "Job_Queue", 1),
        lambda: admission.split(driver.manager, batch, ["x", "y"]),
        lambda: admission.admit(driver.manager, batch, [entry("a")], 0),
        lambda: driver.manager.beat(),
    ):
        with pytest.raises(Evicted, match=driver.manager.name):
            act()
    assert driver.where("Job_Queue") == ["a"]
    driver.manager.register()
    assert list(admission.take(driver.manager, "Job_Queue", 1).entries) == [b"a"]


def test_a_process_that_never_registered_is_refused(driver: Driver) -> None:
    stranger = membership.Membership(record=driver.record, role="manager", name="manager-nobody")
    driver.push("a")
    with pytest.raises(Evicted):
        admission.take(stranger, "Job_Queue", 1)
    assert driver.where("Job_Queue") == ["a"]


def test_an_oversize_entry_is_told_by_its_size_and_goes_to_dead_queue_whole(driver: Driver) -> None:
    large = "x" * 5000
    driver.push("a", large, "b")
    batch = admission.take(driver.manager, "Job_Queue", 250, largest=1000)
    assert batch.oversize == {1: 5000}
    assert len(batch.entries[1]) < 10
    refusal = admission.Refusal(reason="5000 bytes", queue="Job_Queue")
    words = admission.admit(driver.manager, batch, [entry("a"), refusal, entry("b")], 0)
    assert words == ["admitted", "dead", "admitted"]
    (dead,) = driver.where("Dead_Queue")
    assert dead.partition("\n")[2] == large


def test_a_stream_becomes_its_documents_in_place_and_once(driver: Driver) -> None:
    driver.push("a\n---\nb\n---\nc", "d")
    batch = admission.take(driver.manager, "Job_Queue", 250)
    for _ in range(2):  # the reply was cut: the same turn is sent again
        admission.split(driver.manager, batch, ["a", "b", "c"])
    later = admission.take(driver.manager, "Job_Queue", 250)
    assert list(later.entries) == [b"a", b"b", b"c", b"d"]
    assert later.turn == batch.turn + 1


def test_two_managers_never_take_the_same_entry(driver: Driver) -> None:
    driver.push(*[str(i) for i in range(1000)])
    found: list[list[bytes]] = []

    def work() -> None:
        record = Record(driver.record.url)
        member = membership.Membership(record=record, role="manager")
        member.register()
        mine: list[bytes] = []
        while True:
            batch = admission.take(member, "Job_Queue", 7)
            if not batch.entries:
                break
            mine += batch.entries
            admission.admit(member, batch, [entry(e.decode()) for e in batch.entries], 0)
        found.append(mine)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(20)
    everything = [e for mine in found for e in mine]
    assert len(everything) == len(set(everything)) == 1000
