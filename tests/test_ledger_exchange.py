"""Scripts that travel together: answers in order, errors in their place, cut replies, a server that forgot them."""

from __future__ import annotations

import pytest
from conftest import Server
from driver import Driver, entry

from jobmill.errors import Evicted, ServerUnavailable
from jobmill.ledger import admission
from jobmill.ledger.admission import Grants
from jobmill.ledger.exchange import Call, checked
from jobmill.ledger.record import Record


@pytest.fixture
def driver(server: Server) -> Driver:
    return Driver(Record(server.url))


def read(answer: object) -> object:
    return answer


def test_answers_come_in_order_and_each_call_sees_what_the_one_before_did(driver: Driver) -> None:
    driver.admit("z")  # the server knows the scripts now
    driver.grant()
    driver.push("a", "b")
    batch = admission.take(driver.manager, "Job_Queue", 1)
    under_way = driver.record.send(
        [
            admission.admitting(driver.manager, batch, [entry("a")], 0.0),
            admission.granting("local", "LocalJobs", 250),
            admission.taking(driver.manager, "Job_Queue", 250),
        ]
    )
    words, granted, ahead = under_way.answers()
    assert under_way.in_order
    assert words == ["admitted"]
    assert granted == Grants(jobs=1, users=0)  # one job, and nobody has another one in line
    assert (ahead.turn, list(ahead.entries)) == (batch.turn + 1, [b"b"])


def test_an_error_stands_in_its_place_and_the_others_are_answered(driver: Driver) -> None:
    driver.client.hset(f"Process:{driver.manager.name}", "evicted", "1")
    bad, good = driver.record.send(
        [admission.taking(driver.manager, "Job_Queue", 1), admission.granting("local", "LocalJobs", 1)]
    ).answers()
    assert isinstance(bad, Evicted)
    assert good == Grants(jobs=0, users=0)
    with pytest.raises(Evicted):
        checked(bad)
    assert checked(good) == Grants(jobs=0, users=0)
    driver.record.ping()  # the connection was read to its end


def test_a_server_that_has_forgotten_the_scripts_is_told_them_whole(driver: Driver) -> None:
    driver.push("a")
    driver.client.script_flush()
    under_way = driver.record.send(
        [admission.taking(driver.manager, "Job_Queue", 9), admission.granting("local", "LocalJobs", 1)]
    )
    batch, granted = under_way.answers()
    assert not under_way.in_order
    assert list(batch.entries) == [b"a"]
    assert granted == Grants(jobs=0, users=0)


def test_a_reply_that_is_cut_is_told_and_never_read_as_another_s(driver: Driver) -> None:
    driver.push("a")
    under_way = driver.record.send([admission.taking(driver.manager, "Job_Queue", 1)])
    under_way._connection._sock.close()
    with pytest.raises(ServerUnavailable):
        under_way.answers()
    batch = driver.record.do(admission.taking(driver.manager, "Job_Queue", 1))
    assert list(batch.entries) == [b"a"]


def test_without_a_server_it_says_so() -> None:
    record = Record("unix:///nowhere/at/all")
    with pytest.raises(ServerUnavailable):
        record.send([Call(name="grant", args=("local", "LocalJobs", 1), read=read)])
