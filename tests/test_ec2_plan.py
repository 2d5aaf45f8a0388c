"""What a fleet decides, and what it counts as spent: pure, so that each rule can be looked at alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobmill.errors import ConfigError
from jobmill.systems.ec2_host_key import HostKeys
from jobmill.systems.ec2_instance import LAUNCH, RECORD, SYSTEM, Instance
from jobmill.systems.ec2_options import Ec2Options
from jobmill.systems.ec2_plan import Plan, Use, Want, plan
from jobmill.systems.ec2_request import client_token
from jobmill.systems.ec2_spend import Spend

pytestmark = pytest.mark.timeout(60)

LEAST: Mapping[str, Any] = {"image": "ami-1", "instance_type": "t3.micro", "key": "/none"}
PRICES: Mapping[str, Any] = {"t3.micro": 0.5, "t3.large": 1.0}


def options(**more: Any) -> Ec2Options:
    return Ec2Options.of("aws", {**LEAST, "max_instances": 4, **more})


def instance(id_: str, state: str = "running", launch: str = "r.1:x:0", **more: Any) -> Instance:
    tags = {RECORD: "r", SYSTEM: "aws", LAUNCH: launch}
    return Instance(id=id_, state=state, **{"type": "t3.micro", "launched": 0.0, "tags": tags, **more})


def decide(given: Ec2Options, instances: list[Instance], waiting: list[Want], **more: Any) -> Plan:
    use = more.pop("use", {})
    known: dict[str, Any] = {"now": 1000.0, "age": {it.id: 100.0 for it in instances}, "spent": 0.0}
    return plan(given, instances, use, waiting, **{**known, **more})


def wants(*names: str, slots: int = 1) -> list[Want]:
    return [Want(intent=f"r.1:{name}", slots=slots) for name in names]


IDLE = Use(taken=0, met=True, idle_since=0.0)
BUSY = Use(taken=1, met=True)


def test_a_job_for_which_there_is_no_slot_gets_an_instance_that_bears_its_name() -> None:
    assert decide(options(), [], wants("a", "b")).launch == ["r.1:a:0", "r.1:b:0"]
    assert decide(options(slots=2), [], wants("a", "b", "c")).launch == ["r.1:a:0", "r.1:c:0"]


def test_nothing_is_launched_for_what_no_instance_can_run() -> None:
    assert not decide(options(slots=2), [], wants("a", slots=3)).launch
    assert decide(options(slots=2), [], [*wants("a", slots=3), *wants("b")]).launch == ["r.1:b:0"]


def test_an_instance_that_boots_or_idles_takes_the_next_job() -> None:
    assert not decide(options(), [instance("i-1", "pending")], wants("a")).launch
    found = decide(options(), [instance("i-1")], wants("a"), use={"i-1": IDLE})
    assert not found.launch and not found.end  # it has been idle for long, and is needed


def test_one_that_fell_silent_is_not_counted_on_and_is_left_until_its_lease_is_over() -> None:
    silent = Use(taken=None, met=True, silent_since=900.0)
    found = decide(options(), [instance("i-1")], wants("a"), use={"i-1": silent})
    assert found.launch == ["r.1:a:0"] and not found.end
    assert "silent" in decide(options(), [instance("i-1")], [], use={"i-1": silent}, now=3000.0).end["i-1"]


def test_the_next_attempt_of_a_job_has_another_name_and_the_same_one_twice_has_the_same() -> None:
    dead = instance("i-1", "terminated", "r.1:a:0")
    assert decide(options(), [dead], wants("a")).launch == ["r.1:a:1"]
    assert decide(options(), [dead], wants("a"), bumps={"r.1:a": 2}).launch == ["r.1:a:3"]
    first, second = (client_token("r", "aws", "r.1:a:0", type_) for type_ in ("t3.micro", "t3.large"))
    assert first != second and len(first) == 64 and first.isascii()
    assert len({client_token("r", "aws", "r.1:a:0", "t"), client_token("r", "aw", "sr.1:a:0", "t")}) == 2


def test_no_more_than_max_instances_and_the_reason_is_told() -> None:
    found = decide(options(max_instances=1), [instance("i-1")], wants("a"), use={"i-1": BUSY})
    assert not found.launch and "max_instances" in found.held
    two = [instance("i-1"), instance("i-2", launched=5.0)]
    idle = Use(taken=0, met=True, idle_since=999.0)
    assert list(decide(options(max_instances=1), two, [], use={"i-1": BUSY, "i-2": idle}).end) == ["i-2"]
    assert not decide(options(max_instances=0), [], wants("a")).launch


def test_idle_ones_are_ended_in_time_and_busy_ones_never() -> None:
    found = decide(options(idle=300), [instance("i-1"), instance("i-2")], [], use={"i-1": IDLE, "i-2": BUSY})
    assert list(found.end) == ["i-1"]
    young = Use(taken=0, met=True, idle_since=800.0)
    assert not decide(options(idle=300), [instance("i-1")], [], use={"i-1": young}).end


def test_one_that_never_came_up_or_was_stopped_is_ended() -> None:
    assert "come up" in decide(options(), [instance("i-1")], [], age={"i-1": 601.0}).end["i-1"]
    assert not decide(options(), [instance("i-1")], [], age={"i-1": 599.0}).end
    assert "stopped" in decide(options(), [instance("i-1", "stopped")], []).end["i-1"]


def test_one_that_was_old_when_its_leader_began_may_be_at_work_and_keeps_its_lease() -> None:
    given, old = options(boot=600, lease=900), {"i-1": 7200.0}
    silent = Use(taken=None, silent_since=999.0)  # the first visit of a new leader got no answer
    assert not decide(given, [instance("i-1")], [], use={"i-1": silent}, age=old).end
    assert not decide(given, [instance("i-1")], [], use={"i-1": silent}, now=2700.0, age=old).end
    assert "silent" in decide(given, [instance("i-1")], [], use={"i-1": silent}, now=2900.0, age=old).end["i-1"]
    young = Use(taken=None, silent_since=500.0)  # we saw it from its beginning
    assert "come up" in decide(given, [instance("i-1")], [], use={"i-1": young}, age={"i-1": 601.0}).end["i-1"]


def test_a_budget_of_an_hour_counts_all_that_run() -> None:
    budget = {"per_hour": 1.2, "price": PRICES}
    found = decide(options(budget=budget), [instance("i-1")], wants("a", "b"), use={"i-1": BUSY})
    assert found.launch == ["r.1:a:0"] and "budget of $1.2 an hour" in found.held
    dear = options(budget=budget, instance_type=["t3.micro", "t3.large"])  # counted as the dearest that may come
    assert len(decide(dear, [], wants("a", "b")).launch) == 1


def test_a_budget_of_a_day_counts_what_was_spent_and_the_next_hour() -> None:
    given = options(budget={"per_day": 10, "price": PRICES})
    assert decide(given, [], wants("a"), spent=9.4).launch
    found = decide(given, [], wants("a"), spent=9.6)
    assert not found.launch and "$9.6 in the last 24 hours" in found.held


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_whatever_is_there_no_rule_is_broken(data: st.DataObject) -> None:
    budget = {"per_hour": data.draw(st.floats(0.1, 5)), "price": PRICES}
    chosen = options(max_instances=data.draw(st.integers(0, 5)), slots=data.draw(st.integers(1, 3)), budget=budget)
    states = st.sampled_from(("pending", "running", "shutting-down", "terminated", "stopped"))
    names = st.sampled_from(("r.1:a:0", "r.1:b:3", "", "odd"))
    all_ = [instance(f"i-{n}", data.draw(states), data.draw(names)) for n in range(data.draw(st.integers(0, 6)))]
    uses = st.builds(
        Use,
        taken=st.none() | st.integers(0, 3),
        met=st.booleans(),
        idle_since=st.none() | st.floats(0, 1000),
        silent_since=st.none() | st.floats(0, 1000),
    )
    use = {it.id: data.draw(uses) for it in all_}
    waiting = wants(*data.draw(st.lists(st.sampled_from("abcdef"), unique=True)))
    found = decide(chosen, all_, waiting, use=use)
    assert found == decide(chosen, all_, waiting, use=use)  # whoever leads decides the same
    live = [it for it in all_ if it.live]
    assert len(found.launch) + len(live) <= max(chosen.max_instances, len(live))
    assert not found.launch or (len(live) + len(found.launch)) * 0.5 <= budget["per_hour"] + 1e-6
    assert len(set(found.launch)) == len(found.launch) and not set(found.launch) & {it.launch for it in all_}
    for id_ in found.end:
        it = next(it for it in all_ if it.id == id_)
        assert it.state != "terminated" and not (it.live and (use[id_].taken or 0) > 0)


def test_what_was_launched_under_another_configuration_is_not_counted_too_cheap(tmp_path: Path) -> None:
    budget = {"per_hour": 1.2, "per_day": 10, "price": PRICES}
    spot = options(budget=budget, spot=True, max_price=0.01)
    there = [instance("i-1", launched=1e9), instance("i-2", type="x9.huge", launched=1e9)]  # on demand, no price
    busy = {it.id: BUSY for it in there}
    assert not decide(spot, there, wants("a"), use=busy).launch  # 0.5 + 1.0 an hour
    assert decide(spot, [instance("i-1", spot=True)], wants("a"), use=busy).launch
    spend = Spend(tmp_path / "spend")
    spend.note(there, 1e9 + 3600)
    assert spend.spent(1e9 + 3600, ["i-1", "i-2"], spot.price) == pytest.approx(1.5)


def test_the_spend_of_a_day_survives_a_restart_and_what_ec2_forgets(tmp_path: Path) -> None:
    file = tmp_path / "spend"
    spend = Spend(file)
    day = 86400.0 * 100
    spend.note([instance("i-1", launched=day), instance("i-2", launched=day)], day)
    ended = instance("i-1", "terminated", launched=day, ended=day + 3600)
    spend.note([ended, instance("i-2", launched=day)], day + 7200)
    again = Spend(file)

    def price(type_: str, spot: bool) -> float:
        return {"t3.micro": 1.0}[type_]

    assert again.spent(day + 7200, ["i-1", "i-2"], price) == pytest.approx(3.0)
    assert again.spent(day + 10800, ["i-2"], price) == pytest.approx(4.0)  # one that is not shown any more counts
    assert again.spent(day + 10800, [], price) == pytest.approx(4.0)  # nor one that vanished between two looks
    assert again.spent(day + 86400 + 3600, ["i-2"], price) == pytest.approx(24.0)  # of the last day only
    again.note([], day + 3 * 86400)
    assert again.spent(day + 3 * 86400, [], price) == 0


def test_a_minute_is_the_least_and_a_torn_line_is_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "spend"
    Spend(file).note([instance("i-1", "terminated", launched=1e9, ended=1e9 + 5)], 1e9 + 10)
    with file.open("a") as more:
        more.write(json.dumps({"id": 7}) + '\n{"id": "i-9", "ty')
    spend = Spend(file)
    assert spend.spent(1e9 + 10, [], lambda type_, spot: 60.0) == pytest.approx(1.0)
    assert Spend(tmp_path / "none").spent(1.0, [], lambda type_, spot: 1.0) == 0


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"imag": "x"}, "did you mean 'image'"),
        ({"image": None}, "needs image"),
        ({"slots": 0}, "systems.aws.slots: 0 is not a whole number from 1"),
        ({"lease": 5}, "seconds from 60"),
        ({"max_price": 0.1}, "add spot: true"),
        ({"address": "ipv6"}, "neither private nor public"),
        ({"tags": {"jobmill:record": "x"}}, "cannot be a tag"),
        ({"budget": {"per_hour": 2}}, "needs price"),
        ({"budget": {"per_hour": 2, "price": {"t3.large": 1}}}, "has no price for t3.micro"),
        ({"budget": {"price": PRICES}}, "needs per_hour"),
        ({"budget": {"per_hour": -1, "price": PRICES}}, "dollars above 0"),
        ({"user_data": "#cloud-config\n{}"}, "#!/bin/sh"),
        ({"instance_type": []}, "name at least one"),
        ({"lease_folder": "/a b"}, "absolute path"),
        ({"secret": "x"}, "unknown option"),
    ],
)
def test_an_option_that_cannot_be_is_told_with_its_place(more: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as bad:
        options(**more)
    assert words in str(bad.value)


def test_a_key_file_that_cannot_serve_is_told(tmp_path: Path) -> None:
    (tmp_path / "no").write_text("hello")
    for name, words in (("none", "name a private key file"), ("no", "is no private key")):
        with pytest.raises(ConfigError) as bad:
            HostKeys(tmp_path / name)
        assert words in str(bad.value)
