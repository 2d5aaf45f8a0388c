"""A job's spec: what is accepted, the canonical text, and every problem told at once with its line."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobmill.errors import SpecError
from jobmill.jobs.document import load
from jobmill.jobs.identifier import drawn_at
from jobmill.jobs.spec import ID_PATTERN, RETRY_REASONS, JobSpec, Resources, Retry, apply_settings, new_id

FULL = """\
id: align-7.2026
name: align-sample-7
command: bwa mem -t $JOBMILL_CPUS ref.fa reads.fq > out.sam
ClassType: Local
system: bird
workdir: /data/ann
env: {VERSION: 3.10, DEBUG: yes, MODE: 0755, N: 4, EMPTY: , ZIP: "01234"}
inherit_env: [SSH_AUTH_SOCK, LANG]
stdin: reads.fq
stdout: out.log
stderr: err.log
resources: {cpus: 4, memory: 8G, walltime: 2h, gpus: 1, nodes: 1, tasks: 1}
queue: long
account: lab
native: "-l arch=lx-amd64"
user: ann
project: genome
tags: [a, b]
priority: -5
outputs: ["*.sam", {glob: "logs/*", required: false}]
retry: {max: 3, delay: 30s, backoff: 2, on: [oom, timeout]}
depends_on: [first, second-job]
after: any
params: {z: 1, a: {c: [1, 2.5, null, true], b: x}}
hold: true
start_after: 2026-12-01T08:00Z
"""


def parse(text: str) -> JobSpec:
    (document,) = load(text.encode(), limit=1 << 20, where="job.yaml")
    return JobSpec.parse(document)


def problems(text: str) -> list[str]:
    with pytest.raises(SpecError) as caught:
        parse(text)
    return str(caught.value).split("\n")


def test_the_full_job() -> None:
    spec = parse(FULL)
    assert (spec.id, spec.class_type, spec.system, spec.user) == ("align-7.2026", "Local", "bird", "ann")
    assert spec.resources == Resources(cpus=4, memory=8192, walltime=7200, gpus=1, nodes=1, tasks=1)
    assert spec.env == {"VERSION": "3.10", "DEBUG": "yes", "MODE": "0755", "N": "4", "EMPTY": "", "ZIP": "01234"}
    assert spec.inherit_env == ("SSH_AUTH_SOCK", "LANG")
    assert [(output.glob, output.required) for output in spec.outputs] == [("*.sam", True), ("logs/*", False)]
    assert (spec.retry.max, spec.retry.delay, spec.retry.on) == (3, 30, ("oom", "timeout"))
    assert (spec.depends_on, spec.after) == (("first", "second-job"), "any")
    assert spec.start_after == datetime(2026, 12, 1, 8, tzinfo=UTC).timestamp()
    assert (spec.hold, spec.priority, spec.tags) == (True, -5, ("a", "b"))


def test_what_is_not_said_has_its_default() -> None:
    spec = parse("command: 'true'")
    assert (spec.id, spec.resources, spec.retry.max, spec.after, spec.hold, spec.priority) == (
        None,
        Resources(),
        0,
        "ok",
        False,
        0,
    )
    assert spec.retry.on == ("oom", "timeout", "node_fail", "preempted", "lost")
    assert spec.canonical() == '{"command":"true"}'


def test_the_canonical_text_is_stable_and_complete() -> None:
    spec = parse(FULL)
    text = spec.canonical()
    assert "\n" not in text
    assert (
        JobSpec.from_canonical(text) == JobSpec.from_canonical(text.encode()) == JobSpec.parse(json.loads(text)) == spec
    )
    assert JobSpec.from_canonical(text).canonical() == text
    shuffled = dict(reversed(json.loads(text).items()))
    shuffled["env"] = dict(reversed(shuffled["env"].items()))
    shuffled["params"] = dict(reversed(shuffled["params"].items()))
    assert JobSpec.parse(shuffled).canonical() == text
    values = json.loads(text)
    assert values["resources"]["memory"] == 8192
    assert '"walltime":7200,' in text
    assert '"ClassType":"Local"' in text


def test_other_words_give_the_canonical_ones() -> None:
    theirs = parse(
        "command: x\ncwd: d\ncores: 4\nmem: 2G\ntime: 1:30:00\nnative_specification: -x\npartition: q\nclass_type: C"
    )
    ours = parse(
        "command: x\nworkdir: d\nresources: {cpus: 4, memory: 2048, walltime: 90m}\nnative: -x\nqueue: q\nClassType: C"
    )
    assert theirs.canonical() == ours.canonical()
    assert parse("command: x\nresources: {ncpus: 2, time_limit: 01:30}\ndirectory: d\ngpus: 2").resources == Resources(
        cpus=2, walltime=90, gpus=2
    )


@pytest.mark.parametrize(
    ("text", "first", "second"),
    [
        ("cores: 1\nncpus: 2", "cores", "ncpus"),
        ("cpus: 1\nresources: {cpus: 1}", "cpus", "resources.cpus"),
        ("resources: {mem: 1, memory: 1}", "resources.mem", "resources.memory"),
        ("cwd: a\nworkdir: a", "cwd", "workdir"),
        ("workdir: a\ncwd: a", "workdir", "cwd"),
        ("ClassType: A\nclass_type: A", "ClassType", "class_type"),
    ],
)
def test_said_twice_in_two_words(text: str, first: str, second: str) -> None:
    (line,) = problems("command: x\n" + text)
    assert f": is said twice, as {first} and as {second}; keep one" in line


def test_single_values_where_lists_are_meant_and_short_forms() -> None:
    spec = parse("command: x\ntags: a\ndepends_on: b\noutputs: '*.sam'\nretry: 2\ninherit_env: true")
    assert (spec.tags, spec.depends_on, spec.outputs[0].glob) == (("a",), ("b",), "*.sam")
    assert (spec.retry.max, spec.inherit_env) == (2, True)
    assert parse("command: x\noutputs: {glob: a, required: false}").outputs[0].required is False
    assert JobSpec.from_canonical(spec.canonical()) == spec


def test_null_counts_as_not_given() -> None:
    assert parse("command: x\nqueue: ~\nresources: {cpus: ~}\nname:\n").canonical() in (
        '{"command":"x"}',
        '{"command":"x","resources":{}}',
    )


def test_a_list_command_is_argv() -> None:
    spec = parse("command: [a, 'b c', '']")
    assert spec.command == ("a", "b c", "")
    assert spec.canonical() == '{"command":["a","b c",""]}'


def test_steps() -> None:
    spec = parse(
        "steps:\n- command: x\n"
        "- {name: map, function: 'pkg.mod:call', inputs: {b: 1, a: [2]}, outputs: [r], log: m.txt}"
    )
    assert [(step.name, step.log_file) for step in spec.steps] == [("step-1", "step-1.log"), ("map", "m.txt")]
    assert spec.steps[1].inputs == {"a": [2], "b": 1}
    assert JobSpec.from_canonical(spec.canonical()) == spec == JobSpec.parse(json.loads(spec.canonical()))


def test_all_problems_at_once_each_with_key_line_and_remedy() -> None:
    text = """\
