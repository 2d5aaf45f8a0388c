"""The ssh system on three real hosts, each with a network of its own: cables are pulled, servers and guards killed."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from farm import Farm, Missing, Sshd, need_namespaces, one_sshd, three_hosts
from slow_line import slow_line
from tokens import RECORD

from jobmill.errors import ConfigError, SystemUnavailable
from jobmill.systems import process_tree
from jobmill.systems.ssh import SshSystem
from jobmill.systems.system import (
    End,
    ExitInfo,
    ExitStatus,
    Launch,
    NativeState,
    Settled,
    Start,
    Submission,
    SubmitError,
    Unwatched,
)

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    """Three hosts for all tests of this file."""
    try:
        with three_hosts(tmp_path_factory.mktemp("farm")) as hosts:
            yield hosts
    except Missing as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error), pytrace=False)
        pytest.skip(str(error))


class Bench:
    """An ssh system on some hosts, and what it has told so far."""

    def __init__(self, folder: Path, options: dict[str, Any]) -> None:
        self.folder, self.options = folder, options
        self.made: list[SshSystem] = []
        self.system = self.another()
        self.starts: dict[str, str] = {}  # token -> host
        self.ends: dict[str, ExitInfo] = {}
        self.unwatched: set[str] = set()

    def another(self) -> SshSystem:
        """Return the system as another process builds it."""
        self.made.append(SshSystem.build("lab", self.options, self.folder / "spool"))
        return self.made[-1]

    def sh(self, name: str, text: str, **fields: Any) -> Submission:
        """Return a job that notes each start in a file."""
        count = f"echo x >> {self.folder}/count.{name}; {text}"
        number = int("".join(c for c in name if c.isdigit()) or 0) + 1
        token = f"{RECORD}.{number}:{name}:1"
        return Submission(token=token, job_id=name, run=1, argv=("/bin/sh", "-c", count), **fields)

    def submit(self, *jobs: Submission) -> list[str]:
        answers = self.system.submit(jobs)
        assert not [it for it in answers if isinstance(it, SubmitError)], answers
        return [str(it) for it in answers]

    def turn(self, seconds: float = 0.05) -> None:
        fd = self.system.fileno()
        assert fd is not None
        select.select([fd], [], [], seconds)
        for it in self.system.ends():
            if isinstance(it, Start):
                self.starts[it.token] = it.host
            elif isinstance(it, Unwatched):
                self.unwatched.add(it.token)
            else:
                assert isinstance(it, End) and it.token not in self.ends
                self.ends[it.token] = ExitInfo.from_json(it.exit)

    def until(self, done: Callable[[], Any], seconds: float = 40.0) -> None:
        until = time.monotonic() + seconds
        while not done():
            why = [host.failed for host in self.system.hosts.values()]
            assert time.monotonic() < until, f"still waiting; {len(self.starts)} starts, {len(self.ends)} ends, {why}"
            self.turn()

    def run(self, *jobs: Submission) -> list[ExitInfo]:
        self.submit(*jobs)
        self.until(lambda: all(it.token in self.ends for it in jobs))
        return [self.ends[it.token] for it in jobs]

    def started(self, name: str) -> int:
        """Return how often a job has really started."""
        path = self.folder / f"count.{name}"
        return len(path.read_text().split()) if path.exists() else 0

    def pids(self, n: int, program: str) -> list[int]:
        """Return the guards or runners of this bench on host ``n``."""
        found = []
        for pid in process_tree.table():
            words = process_tree.command_line(pid).split(b"\0")
            if program.encode() in words and any(str(self.folder / f"far{n}").encode() in it for it in words):
                found.append(pid)
        return found

    def end(self) -> None:
        """Close every instance and kill what a test left behind."""
        for system in self.made:
            system.close()
        for pid in process_tree.table():
            environment = process_tree._read(f"/proc/{pid}/environ")
            if f"JOBMILL_TOKEN={RECORD}.".encode() in environment and str(self.folder).encode() in environment:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)


@pytest.fixture
def bench(farm: Farm, tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(*hosts: int, **options: Any) -> Bench:
        folder = tmp_path / str(len(made))
        shared = {"slots": 2, "keepalive": 3, "connect_timeout": 3, **options}
        some = {f"h{n}": farm.host(n).options(folder=str(folder / f"far{n}"), **shared) for n in hosts or (1, 2, 3)}
        made.append(Bench(folder, {"hosts": some}))
        return made[-1]

    yield make
    for n in (1, 2, 3):
        farm.join(n)
        farm.fast(n)
    for it in made:
        it.end()


@contextlib.contextmanager
def lone(host: Sshd, folder: Path, **options: Any) -> Iterator[Bench]:
    """An ssh system on a server of its own."""
    it = Bench(folder, host.options(folder=str(folder / "far"), slots=2, **options))
    try:
        yield it
    finally:
        it.end()


def test_500_jobs_over_one_connection_a_host(bench: Callable[..., Bench], farm: Farm) -> None:
    before = [farm.host(n).logins for n in (1, 2, 3)]
    it = bench(slots=4)
    infos = it.run(*(it.sh(f"j{n}", f"exit {n % 7}") for n in range(500)))
    assert [info.exit_value for info in infos] == [n % 7 for n in range(500)]
    assert {it.started(f"j{n}") for n in range(500)} == {1}
    assert set(Counter(it.starts.values())) == {"h1", "h2", "h3"}
    other = it.another()
    handles = [it.system.handle_for(f"{RECORD}.{n + 1}:j{n}:1") for n in range(250)]
    assert {look.state for look in other.status(handles).values()} == {NativeState.ENDED}
    assert [other.exit_info(handles)[handle].exit_value for handle in handles] == [n % 7 for n in range(250)]
    other.close()
    assert [farm.host(n).logins for n in (1, 2, 3)] == [count + 1 for count in before]  # of two processes' worth


def test_each_host_has_its_own_capacity(bench: Callable[..., Bench]) -> None:
    it = bench(1, 2)
    it.options["hosts"]["h1"]["slots"], it.options["hosts"]["h2"]["slots"] = 1, 3
    it.system.close()
    it.system = it.another()
    text = f"mkdir -p {it.folder}/on; p={it.folder}/on/$(hostname).$$; touch $p; sleep 0.2; ls {it.folder}/on; rm $p"
    jobs = [it.sh(f"j{n}", text) for n in range(24)]
    it.run(*jobs)
    for job in jobs:
        seen = Counter(it.system.logs(it.system.handle_for(job.token), "stdout", 0).decode().replace(".", " ").split())
        assert seen["h1"] <= 1 and seen["h2"] <= 3, seen
    assert Counter(it.starts.values())["h2"] > Counter(it.starts.values())["h1"]


def test_the_slots_of_all_hosts_together_are_live(bench: Callable[..., Bench]) -> None:
    it = bench(1, 2)
    it.system.set_slots(0)
    it.submit(*(it.sh(f"j{n}", "sleep 0.3") for n in range(6)))
    time.sleep(1.0)
    it.turn()
    assert not it.starts
    it.system.set_slots(1)
    most = 0
    while len(it.ends) < 3:
        it.turn()
        most = max(most, len(it.starts) - len(it.ends))
    assert most == 1
    it.system.set_slots(4)
    it.until(lambda: len(it.ends) == 6)


def test_a_cable_is_pulled_and_plugged_in(bench: Callable[..., Bench], farm: Farm) -> None:
    it = bench()
    handles = it.submit(*(it.sh(f"j{n}", "sleep 1.5") for n in range(18)))
    it.until(lambda: len(it.starts) >= 6)
    farm.cut(2)
    it.until(lambda: it.system.hosts["h2"].failed)  # noticed by nobody but the clock
    cut = {token for token, host in it.starts.items() if host == "h2"}
    assert cut
    looks = it.another().status(handles)
    assert {looks[it.system.handle_for(token)].state for token in cut} == {NativeState.UNKNOWN}
    late = it.sh("j99", "exit 3")
    assert it.run(late)[0].exit_value == 3 and it.starts[late.token] != "h2"  # the others go on
    farm.join(2)
    it.until(lambda: it.system.hosts["h2"].ready)
    it.until(lambda: it.ends.keys() | it.unwatched >= {h.partition("/")[2] for h in handles})
    other = it.another()
    it.until(lambda: len(other.exit_info(handles)) == 18)
    assert {info.exit_value for info in other.exit_info(handles).values()} == {0}
    assert {it.started(f"j{n}") for n in range(18)} == {1}


def test_what_is_taken_back_during_a_cut_does_not_start_after_it(bench: Callable[..., Bench], farm: Farm) -> None:
    it = bench(2, slots=1)
    long, *waiting = (it.sh(f"j{n}", "sleep 2") for n in range(3))
    it.submit(long, *waiting)
    it.until(lambda: it.starts)
    time.sleep(0.3)  # so that the others are in line there
    farm.cut(2)
    it.system.withdraw([job.token for job in waiting])
    it.until(lambda: it.system.hosts["h2"].failed)
    time.sleep(1)
    farm.join(2)
    it.until(lambda: {job.token for job in waiting} <= it.ends.keys() | it.unwatched)
    for job in waiting:  # the runner beyond the cut may have been first, at any of them
        if job.token in it.ends and it.ends[job.token].reason in ("not_started", "withdrawn"):
            time.sleep(1.0)
            assert it.started(job.job_id) == 0
        else:
            assert it.started(job.job_id) == 1
    assert it.started(long.job_id) == 1


@pytest.mark.parametrize("what", ["sshd", "guard", "runner", "guard and runner", "master"])
def test_what_is_killed_between_us_and_a_job(bench: Callable[..., Bench], farm: Farm, what: str) -> None:
    it = bench(1)
    handles = it.submit(*(it.sh(f"j{n}", f"sleep 1; exit {n}") for n in range(6)))
    it.until(lambda: len(it.starts) == 2)
    if what == "sshd":
        farm.host(1).kill()
        farm.host(1).start()
    elif what == "master":
        for pid in process_tree.table():
            inside = process_tree.command_line(pid)
            if b"ssh_master" in inside and it.folder in Path(f"/proc/{pid}/fd/2").readlink().parents:
                os.kill(pid, signal.SIGKILL)
    else:
        for program in what.split(" and "):
            for pid in it.pids(1, program):
                os.kill(pid, signal.SIGKILL)
    tokens = {handle.partition("/")[2] for handle in handles}
    it.until(lambda: it.ends.keys() | it.unwatched >= tokens)
    other = it.another()
    left = [handle for handle in handles if handle.partition("/")[2] not in it.ends]

    def told() -> bool:
        looks = other.status(left)
        return all(look.state in (NativeState.ENDED, NativeState.ABSENT) for look in looks.values())

    it.until(told)
    values = {**{it.system.handle_for(token): info for token, info in it.ends.items()}, **other.exit_info(handles)}
    for n, handle in enumerate(handles):
        assert it.started(f"j{n}") == 1
        if handle in values:  # else nobody saw its end: the poll tells it as lost
            assert values[handle].exit_value == n, values[handle]
        else:
            assert what == "guard and runner" and n < 2


def test_a_changed_host_key_is_told_and_nothing_is_sent(tmp_path: Path) -> None:
    with one_sshd(tmp_path / "sshd") as host:
        host.kill()
        host.change_host_key()
        host.start()
        system = SshSystem.build("lab", host.options(folder=str(tmp_path / "far")), tmp_path / "spool")
        job = Submission(token=f"{RECORD}.1:a:1", job_id="a", run=1, argv=("/bin/true",))
        with pytest.raises(SystemUnavailable, match="key") as told:
            until = time.monotonic() + 20
            while time.monotonic() < until:
                system.submit([job])
                time.sleep(0.2)
                system.ends()
        assert str(host.known_hosts) in str(told.value)
        (check,) = system.check()
        assert not check.ok and "key" in check.detail
        assert not (tmp_path / "far").exists()
        system.close()


def test_words_of_a_login_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "motd").write_text("This host is for members only.\n")
    force = 'ForceCommand echo WELCOME; echo \'{"ok": true}\'; printf blah; exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"'
    with one_sshd(tmp_path / "sshd", f"Banner {tmp_path / 'motd'}", force) as host:
        system = SshSystem.build("lab", host.options(folder=str(tmp_path / "far")), tmp_path / "spool")
        checks = system.check()
        assert all(check.ok for check in checks), checks
        (handle,) = system.submit([Submission(token=f"{RECORD}.1:a:1", job_id="a", run=1, argv=("/bin/echo", "out"))])
        until = time.monotonic() + 20
        while not system.exit_info([str(handle)]):
            assert time.monotonic() < until
            system.ends()
            time.sleep(0.05)
        assert system.logs(str(handle), "stdout", 0) == b"out\n"
        system.close()


def test_a_slow_line_changes_nothing_but_the_time(tmp_path: Path) -> None:
    with (
        one_sshd(tmp_path / "sshd") as host,
        slow_line(host.address, host.port, delay=0.15, rate=128_000) as port,
        lone(host, tmp_path, keepalive=20, connect_timeout=20) as it,
    ):
        it.options["port"] = port
        host.known_hosts.write_text(host.known_hosts.read_text().replace(str(host.port), str(port)))
        it.system = it.another()
        infos = it.run(*(it.sh(f"j{n}", f"exit {n}") for n in range(20)))
        assert [info.exit_value for info in infos] == list(range(20))


def test_a_full_disk_there_gives_launches_back(tmp_path: Path) -> None:
    disk = tmp_path / "far"
    disk.mkdir()
    need_namespaces()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(disk)], check=True)
    try:
        with one_sshd(tmp_path / "sshd") as host, lone(host, tmp_path) as it:
            it.run(it.sh("j0", "true"))
            with contextlib.suppress(OSError), (disk / "ballast").open("wb", buffering=0) as ballast:
                while True:
                    ballast.write(b"x" * 4096)
            (info,) = it.run(it.sh("j1", "true"))
            assert info.reason == "no_spool" and "No space left" in (info.message or "")
            (disk / "ballast").unlink()
            del it.ends[f"{RECORD}.2:j1:1"]
            (info,) = it.run(it.sh("j1", "true"))
            assert info.regular and it.started("j1") == 1
    finally:
        until = time.monotonic() + 10
        while subprocess.run(["umount", str(disk)], check=False, capture_output=True).returncode:
            assert time.monotonic() < until
            time.sleep(0.1)


def test_settle_by_token_after_a_crash_at_each_step(bench: Callable[..., Bench], farm: Farm) -> None:
    it = bench()
    never, ended, runs = it.sh("j0", "true"), it.sh("j1", "exit 4"), it.sh("j2", "sleep 30")
    it.run(ended)
    it.submit(runs)
    it.until(lambda: runs.token in it.starts)
    other = it.another()
    launches = [Launch(token=job.token, handle=it.system.handle_for(job.token)) for job in (never, ended, runs)]
    words = other.settle(launches)
    assert words == {
        never.token: Settled.NOT_STARTED,
        ended.token: launches[1].handle,
        runs.token: launches[2].handle,
    }
    it.submit(never)  # the starter was not dead, only slow
    it.until(lambda: never.token in it.ends)
    assert it.ends[never.token].reason == "not_started" and it.started("j0") == 0
    late = it.sh("j5", "true")
    farm.cut(3)
    it.until(lambda: it.system.hosts["h3"].failed)
    assert other.settle([Launch(token=late.token)]) == {late.token: Settled.UNKNOWN}  # it may be on the host beyond
    farm.join(3)
    it.until(lambda: other.settle([Launch(token=late.token)]) == {late.token: Settled.NOT_STARTED})
    assert other.kill([it.system.handle_for(runs.token)], force=True) == {it.system.handle_for(runs.token): True}
    it.until(lambda: runs.token in it.ends)
    assert it.ends[runs.token].exit_status is ExitStatus.FINISHED_SIGNAL


def test_a_tree_is_killed_wherever_it_went(bench: Callable[..., Bench]) -> None:
    it = bench(1)
    text = f"setsid sleep 300 & (trap '' TERM; echo $$ > {it.folder}/pid; sleep 300; sleep 300)"
    (handle,) = it.submit(it.sh("j0", text))
    it.until(lambda: (it.folder / "pid").exists())
    until = time.monotonic() + 20
    while not it.system.kill([handle], force=True)[handle]:
        assert time.monotonic() < until
    it.until(lambda: it.ends)
    token = handle.partition("/")[2].encode()
    assert not [pid for pid in process_tree.table() if process_tree.token_of(pid) == token]


def test_two_pipelines_of_one_account_do_not_meet(bench: Callable[..., Bench]) -> None:
    it = bench(1)
    other = SshSystem.build("lab", it.options, it.folder / "spool2")
    mine = it.sh("j0", "sleep 1; exit 1")
    theirs = Submission(token="other.1:j0:1", job_id="j0", run=1, argv=("/bin/sh", "-c", "exit 2"))
    it.submit(mine)
    it.until(lambda: it.starts)
    (handle,) = other.submit([theirs])
    until = time.monotonic() + 20
    while not other.exit_info([str(handle)]):
        assert time.monotonic() < until
        other.ends()
        time.sleep(0.05)
    assert other.exit_info([str(handle)])[str(handle)].exit_value == 2
    it.until(lambda: it.ends)
    assert it.ends[mine.token].exit_value == 1
    other.close()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "needs one of `host"),
        ({"host": "h", "hosts": {"a": {}}}, "needs one of `host"),
        ({"host": "h", "hoost": 1}, "unknown option 'hoost' .did you mean"),
        ({"hosts": {"a": {"slots": -1}}}, r"hosts\.a\.slots: -1"),
        ({"hosts": {"a": {"slts": 1}}}, r"hosts\.a: unknown option 'slts'"),
        ({"hosts": {"a b": {}}}, "'a b' is no name of a host"),
        ({"hosts": "a"}, "neither a list"),
        ({"host": "h", "python": "python3; rm -rf /"}, "plain path"),
        ({"host": "h", "paths": {"data": "/d"}}, "two absolute paths"),
        ({"host": "h", "kill_grace": True}, "kill_grace"),
        ({"host": "h", "env": ["a"]}, "mapping"),
        ({"host": "ann@h", "user": "bob"}, "host says user 'ann', user says 'bob'"),
        ({"host": "@h"}, "user"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        SshSystem.build("lab", options, tmp_path)


def test_a_host_is_named_as_ssh_names_it(tmp_path: Path) -> None:
    with one_sshd(tmp_path / "sshd") as host:
        options = host.options(folder=str(tmp_path / "far"))
        options["host"] = f"{options.pop('user')}@{options['host']}"
        system = SshSystem.build("lab", options, tmp_path / "spool")
        assert all(check.ok for check in system.check())
        system.close()


def test_an_absent_host_is_told_with_what_to_do(tmp_path: Path) -> None:
    system = SshSystem.build("lab", {"host": "127.0.0.1", "port": 1, "ssh_config": "none"}, tmp_path / "spool")
    (check,) = system.check()
    assert not check.ok and "ssh" in check.fix and "127.0.0.1" in check.detail
    with pytest.raises(SystemUnavailable, match=r"127\.0\.0\.1"):
        until = time.monotonic() + 20
        while time.monotonic() < until:
            system.submit([Submission(token=f"{RECORD}.1:a:1", job_id="a", run=1, argv=("/bin/true",))])
            time.sleep(0.1)
            system.ends()
    system.close()
    assert json.dumps(system.paths) == "{}"
