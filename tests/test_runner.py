"""The runner, its guard and what they are made of: words on the wire, Python 3.6, sent as a zip."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from tokens import RECORD

from jobmill.systems import child_wait, launch_token, process_tree, run_folder, slot_table, spawn, watch
from jobmill.systems.guard import BOOTSTRAP

pytestmark = pytest.mark.timeout(60)

ROOT = Path(__file__).resolve().parent.parent
FAR_SIDE = (
    "runner",
    "guard",
    "batch_job",
    "pilot_guard",
    "pilot_head",
    "pilot_line",
    "pilot_rank",
    "pilot_room",
    "pilot_watch",
    "process_tree",
    "launch_token",
    "notices",
    "run_folder",
    "child_wait",
    "as_user",
    "handover",
    "identity",
    "streams",
    "switch",
    "watch",
    "slot_table",
    "spawn",
    "spool_launches",
    "step_progress",
)


def old_pythons() -> list[str]:
    """Return an interpreter of each old Python that this machine has; a shim that runs nothing is none."""
    found = []
    for version in ("3.6", "3.7"):
        places = [*Path.home().glob(f".pyenv/versions/{version}.*/bin/python3"), shutil.which(f"python{version}")]
        for place in filter(None, places):
            if subprocess.run([place, "-I", "-S", "-c", ""], env={}, capture_output=True, check=False).returncode == 0:
                found.append(str(place))
                break
    return found


def talk(python: str, root: str, spool: Path, commands: bytes, ends: int) -> list[str]:
    """Start a guard as a starter does, say ``commands`` and return its events up to that many ends."""
    argv = [python, "-I", "-S", "-c", BOOTSTRAP.format("guard"), root, "guard", str(spool), "far", "0.5"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={}, start_new_session=True) as guard:
        assert guard.stdin is not None and guard.stdout is not None
        guard.stdin.write(commands)
        guard.stdin.flush()
        text = b""
        until = time.monotonic() + 20
        while sum(line[:4] in (b"end ", b"out ") for line in text.split(b"\n")) < ends:
            assert time.monotonic() < until, text
            if select.select([guard.stdout], [], [], 0.1)[0]:
                part = os.read(guard.stdout.fileno(), 65536)
                assert part, text
                text += part
        guard.stdin.close()
        assert guard.wait(10) == 0
        text += guard.stdout.read()
    assert not list((spool / "guards" / "far").glob("*.table")), "a guard that leaves in peace takes its table along"
    return text.decode().splitlines()


def launch(name: str, argv: Sequence[str], cpus: int = 1, walltime: float | None = None) -> bytes:
    fields = [argv, None, {"X": "ü"}, None, None, None, {"note": "n"}, walltime]
    return b"launch %s:%s:1 %d %s\n" % (RECORD.encode(), name.encode(), cpus, json.dumps(fields).encode())


def records(events: Sequence[str]) -> dict[str, dict[str, object]]:
    return {line.split(" ", 2)[1]: json.loads(line.split(" ", 2)[2]) for line in events if line.startswith("end ")}


def conversation() -> bytes:
    return b"".join(
        (
            b"launch rec:never:1 1 [",  # the torn tail of what an earlier runner was told
            b"\nsync 0\n",
            b'env {"PATH": "/usr/bin:/bin"}\nslots 2\n',
            launch("ok", ["/bin/true"]),
            launch("seven", ["/bin/sh", "-c", "exit 7"]),
            launch("signal", ["/bin/sh", "-c", "kill -11 $$"]),
            launch("words", ["printf", "%s|", "é", "a b", "", "\udcff"]),
            launch("none", ["no-such-command"]),
            launch("denied", ["/etc/passwd"]),
            launch("slow", ["/bin/sh", "-c", "trap '' TERM; while :; do sleep 0.05; done"], walltime=0.2),
        )
    )


def check_conversation(events: Sequence[str], spool: Path) -> None:
    ends = records(events)
    assert events[0].startswith("ready 0 ")
    assert not [line for line in events if line.startswith("bad")]
    assert ends[f"{RECORD}:ok:1"]["exit_value"] == 0 and ends[f"{RECORD}:seven:1"]["exit_value"] == 7
    assert ends[f"{RECORD}:signal:1"]["term_sig"] == 11
    assert ends[f"{RECORD}:none:1"]["exit_value"] == 127 and ends[f"{RECORD}:denied:1"]["exit_value"] == 126
    assert (ends[f"{RECORD}:slow:1"]["reason"], ends[f"{RECORD}:slow:1"]["term_sig"]) == ("timeout", 9)
    assert (spool / "jobs/words/run.1/stdout").read_bytes() == "é|a b||".encode() + b"\xff|"
    assert (spool / "jobs/ok/run.1/note").read_text() == "n"
    assert not (spool / "jobs/never").exists()


def test_a_conversation(tmp_path: Path) -> None:
    check_conversation(talk(sys.executable, str(ROOT), tmp_path, conversation(), 7), tmp_path)


@pytest.mark.parametrize("python", old_pythons() or [sys.executable])
def test_the_far_side_runs_from_a_zip_on_the_oldest_python_here(python: str, tmp_path: Path) -> None:
    archive = tmp_path / "jobmill.zip"
    with zipfile.ZipFile(archive, "w") as zipped:
        for name in ("jobmill/__init__.py", "jobmill/systems/__init__.py"):
            zipped.write(ROOT / name, name)
        for name in FAR_SIDE:
            zipped.write(ROOT / f"jobmill/systems/{name}.py", f"jobmill/systems/{name}.py")
    spool = tmp_path / "spool"
    check_conversation(talk(python, str(archive), spool, conversation(), 7), spool)


def test_the_far_side_is_written_for_python_3_6() -> None:
    vermin = [str(Path(sys.executable).with_name("vermin")), "-t=3.6-", "--no-tips", "--violations"]
    files = [str(ROOT / f"jobmill/systems/{name}.py") for name in FAR_SIDE]
    done = subprocess.run([*vermin, *files], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_far_side_imports_only_itself_and_the_standard_library() -> None:
    names = ", ".join(f"jobmill.systems.{name}" for name in FAR_SIDE)
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import {names}; print(*sys.modules)"
    text = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True).stdout
    ours = {name for name in text.split() if name.startswith("jobmill")}
    assert ours == {"jobmill", "jobmill.systems", *(f"jobmill.systems.{name}" for name in FAR_SIDE)}
    assert not {"threading", "subprocess", "typing", "asyncio"} & set(text.split())  # what makes a start slow


def test_words_that_are_wrong_are_told_and_skipped(tmp_path: Path) -> None:
    commands = b"".join(
        (
            b"sync 0\nslots many\nsing a song\n",
            b"launch nonsense\nlaunch rec:a/../b:1 1 []\nlaunch rec:short:1 1 []\nlaunch rec:x:1 one [1]\n",
            b"env {}\nslots 1\nenv [1]\n",
            launch("ok", ["/bin/true"]),
        )
    )
    events = talk(sys.executable, str(ROOT), tmp_path, commands, 1)
    assert sum(line.startswith("bad ") for line in events) == 7
    assert records(events)[f"{RECORD}:ok:1"]["exit_value"] == 0
    assert [path.name for path in (tmp_path / "jobs").iterdir()] == ["ok"]


def test_end_of_input_drops_the_line_and_waits_for_what_runs(tmp_path: Path) -> None:
    argv = [sys.executable, "-I", "-S", "-c", BOOTSTRAP.format("guard"), str(ROOT), "guard", str(tmp_path), "far", "5"]
    commands = b"sync 0\nenv {}\nslots 1\n" + launch("a", ["/bin/sleep", "0.3"]) + launch("b", ["/bin/true"])
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True) as guard:
        assert guard.stdin is not None and guard.stdout is not None
        guard.stdin.write(commands)
        guard.stdin.flush()
        while not (tmp_path / "jobs/a/run.1/stdout").exists():
            time.sleep(0.005)
        guard.stdout.close()  # the starter is dead altogether: nobody listens either
        guard.stdin.close()
        assert guard.wait(10) == 0
    run = run_folder.read(os.fsencode(tmp_path / "jobs/a/run.1"))
    assert run is not None and run.end is not None and json.loads(run.end)["exit_value"] == 0
    assert not (tmp_path / "jobs/b").exists()


def test_a_line_of_an_event_is_always_atomic() -> None:
    record = json.dumps({"exit_status": "finished_regularly", "exit_value": 1, "message": "\x01é" * 2048})
    line = watch.end_event(f"{RECORD}:a:1", record)
    assert len(line) <= select.PIPE_BUF and line.endswith(b"\n") and line.count(b"\n") == 1
    assert json.loads(line.split(b" ", 2)[2])["message"].endswith("[cut]")
    assert watch.end_event(f"{RECORD}:a:1", '{"a":1}') == f'end {RECORD}:a:1 {{"a":1}}\n'.encode()


def test_a_look_at_a_dead_child_leaves_it() -> None:
    """In a process of its own: the children of this one are other tests' affair."""
    look = "import sys; sys.path.insert(0, 'tests'); import test_runner; test_runner.look_at_a_dead_child()"
    subprocess.run([sys.executable, "-c", look], check=True, cwd=Path(__file__).parent.parent, timeout=60)


