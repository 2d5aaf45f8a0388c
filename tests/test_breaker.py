"""A breaker per endpoint: an outage freezes states, pauses submissions, is told in words, and heals by itself."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import Server
from fakeworld import World
from laws import violations

from jobmill.errors import SystemUnavailable
from jobmill.ledger import endpoint
from jobmill.ledger.explanation import Explainer
from jobmill.ledger.record import Record
from jobmill.scripts.jobmill import cli
from jobmill.systems.breaker import FAILURES, JITTER, LONGEST, Breaker
from jobmill.worker.endpoints import Endpoints


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


# The class.


def test_it_opens_after_three_failures_in_a_row() -> None:
    breaker = Breaker(Clock(), lambda: 0.5)
    assert [breaker.failed("x"), breaker.failed("x")] == [False, False]
    assert not breaker.worked()
    assert [breaker.failed("x"), breaker.failed("y"), breaker.pause, breaker.open] == [False, False, 0, False]
    assert breaker.failed("z")
    assert (breaker.pause, breaker.open, breaker.why) == (1.0, True, "z")


def test_pauses_double_up_to_a_minute_and_one_try_decides() -> None:
    clock = Clock()
    breaker = Breaker(clock, lambda: 0.5)
    for _ in range(FAILURES):
        breaker.failed("x")
    pauses = []
    for _ in range(9):
        pauses.append(breaker.pause)
        clock.now += breaker.pause
        assert breaker.pause == 0 and breaker.open  # a try is due
        breaker.failed("x")
        assert breaker.pause > 0
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert breaker.age == sum(pauses)
    clock.now += 100
    assert breaker.worked()
    assert (breaker.open, breaker.pause, breaker.age) == (False, 0, 0)
    assert not breaker.failed("x")  # it counts anew


@pytest.mark.parametrize("chance", [0.0, 0.3, 1.0])
def test_pauses_are_jittered(chance: float) -> None:
    clock = Clock()
    breaker = Breaker(clock, lambda: chance)
    for _ in range(FAILURES):
        breaker.failed("x")
    assert breaker.pause == pytest.approx(1 + JITTER * (2 * chance - 1))
    for _ in range(1000):
        clock.now += LONGEST * 2
        breaker.failed("x")
    assert breaker.pause == pytest.approx(LONGEST * (1 + JITTER * (2 * chance - 1)))


# The record's word.


def ask(endpoints: Endpoints, *, down: bool) -> None:
    with endpoints.asked("fake"):
        if down:
            raise SystemUnavailable("connection refused")


def fail(endpoints: Endpoints, times: int) -> None:
    for _ in range(times):
        with pytest.raises(SystemUnavailable):
            ask(endpoints, down=True)


def test_while_it_is_open_nothing_is_called(server: Server) -> None:
    clock = Clock()
    endpoints = Endpoints(Record(server.url), clock)
    fail(endpoints, 3)
    with pytest.raises(SystemUnavailable, match=r"fake does not answer: connection refused"):
        ask(endpoints, down=False)  # not called: it would have answered
    assert 0.5 < endpoints.pause("fake") < 1.5 and endpoints.pause("other") == 0
    clock.now += 2
    ask(endpoints, down=False)
    assert endpoints.pause("fake") == 0


def test_the_record_is_told_and_whoever_gets_an_answer_takes_it_back(server: Server) -> None:
    record, clock = Record(server.url), Clock()
    mine, other = Endpoints(record, clock), Endpoints(record, clock)
    fail(mine, 2)
    mine.tick()
    assert endpoint.outages(record) == {}
    fail(mine, 1)
    clock.now += 0.25
    mine.tick()
    (outage,) = endpoint.outages(record).values()
    assert re.fullmatch(
        r"fake does not answer since 0 s \(connection refused\), next try (in 1 s|now)", outage.told("fake")
    )
    assert 0.2 < outage.until - outage.now < 1.1
    other.tick()  # has not asked: knows nothing
    assert endpoint.outages(record) != {}
    ask(other, down=False)
    other.tick()
    assert endpoint.outages(record) == {}


def test_a_word_that_nobody_repeats_is_not_told_and_goes(server: Server) -> None:
    record = Record(server.url)
    endpoint.tell(record, "fake", pause=0, age=5, why="x\ny " * 300)
    assert "\n" not in endpoint.outages(record)["fake"].why
    now = endpoint.outages(record)["fake"].now * 1000
    record.client.hset("Endpoints", "fake", f"{now - 20_000:.0f} {now - 30_000:.0f} gone")
    assert endpoint.outages(record) == {}
    Endpoints(record).tick()
    assert record.client.hlen("Endpoints") == 1
    record.client.hset("Endpoints", "fake", f"{now - 200_000:.0f} {now - 300_000:.0f} gone")
    record.client.hset("Endpoints", "odd", "written by hand")
    Endpoints(record).tick()
    assert record.client.hlen("Endpoints") == 0


@pytest.mark.parametrize("word", ["", "soon", "99999999999999999999999 1 x", "-1 1 x"])
def test_a_word_that_is_none_stops_no_grant_for_long(server: Server, tmp_path: Path, word: str) -> None:
    world = World(server.url, tmp_path)
    world.redis.hset("Endpoints", "fake", word)
    world.push("a")
    world.starter._endpoints.tick()
    if word.startswith("999"):  # this one says when, and is believed until somebody gets an answer
        world.redis.hdel("Endpoints", "fake")
    world.manage()
    assert world.state("a")[0] == "granted"


# The pipeline.


def out(world: World, verb: Callable[[], object], times: int = 3) -> None:
    """Do something often enough for a breaker to open, and tell the record."""
    for _ in range(times):
        world.due()
        verb()
    world.fetcher._endpoints.tick()
    world.starter._endpoints.tick()


def wait_out(world: World) -> None:
    """Let the pauses be over."""
    for worker in (world.starter, world.fetcher):
        for breaker in worker._endpoints._breakers.values():
            breaker._until = 0.0
    for name, outage in endpoint.outages(world.record, old=True).items():
        world.redis.hset("Endpoints", name, f"{outage.now * 1000 - 1:.0f} {outage.since * 1000:.0f} {outage.why}")


def test_an_outage_freezes_states_and_heals_by_itself(server: Server, tmp_path: Path) -> None:
    w = World(server.url, tmp_path, seconds=60)
    w.push("a", "b", "c")
    w.start()
    w.poll()
    w.redis.hset("Job:c", "state", "unknown")
    w.cluster.faults(down=True)
    out(w, w.poll, 5)
    assert [w.state(i)[0] for i in "abc"] == ["running", "running", "unknown"]
    assert len(w.redis.smembers("FakeJobs")) == 3
    assert violations(w.redis) == []
    w.push("d")
    assert w.state("d")[0] == "waiting"  # nothing is granted
    explainer = Explainer(w.record)
    words = r"fake does not answer since \d+ s \(connection refused\), next try (in \d+ s|now)"
    for job_id in "acd":
        assert re.search(words, explainer.reason(w.client.job(job_id)).why), job_id
    w.cluster.faults(down=False)
    w.due()
    w.poll()
    assert w.redis.hlen("Endpoints") == 1  # still in its pause
    wait_out(w)
    w.due()
    w.poll()
    w.fetcher._endpoints.tick()
    assert w.redis.hlen("Endpoints") == 0
    assert [w.state(i)[0] for i in "abc"] == ["running"] * 3
    w.manage()
    w.start()
    assert w.state("d")[0] == "submitted"


def test_what_is_granted_already_is_given_back_for_the_pause(server: Server, tmp_path: Path) -> None:
    w = World(server.url, tmp_path)
    w.cluster.faults(down=True)
    for job_id in "abc":
        w.push(job_id)
        w.start()
        assert w.state(job_id) == ("later", 1)
        assert "connection refused" in w.facts(job_id)["why"]
    w.push("d")  # granted before anybody told the record
    assert w.state("d")[0] == "granted"
    w.start()
    assert w.facts("d")["why"] == "fake does not answer: connection refused"
    due = w.redis.zscore("Later", "d") - endpoint.server_time(w.record) * 1000
    assert 0 < due < 2000  # the first pause
    assert w.cluster.launches() == []
    w.starter._endpoints.tick()
    w.push("e")
    assert w.state("e")[0] == "waiting"
    w.cluster.faults(down=False)
    wait_out(w)
    w.until(lambda: w.ended(*"abcde"))
    assert {w.state(i) for i in "abcde"} == {("done", 1)}
    assert violations(w.redis, at_rest=True) == []


def test_an_absence_is_counted_anew_after_an_outage(server: Server, tmp_path: Path) -> None:
    w = World(server.url, tmp_path, seconds=60)
    w.push("a")
    w.start()
    w.cluster.faults(empty=1)
    w.poll()
    assert "absent" in w.facts("a")
    w.redis.hset("Job:a", "absent", 1)  # it knew nothing just before it broke down, long ago
    w.cluster.faults(down=True)
    out(w, w.poll, 1)
    w.cluster.faults(down=False)
    w.due()
    w.poll()  # and knows nothing yet
    assert w.state("a")[0] == "submitted"


def test_a_cancel_outlives_an_outage(server: Server, tmp_path: Path) -> None:
    w = World(server.url, tmp_path, seconds=60)
    w.push("a")
    w.start()
    w.cluster.faults(down=True)
    w.client.cancel(["a"])
    out(w, w.poll)
    assert w.state("a")[0] == "submitted"
    w.cluster.faults(down=False)
    wait_out(w)
    w.until(lambda: w.ended("a"))
    assert w.state("a")[0] == "cancelled"
    assert w.left() == []


def test_a_kill_without_an_answer_proves_nothing(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record of the end cannot be read just then: that the job ended by itself must not be overlooked."""
    w = World(server.url, tmp_path)
    w.push("a")
    w.start()
    w.client.cancel(["a"])
    w.redis.hset("Job:a", "killed", 1)
    system = w.fetcher._systems["fake"]
    answers = iter([{}, SystemUnavailable("gone away")])
    right = system.exit_info

    def once(handles: list[str]) -> object:
        answer = next(answers, None)
        if isinstance(answer, Exception):
            raise answer
        return right(handles) if answer is None else answer

    monkeypatch.setattr(system, "exit_info", once)
    w.poll()
    assert w.state("a")[0] == "submitted"
    w.due()
    w.poll()
    assert (w.state("a")[0], w.client.job("a").exit["exit_value"]) == ("done", 0)


def test_people_are_told(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    w = World(server.url, tmp_path)
    monkeypatch.setenv("JOBMILL_CONFIG", str(tmp_path / "jobmill.yaml"))
    monkeypatch.setenv("JOBMILL_REDIS_URL", server.url)
    assert "does not answer" not in CliRunner().invoke(cli, ["systems"]).output
    endpoint.tell(w.record, "fake", pause=3, age=12, why="connection refused")
    words = "fake does not answer since 12 s (connection refused), next try in 3 s"
    for command in ("systems", "doctor"):
        done = CliRunner().invoke(cli, [command])
        assert words in done.output, done.output
        assert "WRONG" in done.output
    rows = [json.loads(line) for line in CliRunner().invoke(cli, ["systems", "--json"]).output.splitlines()]
    assert words in [check["detail"] for check in rows[0]["checks"]]
    w.push("a")
    assert words in CliRunner().invoke(cli, ["explain", "a"]).output.replace("\n", " ")
