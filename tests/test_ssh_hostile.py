"""Hosts that are broken, or somebody else's: nothing that they say stops a process or reaches what is not theirs."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from far_side import far_side
from farm import Sshd, one_sshd
from tokens import RECORD

from jobmill.errors import JobmillError, StageFailed, SystemUnavailable
from jobmill.systems import far_words
from jobmill.systems.local import LocalSystem
from jobmill.systems.place import entry_told
from jobmill.systems.ssh import SshSystem
from jobmill.systems.system import End, ExitInfo, Launch, Start, Submission

pytestmark = pytest.mark.timeout(120)

TOKEN = f"{RECORD}.1:job:1"
ENDED = '{"exit_status":"finished_regularly","exit_value":0}'


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with one_sshd(tmp_path_factory.mktemp("sshd")) as host:
        yield host


@pytest.fixture
def hostile(sshd: Sshd, tmp_path: Path) -> Iterator[Callable[[str], SshSystem]]:
    made: list[SshSystem] = []

    def make(text: str) -> SshSystem:
        python = far_side(tmp_path / f"far{len(made)}.py", text)
        options = sshd.options(folder=str(tmp_path / "far"), python=python, slots=4)
        made.append(SshSystem.build("lab", options, tmp_path / "spool"))
        return made[-1]

    yield make
    for system in made:
        system.close()


def job(name: str = "job", **fields: Any) -> Submission:
    return Submission(token=f"{RECORD}.1:{name}:1", job_id=name, run=1, argv=("/bin/true",), **fields)


def notices(system: SshSystem, seconds: float, *, most: int = 1000) -> list[Any]:
    found: list[Any] = []
    until = time.monotonic() + seconds
    while time.monotonic() < until and len(found) < most:
        found += system.ends()
        time.sleep(0.02)
    return found


@pytest.mark.parametrize(
    "facts",
    ["[]", "{", "1", '{"cores": 4}', "[" * 50000, '{"cores": "x"}', "{}", '"' + "x" * 100000 + '"'],
)
def test_nonsense_for_facts_is_told_and_stops_nobody(hostile: Callable[[str], SshSystem], facts: str) -> None:
    system = hostile(f"ready({facts!r}); time.sleep(60)")
    (check,) = system.check()
    assert not check.ok and "makes no sense" in check.detail
    system.submit([job()])
    notices(system, 0.7)
    assert "makes no sense" in system.hosts[next(iter(system.hosts))].failed


@pytest.mark.parametrize(
    "answer",
    [
        "[]",
        "{}",
        "[1]",
        "[{}]",
        '[{"state": "gone"}]',
        '[{"state": ["ended"]}]',
        '[{"state": "ended", "reason": 7}]',
        "{" * 3,
        "[" * 100000,
        '"' + "x" * 100 + '"',
        "null",
    ],
)
def test_nonsense_for_answers_is_no_news(hostile: Callable[[str], SshSystem], answer: str) -> None:
    system = hostile(f"ready()\nfor q in questions(): say('{{\"n\": %d, \"answer\": %s}}\\n' % (q['n'], {answer!r}))")
    handle = system.handle_for(TOKEN)
    for ask in (
        lambda: system.status([handle])[handle],
        lambda: system.exit_info([handle]),
        lambda: system.settle([Launch(token=TOKEN)]),
        lambda: system.kill([handle], force=True),
        lambda: system.logs(handle, "stdout", 0),
        system.check,
        lambda: system.forget([handle]),
    ):
        try:
            found = ask()
        except SystemUnavailable as error:
            assert "nonsense" in str(error)
        else:
            assert found in ({}, {TOKEN: "unknown"}, {handle: False}, b"", None) or not found[0].ok


def test_an_answer_without_end_is_cut_off(hostile: Callable[[str], SshSystem]) -> None:
    system = hostile("ready()\nfor q in questions():\n  while True: say('x' * (1 << 20))")
    handle = system.handle_for(TOKEN)
    with pytest.raises(SystemUnavailable):
        for _ in range(4):
            system.status([handle])
    assert all(len(desk._read) <= 65 << 20 for host in system.hosts.values() for desk in host._desks.values())


@pytest.mark.parametrize("text", ["while True: say('x' * 65536)", "while True: say('x\\n' * 30000)"])
def test_a_login_that_prints_without_end_fills_no_memory(hostile: Callable[[str], SshSystem], text: str) -> None:
    system = hostile(text)
    system.submit([job()])
    with pytest.raises(SystemUnavailable):
        system.status([system.handle_for(TOKEN)])
    notices(system, 1)
    (host,) = system.hosts.values()
    assert host.channel is not None and host.channel.guard is not None
    greeting = host.channel.guard._greeting  # type: ignore[attr-defined]
    assert len(greeting._partial) <= far_words.LINE_MOST + (1 << 18)


@pytest.mark.parametrize(
    "event",
    [
        "start TOKEN x",
        "start TOKEN",
        "restarted x",
        "restarted",
        "end",
        "ready x y",
        "bad " + "x" * 5000,
        "\udcff\udcfe",
        "start TOKEN " + "9" * 5000,
        "x" * (3 << 20),
    ],
)
def test_nonsense_for_events_stops_nobody(hostile: Callable[[str], SshSystem], event: str) -> None:
    event = event.replace("TOKEN", TOKEN)
    says = f"ready()\nfor word, token in commands():\n  if word == 'launch': say({event + chr(10)!r})\n"
    system = hostile(says if "\udcff" not in event else says.replace("say(", "say(b'\\xff\\xfe\\n' or "))
    system.submit([job()])
    assert not [it for it in notices(system, 1.0) if not isinstance(it, End)]  # and nothing is raised


@pytest.mark.parametrize(
    "record",
    [
        ENDED + ',"id":"victim","run":1,"exit":' + ENDED,
        ENDED[:-1] + "},",
        "{}",
        "[]",
        "x",
        "",
        '{"exit_status": "finished_regularly", "exit_value": "0"}',
        '{"exit_status": "finished_regularly", "resource_usage": []}',
        '{"exit_status": "finished_regularly", "resource_usage": {"wall": NaN}}',
        '{"exit_status": ["x"]}',
        "[" * 50000,
    ],
)
def test_a_record_ends_its_own_launch_and_says_that_it_cannot_be_read(
    hostile: Callable[[str], SshSystem], record: str
) -> None:
    says = f"  if word == 'launch': say('start %s 7\\nend %s ' % (token, token) + {record!r} + '\\n')\n"
    system = hostile("ready()\nfor word, token in commands():\n" + says)
    system.submit([job()])
    start, end = notices(system, 10, most=2)
    assert isinstance(start, Start) and isinstance(end, End) and end.token == TOKEN
    entry = json.loads(f'{{"id":"job","run":1,"exit":{end.exit}}}')
    assert entry["id"] == "job"
    info = ExitInfo.from_dict(entry["exit"])
    assert not info.regular and info.reason == "lost" and "cannot be read" in (info.message or "")


def test_ends_of_launches_that_it_was_not_given_are_void(hostile: Callable[[str], SshSystem]) -> None:
    system = hostile(
        f"ready()\nfor word, token in commands(): say('end {RECORD}.1:other:1 {ENDED}\\nunwatched {RECORD}.1:o:1\\n')"
    )
    system.submit([job()])
    assert notices(system, 1.5) == []


def test_what_is_no_character_reaches_nobody(hostile: Callable[[str], SshSystem]) -> None:
    text = far_words.record('{"exit_status":"aborted","message":"a\\ud800b"}')
    assert ExitInfo.from_json(text).message == "a?b"


@pytest.mark.parametrize("name", ["../x", "/etc/x", "..", ".", "", "a/b", "a\0b", 7, None])
def test_a_name_leads_nowhere_but_into_its_folder(name: Any) -> None:
    with pytest.raises(OSError, match="whose name is none"):
        entry_told([name, "file", 1, 0o644, [1, 2, 3, 4]])


def test_names_that_lead_out_bring_nothing_home(hostile: Callable[[str], SshSystem], tmp_path: Path) -> None:
    """The outputs of a launch are `*`: the host names files all over this machine."""
    out = tmp_path / "outside"
    system = hostile(
        f"""
