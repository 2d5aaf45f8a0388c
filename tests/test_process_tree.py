"""Who belongs to a launch, and who does not; with real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jobmill.systems import process_tree

pytestmark = pytest.mark.timeout(30)

Spawn = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    """Give a function that starts a process with a clean environment; all are killed at the end."""
    started: list[subprocess.Popen[bytes]] = []

    def start(text: str, **fields: object) -> subprocess.Popen[bytes]:
        fields.setdefault("env", {"PATH": "/usr/bin:/bin"})
        child = subprocess.Popen(["/bin/sh", "-c", text], **fields)  # type: ignore[call-overload]
        started.append(child)
        time.sleep(0.1)  # until it has done what it does first
        return child  # type: ignore[no-any-return]

    yield start
    for child in started:
        child.kill()
        child.wait(10)
        if child.stdout:
            child.stdout.close()


def members(folder: Path, **fields: int) -> set[int]:
    return set(process_tree.members("r:a:1", os.fsencode(folder), **fields))


def test_a_token_is_compared_whole(spawn: Spawn, tmp_path: Path) -> None:
    mine = spawn("sleep 30; :", env={"JOBMILL_TOKEN": "r:a:1", "PATH": "/bin"})
    spawn("sleep 30; :", env={"JOBMILL_TOKEN": "r:a:11", "PATH": "/bin"})
    spawn("sleep 30; :", env={"NOT_JOBMILL_TOKEN": "r:a:1", "PATH": "/bin"})
    found = process_tree.members("r:a:1", os.fsencode(tmp_path))
    assert mine.pid in found and len(found) == 2
    assert all(it.pid == mine.pid or it.parent == mine.pid for it in found.values())
    assert process_tree.kill("r:a:1", os.fsencode(tmp_path), force=True)


def test_a_stream_in_the_folder_belongs(spawn: Spawn, tmp_path: Path) -> None:
    (tmp_path / "run.1").mkdir()
    (tmp_path / "run.10").mkdir()
    with (tmp_path / "run.1" / "stdout").open("w") as mine, (tmp_path / "run.10" / "stdout").open("w") as other:
        child = spawn("exec sleep 30", stdout=mine)
        spawn("exec sleep 30", stdout=other)
        (tmp_path / "run.1" / "stdout").unlink()  # deleted, and still held
        assert members(tmp_path / "run.1") == {child.pid}


def test_the_session_of_a_leader(spawn: Spawn, tmp_path: Path) -> None:
    """A live leader is known by its start time; a dead one's session counts only with a process from its time."""
    text = "sleep 30 & echo $!; exec sleep 30"
    leader = spawn(text, start_new_session=True, stdout=subprocess.PIPE)
    assert leader.stdout is not None
    other = int(leader.stdout.readline())
    start = process_tree.process(leader.pid).start  # type: ignore[union-attr]
    assert members(tmp_path, leader=leader.pid, start=start) == {leader.pid, other}
    assert members(tmp_path, leader=leader.pid, start=start - 1) == set()  # the number of another process by now
    ended = process_tree.ticks_now()
    leader.kill()
    leader.wait()
    try:
        assert members(tmp_path, leader=leader.pid, start=start, ended=ended) == {other}
        assert members(tmp_path, leader=leader.pid, start=start) == set()  # no end recorded: it may be a stranger's
        assert members(tmp_path, leader=leader.pid, start=start - 100, ended=start - 50) == set()  # it is a stranger's
    finally:
        os.kill(other, signal.SIGKILL)


def test_zombies_count_as_gone(spawn: Spawn, tmp_path: Path) -> None:
    child = spawn("exit 0", env={"JOBMILL_TOKEN": "r:a:1"})
    found = process_tree.process(child.pid)
    assert found is not None and found.state == b"Z"
    assert not process_tree.alive(child.pid, found.start) and child.pid not in process_tree.table()
    assert members(tmp_path, leader=child.pid, start=found.start) == set()


def test_names_with_blanks_and_parentheses_are_read(tmp_path: Path) -> None:
    program = tmp_path / "a) R 1 (b"
    program.symlink_to("/bin/sleep")
    with subprocess.Popen([str(program), "30"]) as child:
        found = process_tree.process(child.pid)
        child.kill()
    assert found is not None and found.parent == os.getpid() and found.pgrp == os.getpgid(0)


def test_a_process_whose_first_thread_has_ended_belongs_and_dies(tmp_path: Path) -> None:
    """The kernel calls it a zombie, and tells of its environment and streams under another thread only."""
    code = (
        "import ctypes, threading, time; threading.Thread(target=time.sleep, args=(60,)).start();"
        "ctypes.PyDLL(None).pthread_exit(None)"
    )
    argv, env = [sys.executable, "-c", code], {"JOBMILL_TOKEN": "r:a:1", "PATH": "/usr/bin:/bin"}
    other = os.fsencode(tmp_path / "elsewhere")
    with (tmp_path / "stdout").open("w") as out, subprocess.Popen(argv, env=env, stdout=out) as child:
        stat = Path(f"/proc/{child.pid}/stat")
        until = time.monotonic() + 10
        while ") Z" not in stat.read_text():
            assert time.monotonic() < until
            time.sleep(0.01)
        assert members(tmp_path) == members(Path(os.fsdecode(other))) == {child.pid}
        assert set(process_tree.members("another", os.fsencode(tmp_path))) == {child.pid}
        census = process_tree.Census()
        assert set(process_tree.members("r:a:1", other, census=census)) == {child.pid}
        assert set(process_tree.members("another", os.fsencode(tmp_path), census=census)) == {child.pid}
        assert process_tree.kill("r:a:1", other, force=True)
        assert child.wait(10) == -signal.SIGKILL


def test_kill_from_inside_spares_only_itself(tmp_path: Path) -> None:
    """A job that kills its own launch takes all but itself, and nobody else's."""
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[1]); from jobmill.systems import process_tree as p;"
        "print(p.kill('r:a:1', os.fsencode(sys.argv[2]), force=True, patience=5))"
    )
    root = str(Path(__file__).resolve().parent.parent)
    env = {"JOBMILL_TOKEN": "r:a:1", "PATH": "/usr/bin:/bin"}
    shell = '(sleep 30 >/dev/null &) ; "$0" -c "$1" "$2" "$3" & wait $!; echo never'
    argv = ["/bin/sh", "-c", shell, sys.executable, code, root, str(tmp_path)]
    done = subprocess.run(argv, env=env, capture_output=True, timeout=20, check=False)
    assert done.returncode == -signal.SIGKILL
    until = time.monotonic() + 10
    while members(tmp_path):
        assert time.monotonic() < until
        time.sleep(0.01)
