"""Routing: which system a job goes to, and the reason for every no."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobmill.errors import ConfigError, PermanentError
from jobmill.jobs.spec import JobSpec
from jobmill.rules import rule as rules
from jobmill.rules.acting import Acting
from jobmill.rules.dispatcher import Choice, Dispatcher
from jobmill.rules.route import Route, parse_routes
from jobmill.rules.rule import Rule, known_rules, rule_function
from jobmill.systems.plugins import Plugins


def job(**document: Any) -> JobSpec:
    return JobSpec.parse({"command": "true", **document})


def dispatcher(systems: Mapping[str, str], *routes: Any) -> Dispatcher:
    parsed = [Route.parse(route, f"routes[{number}]") for number, route in enumerate(routes)]
    return Dispatcher(systems=systems, routes=parsed)


ONE = {"local": "local"}
TWO = {"here": "local", "bird": "slurm"}


# Without routes.


def test_one_system_and_no_routes_takes_every_job() -> None:
    assert dispatcher(ONE).choose(job()) == Choice(system="local")
    assert dispatcher({"bird": "slurm"}).choose(job()) == Choice(system="bird")


def test_a_named_system_wins_over_every_route() -> None:
    routes = {"rules": [{"user_is": "nobody"}], "system": "here"}
    assert dispatcher(TWO, routes).choose(job(system="bird")) == Choice(system="bird")


def test_an_unknown_system_lists_the_known_ones() -> None:
    choice = dispatcher(TWO).choose(job(system="brid"))
    assert choice.system is None
    assert choice.message == "unknown system 'brid' (did you mean 'bird'?); known: bird, here"


def test_several_systems_and_no_routes_refuse_with_the_way_out() -> None:
    choice = dispatcher(TWO).choose(job())
    assert choice.system is None
    assert choice.message == (
        "the job names no system, there are no routes, and there are several systems: here, bird; "
        "add `system: <name>` to the job or `routes:` to jobmill.yaml"
    )


def test_the_class_type_limits_the_kinds_of_system() -> None:
    assert dispatcher(TWO).choose(job(ClassType="Local")) == Choice(system="here")
    assert dispatcher({**TWO, "there": "local"}).choose(job(ClassType="Local")).system is None
    refused = dispatcher(TWO).choose(job(ClassType="Local", system="bird"))
    assert refused.message == "ClassType 'Local' runs on systems of kind local, and 'bird' is of kind slurm"
    assert dispatcher({"bird": "slurm"}).choose(job(ClassType="Local")).message == refused.message


def test_an_unknown_class_type_is_a_refusal_not_a_crash() -> None:
    choice = dispatcher(ONE).choose(job(ClassType="Lokal"))
    assert choice.system is None
    assert choice.message.startswith("unknown ClassType 'Lokal' (did you mean 'Local'?); known: ")


# Routes.


def test_the_first_route_whose_rules_all_agree_wins() -> None:
    there = dispatcher(
        TWO,
        {"name": "big", "rules": [{"resources_within": {"cpus": 64}}, {"user_is": ["ann", "bob"]}], "system": "bird"},
        {"name": "ann's", "rules": [{"user_is": "ann"}], "system": "here"},
        {"name": "rest", "system": "here"},
    )
    assert there.choose(job(user="bob")) == Choice(system="bird", route="big")
    assert there.choose(job(user="ann", cpus=65)) == Choice(
        system="here", route="ann's", refusals=("route big: resources_within: cpus is 65, at most 64",)
    )
    choice = there.choose(job(user="eve", cpus=65))
    assert (choice.system, choice.route) == ("here", "rest")
    assert choice.refusals == (
        "route big: resources_within: cpus is 65, at most 64",
        "route big: user_is: user is 'eve', not 'ann' or 'bob'",
        "route ann's: user_is: user is 'eve', not 'ann'",
    )


def test_a_job_that_no_route_allows_is_refused_with_every_reason_even_with_one_system() -> None:
    choice = dispatcher(ONE, {"name": "ann", "rules": [{"user_is": "ann"}], "system": "local"}).choose(job())
    assert choice.system is None
    assert choice.message == "no route allows this job; route ann: user_is: user is not given, not 'ann'"


def test_a_route_takes_its_first_system_that_the_class_allows() -> None:
    there = dispatcher(TWO, {"name": "any", "system": ["bird", "here"]}, {"name": "last", "system": "bird"})
    assert there.choose(job()).system == "bird"
    assert there.choose(job(ClassType="Local")) == Choice(system="here", route="any")
    refused = dispatcher(TWO, {"name": "last", "system": "bird"}).choose(job(ClassType="Local"))
    assert refused.refusals[1] == (
        "route last: ClassType 'Local' runs on systems of kind local, and 'bird' is of kind slurm"
    )


def test_a_route_to_a_system_that_is_not_configured_is_refused_at_once() -> None:
    with pytest.raises(
        ConfigError, match=r"route 'x': unknown system 'brid' \(did you mean 'bird'\?\); known: bird, h"
    ):
        dispatcher(TWO, {"name": "x", "system": "brid"})
    with pytest.raises(ConfigError, match="several routes named 'x'"):
        dispatcher(TWO, {"name": "x", "system": "bird"}, {"name": "x", "system": "here"})


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("big", "a route is a mapping with name, rules and system"),
        (
            {"system": "here", "rulse": []},
            r"unknown key 'rulse' \(did you mean 'rules'\?\); known: name, rules, system",
        ),
        ({"name": "x"}, "`system` must be the name of a system or a list"),
        ({"system": [1]}, "`system` must be the name of a system or a list"),
        ({"system": "a", "systems": ["b"]}, "say `system` or `systems`, not both"),
        ({"system": "here", "rules": "user_is"}, "`rules` must be a list"),
        ({"system": "here", "rules": [["user_is"]]}, "a rule is written `name` or `name: parameters`"),
        ({"system": "here", "rules": [{"user_is": "a", "queue_is": "b"}]}, "one to a list entry"),
        (
            {"system": "here", "rules": [{"user_si": "a"}]},
            r"unknown rule 'user_si' \(did you mean 'user_is'\?\); known",
        ),
        ({"system": "here", "rules": ["user_is"]}, "rule 'user_is' needs the parameter 'users'"),
        (
            {"system": "here", "rules": [{"resources_within": {"cpu": 4}}]},
            r"rule 'resources_within' has no parameter 'cpu' \(did you mean 'cpus'\?\); it takes: cpus, memory, wall",
        ),
        (
            {"system": "here", "rules": [{"resources_within": {"cpus": "many"}}]},
            "cpus: Input should be a valid integer",
        ),
        (
            {"system": "here", "rules": [{"resources_within": {"memory": "8 apples"}}]},
            "memory: '8 apples' is no amount",
        ),
        ({"system": "here", "rules": [{"user_is": 7}]}, "users: Input should be a valid string"),
    ],
)
def test_a_route_that_cannot_be_is_refused_with_its_place(entry: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=rf"^routes\[0\](\.rules\[0\])?: .*{words}"):
        dispatcher(TWO, entry)


def test_rules_may_be_written_as_one_mapping() -> None:
    there = dispatcher(ONE, {"rules": {"user_is": "ann", "queue_is": "long"}, "system": "local"})
    assert there.choose(job(user="ann", queue="long")).route == "local"
    assert there.choose(job(user="ann")).system is None


# The built-in rules.


def says(entry: Any, **document: Any) -> str | None:
    return Rule.parse(entry, "here").refusal(job(**document))


@pytest.mark.parametrize(
    ("entry", "yes", "no", "reason"),
    [
        ({"user_is": "ann"}, {"user": "ann"}, {"user": "eve"}, "user_is: user is 'eve', not 'ann'"),
        ({"project_is": ["a", "b"]}, {"project": "b"}, {}, "project_is: project is not given, not 'a' or 'b'"),
        ({"queue_is": {"queues": "x"}}, {"queue": "x"}, {"queue": "y"}, "queue_is: queue is 'y', not 'x'"),
        ({"class_is": "Local"}, {"ClassType": "Local"}, {}, "class_is: ClassType is not given, not 'Local'"),
        (
            {"name_matches": ["x", "al?gn-*"]},
            {"name": "align-7"},
            {"name": "Align-7"},
            "'Align-7', not 'x' or 'al?gn-*'",
        ),
        ({"tag_is": "gpu"}, {"tags": ["a", "gpu"]}, {"tags": ["a"]}, "tag_is: tags are a, none of them 'gpu'"),
        ({"tag_is": ["gpu", "b"]}, {"tags": "b"}, {}, "tag_is: tags are not given, none of them 'gpu' or 'b'"),
    ],
)
def test_a_built_in_rule_says_yes_or_why_not(entry: Any, yes: Any, no: Any, reason: str) -> None:
    assert says(entry, **yes) is None
    assert (says(entry, **no) or "").endswith(reason)


@pytest.mark.parametrize(
    ("limits", "yes", "no", "reason"),
    [
        ({"memory": "8G"}, {"memory": 8192}, {"memory": 8193}, "memory is 8193M, at most 8G"),
        ({"memory": "8G"}, {"memory": "8G"}, {}, "memory is not given, at most 8G; add `resources: {memory: …}`"),
        ({"walltime": "2h"}, {"walltime": "120m"}, {"walltime": "3h"}, "walltime is 3h, at most 2h"),
        (
            {"walltime": 90},
            {"walltime": 90},
            {},
            "walltime is not given, at most 1m 30s; add `resources: {walltime: …}`",
        ),
        ({"gpus": 0}, {}, {"resources": {"gpus": 1}}, "gpus is 1, at most 0"),
        ({"nodes": 1, "tasks": 2}, {"tasks": 2}, {"tasks": 3}, "tasks is 3, at most 2"),
    ],
)
def test_resources_within_counts_in_the_job_file_s_units(limits: Any, yes: Any, no: Any, reason: str) -> None:
    assert says({"resources_within": limits}, **yes) is None
    assert says({"resources_within": limits}, **no) == f"resources_within: {reason}"


def test_every_declared_rule_takes_a_job_first_and_has_a_contract() -> None:
    assert set(known_rules()) >= {
        *("user_is", "project_is", "name_matches", "tag_is", "class_is", "resources_within", "queue_is"),
    }
    for name in known_rules():
        function = rule_function(name)
        assert next(iter(function.__annotations__)) == "job"
        assert function.__doc__


# A site's own rules.


def test_a_site_s_rule_is_registered_by_its_function_s_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "_rules", Plugins("jobmill.rules", "rule", rules._checked))
    (tmp_path / "mine.py").write_text(
        "from __future__ import annotations\n"
        "from typing import TYPE_CHECKING\n"
        "from jobmill.rules.rule import register\n"
        "if TYPE_CHECKING:\n    from jobmill.jobs.spec import JobSpec\n"
        "@register\n"
        "def long_name(job: JobSpec, *, least: int = 3, **more: str) -> str | None:\n"
        "    return None if len(job.name or '') >= least else 'the name is too short'\n"
        "@register\n"
        "def always(job): return None\n"
    )
    rules.load_site_rules(tmp_path)
    there = dispatcher(
        ONE, {"name": "r", "rules": [{"long_name": {"least": 5, "x": "y"}}, "always"], "system": "local"}
    )
    assert there.choose(job(name="hello")).route == "r"
    assert there.choose(job(name="hell")).refusals[-1] == "route r: long_name: the name is too short"
    with pytest.raises(ConfigError, match=r"rule 'always' takes no parameters; write just `always`"):
        Rule.parse({"always": 1}, "here")


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda job: 1 / 0, "broken: the rule itself failed: ZeroDivisionError: division by zero"),
        (lambda job: True, "broken: the rule answered True; it must answer None for yes or a reason for no"),
        (lambda job: False, "broken: the rule answered False; it must answer None for yes or a reason for no"),
        (lambda job: "", "broken: no reason given"),
    ],
)
def test_a_broken_rule_says_no(function: Any, words: str) -> None:
    assert Rule(name="broken", params={}, function=function).refusal(job()) == words


@given(
    users=st.lists(st.sampled_from(["ann", "bob", "eve"]), min_size=1, max_size=3),
    limits=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    user=st.sampled_from(["ann", "bob", "eve", "zoe"]),
    cpus=st.integers(1, 5),
)
def test_the_winner_is_always_the_first_that_agrees(users: list[str], limits: list[int], user: str, cpus: int) -> None:
    routes = [
        {"name": f"r{n}", "rules": [{"user_is": u}, {"resources_within": {"cpus": c}}], "system": "local"}
        for n, (u, c) in enumerate(zip(users, limits, strict=False))
    ]
    expected = next(
        (f"r{n}" for n, (u, c) in enumerate(zip(users, limits, strict=False)) if u == user and cpus <= c), None
    )
    choice = dispatcher(ONE, *routes).choose(job(user=user, cpus=cpus))
    assert choice.route == expected
    assert (choice.system is None) == (expected is None)
    before = len(routes) if expected is None else int(expected[1:])
    assert all(any(r.startswith(f"route r{n}: ") for r in choice.refusals) for n in range(before))


def test_a_route_says_as_whom_only_what_its_system_can_keep() -> None:
    sudo = ["sudo", "-u", "{user}", "--"]
    entries = [
        {"name": "ann", "rules": [{"user_is": "ann"}], "system": "here", "run_as": sudo, "run_as_users": ["ann"]},
        {"name": "rest", "rules": [{"queue_is": "service"}], "systems": ["here", "there"]},
    ]
    routes = parse_routes(entries, {"here": "local", "there": "fake"})
    acting = Acting(routes)
    assert routes[0].run_as is not None and routes[0].run_as.template == tuple(sudo)
    assert acting.run_as(job(user="ann"), "here") is routes[0].run_as
    assert acting.run_as(job(user="bob", queue="service"), "here") is None
    assert acting.run_as(job(user="bob"), "there") is None  # no route there says run_as: its rules do not bind
    with pytest.raises(PermanentError, match=r"none of them allows this one: route ann: .*; route rest: "):
        acting.run_as(job(user="bob"), "here")
    with pytest.raises(ConfigError, match=r"routes: ann.run_as: jobs of system 'here' \(kind fake\) cannot run as"):
        parse_routes(entries, {"here": "fake", "there": "fake"})
    with pytest.raises(ConfigError, match=r"routes: ann.run_as_users: there is no run_as beside it"):
        parse_routes([{**entries[0], "run_as": None}], {"here": "local"})
