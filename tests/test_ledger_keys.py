"""Pipelines side by side by prefix, lanes, scripts that the server forgot, and one fixed set of keys."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from conftest import Server
from driver import Driver, spec
from laws import dump, violations

from jobmill.ledger import admission, ending, launch, listing, membership, polls, queries, script, upkeep, wish
from jobmill.ledger.admission import Grants
from jobmill.ledger.record import Record

PREFIX = "{jm}:"


def life(driver: Driver) -> None:
    """Bring jobs through everything that a pipeline does."""
    driver.admit("d", depends_on=["a"], tags=["t"])
    driver.admit("big", needs="LocalJobs User:ann local.cpus=2")
    driver.start("a", "b", "c", needs="LocalJobs User:ann local.cpus=2", notify=["ended"])
    driver.claim()
    polls.take(driver.record, "local", "", lease=30, patience=2)
    polls.left(driver.record, driver.suffix, "local", polls.ALL, 250)
    queries.spend(driver.record, "local", 2, 12)
    ending.push(driver.record, driver.lane, ["{}"])
    batch = admission.take(driver.fetcher, "Exit_Queue" + driver.suffix, 250)
    end = ending.RunEnd(job_id="a", run=1, state="done", exit='{"evidence":"r"}', wall=1)
    ending.finish(driver.record, [end], taken=(driver.fetcher, batch))
    driver.finish("b", state="failed", retry_in=0)
    wish.cancel(driver.record, ["c", "later"], who="ann", why="")
    driver.finish("c", state="cancelled")
    upkeep.wake_due(driver.record)
    driver.resolve()
    driver.grant()
    wish.hold(driver.record, ["d"])
    wish.unhold(driver.record, ["d"])
    wish.retry(driver.record, ["c"])
    driver.grant()
    launches = driver.begin(lease=0)
    launch.abort(driver.record, launches[:1], delay=0, why="x")
    launch.expire(driver.record, driver.suffix, driver.starter.name)
    found = launch.expired(driver.record, driver.suffix, 250, 30)
    launch.seal(driver.record, [(f.job_id, f.run, f.fence) for f in found], "e")
    driver.grant()
    membership.recover(driver.record, driver.starter.name, ["Granted_Queue" + driver.suffix], proved=True)
    driver.starter.register()
    upkeep.regrant(driver.record, ["b", "c", "d", "big"], 0)
    driver.reconcile("LocalJobs", "User:ann")
    upkeep.prune(driver.record, 0)
    driver.manager.beat("1")
    driver.manager.leave(["Job_Queue"])
    driver.manager.register()


def test_two_pipelines_on_one_server_never_touch_one_another(server: Server) -> None:
    plain = Driver(Record(server.url))
    life(plain)
    before = dump(plain.client)
    other = Driver(Record(server.url, prefix=PREFIX))
    life(other)
    after = dump(plain.client)
    assert {k: v for k, v in after.items() if not k.startswith(PREFIX)} == before
    names = {k.removeprefix(PREFIX) for k in after if k.startswith(PREFIX)}
    expected = {k for k in before if ":taken:" not in k and not k.startswith("Process:")}
    assert {k for k in names if ":taken:" not in k and not k.startswith("Process:")} == expected
    assert plain.record.identity() != other.record.identity()
    assert violations(plain.client) == []
    assert violations(other.client, prefix=PREFIX) == []
    theirs = {k: v for k, v in after.items() if k.startswith(PREFIX)}
    life_again = Driver(plain.record)
    life_again.admit("z")
    life_again.grant()
    assert {k: v for k, v in dump(plain.client).items() if k.startswith(PREFIX)} == theirs
    assert listing.depths(other.record).queues["Job_Queue"] == 0


def test_a_lane_has_queues_of_its_own(server: Server) -> None:
    driver = Driver(Record(server.url), lane="host1")
    life(driver)
    assert violations(driver.client, lane="host1") == []
    driver.begin()
    names = {k.decode() for k in driver.client.keys("*")}
    assert "Starting_Queue:host1" in names
    assert not {"Granted_Queue", "Starting_Queue", "Running_Queue", "Exit_Queue"} & names
    assert violations(driver.client, lane="host1") == []


@pytest.mark.parametrize("lane", ["", "host1"])
def test_scripts_that_the_server_forgot_are_sent_whole(server: Server, lane: str) -> None:
    record = Record(server.url)
    run = record.run

    def forget(name: str, *args: object) -> object:
        record.client.script_flush()
        return run(name, *args)

    record.run = forget  # type: ignore[method-assign]
    driver = Driver(record, lane=lane)
    life(driver)
    assert violations(driver.client, lane=lane) == []


def test_a_script_has_one_digest_in_all_processes() -> None:
    """Else each process sends its own copy, and the server keeps them all."""
    program = "from jobmill.ledger import script; print([script.source(name)[1] for name in script.names()])"
    told = {
        subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("0", "1", "2", "3")
    }
    assert len(told) == 1


def test_every_script_was_called_by_the_life_above(server: Server) -> None:
    """So that the three tests above are about all scripts."""
    record = Record(server.url)
    run, called = record.run, set()

    def noted(name: str, *args: object) -> object:
        called.add(name)
        return run(name, *args)

    record.run = noted  # type: ignore[method-assign]
    life(Driver(record))
    assert set(script.names()) - called == {"split", "bury", "touch"}


def test_scripts_use_only_what_redis_6_2_has_and_never_what_blocks(server: Server) -> None:
    forbidden = ("'KEYS'", "'SMEMBERS'", "'SCAN'", "'HGETALL'", "'FLUSH", "'LPOS'", "'ZRANGESTORE'", "'WAITAOF'")
    for name in script.names():
        text, digest = script.source(name)
        assert not [w for w in forbidden if w in text], name
        client = Record(server.url).client
        assert client.script_load(text) == digest
    assert server.kind


def test_users_with_odd_names_and_two_systems_stay_apart(server: Server) -> None:
    driver = Driver(Record(server.url))
    driver.client.hset("Capacity", "OtherJobs", 1)
    driver.admit("a", user="ann.b-c@x%s")
    driver.admit("b", user="%d+*")
    driver.admit("c", system="other", needs="OtherJobs User:%d+*")
    assert driver.grant() == 2
    assert admission.grant(driver.record, "other", "OtherJobs", 9) == Grants(jobs=1, users=1)
    assert {json.dumps(json.loads(e)["spec"], separators=(",", ":")) for e in driver.where("Granted_Queue")} == {
        spec(i) for i in "abc"
    }
    assert violations(driver.client) == []
