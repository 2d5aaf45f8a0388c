"""The local system with real guards, runners and jobs."""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from tokens import RECORD

from jobmill.errors import ConfigError
from jobmill.systems import process_tree, run_folder, slot_table
from jobmill.systems.local import LocalSystem
from jobmill.systems.local_guard import LocalGuard
from jobmill.systems.spool_launches import SpoolLaunches
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

pytestmark = pytest.mark.timeout(60)


class Bench:
    """A LocalSystem and what it has told so far."""

    def __init__(self, spool: Path, **options: Any) -> None:
        self.spool = spool
        self.system = LocalSystem.build("local", {"slots": 2, **options}, spool)
        self.starts: list[str] = []
        self.ends: dict[str, ExitInfo] = {}
        self.end_order: list[str] = []
        self.unwatched: list[str] = []

    def job(self, name: str, *argv: str, run: int = 1, record: str = RECORD, **fields: Any) -> Submission:
        return Submission(token=f"{record}:{name}:{run}", job_id=name, run=run, argv=argv, **fields)

    def sh(self, name: str, text: str, **fields: Any) -> Submission:
        return self.job(name, "/bin/sh", "-c", text, **fields)

    def submit(self, *jobs: Submission) -> list[str]:
        answers = self.system.submit(jobs)
        assert not [a for a in answers if isinstance(a, SubmitError)]
        return [str(a) for a in answers]

    def turn(self, seconds: float = 0.05) -> None:
        fd = self.system.fileno()
        assert fd is not None
        select.select([fd], [], [], seconds)
        for it in self.system.ends():
            if isinstance(it, Start):
                self.starts.append(it.token)
            elif isinstance(it, Unwatched):
                assert it.token not in self.ends and it.token not in self.unwatched
                self.unwatched.append(it.token)
            else:
                assert isinstance(it, End)
                assert it.token not in self.ends, "told twice"
                self.ends[it.token] = ExitInfo.from_json(it.exit)
                self.end_order.append(it.token)

    def until(self, done: Callable[[], Any], seconds: float = 20.0) -> None:
        until = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < until, f"still waiting; starts {self.starts[-5:]}, ends {len(self.ends)}"
            self.turn()

    def run(self, *jobs: Submission) -> list[ExitInfo]:
        self.submit(*jobs)
        self.until(lambda: all(it.token in self.ends for it in jobs))
        return [self.ends[it.token] for it in jobs]

    def folder(self, name: str, run: int = 1) -> Path:
        return self.spool / "jobs" / name / f"run.{run}"

    def guard_pid(self) -> int:
        channel = self.system._channel
        assert channel is not None and isinstance(channel.guard, LocalGuard)
        return channel.guard.pid

    def runner_pid(self) -> int:
        """The runner's pid: the guard's child that runs the runner's program."""
        until = time.monotonic() + 10
        while time.monotonic() < until:
            for child in process_tree.children(self.guard_pid()):
                if process_tree.shows(child.pid, "jobmill.systems.runner"):
                    return child.pid
            time.sleep(0.005)
        raise AssertionError("no runner")


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    it = Bench(tmp_path / "spool")
    yield it
    _end(it)


def _end(it: Bench) -> None:
    """Kill what a test left behind, by its token, and wait for guard and runner to go."""
    channel = it.system._channel
    guards = [] if channel is None else [g.pid for g in [*channel._old, channel.guard] if isinstance(g, LocalGuard)]
    it.system.close()
    left = LocalSystem.build("local", {"slots": 1}, it.spool)
    for path in it.spool.glob("jobs/*/run.*/run"):
        run = run_folder.read(os.fsencode(path.parent))
        if run is not None and run.token and not run.end:
            left.kill([left.handle_for(run.token)], force=True)
    until = time.monotonic() + 10
    while guards and time.monotonic() < until:
        for pid in list(guards):
            try:
                gone = os.waitpid(pid, os.WNOHANG)[0] != 0
            except ChildProcessError:
                gone = True
            if gone:
                guards.remove(pid)
        time.sleep(0.01)
    assert not guards, "a guard did not leave after its last job"


def test_exit_values_and_signals_are_true(bench: Bench) -> None:
    zero, one, high, dead, killed = bench.run(
        bench.job("zero", "/bin/true"),
        bench.job("one", "false"),
        bench.sh("high", "exit 139"),
        bench.sh("dead", "kill -SEGV $$"),
        bench.sh("killed", "kill -9 $$"),
    )
    assert zero.regular and zero.exit_value == 0 and zero.evidence == "exit record"
    assert (one.exit_status, one.exit_value) == (ExitStatus.FINISHED_REGULARLY, 1)
    assert (high.exit_status, high.exit_value, high.term_sig) == (ExitStatus.FINISHED_REGULARLY, 139, None)
    assert (dead.exit_status, dead.exit_value, dead.term_sig) == (ExitStatus.FINISHED_SIGNAL, None, signal.SIGSEGV)
    assert killed.term_sig == signal.SIGKILL
    assert set(bench.starts) == set(bench.ends)


def test_a_job_that_puts_a_pipe_in_place_of_its_marker_holds_nobody_up(bench: Bench) -> None:
    evil = bench.sh("evil", "cd $JOBMILL_RUN_FOLDER && rm run && mkfifo run && exit 3")
    told, _ = bench.run(evil, bench.sh("fine", "sleep 0.5"))
    assert told.exit_value == 3  # its runner held the marker open
    handle = bench.system.handle_for(evil.token)
    assert bench.system.status([handle])[handle].state is NativeState.UNKNOWN
    assert bench.system.exit_info([handle]) == {}
    (bench.folder("evil") / "run").unlink()


