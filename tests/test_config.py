"""The configuration: search, defaults, every problem at once, and no secret ever shown."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobmill.config import Config, find, load, mask
from jobmill.errors import ConfigError


def write(folder: Path, text: str) -> Path:
    file = folder / "jobmill.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def read(folder: Path, text: str, **environ: str) -> Config:
    return load(write(folder, text), environ={"HOME": "/home/ann", **environ})


def problems(folder: Path, text: str, **environ: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(folder, text, **environ)
    return [line.replace(str(folder) + "/", "") for line in str(caught.value).split("\n")]


def test_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = load(environ={"HOME": str(tmp_path)})
    assert (config.redis.url, config.redis.prefix, config.routes) == (None, "", ())
    assert config.state == tmp_path / ".local/state/jobmill"
    assert config.spool == config.state / "spool"
    (local,) = config.systems.values()
    assert (local.name, local.kind, local.lane) == ("local", "local", "")
    assert local.slots is not None
    assert local.limit == local.slots + 64
    assert (config.limits.document, config.limits.lease) == (4 << 20, 10)
    assert load(environ={"HOME": "/x", "XDG_STATE_HOME": "/s"}).state == Path("/s/jobmill")
    assert load(environ={"HOME": "/x", "XDG_STATE_HOME": "/s", "JOBMILL_STATE": "/j"}).state == Path("/j")


def test_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("given", "named", "xdg/jobmill", "home/.config/jobmill", "here"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    environ = {"HOME": str(tmp_path / "home")}
    assert find(None, environ) is None
    expected = write(tmp_path / "home/.config/jobmill", "")
    assert find(None, environ) == expected
    expected = write(tmp_path / "xdg/jobmill", "")
    environ["XDG_CONFIG_HOME"] = str(tmp_path / "xdg")
    assert find(None, environ) == expected
    expected = write(tmp_path / "here", "")
    assert find(None, environ) == expected
    expected = write(tmp_path / "named", "")
    environ["JOBMILL_CONFIG"] = str(expected)
    assert find(None, environ) == expected
    expected = write(tmp_path / "given", "")
    assert find(expected, environ) == expected
    environ["JOBMILL_CONFIG"] = "/nowhere.yaml"
    with pytest.raises(ConfigError, match=r"/nowhere.yaml: there is no such .* by \$JOBMILL_CONFIG"):
        load(environ=environ)
    with pytest.raises(ConfigError, match="no such configuration file"):
        load(tmp_path / "nope", environ={})


FULL = """\
redis: {url: "redis://ann:s3cret@host:6379/0", prefix: "{jm}:"}
state: st
spool: ~/spool
systems:
  local: {slots: 2}
  bird: {kind: slurm, limit: 200, host: login, flags: [a, {b: 1}]}
  far: {kind: local, slots: 4, lane: east}
routes:
  - {name: big, rules: [known, {user_is: ann}], system: bird}
  - {rules: known, system: [far, local], run_as: [sudo, -u, "{user}", --], run_as_least_uid: 500}
capacities: {LocalJobs: 8, "User:ann": 4, "Queue:long": 0}
limits: {document: 1M, lease: 1m, keep_ended: 1-00}
log: {level: debug, json: true}
"""


def test_a_full_file(tmp_path: Path) -> None:
    config = read(tmp_path, FULL)
    assert (config.redis.url, config.redis.prefix) == ("redis://ann:s3cret@host:6379/0", "{jm}:")
    assert (config.state, config.spool) == (tmp_path / "st", Path("/home/ann/spool"))
    assert (config.systems["local"].kind, config.systems["local"].limit) == ("local", 66)
    bird = config.systems["bird"]
    assert (bird.kind, bird.slots, bird.limit) == ("slurm", None, 200)
    assert bird.options == {"host": "login", "flags": ["a", {"b": 1}]}
    assert config.systems["far"].lane == "east"
    assert [(route.name, route.rules, route.systems) for route in config.routes] == [
        ("big", ("known", {"user_is": "ann"}), ("bird",)),
        ("route-2", ("known",), ("far", "local")),
    ]
    assert config.capacities == {"LocalJobs": 8, "User:ann": 4, "Queue:long": 0}
    assert (config.limits.document, config.limits.lease, config.limits.keep_ended) == (1 << 20, 60, 86400)
    assert (config.log.level, config.log.json) == ("debug", True)


def test_it_can_be_written_and_read_again(tmp_path: Path) -> None:
    config = read(tmp_path, FULL)
    text = config.to_yaml()
    assert "s3cret" not in text
    again = read(tmp_path, text)
    assert (again.systems, again.routes, again.capacities, again.limits, again.log, again.state, again.spool) == (
        config.systems,
        config.routes,
        config.capacities,
        config.limits,
        config.log,
        config.state,
        config.spool,
    )


def test_no_secret_is_shown(tmp_path: Path) -> None:
    config = read(tmp_path, FULL)
    assert "s3cret" not in repr(config) + str(config) + repr(config.redis) + config.redis.shown
    assert config.redis.shown == "redis://ann:***@host:6379/0"
    for text in (
        'redis: {url: "http://u:s3cret@host"}',
        'redis: {url: "redis://:s3cret@host:port"}',
        'redis: {url: ["redis://:s3cret@host"]}',
        'redis: "redis://:s3cret@host"',
        'redis: {url: "redis://:s3cret@"}',
        'redis: {url: "redis://:s3cret"}',
        'redis: {url: "unix://?password=s3cret"}',
    ):
        assert "s3cret" not in "".join(problems(tmp_path, text)), text
    (line,) = problems(tmp_path, "", JOBMILL_REDIS_URL="http://:s3cret@host")
    assert line.startswith("$JOBMILL_REDIS_URL: must begin with redis://")
    assert line.endswith("(it begins with 'http')")


@given(st.text("ab:@/?#%[]", max_size=12), st.text("xy:@/?#%", max_size=6))
def test_a_password_never_survives_the_mask(before: str, after: str) -> None:
    assert "S3" not in mask(f"redis://ann:{before}S3{after}@host:1/0")
    assert "S3" not in mask("unix:///run/s?db=1&password=S3")


def test_the_environment_wins(tmp_path: Path) -> None:
    assert read(tmp_path, FULL, JOBMILL_REDIS_URL="unix:///run/r").redis.url == "unix:///run/r"
    for url in ("rediss://h", "sentinel://a:1,b:2/main", "redis://[::1]:6379/0", "redis://:p%40@h:1"):
        assert read(tmp_path, f"redis: {{url: '{url}'}}").redis.url == url


def test_the_digest_is_of_what_workers_share(tmp_path: Path) -> None:
    digest = read(tmp_path, FULL).digest
    assert len(digest) == 12
    same = FULL.replace("s3cret", "other").replace("debug", "info").replace("state: st", "state: /else")
    assert read(tmp_path, same).digest == digest
    for old, new in (("slots: 2", "slots: 3"), ("{jm}", "{x}"), ("lease: 1m", "lease: 2m"), ("User:ann", "User:bob")):
        assert read(tmp_path, FULL.replace(old, new)).digest != digest


def test_every_problem_at_once(tmp_path: Path) -> None:
    text = """\
