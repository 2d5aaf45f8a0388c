"""One host of several is out of reach, or gone from the configuration: what that costs, and what it must not change."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from far_side import far_side
from farm import Sshd, one_sshd
from tokens import RECORD

from jobmill.systems.ssh import SshSystem
from jobmill.systems.system import End, Launch, NativeState, Settled, Start, Submission, Transfer

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with one_sshd(tmp_path_factory.mktemp("sshd")) as host:
        yield host


@pytest.fixture
def made() -> Iterator[list[SshSystem]]:
    systems: list[SshSystem] = []
    yield systems
    for system in systems:
        system.close()


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a server that takes connections and says nothing."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen(64)
        yield sock.getsockname()[1]


def build(made: list[SshSystem], folder: Path, **hosts: dict[str, Any]) -> SshSystem:
    made.append(SshSystem.build("lab", {"hosts": hosts, "connect_timeout": 5}, folder / "spool"))
    return made[-1]


def job(name: str, text: str, **fields: Any) -> Submission:
    return Submission(token=f"{RECORD}.1:{name}:1", job_id=name, run=1, argv=("/bin/sh", "-c", text), **fields)


def until(system: SshSystem, what: type[Any], seconds: float = 20.0) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for it in system.ends():
            if isinstance(it, what):
                return it
        time.sleep(0.02)
    raise AssertionError(f"no {what.__name__} within {seconds} s")


def test_a_host_that_does_not_answer_costs_the_others_nothing(
    sshd: Sshd, made: list[SshSystem], silent: int, tmp_path: Path
) -> None:
    far = str(tmp_path / "far")
    system = build(made, tmp_path, dead=sshd.options(port=silent), here=sshd.options(folder=far, slots=1))
    one = job("one", "sleep 30")
    handle = system.handle_for(one.token)
    system.submit([one])
    until(system, Start)
    fetcher = build(made, tmp_path, dead=sshd.options(port=silent), here=sshd.options(folder=far, slots=1))
    assert fetcher.status([handle])[handle].state is NativeState.RUNNING  # though the first one is still dialled
    began = time.monotonic()
    for _ in range(5):
        assert fetcher.status([handle, system.handle_for(f"{RECORD}.1:none:1")])[handle].state is NativeState.RUNNING
    assert time.monotonic() - began < 5  # not five times the patience of a question
    assert system.kill([handle], force=True) == {handle: True}


def test_a_desk_that_is_behind_is_asked_nothing_new(sshd: Sshd, made: list[SshSystem], tmp_path: Path) -> None:
    """Each question takes it 5 seconds: those that were given up must not gather there."""
    log = tmp_path / "asked"
    slow = far_side(
        tmp_path / "slow",
        f"""
ready()
for q in questions():
    open({str(log)!r}, "a").write("x")
    time.sleep(5)
    say(json.dumps(dict(n=q["n"], answer=[dict(state="running", alive=True)])) + chr(10))
""",
    )
    system = build(made, tmp_path, slow=sshd.options(python=slow))
    handle = system.handle_for(f"{RECORD}.1:a:1")
    seen, end = 0, time.monotonic() + 25
    while not seen and time.monotonic() < end:
        try:
            seen += system.status([handle])[handle].state is NativeState.RUNNING
        except Exception as error:
            assert "no answer yet" in str(error)
            time.sleep(0.5)
    assert len(log.read_text()) <= 6


def test_a_host_that_was_taken_out_of_the_configuration_may_still_run_a_launch(
    sshd: Sshd, made: list[SshSystem], tmp_path: Path
) -> None:
    a, b = (sshd.options(folder=str(tmp_path / name), slots=2) for name in ("far-a", "far-b"))
    system = build(made, tmp_path, a=a)
    one = job("one", "sleep 60")
    handle = system.handle_for(one.token)
    system.submit([one])
    until(system, Start)
    other = build(made, tmp_path, b=b)  # renamed, or replaced
    look = other.status([handle])[handle]
    assert look.state is NativeState.UNKNOWN and "a, which lab has no more" in str(look.reason)
    assert other.settle([Launch(token=one.token, handle=handle)]) == {one.token: Settled.UNKNOWN}
    assert other.exit_info([handle]) == {}
    both = build(made, tmp_path, b=b, a=a)  # another one beside it: nothing is unclear
    assert both.status([handle])[handle].state is NativeState.RUNNING
    assert other.kill([handle], force=True) == {handle: False}
    assert both.kill([handle], force=True) == {handle: True}


def test_files_on_a_host_out_of_reach_are_not_given_up(
    sshd: Sshd, made: list[SshSystem], silent: int, tmp_path: Path
) -> None:
    a, b = (sshd.options(folder=str(tmp_path / name), slots=2) for name in ("far-a", "far-b"))
    system = build(made, tmp_path, a=a, b={**b, "slots": 0})
    one = job("one", "echo x > out")
    handle = system.handle_for(one.token)
    system.submit([one])
    until(system, End)
    fetcher = build(made, tmp_path, a={**a, "port": silent}, b=b)
    with pytest.raises(Exception, match=r"^a: ") as told:
        fetcher.stage_out(handle, tmp_path / "home", ["out"], lambda _: None)
    assert type(told.value).__name__ == "SystemUnavailable"
    with pytest.raises(Exception, match=r"^a: "):
        fetcher.logs(handle, "stdout", 0)


def test_inputs_go_to_no_host_that_is_closed(sshd: Sshd, made: list[SshSystem], tmp_path: Path) -> None:
    a, b = (sshd.options(folder=str(tmp_path / name), slots=2) for name in ("far-a", "far-b"))
    system = build(made, tmp_path, a={**a, "slots": 0}, b=b)
    (tmp_path / "in").write_text("x")
    for n in range(6):
        one = job(f"j{n}", "cat in", inputs=[Transfer(source=str(tmp_path / "in"), target="in")])
        assert system.stage_in(one, lambda _: None).place == "b"


def test_a_launch_whose_inputs_are_on_a_dead_host_is_given_back(
    sshd: Sshd, made: list[SshSystem], silent: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobmill.systems.ssh.PATIENCE", 3.0)
    far = str(tmp_path / "far")
    system = build(made, tmp_path, dead=sshd.options(port=silent), here=sshd.options(folder=far, slots=1))
    system.submit([job("placed", "true", place="dead", staged="/x"), job("free", "sleep 1; true")])
    ends = [until(system, End), until(system, End)]
    told = {end.token.split(":")[1]: end.exit for end in ends}
    assert '"reason":"unreachable"' in told["placed"] and "dead: no connection yet" in told["placed"]
    assert '"finished_regularly"' in told["free"]