def test_what_was_pushed_is_what_the_folder_says(bench: Bench) -> None:
    job = bench.sh("a", "echo out; echo err >&2; exit 3")
    (handle,) = bench.submit(job)
    bench.until(lambda: bench.ends)
    assert bench.system.exit_info([handle])[handle] == bench.ends[job.token]
    assert (bench.folder("a") / "run").read_text().endswith(" end\n")
    assert bench.system.logs(handle, "stdout", 0) == b"out\n"
    assert bench.system.logs(handle, "stdout", 2) == b"t\n"
    assert bench.system.logs(handle, "stderr", 0, 2) == b"er"
    assert bench.system.logs(handle, "nothing", 0) == b""
    with pytest.raises(ValueError, match="not the name of a file"):
        bench.system.logs(handle, "../run", 0)
    assert bench.system.status([handle])[handle].state is NativeState.ENDED


@pytest.mark.parametrize(
    ("argv", "value", "words"),
    [
        (("no-such-command-xyz",), 127, "not found in PATH="),
        (("/no/such/program",), 127, "'/no/such/program' not found"),
        (("/etc/passwd",), 126, "chmod +x"),
        (("/tmp",), 126, "directory"),
    ],
)
def test_a_command_that_cannot_start(bench: Bench, argv: tuple[str, ...], value: int, words: str) -> None:
    (info,) = bench.run(bench.job("a", *argv))
    assert (info.exit_status, info.reason) == (ExitStatus.ABORTED_BEFORE_RUNNING, "start_failed")
    assert info.exit_value == value and words in (info.message or "")
    assert bench.run(bench.job("b", "/bin/true"))[0].regular