redis: {prefx: 1}
system: {}
users: []
state: [1]
systems:
  local: {slots: yes}
  bird: {limit: 200}
  "a b": {kind: x}
routes:
  - {name: a, rules: [x, {user_is: ann, b: 1}], system: brd}
  - {name: a}
  - 5
capacities: {"Local Jobs": 1, "User:ann": 4.5, X: -1}
limits: {document: 1G, lease: 1x, keep: 3}
log: {level: dbug, json: 1}
"""
    lines = problems(tmp_path, text)
    assert [line.split(": ")[:2] for line in lines] == [
        ["jobmill.yaml:1", "redis.prefx"],
        ["jobmill.yaml:2", "system"],
        ["jobmill.yaml:3", "users"],
        ["jobmill.yaml:4", "state"],
        ["jobmill.yaml:6", "systems.local.slots"],
        ["jobmill.yaml:7", "systems.bird"],
        ["jobmill.yaml:8", "systems.a b"],
        ["jobmill.yaml:10", "routes[0].system"],
        ["jobmill.yaml:10", "routes[0].rules"],
        ["jobmill.yaml:11", "routes[1].name"],
        ["jobmill.yaml:11", "routes[1]"],
        ["jobmill.yaml:12", "routes[2]"],
        ["jobmill.yaml:13", "capacities.Local Jobs"],
        ["jobmill.yaml:13", "capacities.User:ann"],
        ["jobmill.yaml:13", "capacities.X"],
        ["jobmill.yaml:14", "limits.keep"],
        ["jobmill.yaml:14", "limits.document"],
        ["jobmill.yaml:14", "limits.lease"],
        ["jobmill.yaml:15", "log.level"],
        ["jobmill.yaml:15", "log.json"],
    ]
    assert "(did you mean 'prefix'?)" in lines[0]
    assert "not supported in this version" in lines[2]
    assert "(did you mean 'bird'?)" in lines[7]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\na: 2", "jobmill.yaml:2: a: this key stands twice"),
        ("[]", "jobmill.yaml:1: a document must be a mapping"),
        ("log: {}\n---\nlog: {}", "jobmill.yaml:3: a second document"),
        ("log: [", "not valid YAML"),
        ("routes: {}", "routes: must be a list"),
        ("routes: [{}]", "routes[0]: is empty"),
        ("routes: [{system: 5}]", "there is no system 5"),
        ("systems: {x: }", "systems.x: has no kind"),
        ("systems: {x: {kind: ''}}", "systems.x.kind: must be printable text"),
        ("systems: {x: {kind: y, lane: 'a b'}}", "is no lane"),
        ("#" * (1 << 20) + "x", "more than the limit"),
    ],
)
def test_one_problem(tmp_path: Path, text: str, words: str) -> None:
    (line,) = problems(tmp_path, text)
    assert words in line


def test_an_empty_file_is_the_default(tmp_path: Path) -> None:
    assert read(tmp_path, "# nothing yet\n").systems == read(tmp_path, "").systems == load(environ={}).systems


def test_a_file_that_cannot_be_read() -> None:
    # a regular file whose first page no process may read: the tests may run as root, whom no mode keeps out
    with pytest.raises(ConfigError, match="cannot be read"):
        load(Path("/proc/self/mem"), environ={})


def test_nothing_slow_is_imported_when_there_is_no_file(tmp_path: Path) -> None:
    script = (
        "import sys, jobmill.config\n"
        "jobmill.config.load(environ={'HOME': '/nowhere'})\n"
        "print(*(name for name in ('pydantic', 'yaml', 'redis', 'jobmill.jobs.spec') if name in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout.split() == []