def look_at_a_dead_child() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(5)
    until = time.monotonic() + 10
    while (found := child_wait.peek()) is None:
        assert time.monotonic() < until
        time.sleep(0.001)
    for look in (found, child_wait.peek(), child_wait._peek_without_usage()):
        assert look is not None and look[:3] == (pid, os.CLD_EXITED, 5) and look[3].cpu >= 0
    assert found[3].memory > 1000  # KiB: this Python
    child_wait.release(pid)
    child_wait.release(pid)
    with pytest.raises(ChildProcessError):
        child_wait.peek()


def test_both_ways_to_spawn_do_the_same(tmp_path: Path) -> None:
    for way in (spawn._fork, spawn._posix_spawn):
        out = os.fsencode(tmp_path / way.__name__)
        opens = [(0, b"/dev/null", spawn.READ), (1, out, spawn.APPEND), (2, None, spawn.APPEND)]
        pid = way(b"/bin/sh", [b"sh", b"-c", b"echo out; echo err >&2; exit 3"], {b"A": b"1"}, opens)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
        assert Path(os.fsdecode(out)).read_text() == "out\nerr\n"
        with pytest.raises(FileNotFoundError):
            way(b"/no/such", [b"x"], {}, opens)
        with pytest.raises(PermissionError):
            way(b"/etc/passwd", [b"x"], {}, opens)