version = [1, 4, 1, 1]
names = ["../../../outside", {str(out)!r}, "fine"]
ready()
for q in questions():
    verb = q["verb"]
    answer = dict(
        observe=[dict(state="ended")], left=dict(folder="/x", workdir="/x", files={{}}),
        entries=[[n, "file", 4, 0o644, version] for n in names],
        entry=[os.path.basename(q.get("path", "")), "file", 4, 0o644, version],
    ).get(verb)
    say(json.dumps(dict(n=q["n"], answer=answer)) + chr(10))
"""
    )
    home = tmp_path / "home" / "run.1"
    with pytest.raises(JobmillError):
        system.stage_out(system.handle_for(TOKEN), home, ["*"], lambda _: None)
    assert not out.exists()
    assert {path.name for path in tmp_path.rglob("*") if path.name.startswith("outside")} == set()


def test_links_that_lead_out_stay_away(sshd: Sshd, tmp_path: Path) -> None:
    """A job makes `p -> .` and `z -> p/p/p/../../..`, and later a folder in the place of a link."""
    options = sshd.options(folder=str(tmp_path / "far"), slots=4)
    system = SshSystem.build("lab", options, tmp_path / "spool")
    try:
        made = "mkdir out; cd out; ln -s . p; echo x > real; ln -s real near; "
        for name, link in (("up", "ln -s p/p/p/../../.. z"), ("near", "true")):
            one = Submission(token=f"{RECORD}.1:{name}:1", job_id=name, run=1, argv=("/bin/sh", "-c", made + link))
            system.submit([one])
            assert any(isinstance(it, End) for it in notices(system, 20, most=2))
        home = tmp_path / "home"
        with pytest.raises(StageFailed, match="z is a link that leads to"):
            system.stage_out(system.handle_for(f"{RECORD}.1:up:1"), home / "a", ["out"], lambda _: None)
        assert not os.path.lexists(home / "a" / "outputs" / "out" / "z")
        handle = system.handle_for(f"{RECORD}.1:near:1")
        assert system.stage_out(handle, home / "b", ["out"], lambda _: None) == []
        assert (home / "b/outputs/out/near").read_text() == "x\n"
        (far,) = (tmp_path / "far").rglob("near/run.1/out")
        (far / "near").unlink()
        (far / "near").mkdir()
        (far / "near" / "evil").write_text("evil")
        (home / "b/outputs/out/near").unlink()
        (home / "b/outputs/out/near").symlink_to(tmp_path / "home")
        with pytest.raises(StageFailed, match="nothing is brought through it"):
            system.stage_out(handle, home / "b", ["out"], lambda _: None)
        assert not (home / "evil").exists()
    finally:
        system.close()


def test_a_job_that_writes_to_its_own_record_ends_and_stops_nobody(tmp_path: Path) -> None:
    """On this machine, where its end is read from its folder by another process."""
    system = LocalSystem.build("local", {"slots": 1}, tmp_path)
    try:
        text = 'echo \'exit 5 {},"id":"victim" end\' >> run'
        one = Submission(token=TOKEN, job_id="job", run=1, argv=("/bin/sh", "-c", text))
        (handle,) = (str(it) for it in system.submit([one]))
        until = time.monotonic() + 20
        while not [it for it in system.ends() if isinstance(it, End)]:
            assert time.monotonic() < until
            time.sleep(0.02)
        other = LocalSystem.build("local", {"slots": 1}, tmp_path)
        info = other.exit_info([handle])[handle]
        assert info.reason == "lost" and "cannot be read" in (info.message or "")
    finally:
        system.close()
