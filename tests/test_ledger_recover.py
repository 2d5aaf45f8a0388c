"""Processes: they register, beat, leave in peace, or are declared dead and recovered; their lists are revisited."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from conftest import Server
from driver import Driver, entry
from laws import dump, violations

from jobmill.errors import Evicted
from jobmill.ledger import admission, dead, membership
from jobmill.ledger.membership import POISON, SILENCE, Membership
from jobmill.ledger.record import Record


@pytest.fixture
def driver(server: Server) -> Driver:
    return Driver(Record(server.url))


def silent(driver: Driver, member: Membership, seconds: float) -> None:
    """Let the record believe that a process was last heard of so long ago."""
    driver.client.zadd("Processes", {member.name: (membership.server_time(driver.record) - seconds) * 1000})


def test_the_record_has_one_identity(driver: Driver) -> None:
    first = driver.record.identity()
    assert len(first) == 12
    assert {driver.member("fetcher").identity for _ in range(3)} == {first}


def test_a_process_is_known_by_all_that_proves_its_death(driver: Driver) -> None:
    me = next(p for p in membership.processes(driver.record) if p.name == driver.manager.name)
    assert (me.role, me.pid, me.start) == ("manager", os.getpid(), membership.start_time(os.getpid()))
    assert not me.evicted
    assert not membership.dead(me)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    start = membership.start_time(child.pid)
    gone = membership.Process(name="x", role="manager", host=me.host, pid=child.pid, start=start, boot=me.boot)
    assert not membership.dead(gone)
    child.kill()
    child.wait(10)
    assert membership.dead(gone)
    assert child.stdin is not None
    child.stdin.close()
    elsewhere = membership.Process(name="x", role="manager", host="elsewhere", pid=1, start="1", boot="1")
    assert not membership.dead(elsewhere)


def test_who_is_not_silent_is_not_declared_dead(driver: Driver) -> None:
    driver.push("a")
    admission.take(driver.manager, "Job_Queue", 1)
    before = dump(driver.client)
    assert membership.recover(driver.record, driver.manager.name, ["Job_Queue"]) == -1
    silent(driver, driver.manager, SILENCE - 2)
    assert membership.recover(driver.record, driver.manager.name, ["Job_Queue"]) == -1
    assert dump(driver.client, ignore=["Processes"]) == {k: v for k, v in before.items() if k != "Processes"}
    silent(driver, driver.manager, SILENCE + 1)
    assert membership.recover(driver.record, driver.manager.name, ["Job_Queue"]) == 1
    with pytest.raises(Evicted):
        driver.manager.beat()


def test_lists_go_back_to_the_head_in_order(driver: Driver) -> None:
    driver.client.delete("Result_Queue")
    driver.push(*[str(i) for i in range(600)])
    admission.take(driver.manager, "Job_Queue", 550)
    driver.client.rpush("Result_Queue", "x", "", "y")
    admission.take(driver.manager, "Result_Queue", 2)
    moved = membership.recover(driver.record, driver.manager.name, ["Job_Queue", "Result_Queue"], proved=True)
    assert moved == 552
    assert driver.where("Job_Queue") == [str(i) for i in range(600)]
    assert driver.where("Result_Queue") == ["x", "", "y"]
    assert membership.recover(driver.record, driver.manager.name, ["Job_Queue", "Result_Queue"], proved=True) == 0


def test_a_pending_move_after_the_recovery_is_revisited_for_a_day(driver: Driver) -> None:
    membership.recover(driver.record, driver.manager.name, ["Job_Queue"], proved=True)
    driver.client.rpush(f"Job_Queue:taken:{driver.manager.name}", "late")
    assert driver.manager.name in [p.name for p in membership.processes(driver.record)]
    assert membership.recover(driver.record, driver.manager.name, ["Job_Queue"], proved=True) == 1
    assert driver.where("Job_Queue") == ["late"]
    silent(driver, driver.manager, 86400 + 1)
    assert membership.recover(driver.record, driver.manager.name, ["Job_Queue"]) == 0
    assert driver.manager.name not in [p.name for p in membership.processes(driver.record)]
    assert not driver.client.exists(f"Process:{driver.manager.name}")
    with pytest.raises(Evicted):  # and a sleeper of more than a day does not rise
        driver.manager.beat()


def test_recovered_granted_jobs_are_begun_by_another(driver: Driver) -> None:
    driver.admit("a", "b")
    driver.grant()
    for _ in range(2):  # a move that came alone: whoever asked for it died
        driver.client.lmove("Granted_Queue", f"Granted_Queue:taken:{driver.starter.name}", "LEFT", "RIGHT")
    membership.recover(driver.record, driver.starter.name, ["Granted_Queue"], proved=True)
    assert violations(driver.client) == []
    other = driver.member("starter")
    assert [i for i, _, _ in driver.begin(other)] == ["a", "b"]
    assert violations(driver.client) == []


def test_an_entry_that_kills_whoever_holds_it_is_poison(driver: Driver) -> None:
    driver.push("poison")
    for i in range(POISON + 1):
        member = driver.member("manager")
        assert list(admission.take(member, "Job_Queue", 1).entries) == [b"poison"], i
        membership.recover(driver.record, member.name, ["Job_Queue"], proved=True)
    (one,) = dead.entries(driver.record)
    assert one.entry == b"poison"
    assert "poison" in one.reason
    assert driver.client.llen("Job_Queue") == 0
    assert dead.requeue(driver.record, [one]) == 1
    assert driver.where("Job_Queue") == ["poison"]


def test_who_stands_beside_poison_is_not_buried_with_it(driver: Driver) -> None:
    driver.push("before", "poison", *[f"good-{n}" for n in range(200)])
    admitted: list[bytes] = []
    for _ in range(POISON + 20):
        member = driver.member("manager")
        while (batch := admission.take(member, "Job_Queue", 250)).entries:
            if b"poison" in batch.entries:
                break  # it dies with all of the batch in hand
            admitted += batch.entries
            admission.admit(member, batch, [entry(e.decode()) for e in batch.entries], 0.0)
        membership.recover(driver.record, member.name, ["Job_Queue"], proved=True)
    (one,) = dead.entries(driver.record)
    assert one.entry == b"poison"
    assert sorted(admitted) == sorted([b"before", *(b"good-%d" % n for n in range(200))])


def test_what_was_taken_and_not_yet_read_is_no_suspect(driver: Driver) -> None:
    driver.push("in hand", *[f"behind-{n}" for n in range(5)])
    for _ in range(POISON + 3):
        member = driver.member("manager")
        admission.take(member, "Job_Queue", 1)
        for _ in range(5):  # as the bell moves them, one by one
            driver.client.lmove("Job_Queue", f"Job_Queue:taken:{member.name}", "LEFT", "RIGHT")
        membership.recover(driver.record, member.name, ["Job_Queue"], proved=True)
    assert [d.entry for d in dead.entries(driver.record)] == [b"in hand"]
    assert driver.where("Job_Queue") == [f"behind-{n}" for n in range(5)]


def test_equal_entries_are_not_poison_after_one_death(driver: Driver) -> None:
    """`command: true` without an id may well stand in the queue a thousand times."""
    driver.push(*["command: 'true'"] * 600)
    admission.take(driver.manager, "Job_Queue", 600)
    for _ in range(3):
        membership.recover(driver.record, driver.manager.name, ["Job_Queue"], proved=True)
    assert driver.client.llen("Job_Queue") == 600
    assert dead.count(driver.record) == 0


def test_granted_entries_ends_and_results_are_never_poison(driver: Driver) -> None:
    driver.client.delete("Result_Queue")
    driver.client.rpush("Exit_Queue", "x")
    driver.client.rpush("Result_Queue", "a", "")
    for _ in range(POISON + 3):
        member = driver.member("fetcher")
        for queue in ("Exit_Queue", "Result_Queue"):
            admission.take(member, queue, 250)
        membership.recover(driver.record, member.name, ["Exit_Queue", "Result_Queue"], proved=True)
    assert driver.where("Exit_Queue") == ["x"]
    assert driver.where("Result_Queue") == ["a", ""]


def test_leaving_gives_back_and_the_name_is_gone(driver: Driver) -> None:
    driver.push(*[str(i) for i in range(600)])
    admission.take(driver.manager, "Job_Queue", 600)
    driver.manager.leave(["Job_Queue"])
    assert driver.where("Job_Queue") == [str(i) for i in range(600)]
    me = next(p for p in membership.processes(driver.record) if p.name == driver.manager.name)
    assert me.left
    with pytest.raises(Evicted):
        admission.take(driver.manager, "Job_Queue", 1)
    driver.client.rpush(f"Job_Queue:taken:{driver.manager.name}", "late")  # a move that was under way
    silent(driver, driver.manager, SILENCE + 1)
    assert membership.recover(driver.record, driver.manager.name, ["Job_Queue"]) == 1
    driver.manager.leave(["Job_Queue"])  # twice is no harm


def test_leaving_in_the_middle_of_a_turn_loses_nothing(driver: Driver) -> None:
    driver.push("a", "b")
    batch = admission.take(driver.manager, "Job_Queue", 1)
    admission.admit(driver.manager, batch, [entry("a")], 0)
    admission.take(driver.manager, "Job_Queue", 1)
    driver.manager.leave(["Job_Queue"])
    assert driver.where("Job_Queue") == ["b"]
    assert violations(driver.client) == []


def test_a_beat_tells_wishes_and_progress(driver: Driver) -> None:
    from jobmill.ledger import wish

    driver.admit("a", "b")
    driver.grant()
    driver.begin()
    wish.cancel(driver.record, ["b"], who="ann", why="x")
    told = driver.starter.beat("77", ["a", "b", "nobody"])
    assert list(told) == ["b"]
    assert json.loads(told["b"])["why"] == "x"
    me = next(p for p in membership.processes(driver.record) if p.name == driver.starter.name)
    assert me.progress == "77"


def test_any_garbage_of_a_queue_survives_a_recovery(driver: Driver) -> None:
    garbage = [b"\xff\xfe\x00", b"", b"\n", b"{}", "ü".encode()]
    driver.client.rpush("Job_Queue", *garbage)
    admission.take(driver.manager, "Job_Queue", 9)
    membership.recover(driver.record, driver.manager.name, ["Job_Queue"], proved=True)
    assert driver.client.lrange("Job_Queue", 0, -1) == garbage