def test_a_script_without_its_first_line_runs_in_sh(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("exit $(($1 + 1))\n")
    script.chmod(0o755)
    opens = [(0, b"/dev/null", spawn.READ)]
    here = Path.cwd()
    try:
        pid = spawn.start([b"script", b"4"], {b"PATH": os.fsencode(tmp_path)}, os.fsencode(tmp_path), opens)
    finally:
        os.chdir(here)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5


def test_run_file_survives_every_cut(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path)
    end = '{"exit_status":"finished_regularly","exit_value":0}'
    whole = run_folder.header("r:a:1", "t") + run_folder.pid_line(12, 34) + run_folder.end_line("exit", end)
    for length in range(len(whole) + 1):
        (tmp_path / "run").write_bytes(whole[:length])
        run = run_folder.read(folder)
        assert run is not None
        assert run.token in (None, "r:a:1") and run.pid in (None, 12) and run.start in (None, 34)
        assert (run.end == end) == (length == len(whole)) and run.end in (None, end)
    (tmp_path / "run").write_bytes(whole + run_folder.end_line("sealed", "{}"))
    last = run_folder.read(folder)
    assert last is not None and last.end == end and not last.sealed  # the first end counts


def test_tokens() -> None:
    assert launch_token.split(f"{RECORD}.17:a.b-1:3") == (f"{RECORD}.17", "a.b-1", 3)
    assert launch_token.split(f"{RECORD}:a:1") == (RECORD, "a", 1)  # of before lives were told apart
    assert run_folder.folder_of(b"/s", f"{RECORD}:a:3") == b"/s/jobs/a/run.3"
    for bad in ("a:1", f"{RECORD}::1", f"{RECORD}:..:1", f"{RECORD}:a/b:1", f"{RECORD}:a b:1", f"{RECORD}:a:x"):
        with pytest.raises(ValueError):
            launch_token.split(bad)


def test_a_lock_tells_the_living_tables_from_the_dead(tmp_path: Path) -> None:
    spool = os.fsencode(tmp_path)
    name = f"s/{run_folder.HOST}.1.table".encode()
    fd = slot_table.create(spool, name)
    slot_table.write(fd, 0, "r:a:1", 0, 0, 3, 1.0, 2.0, None)
    slot_table.write(fd, 1, "r:b:1", os.getpid(), _start_of(os.getpid()), 1, 1.0, 2.0, 9.0)
    assert [(it.token, it.cpus, it.walltime) for it in slot_table.entries(fd)] == [("r:a:1", 3, 0.0), ("r:b:1", 1, 9.0)]
    assert (
        slot_table.locked(spool, name.decode())
        and not slot_table.locked(spool, "s/none")
        and not os.set_blocking(fd, True)
    )
    assert slot_table.occupied(spool, b"s/mine") == (1, 1)  # r:a took no marker; r:b lives
    os.close(fd)
    assert not slot_table.locked(spool, name.decode())
    assert slot_table.occupied(spool, b"s/mine") == (1, 1)  # its guard is dead; r:b lives on
    assert slot_table.occupied(spool, name) == (0, 0)  # nobody counts himself
    fd = os.open(b"/".join((spool, slot_table.FOLDER, name)), os.O_RDWR)
    slot_table.write(fd, 1, "r:b:1", 99999999, 1, 1, 1.0, 2.0, 9.0)
    os.close(fd)
    assert slot_table.occupied(spool, b"s/mine") == (0, 0)
    assert not list((tmp_path / "guards" / "s").iterdir())


def _start_of(pid: int) -> int:
    found = process_tree.process(pid)
    assert found is not None
    return found.start


@pytest.mark.parametrize("moment", ["before the spawn", "after the spawn", "after its end"])
def test_the_one_ambiguous_spawn_is_resolved(moment: str, tmp_path: Path) -> None:
    """A guard whose runner died between marker and pid: the state on disk and in the process table decides."""
    code = f"""
import os, signal, sys, time
sys.path.insert(0, {str(ROOT)!r})
from jobmill.systems import child_wait, guard, run_folder, slot_table
spool, moment = os.fsencode({str(tmp_path)!r}), {moment!r}
class Script(guard.Guard):
    def start_runner(self):
        self.again = None
        self.epoch += 1
        if self.epoch:
            self.table = ("second", slot_table.create(spool, b"far/second"))
            self.runner = os.fork() or os._exit(0)
            return
        name = "far/" + run_folder.HOST + ".1.table"
        self.table = (name, slot_table.create(spool, name.encode()))
        self.runner = os.fork()
        if self.runner:
            return
        folder = run_folder.folder_of(spool, "{RECORD}:a:1")
        os.makedirs(folder)
        marker = run_folder.take(folder)
        slot_table.write(self.table[1], 0, "{RECORD}:a:1", 0, 0, 1, time.monotonic(), time.time(), 0)
        run_folder.write(marker, run_folder.header("{RECORD}:a:1", name))
        if moment != "before the spawn":
            from jobmill.systems import spawn
            opens = [(0, b"/dev/null", spawn.READ), (1, folder + b"/stdout", spawn.APPEND)]
            nap = b"0.3" if moment == "after the spawn" else b"0"
            argv = [b"/bin/sh", b"-c", b"sleep " + nap + b"; exit 9"]
            spawn.start(argv, {{b"JOBMILL_TOKEN": b"{RECORD}:a:1", b"PATH": b"/usr/bin:/bin"}}, b"/", opens)
        if moment == "after its end":
            while child_wait.peek() is None:
                time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)
signal.pthread_sigmask(signal.SIG_BLOCK, {{signal.SIGCHLD}})
assert child_wait.prctl(child_wait.PR_SET_CHILD_SUBREAPER, 1)
Script("", spool, "far", 1.0).serve()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    run = run_folder.read(os.fsencode(tmp_path / "jobs/a/run.1"))
    assert run is not None and run.end is not None, done
    record = json.loads(run.end)
    if moment == "before the spawn":
        assert run.sealed and record["reason"] == "not_started" and run.pid is None
    else:
        assert record["exit_status"] == "finished_regularly" and record["exit_value"] == 9 and run.pid


def test_a_marker_is_whole_from_its_first_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = os.fsencode(tmp_path)
    with monkeypatch.context() as full:
        full.setattr(run_folder, "write", lambda fd, data: os.close(os.open("/nowhere", os.O_RDONLY)))
        with pytest.raises(OSError):
            run_folder.take(folder, b"x")
    assert not [*tmp_path.iterdir()]  # who fails, or dies there, leaves no marker
    os.close(run_folder.take(folder, b"first\n"))
    with pytest.raises(FileExistsError):
        run_folder.take(folder, b"second\n")
    assert (tmp_path / "run").read_bytes() == b"first\n"
    assert [*tmp_path.iterdir()] == [tmp_path / "run"]


def test_signals_go_only_to_the_process_that_is_meant() -> None:
    with subprocess.Popen(["/bin/sleep", "30"]) as child:
        start = _start_of(child.pid)
        assert not process_tree.send(child.pid, start + 1, signal.SIGKILL)  # the pid of a younger process
        assert child.poll() is None
        assert process_tree.send(child.pid, start, signal.SIGKILL)
        assert child.wait(10) == -signal.SIGKILL
    for never in (0, 1, os.getpid()):
        assert not process_tree.send(never, 0, 0)


def test_a_runner_that_hears_nothing_drains(tmp_path: Path) -> None:
    argv = [sys.executable, "-I", "-S", "-c", BOOTSTRAP.format("guard"), str(ROOT), "guard", str(tmp_path), "far", "5"]
    commands = b"sync 0\nenv {}\nslots 1\n" + launch("a", ["/bin/sleep", "3"]) + launch("b", ["/bin/true"])
    env = {"PATH": os.defpath, "JOBMILL_SILENCE": "1"}
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, env=env
    ) as guard:
        assert guard.stdin is not None and guard.stdout is not None
        guard.stdin.write(commands)
        guard.stdin.flush()
        for _ in range(8):
            time.sleep(0.25)
            guard.stdin.write(b"\n")  # we are there
            guard.stdin.flush()
        assert (tmp_path / "jobs/a/run.1/run").exists()
        assert guard.wait(10) == 0  # its input is open still
        guard.stdin.close()
    run = run_folder.read(os.fsencode(tmp_path / "jobs/a/run.1"))
    assert run is not None and run.end is not None and json.loads(run.end)["exit_value"] == 0
    assert not (tmp_path / "jobs/b").exists()