command: yes
cores: 0
resources:
  mem: lots
  cpuz: 3
notify: []
outputs: [a, ../b]
steps:
 - {name: a, command: x}
 - {name: a, function: bad}
env: {9: x}
hold: "x"
comand: y
"""
    lines = problems(text)
    assert [line.split(": ")[:2] for line in lines] == [
        ["job.yaml:1", "command"],
        ["job.yaml:2", "cores"],
        ["job.yaml:4", "resources.mem"],
        ["job.yaml:5", "resources.cpuz"],
        ["job.yaml:6", "notify"],
        ["job.yaml:7", "outputs[1].glob"],
        ["job.yaml:8", "steps"],
        ["job.yaml:10", "steps[1].function"],
        ["job.yaml:11", "env"],
        ["job.yaml:12", "hold"],
        ["job.yaml:13", "comand"],
    ]
    assert "put it in quotes" in lines[0]
    assert "must be at least 1, not 0" in lines[1]
    assert "(did you mean 'cpus'?)" in lines[3]
    assert "not supported in this version" in lines[4]
    assert "(did you mean 'command'?)" in lines[10]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: x", "says nothing to run; give command: or steps:"),
        ("steps: []", "empty list"),
        ("command: ''", "command: is empty"),
        ("command: []", "has no program"),
        ("command: [a, 1]", "item 2: each word must be text, not the number 1"),
        ("command: {a: b}", "must be text (for the shell) or a list of words (no shell), not a mapping"),
        ("command: 5", 'put it in quotes: "5"'),
        ('{"command": "x", "id": "-a"}', "at most 64"),
        ("command: x\nid: " + "a" * 65, "at most 64"),
        ("command: x\nid: a/b", "at most 64"),
        ("command: x\nid: 7", 'put it in quotes: "7"'),
        ('command: x\nname: "a\\tb"', "printable"),
        ("command: x\nname: " + "n" * 201, "at most 200"),
        ('command: x\nname: "a\\u202eb"', "printable"),
        ("command: x\nuser: 'ann:root'", "must be one word"),
        ("command: x\nqueue: -evil", "must be one word"),
        ("command: x\ntags: [a b]", "item 1"),
        ("command: x\ncpus: '4'", 'cpus: must be a whole number, not the text "4"; take the quotes away'),
        ("command: x\ncpus: 1.5", "must be a whole number, not 1.5"),
        ("command: x\ncpus: yes", "YAML reads yes, no, on, off as true and false"),
        ("command: x\ncpus: 010", 'not the text "010"'),
        ("command: x\nmemory: 0", "must be more than 0"),
        ("command: x\nwalltime: 0", "must be more than 0"),
        ("command: x\nwalltime: yes", "is no duration"),
        ("command: x\nwalltime: UNLIMITED", "is no duration"),
        ("command: x\npriority: 1001", "at most 1000"),
        ("command: x\nhold: 1", "must be true or false"),
        ("command: x\nenv: [A]", "must be a mapping of NAME: value"),
        ("command: x\nenv: {A: [1]}", "A: must be a single value, not a list"),
        ("command: x\nenv: {JOBMILL_JOB_ID: a}", "set by jobmill itself"),
        ("command: x\nenv: {A-B: a}", "is no name of a variable"),
        ("command: x\ninherit_env: [A*]", "is no name of a variable"),
        ("command: x\noutputs: [/etc/passwd]", "must stay below"),
        ("command: x\noutputs: [~/x]", "must stay below"),
        ("command: x\noutputs: [a/../../b]", "must stay below"),
        ("command: x\nafter: any", "give depends_on: as well"),
        ("command: x\ndepends_on: a\nafter: never", "none of ok, any, failed"),
        ("command: x\nretry: {on: [omo]}", "none of oom"),
        ("command: x\nretry: x", "must be a mapping"),
        ("command: x\nretry: {max: -1}", "at least 0"),
        ("command: x\nretry: {escalate: {memory: 2}}", "escalate is not supported in this version"),
        ("command: x\ndepends_on: [a b]", "depends_on"),
        ("command: x\nstart_after: tomorrow", "write 2026-12-01T08:00"),
        ("command: x\nstart_after: 20261201", "no Unix time"),
        ("command: x\nresources: 5", "must be a mapping"),
        ("command: x\nsteps: [{command: y}]", "stands beside command"),
        ("steps: [{command: y, function: 'a:b'}]", "needs one of command and function, not both"),
        ("steps: [{name: a}]", "needs one of command and function"),
        ("steps: [{command: y, log: ../x}]", "plain file name"),
        ("steps: [{command: y, log: stdout}]", "the run itself writes"),
        ("steps: [{command: y, name: a}, {command: y, name: a}]", "earlier step"),
        ("steps: [{command: y, name: a}, {command: y, log: a.log}]", "is the log of an earlier step"),
        ("steps: [{command: y}, {command: y, name: step-1}]", "earlier step"),
        ("steps: [x]", "must be a mapping"),
        ("steps: x", "must be a list"),
        ("steps: [{function: 'os.system'}]", "package.module:function"),
        ("steps: [{command: y, outputs: [a/b]}]", "plain file name"),
        ("command: x\ncontainer: a b", "is no image"),
        ("command: x\ncontainer: {image: -v}", "is no image"),
        ("command: x\ncontainer: {img: x}", "(did you mean 'image'?)"),
        ("command: x\ncontainer: {engine: rkt}", "none of docker, podman, apptainer"),
        ("command: x\ncontainer: {volumes: [a/b]}", "is no volume"),
        ("command: x\ncontainer: {volumes: [cache]}", "say where it appears"),
        ("command: x\ncontainer: {volumes: ['/a:/jobmill/b']}", "is taken in every container"),
        ("command: x\ncontainer: {volumes: ['/a:b']}", "is no place in a container"),
        ("cmd: x", "(did you mean 'command'?)"),
        ("command: x\nthreads: 3", "(did you mean 'cpus'?)"),
        ("command: x\nzzzzzz: 3", "known here: id, name, command, ClassType"),
        *((f"command: x\n{key}: x", "is not supported in this version") for key in ("qos", "array")),
        *((f"command: x\n{key}: x", "is not supported in this version") for key in ("notify", "stages", "jobs")),
    ],
)
def test_one_problem(text: str, words: str) -> None:
    (line,) = (line for line in problems(text) if words in line)
    assert re.match(r"job\.yaml:\d+: \S", line)
    assert len(line) < 330


@pytest.mark.parametrize(
    "raw",
    [
        [],
        None,
        "x",
        {1: 2},
        {"command": "x\0"},
        {"command": "x", "name": "\ud800"},
        {"command": "x", "params": {"a": {1}}},
        {"command": "x", "params": {"a": float("nan")}},
        {"command": "x", "params": {1: 1}},
        {"command": "x", "workdir": "a\nb"},
        {"command": "x", "native": "\0"},
        {"command": "x", "env": {"A": "\0"}},
        {"command": "x", "env": {1: "a"}},
        {"command": "x", "resources": {1: 2}},
    ],
)
def test_mappings_made_by_hand_are_checked_as_well(raw: Any) -> None:
    with pytest.raises(SpecError, match="here: "):
        JobSpec.parse(raw, where="here")


def test_cyclic_parameters_are_an_error_not_a_crash() -> None:
    loop: dict[str, Any] = {}
    loop["a"] = loop
    with pytest.raises(SpecError, match="deep"):
        JobSpec.parse({"command": "x", "params": loop})


def test_values_are_shown_short_and_printable() -> None:
    (line,) = problems("command: x\nid: '" + "é\u0085" * 500 + "'")
    assert len(line) < 200
    assert line.isprintable()


@pytest.mark.parametrize(
    "raw",
    [
        {f"key{number}": 1 for number in range(49_000)},
        {"k" * 1_000_000: 1, "command": "x"},
        {"command": "x", "steps": [5] * 50_000},
        {"command": "x", "id": "\u0085" * 1_000_000, "cpus": ["x" * 1000] * 1000},
    ],
)
def test_a_hostile_document_is_refused_fast_and_briefly(raw: dict[str, Any]) -> None:
    (document,) = load(json.dumps(raw).encode(), limit=1 << 24)
    began = time.process_time()
    with pytest.raises(SpecError) as caught:
        JobSpec.parse(document)
    assert len(str(caught.value)) < 30_000
    assert time.process_time() - began < 10


def test_moments() -> None:
    def moment(value: Any) -> float | None:
        return JobSpec.parse({"command": "x", "start_after": value}).start_after

    instant = datetime(2026, 12, 1, 8, tzinfo=UTC)
    written = ("2026-12-01T08:00Z", "2026-12-01T09:00+01:00", "2026-12-01 09:00:00 +01:00", "2026-12-01 08:00 Z")
    assert {moment(value) for value in written} == {instant.timestamp()}
    assert (
        moment(instant.astimezone(timezone(timedelta(hours=5)))) == moment(instant.timestamp()) == instant.timestamp()
    )
    assert moment("2026-12-01T08:00") == datetime(2026, 12, 1, 8).timestamp() == moment(datetime(2026, 12, 1, 8))
    assert moment("2026-12-01") == datetime(2026, 12, 1).timestamp() == moment(datetime(2026, 12, 1).date())


def test_moments_without_a_zone_are_local_time() -> None:
    script = (
        "from jobmill.jobs.spec import JobSpec\n"
        "print(JobSpec.parse({'command': 'x', 'start_after': '2026-12-01T08:00'}).canonical())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "TZ": "UTC-5"},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    expected = int(datetime(2026, 12, 1, 3, tzinfo=UTC).timestamp())
    assert done.stdout.strip() == f'{{"command":"x","start_after":{expected}}}'


def test_with() -> None:
    spec = parse(FULL)
    other = spec.with_(id="b", user="bob", ClassType="Cluster")
    assert (other.id, other.user, other.class_type, spec.id) == ("b", "bob", "Cluster", "align-7.2026")
    assert spec.with_(id=None).id is None
    assert spec.with_(class_type=None).canonical() == json.dumps(
        {key: value for key, value in json.loads(spec.canonical()).items() if key != "ClassType"},
        separators=(",", ":"),
    )
    assert spec.with_() == spec
    with pytest.raises(SpecError, match="id: "):
        spec.with_(id="a b")
    with pytest.raises(SpecError, match="unknown key"):
        spec.with_(idd="a")
    steps = parse("steps: [{command: x}]")
    assert steps.with_(id="a").steps == steps.steps


def test_a_spec_is_frozen() -> None:
    spec = parse("command: x")
    with pytest.raises(ValueError, match="frozen"):
        spec.id = "a"


def test_from_canonical_refuses_what_is_none() -> None:
    for text in ("", "[]", "{", '{"command": 5}', '{"nope": 1}', b"\xff"):
        with pytest.raises(SpecError):
            JobSpec.from_canonical(text)


def test_retry() -> None:
    retry = Retry(max=3, delay=10, backoff=3, on=("oom", "failed"))
    assert [retry.wait(run) for run in (1, 2, 3)] == [10, 30, 90]
    assert retry.wait(10**9) == 86400
    assert retry.covers("oom")
    assert not retry.covers("lost")
    assert all(Retry(on=("any",)).covers(reason) for reason in RETRY_REASONS)


def test_new_ids_are_ordered_unique_and_text_to_yaml() -> None:
    drawn = [new_id() for _ in range(20_000)]
    assert drawn == sorted(set(drawn))
    assert all(re.fullmatch(ID_PATTERN, one) for one in drawn[::100])
    assert {len(one) for one in drawn} == {17}
    (document,) = load(f"id: {drawn[0]}".encode(), limit=99)
    assert document.data["id"] == drawn[0]


def test_a_drawn_id_tells_when_it_was_drawn_and_no_other_does() -> None:
    before = time.time()
    moment = drawn_at(new_id())
    assert moment is not None and before - 2 <= moment <= time.time()
    assert all(drawn_at(other) is None for other in ("", "align-7.2026", "b" * 16, "b" * 18, "u" + "b" * 16, "b-" * 9))
    assert drawn_at("bm7zgatsc1a0a0qm.") == drawn_at("bm7zgatsc1a0a0qm7")  # only the time is looked at


def test_a_forked_child_draws_other_ids() -> None:
    script = (
        "import os\nfrom jobmill.jobs.identifier import new_id\nnew_id()\n"
        "child = os.fork()\n"
        "for _ in range(2000): os.write(1, (new_id() + '\\n').encode())\n"
        "if child: os.waitpid(child, 0)\n"
        "os._exit(0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True)
    drawn = done.stdout.split()
    assert len(drawn) == len(set(drawn)) == 4000


def test_settings() -> None:
    raw: dict[str, Any] = {"command": "x", "cores": 4, "steps": [{"command": "a"}], "queue": "q", "cwd": "d"}
    settings = [
        "resources.cpus=8",
        "env.X=1.10",
        "env.Y=",
        "env.Z=a=b",
        "tags=[a, b]",
        "steps.0.command=b",
        "queue=",
        "workdir=e",
    ]
    changed = apply_settings(raw, settings)
    assert changed == {
        "command": "x",
        "steps": [{"command": "b"}],
        "resources": {"cpus": 8},
        "env": {"X": "1.10", "Y": "", "Z": "a=b"},
        "tags": ["a", "b"],
        "workdir": "e",
    }
    assert raw == {"command": "x", "cores": 4, "steps": [{"command": "a"}], "queue": "q", "cwd": "d"}
    assert apply_settings({"resources": {"mem": 1, "cpus": 2}}, ["memory=4G"]) == {
        "resources": {"cpus": 2},
        "memory": "4G",
    }
    for bad in ("x", "=1", "steps.5.a=1", "steps.x=1", "command.a=1", "a..b=1", "x=[", "x=!!python/name:os ''", " a=1"):
        with pytest.raises(SpecError, match=f"^--set {re.escape(bad)}: "):
            apply_settings(raw, [bad])


def test_settings_keep_the_lines_of_the_document() -> None:
    (document,) = load(b"command: x\nid: a b\ncpus: 3\n", limit=999, where="f")
    changed = dataclasses.replace(document, data=apply_settings(document.data, ["cpus=0"]))
    with pytest.raises(SpecError) as caught:
        JobSpec.parse(changed)
    assert [line.split(": ")[:2] for line in str(caught.value).split("\n")] == [["f:2", "id"], ["f:3", "cpus"]]


words = st.text("abc", min_size=1, max_size=5)
documents = st.fixed_dictionaries(
    {"command": words | st.lists(words, min_size=1, max_size=3)},
    optional={
        "id": words,
        "cores": st.integers(1, 99),
        "walltime": st.integers(1, 10**6) | st.sampled_from(["1h 30m", "01:30:00", "1.5s"]),
        "resources": st.fixed_dictionaries(
            {}, optional={"memory": st.integers(1, 10**6) | st.just("1.5G"), "gpus": st.just(0)}
        ),
        "env": st.dictionaries(st.from_regex(r"[A-Z_]{1,4}", fullmatch=True), words | st.integers() | st.booleans()),
        "params": st.dictionaries(
            words, st.recursive(st.none() | st.integers() | words, lambda x: st.lists(x, max_size=2))
        ),
        "tags": words | st.lists(words),
        "retry": st.integers(0, 9) | st.fixed_dictionaries({"delay": st.just("1m"), "backoff": st.floats(1, 100)}),
        "priority": st.integers(-1000, 1000),
        "start_after": st.floats(1e9, 3e10) | st.just("2026-12-01T08:00"),
        "hold": st.booleans(),
    },
)


@given(documents)
def test_canonical_round_trip(raw: dict[str, Any]) -> None:
    spec = JobSpec.parse(raw)
    text = spec.canonical()
    assert JobSpec.parse(json.loads(text)) == JobSpec.from_canonical(text) == spec
    assert JobSpec.parse(json.loads(text)).canonical() == JobSpec.from_canonical(text).canonical() == text
    (document,) = load(json.dumps(raw).encode(), limit=1 << 20)
    assert JobSpec.parse(document).canonical() == text


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.dictionaries(
        st.sampled_from([*JobSpec.model_fields, "ClassType", "cores", "mem", "time", "nope"]), anything, max_size=6
    )
)
def test_anything_is_a_spec_or_a_spec_error(raw: dict[str, Any]) -> None:
    try:
        spec = JobSpec.parse(raw, where="w")
    except SpecError as bad:
        assert all(line.startswith("w: ") for line in str(bad).split("\n"))
        return
    assert JobSpec.from_canonical(spec.canonical()) == spec


@pytest.mark.parametrize("word", ["all", "last"])
def test_a_word_that_means_other_jobs_is_no_id(word: str) -> None:
    assert "another id" in problems(f"id: {word}\ncommand: x")[0]
    assert parse(f"system: {word}\ncommand: x").system == word