def test_other_reasons_not_to_start(bench: Bench, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    script = tmp_path / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    cases = {
        "workdir": (bench.job("workdir", "/bin/true", workdir="/no/such"), "working directory '/no/such'"),
        "stdin": (bench.job("stdin", "/bin/true", stdin="/no/such"), "cannot open stdin '/no/such'"),
        "stdout": (bench.job("stdout", "/bin/true", stdout="/no/such/out"), "cannot open stdout '/no/such/out'"),
        "stderr": (bench.job("stderr", "/bin/true", stderr="/etc"), "cannot open stderr '/etc'"),
        "fifo": (bench.job("fifo", "/bin/true", stdin=str(tmp_path / "pipe")), "named pipe"),
        "large": (bench.job("large", "/bin/true", "x" * 200_000), "E2BIG"),
        "null": (bench.job("null", "/bin/true", "a\0b"), "null byte"),
        "surrogate": (bench.job("surrogate", "/bin/true", "\ud800"), "no program can be given"),
        "name": (bench.job("name", "/bin/true", env={"a=b": "c"}), "environment"),
        "shebang": (bench.job("shebang", str(script)), "interpreter"),
    }
    for info, (job, words) in zip(bench.run(*(job for job, _ in cases.values())), cases.values(), strict=True):
        assert info.exit_status is ExitStatus.ABORTED_BEFORE_RUNNING, (job.job_id, info)
        assert info.reason == "start_failed" and words in (info.message or ""), (job.job_id, info.message)


def test_hostile_words_arrive_as_they_are(bench: Bench) -> None:
    words = ["", "'", '"', "a b", "new\nline", "$HOME `id` \\", "ünïcødé 漢字", "\udcff\udc80", "-n", "*"]
    dump = "import sys,os; print(ascii(sys.argv[1:])); print(ascii(os.environ['W']))"
    env = {"W": "\n'\"ü\udcfe", "PYTHONUTF8": "1"}
    (info,) = bench.run(bench.job("a", sys.executable, "-c", dump, *words, env=env))
    assert info.regular
    argv, value = (bench.folder("a") / "stdout").read_text().splitlines()
    assert argv == ascii(words) and value == ascii(env["W"])


def test_environment_is_clean_and_complete(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_THE_STARTER", "x")
    (info,) = bench.run(bench.job("a", "/usr/bin/env", env={"MINE": "1"}, cpus=2, workdir="/tmp"))
    assert info.regular
    lines = (bench.folder("a") / "stdout").read_text().splitlines()
    env = dict(line.split("=", 1) for line in lines)
    folder = str(bench.folder("a"))
    assert env.keys() >= {"HOME", "USER", "LOGNAME", "LANG", "TMPDIR", "PATH"} and "SECRET_OF_THE_STARTER" not in env
    assert env["SHELL"] == "/bin/sh" and env["MINE"] == "1" and env["JOBMILL_TOKEN"] == f"{RECORD}:a:1"
    assert (env["JOBMILL_JOB_ID"], env["JOBMILL_RUN"], env["JOBMILL_CPUS"]) == ("a", "1", "2")
    assert (env["JOBMILL_WORKDIR"], env["JOBMILL_RUN_FOLDER"]) == ("/tmp", folder)
    assert env["JOBMILL_ERROR_FILE"] == folder + "/error"
    assert env["JOBMILL_RETURN_FILE"] == folder + "/return.json"


def test_a_module_in_the_current_folder_is_not_taken_for_a_library(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("json", "selectors", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'taken')!r}, 'w'); raise SystemExit(9)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (info,) = bench.run(bench.job("a", "/bin/true"))
    assert info.regular and not (tmp_path / "taken").exists()


def test_streams_files_and_descriptors(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("from stdin")
    both = str(tmp_path / "both")
    Path(both).write_text("older\n")
    infos = bench.run(
        bench.sh("in", "cat; ls -l /proc/$$/fd > fds; grep -c -e pipe -e socket fds", stdin=str(tmp_path / "in")),
        bench.sh("both", "echo 1; echo 2 >&2; echo 3", stdout=both, stderr=both),
        bench.sh("files", "cat script", files={"script": "the text"}),
    )
    assert [info.exit_value for info in infos] == [1, 0, 0]  # grep found nothing: no pipe, no socket was inherited
    assert (bench.folder("in") / "stdout").read_text() == "from stdin0\n"
    assert Path(both).read_text() == "older\n1\n2\n3\n"
    assert (bench.folder("both") / "stdout").read_text() == "older\n1\n2\n3\n"
    assert (bench.folder("files") / "stdout").read_text() == "the text"
    bad = bench.system.submit([bench.job("bad", "/bin/true", files={"../x": ""})])[0]
    assert isinstance(bad, SubmitError) and "../x" in bad.message


def test_signals_of_a_job_are_at_their_defaults(bench: Bench) -> None:
    bench.run(bench.sh("a", "grep -E 'Sig(Blk|Ign)' /proc/self/status"))
    lines = (bench.folder("a") / "stdout").read_text().split()
    assert int(lines[1], 16) == 0 and int(lines[3], 16) & 0x7FFFFFFF == 0  # 32 and 33 are the C library's own


def test_error_file_becomes_the_message(bench: Bench) -> None:
    long = "x" * 9000
    bad, good, cut = bench.run(
        bench.sh("bad", 'printf "no reference genome" > "$JOBMILL_ERROR_FILE"; exit 4'),
        bench.sh("good", 'echo warning > "$JOBMILL_ERROR_FILE"'),
        bench.sh("cut", f'printf "ü{long}" > "$JOBMILL_ERROR_FILE"; exit 1'),
    )
    assert bad.message == "no reference genome" and good.message is None
    assert cut.message is not None and cut.message.endswith("[cut]") and len(cut.message) > 2000
    handle = bench.system.handle_for(f"{RECORD}:cut:1")
    assert len(bench.system.exit_info([handle])[handle].message or "") == 4095


def test_usage_is_measured(bench: Bench) -> None:
    burn = "b = bytearray(80 << 20); import time; t = time.process_time()\nwhile time.process_time() - t < 0.2: pass"
    (info,) = bench.run(bench.job("a", sys.executable, "-c", burn))
    used = info.resource_usage
    assert 0.2 <= used["cpu"] < 5 and used["wall"] >= 0.2 and 80 <= used["max_memory"] < 400
    assert info.started is not None and info.ended is not None and info.ended >= info.started


def test_walltime_ends_the_whole_tree(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "spool", kill_grace=0.3)
    try:
        stubborn = bench.sh("stubborn", "trap '' TERM; setsid sleep 60 & while :; do sleep 0.05; done", walltime=0.2)
        polite = bench.sh("polite", "sleep 60", walltime=0.2)
        gentle = bench.sh("gentle", "trap 'exit 9' TERM; while :; do sleep 0.02; done", walltime=0.2)
        began = time.monotonic()
        hard, soft, own = bench.run(stubborn, polite, gentle)
        assert time.monotonic() - began < 8
        assert (hard.reason, hard.exit_status, hard.term_sig) == ("timeout", ExitStatus.FINISHED_SIGNAL, 9)
        assert (soft.reason, soft.term_sig) == ("timeout", 15)
        assert (own.reason, own.exit_value, own.regular) == ("timeout", 9, False)
        for job in (stubborn, polite, gentle):
            assert not process_tree.members(job.token, bench.folder(job.job_id).as_posix())
    finally:
        _end(bench)


def test_background_processes_outlive_a_regular_end(bench: Bench) -> None:
    (handle,) = bench.submit(bench.sh("a", "sleep 30 & exit 0"))
    bench.until(lambda: bench.ends)
    assert process_tree.members(f"{RECORD}:a:1", str(bench.folder("a")))
    assert bench.system.kill([handle], force=True)[handle]
    assert not process_tree.members(f"{RECORD}:a:1", str(bench.folder("a")))


def test_never_more_than_slots_at_once_and_each_exactly_once(bench: Bench, tmp_path: Path) -> None:
    log = tmp_path / "log"
    jobs = [bench.sh(f"j{n}", f"echo + {n} >> {log}; echo - {n} >> {log}; exit {n % 7}") for n in range(200)]
    infos = bench.run(*jobs)
    assert [info.exit_value for info in infos] == [n % 7 for n in range(200)]
    inside = most = 0
    lines = log.read_text().split("\n")[:-1]
    for line in lines:
        inside += 1 if line[0] == "+" else -1
        most = max(most, inside)
    assert len(lines) == 400 and len(set(lines)) == 400 and 1 <= most <= 2
    assert sorted(bench.starts) == sorted(job.token for job in jobs)


def test_wide_jobs_take_their_width(bench: Bench, tmp_path: Path) -> None:
    go = tmp_path / "go"
    wait = f"while [ ! -e {go} ]; do sleep 0.01; done"
    bench.submit(bench.sh("one", wait), bench.sh("wide", "true", cpus=2), bench.sh("huge", "true", cpus=9))
    bench.submit(bench.sh("last", "true"))
    bench.until(lambda: bench.starts == [f"{RECORD}:one:1"])
    for _ in range(5):
        bench.turn(0.02)
    assert bench.starts == [f"{RECORD}:one:1"]
    go.touch()
    bench.until(lambda: len(bench.ends) == 4)
    assert bench.end_order == [f"{RECORD}:one:1", f"{RECORD}:wide:1", f"{RECORD}:huge:1", f"{RECORD}:last:1"]


def test_slots_change_live(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "spool", slots=0)
    try:
        jobs = [bench.sh(f"j{n}", "sleep 30") for n in range(6)]
        handles = bench.submit(*jobs)
        for _ in range(10):
            bench.turn(0.02)
        assert bench.starts == []
        assert bench.system.status(handles)[handles[0]].state is NativeState.SUBMITTED
        bench.system.set_slots(3)
        bench.until(lambda: len(bench.starts) == 3)
        bench.system.set_slots(1)
        bench.system.kill(handles[:1], force=True)
        bench.until(lambda: bench.ends)
        for _ in range(5):
            bench.turn(0.02)
        assert len(bench.starts) == 3  # two still run, one slot: nothing new, nobody evicted
        states = [bench.system.status([h])[h] for h in handles[1:3]]
        assert all(it.state is NativeState.RUNNING and it.alive for it in states)
        bench.system.withdraw([job.token for job in jobs])
        bench.until(lambda: len(bench.ends) == 4)
        assert {info.reason for info in bench.ends.values()} == {None, "withdrawn"}
        bench.system.kill(handles, force=True)
        bench.until(lambda: len(bench.ends) == 6)
    finally:
        _end(bench)


def test_withdrawn_may_come_back(bench: Bench) -> None:
    bench.system.set_slots(0)
    job = bench.job("a", "/bin/true")
    bench.submit(job)
    bench.system.withdraw([job.token])
    bench.until(lambda: bench.ends)
    assert bench.ends.pop(job.token).reason == "withdrawn"
    bench.system.set_slots(1)
    assert bench.run(job)[0].regular


ESCAPES: Mapping[str, str] = {
    "setsid": "setsid sleep 61 & sleep 61",
    "daemon": "(setsid sh -c 'sleep 62 & exit' </dev/null >/dev/null 2>&1 &); sleep 61",
    "nohup": "nohup sleep 63 >/dev/null 2>&1 & sleep 61",
    "deaf": "trap '' TERM INT; L='while :; do sleep 0.1; done'; setsid sh -c \"trap '' TERM; $L\" & eval $L",
    "forks": "f() { sleep 0.02; f & f2=$!; }; while :; do (setsid sleep 1 &) ; sleep 0.001; done",
    "scrubbed": "env -i setsid sleep 64 & sleep 61",
    "scrubbed-daemon": "(env -i setsid sleep 65 &) ; sleep 61",
}


@pytest.mark.parametrize("how", ESCAPES)
@pytest.mark.parametrize("gently", [True, False])
def test_kill_takes_the_whole_tree(bench: Bench, how: str, gently: bool) -> None:
    (handle,) = bench.submit(bench.sh(how, f"touch ready; {ESCAPES[how]}"))
    ready = bench.folder(how) / "ready"
    bench.until(ready.exists)
    time.sleep(0.1)  # the escape itself
    folder = str(bench.folder(how))
    run = run_folder.read(os.fsencode(folder))
    assert run is not None
    before = process_tree.members(f"{RECORD}:" + how + ":1", folder, run.pid, run.start)
    assert len(before) >= 2
    elsewhere = LocalSystem.build("local", {"slots": 2}, bench.spool)  # as the fetcher does: no guard of its own
    if gently:
        elsewhere.kill([handle], force=False)
        time.sleep(0.05)
    bench.until(lambda: elsewhere.kill([handle], force=True)[handle], 10)
    bench.until(lambda: bench.ends)
    left = {
        p.pid for p in process_tree.table().values() if (p.pid, p.start) in {(b.pid, b.start) for b in before.values()}
    }
    assert not left
    assert not [pid for pid in process_tree.table() if process_tree.token_of(pid) == f"{RECORD}:{how}:1".encode()]
    assert bench.ends[f"{RECORD}:{how}:1"].exit_status is ExitStatus.FINISHED_SIGNAL
    assert os.getpid() and process_tree.alive(bench.guard_pid(), _start_of(bench.guard_pid()))


def _start_of(pid: int) -> int:
    found = process_tree.process(pid)
    assert found is not None
    return int(found.start)


def test_killed_runner_loses_nothing(bench: Bench, tmp_path: Path) -> None:
    log = tmp_path / "log"
    jobs = [bench.sh(f"j{n}", f"echo {n} >> {log}; sleep 0.01; exit {n % 5}") for n in range(200)]
    bench.submit(*jobs)
    again: list[Submission] = []
    for marks in (20, 60, 100, 140):
        bench.until(lambda marks=marks: len(bench.ends) >= marks)
        os.kill(bench.runner_pid(), signal.SIGKILL)
    bench.until(lambda: len(bench.ends) == 200)
    for n, job in enumerate(jobs):
        info = bench.ends[job.token]
        if info.reason == "not_started":  # the kill hit between its marker and its spawn: provably never ran
            again.append(bench.sh(job.job_id, job.argv[2], run=2))
        else:
            assert (info.exit_value, info.exit_status) == (n % 5, ExitStatus.FINISHED_REGULARLY), (n, info)
            assert info.resource_usage["wall"] >= 0.01
    assert len(again) <= 4
    if again:
        bench.run(*again)
    assert sorted(map(int, log.read_text().split())) == list(range(200))


def test_inherited_job_keeps_its_walltime_and_its_slot(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "spool", slots=1, kill_grace=0.2)
    try:
        job = bench.sh("a", "trap '' TERM; while :; do sleep 0.05; done", walltime=0.8)
        bench.submit(job, bench.sh("b", "true"))
        bench.until(lambda: bench.starts)
        os.kill(bench.runner_pid(), signal.SIGKILL)
        bench.until(lambda: len(bench.ends) == 2)
        assert bench.end_order == [f"{RECORD}:a:1", f"{RECORD}:b:1"]
        assert (bench.ends[f"{RECORD}:a:1"].reason, bench.ends[f"{RECORD}:a:1"].term_sig) == ("timeout", 9)
    finally:
        _end(bench)


def test_killed_guard_loses_nothing(bench: Bench, tmp_path: Path) -> None:
    log = tmp_path / "log"
    jobs = [bench.sh(f"j{n}", f"echo {n} >> {log}; sleep 0.02; exit {n % 5}") for n in range(60)]
    bench.submit(*jobs)
    bench.until(lambda: len(bench.ends) >= 10)
    os.kill(bench.guard_pid(), signal.SIGKILL)
    bench.until(lambda: len(bench.ends) == 60)
    assert [bench.ends[job.token].exit_value for job in jobs] == [n % 5 for n in range(60)]
    assert sorted(map(int, log.read_text().split())) == list(range(60))


def test_guard_and_runner_killed_jobs_run_on(bench: Bench, tmp_path: Path) -> None:
    go = tmp_path / "go"
    slow = bench.sh("slow", f"while [ ! -e {go} ]; do sleep 0.01; done; echo done")
    more = [bench.job(f"j{n}", "/bin/true") for n in range(5)]
    (handle,) = bench.submit(slow)
    bench.until(lambda: bench.starts)
    bench.submit(*more[:0])
    guard, runner = bench.guard_pid(), bench.runner_pid()
    os.kill(guard, signal.SIGSTOP)  # so that it cannot start another runner in between
    os.kill(runner, signal.SIGKILL)
    os.kill(guard, signal.SIGKILL)
    bench.until(lambda: bench.unwatched == [slow.token])  # said at once: only polls find its end now
    bench.run(*more)  # a new guard; the orphan still holds one of the two slots
    elsewhere = LocalSystem.build("local", {"slots": 2}, bench.spool)
    seen = elsewhere.status([handle])[handle]
    assert seen.state is NativeState.RUNNING and seen.alive
    assert elsewhere.settle([Launch(token=slow.token, handle=handle)])[slow.token] == handle
    go.touch()
    bench.until(lambda: elsewhere.status([handle])[handle].state is NativeState.ABSENT)
    assert not elsewhere.status([handle])[handle].alive
    assert elsewhere.exit_info([handle]) == {}  # nobody saw its end: no record is made up
    assert (bench.folder("slow") / "stdout").read_text() == "done\n"


def test_a_dead_starter_leaves_its_jobs_running_and_recorded(tmp_path: Path) -> None:
    spool, go = tmp_path / "spool", tmp_path / "go"
    text = f"while [ ! -e {go} ]; do sleep 0.01; done; exit 6"
    code = f"""
import sys, select
from pathlib import Path
from jobmill.systems.local import LocalSystem
from jobmill.systems.local_guard import LocalGuard
from jobmill.systems.system import Submission
s = LocalSystem.build("local", {{"slots": 1}}, Path({str(spool)!r}))
assert s.lead()
s.submit([Submission(token="{RECORD}:a:1", job_id="a", run=1, argv=("/bin/sh", "-c", {text!r})),
          Submission(token="{RECORD}:b:1", job_id="b", run=1, argv=("/bin/true",))])
while not s.ends():
    select.select([s.fileno()], [], [], 1)
print("up", flush=True)
select.select([], [], [])
"""
    bench = Bench(spool, slots=1)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as starter:
        assert starter.stdout is not None and starter.stdout.readline() == b"up\n"
        assert not bench.system.lead()  # it stands by
        starter.kill()
    assert bench.system.lead()  # the lock went with its owner, although guard and job live
    try:
        a, b = bench.system.handle_for(f"{RECORD}:a:1"), bench.system.handle_for(f"{RECORD}:b:1")
        launches = [Launch(token=f"{RECORD}:a:1", handle=a), Launch(token=f"{RECORD}:b:1", handle=b)]
        assert bench.system.status([a])[a].state is NativeState.RUNNING
        assert bench.system.settle(launches) == {f"{RECORD}:a:1": a, f"{RECORD}:b:1": Settled.NOT_STARTED}
        bench.submit(bench.job("c", "/bin/true"))
        for _ in range(15):
            bench.turn(0.02)
        assert bench.starts == []  # the one slot belongs to the old guard's job
        go.touch()
        bench.until(lambda: bench.system.exit_info([a]))
        assert bench.system.exit_info([a])[a].exit_value == 6  # recorded by the guard of the dead starter
        bench.until(lambda: f"{RECORD}:c:1" in bench.ends)
        old = list((spool / "guards" / "local").glob("*.table"))
        bench.until(lambda: len([p for p in old if p.exists()]) <= 1)
    finally:
        _end(bench)


def test_duplicate_launch_is_a_no_op(bench: Bench, tmp_path: Path) -> None:
    log = tmp_path / "log"
    job = bench.sh("a", f"echo x >> {log}")
    bench.run(job)
    first = bench.ends.pop(job.token)
    assert bench.run(job) == [first]  # told again, not run again
    other = Bench(bench.spool)
    try:
        assert other.run(job) == [first]
    finally:
        _end(other)
    assert log.read_text() == "x\n"


def test_sealed_marker_stops_a_late_launch(bench: Bench, tmp_path: Path) -> None:
    log = tmp_path / "log"
    job = bench.sh("a", f"echo x >> {log}")
    handle = bench.system.handle_for(job.token)
    for _ in range(2):
        settled = bench.system.settle([Launch(token=job.token, handle=handle)])
        assert settled == {job.token: Settled.NOT_STARTED}
    (info,) = bench.run(job)
    assert (info.exit_status, info.reason) == (ExitStatus.ABORTED_BEFORE_RUNNING, "not_started")
    assert not log.exists()
    assert bench.run(bench.sh("a", f"echo x >> {log}", run=2))[0].regular


def test_killed_before_its_start_it_never_starts(bench: Bench, tmp_path: Path) -> None:
    bench.system.set_slots(0)
    job = bench.sh("a", f"echo x >> {tmp_path}/log")
    (handle,) = bench.submit(job)
    elsewhere = LocalSystem.build("local", {}, bench.spool)
    assert elsewhere.kill([handle], force=False) == {handle: True}
    bench.system.set_slots(2)
    bench.until(lambda: bench.ends)
    assert bench.ends[job.token].reason == "not_started" and not (tmp_path / "log").exists()


def test_settle_at_each_step(tmp_path: Path) -> None:
    system = LocalSystem.build("local", {}, tmp_path)
    spool = os.fsencode(tmp_path)

    def settle(token: str, boot: str = run_folder.BOOT) -> object:
        handle = f"{boot}/{token}"
        answer = system.settle([Launch(token=token, handle=handle)])[token]
        return "adopted" if answer == handle else answer

    def mark(token: str, guard: str, *more: bytes) -> bytes:
        folder: bytes = run_folder.folder_of(spool, token)
        Path(os.fsdecode(folder)).mkdir(parents=True)
        fd = run_folder.take(folder)
        run_folder.write(fd, b"".join((run_folder.header(token, guard), *more)))
        os.close(fd)
        return folder

    assert settle("r:absent:1", boot="another-boot") is Settled.LOST
    fd = slot_table.create(spool, b"local/host.1.1.0.table")
    mark("r:taken:1", "local/host.1.1.0.table")
    assert settle("r:taken:1") is Settled.UNKNOWN  # a runner may be between marker and pid
    empty = run_folder.folder_of(spool, "r:empty:1")
    Path(os.fsdecode(empty)).mkdir(parents=True)
    os.close(run_folder.take(empty))
    assert settle("r:empty:1") is Settled.UNKNOWN
    assert settle("r:empty:1", boot="another-boot") is Settled.LOST  # a power cut took what stood there
    os.close(fd)
    assert settle("r:taken:1") is Settled.NOT_STARTED
    assert settle("r:empty:1") is Settled.NOT_STARTED
    entered = mark("r:entered:1", "local/host.1.1.0.table")
    Path(os.fsdecode(entered), "stdout").touch()
    assert settle("r:entered:1") is Settled.LOST  # its child existed; nobody saw what became of it
    me = process_tree.process(os.getpid())
    mark("r:alive:1", "-", run_folder.pid_line(me.pid, me.start))
    assert settle("r:alive:1") == "adopted"
    mark(
        "r:ended:1", "-", run_folder.pid_line(1, 1), b'exit 5 {"exit_status":"finished_regularly","exit_value":0} end\n'
    )
    assert settle("r:ended:1") == "adopted"
    torn = mark("r:torn:1", "-", run_folder.pid_line(99999999, 1), b'exit 5 {"exit_status":"finis')
    handle = system.handle_for("r:torn:1")
    assert settle("r:torn:1") == "adopted" and torn
    assert system.status([handle])[handle].state is NativeState.ABSENT and system.exit_info([handle]) == {}


def test_a_folder_of_another_record_is_moved_aside(bench: Bench) -> None:
    bench.run(bench.sh("a", "echo old", record="old"))
    (info,) = bench.run(bench.sh("a", "echo new", record="new"))
    assert info.regular
    assert (bench.folder("a") / "stdout").read_text() == "new\n"
    assert (bench.spool / "jobs" / "a.old.1" / "run.1" / "stdout").read_text() == "old\n"
    handle = bench.system.handle_for("old:a:1")
    assert bench.system.exit_info([handle]) == {}  # another record's end is never read
    assert bench.system.logs(handle, "stdout", 0) == b""  # nor are its words


# One id, several lives: the record was pruned, and the id is used again.


def test_an_earlier_life_never_displaces_a_later_one(bench: Bench) -> None:
    bench.run(bench.sh("a", "echo first", record=f"{RECORD}.1"))
    (new,) = bench.submit(bench.sh("a", "echo second; sleep 60", record=f"{RECORD}.2"))
    bench.until(lambda: f"{RECORD}.2:a:1" in bench.starts)
    for run in (1, 2):  # a starter, a janitor or a runner that slept through all of it
        token = f"{RECORD}.1:a:{run}"
        old = bench.system.handle_for(token)
        assert bench.system.settle([Launch(token=token, handle=old)]) == {token: Settled.UNKNOWN}
        assert bench.system.kill([old], force=True) == {old: True}
        assert bench.system.exit_info([old]) == {} and bench.system.logs(old, "stdout", 0) == b""
    (info,) = bench.run(bench.sh("a", "echo never", run=2, record=f"{RECORD}.1"))
    assert (info.exit_status, info.reason) == (ExitStatus.ABORTED_BEFORE_RUNNING, "superseded")
    assert bench.system.status([new])[new].state is NativeState.RUNNING
    assert bench.system.logs(new, "stdout", 0) == b"second\n"
    assert sorted(path.name for path in (bench.spool / "jobs").iterdir()) == ["a", f"a.{RECORD}.1.1"]
    assert bench.system.kill([new], force=True) == {new: True}


def test_what_an_earlier_life_left_running_is_killed_by_its_own_token(bench: Bench) -> None:
    bench.run(bench.sh("a", "exec sleep 60 & exit 0", record=f"{RECORD}.1"))
    old = bench.system.handle_for(f"{RECORD}.1:a:1")
    (new,) = bench.submit(bench.sh("a", "sleep 60", record=f"{RECORD}.2"))
    bench.until(lambda: f"{RECORD}.2:a:1" in bench.starts)
    assert tokens_alive() >= {f"{RECORD}.1:a:1".encode(), f"{RECORD}.2:a:1".encode()}
    bench.until(lambda: bench.system.kill([old], force=True)[old])
    assert tokens_alive() & {f"{RECORD}.1:a:1".encode(), f"{RECORD}.2:a:1".encode()} == {f"{RECORD}.2:a:1".encode()}
    bench.until(lambda: bench.system.kill([new], force=True)[new])


def tokens_alive() -> set[bytes | None]:
    return {process_tree.token_of(pid) for pid in process_tree.table()}


def test_a_later_run_finds_the_folder_of_its_own_life(bench: Bench) -> None:
    """Run 1 of the later life left no marker (it was put off, say): its run 2 must not stand beside the old run 1."""
    bench.run(bench.sh("a", "echo first", record=f"{RECORD}.1"))
    bench.run(bench.sh("a", "echo second", run=2, record=f"{RECORD}.2"))
    bench.run(bench.sh("a", "echo third", run=3, record=f"{RECORD}.2"))
    assert sorted(path.name for path in (bench.spool / "jobs" / "a").iterdir()) == ["run.2", "run.3"]
    assert (bench.spool / "jobs" / f"a.{RECORD}.1.1" / "run.1" / "stdout").read_text() == "first\n"


def test_one_at_a_time_moves_aside(bench: Bench) -> None:
    bench.run(bench.sh("a", "echo first", record=f"{RECORD}.1"))
    with (bench.spool / "aside.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        new = bench.system.handle_for(f"{RECORD}.2:a:1")
        token = f"{RECORD}.2:a:1"
        assert bench.system.settle([Launch(token=token, handle=new)]) == {token: Settled.UNKNOWN}
        assert bench.system.kill([new], force=True) == {new: False}
        (info,) = bench.run(bench.sh("a", "echo second", record=f"{RECORD}.2"))
        assert info.reason == "no_spool"  # it is tried again later
        assert sorted(path.name for path in (bench.spool / "jobs").iterdir()) == ["a"]
    bench.ends.clear()
    (info,) = bench.run(bench.sh("a", "echo second", record=f"{RECORD}.2"))
    assert info.regular and (bench.folder("a") / "stdout").read_text() == "second\n"


def test_who_looked_before_another_had_moved_moves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = os.fsencode(tmp_path)

    def mark(token: str) -> None:
        folder = run_folder.enter(spool, token)
        os.close(run_folder.take(folder, run_folder.header(token, "-")))

    def asleep(spool: bytes, job: bytes, token: str) -> None:
        monkeypatch.undo()
        mark(token)  # the other one moves, and takes the marker
        move(spool, job, token)

    mark(f"{RECORD}.1:a:1")
    move = run_folder._move_aside
    monkeypatch.setattr(run_folder, "_move_aside", asleep)
    with pytest.raises(FileExistsError):
        mark(f"{RECORD}.2:a:1")
    assert sorted(path.name for path in (tmp_path / "jobs").iterdir()) == ["a", f"a.{RECORD}.1.1"]
    found = run_folder.read(run_folder.folder_of(spool, f"{RECORD}.2:a:1"))
    assert found is not None and found.token == f"{RECORD}.2:a:1"


def test_folders_from_before_lives_were_told_apart(tmp_path: Path) -> None:
    spool = os.fsencode(tmp_path)
    for token in (f"{RECORD}:a:1", f"{RECORD}.5:a:2", f"{RECORD}:b:1", f"{RECORD}.6:b:1"):
        folder = run_folder.enter(spool, token)
        os.close(run_folder.take(folder, run_folder.header(token, "-") + run_folder.pid_line(1, 1)))
    assert sorted(path.name for path in (tmp_path / "jobs" / "a").iterdir()) == ["run.1", "run.2"]  # one job's, perhaps
    assert sorted(path.name for path in (tmp_path / "jobs").iterdir()) == ["a", "b", f"b.{RECORD}.1"]
    launches = SpoolLaunches(spool, "local")  # begun by an older version: its token is taken as it stands
    assert launches.settle(f"{RECORD}:a:1", False) == "adopt"


@pytest.mark.parametrize("text", ["jobmill 1 nonsense host=h boot=b ns=1\n", "jobmill 1 a:b host=h\n"])
def test_a_marker_that_nobody_can_read_is_moved_aside(bench: Bench, text: str) -> None:
    bench.folder("a").mkdir(parents=True)
    (bench.folder("a") / "run").write_text(text)
    (info,) = bench.run(bench.sh("a", "true", record=f"{RECORD}.2"))
    assert info.regular
    assert (bench.spool / "jobs" / "a.other.1" / "run.1" / "run").read_text() == text


def test_a_launch_that_was_moved_aside_holds_no_slot(tmp_path: Path) -> None:
    spool = os.fsencode(tmp_path)
    fd = slot_table.create(spool, f"local/{run_folder.HOST}.1.1.0.table".encode())
    slot_table.write(fd, 0, f"{RECORD}.1:a:1", 99999999, 1, 1, 1.0, 2.0, 0.0)  # it ended; not used again
    folder = run_folder.enter(spool, f"{RECORD}.2:a:1")
    os.close(run_folder.take(folder, run_folder.header(f"{RECORD}.2:a:1", "-")))
    assert slot_table.occupied(spool, b"local/own") == (0, 1)
    me = process_tree.process(os.getpid())
    assert me is not None
    slot_table.write(fd, 0, f"{RECORD}.1:a:1", me.pid, me.start, 1, 1.0, 2.0, 0.0)
    assert slot_table.occupied(spool, b"local/own") == (1, 1)  # it lives, wherever its folder is
    os.close(fd)


def test_guard_and_runner_stand_apart(bench: Bench, tmp_path: Path) -> None:
    with (tmp_path / "held").open("w") as held:
        os.set_inheritable(held.fileno(), False)
        bench.submit(bench.sh("a", "sleep 30"))
        bench.until(lambda: bench.starts)
        for pid in (bench.guard_pid(), bench.runner_pid()):
            found = process_tree.process(pid)
            assert found.session == bench.guard_pid() != os.getsid(0)
            assert str(Path(f"/proc/{pid}/cwd").readlink()) == "/"
            targets = [str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir()]
            assert not [t for t in targets if "held" in t or t.startswith("socket") or t.startswith("/dev/pts")]
            assert process_tree.token_of(pid) is None
    bench.system.kill([bench.system.handle_for(f"{RECORD}:a:1")], force=True)


def test_thousands_at_once_do_not_block(bench: Bench) -> None:
    bench.system.set_slots(0)
    jobs = [bench.job(f"j{n}", "/bin/true", "x" * 1000) for n in range(3000)]  # three times what the pipe holds
    began = time.monotonic()
    bench.submit(*jobs)
    assert time.monotonic() - began < 2
    bench.system.withdraw([job.token for job in jobs[5:]])
    bench.system.set_slots(2)
    bench.until(lambda: len(bench.ends) == 3000)
    assert len([info for info in bench.ends.values() if info.regular]) >= 5


def test_only_one_leads(tmp_path: Path) -> None:
    one, two = (LocalSystem.build("local", {}, tmp_path) for _ in range(2))
    assert one.lead() and one.lead() and not two.lead()
    one.close()
    assert two.lead()
    two.close()


def test_options_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"systems.here: unknown option 'slot'.*did you mean 'slots'"):
        LocalSystem.build("here", {"slot": 2}, tmp_path)
    for key, value in {"slots": "two", "kill_grace": -1, "path": 5, "env": ["a"]}.items():
        with pytest.raises(ConfigError, match=rf"systems\.here\.{key}"):
            LocalSystem.build("here", {key: value}, tmp_path)
    assert LocalSystem.build("here", {}, tmp_path).slots == os.cpu_count()


def test_check_tells_what_is_wrong(tmp_path: Path) -> None:
    assert all(it.ok for it in LocalSystem.build("local", {"slots": 1}, tmp_path).check())
    blocked = tmp_path / "file"
    blocked.write_text("")
    checks = {it.name: it for it in LocalSystem.build("local", {"slots": 99}, blocked / "spool").check()}
    assert not checks["spool"].ok and checks["spool"].fix and checks["slots"].fix


def test_bad_handles_are_unknown(tmp_path: Path) -> None:
    system = LocalSystem.build("local", {}, tmp_path)
    for handle in ("", "x", "boot/../../etc:passwd:1", "boot/r:../x:1"):
        assert system.status([handle])[handle].state is NativeState.UNKNOWN
        assert system.kill([handle], force=True) == {handle: False}
        assert system.exit_info([handle]) == {}
    assert not list(tmp_path.iterdir())


def test_run_file_is_readable_by_people(bench: Bench) -> None:
    bench.run(bench.job("a", "/bin/true"))
    lines = (bench.folder("a") / "run").read_text().splitlines()
    assert lines[0].startswith(f"jobmill 1 {RECORD}:a:1 host=") and lines[1].startswith("pid ")
    word, _, rest = lines[2].partition(" ")
    assert word == "exit" and json.loads(rest.split(" ", 1)[1][: -len(" end")])["exit_value"] == 0
    assert stat.S_IMODE((bench.folder("a") / "run").stat().st_mode) == 0o644


def test_a_spool_that_is_not_there_says_nothing_of_its_launches(tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir()
    bench = Bench(tmp_path / "spool")
    try:
        (handle,) = bench.submit(bench.sh("a", "true"))
        bench.until(lambda: bench.ends)
        (tmp_path / "spool").rename(tmp_path / "unmounted")
        seen = bench.system.status([handle])[handle]
        assert seen.state is NativeState.UNKNOWN and "has no folder `jobs`" in str(seen.reason)
        (tmp_path / "unmounted").rename(tmp_path / "spool")
        assert bench.system.status([handle])[handle].state is NativeState.ENDED
    finally:
        bench.system.close()
