"""The command line against real pipelines: one that `jobmill up` keeps up for this file, and those of `run`."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from conftest import Server

JOBMILL = (sys.executable, "-m", "jobmill.scripts.jobmill")
CLEAN = ("JOBMILL_REDIS_URL", "JOBMILL_CONFIG", "JOBMILL_STATE", "JOBMILL_DEBUG", "XDG_CONFIG_HOME", "XDG_STATE_HOME")


@dataclass(kw_only=True)
class Shell:
    """A user's shell: a folder to work in, a state folder, an environment."""

    work: Path
    state: Path
    more: Mapping[str, str] = field(default_factory=dict)

    @property
    def env(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if k not in CLEAN}
        root = str(Path(__file__).resolve().parent.parent)
        return kept | {"JOBMILL_STATE": str(self.state), "HOME": str(self.work), "PYTHONPATH": root} | dict(self.more)

    def __call__(self, *words: str, stdin: bytes = b"", timeout: float = 60) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*JOBMILL, *words],
            input=stdin,
            capture_output=True,
            cwd=self.work,
            env=self.env,
            timeout=timeout,
            check=False,
        )
        out, err = done.stdout.decode(), done.stderr.decode()
        assert "Traceback" not in err, err
        return subprocess.CompletedProcess(done.args, done.returncode, out, err)

    def start(self, *words: str, **more: object) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*JOBMILL, *words],
            cwd=self.work,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            **more,  # type: ignore[call-overload]
        )

    def write(self, name: str, text: str) -> str:
        (self.work / name).write_text(text)
        return name


@contextlib.contextmanager
def shell(**more: str) -> Iterator[Shell]:
    memory = Path("/dev/shm")
    root = Path(tempfile.mkdtemp(prefix="jm-cli-", dir=memory if os.access(memory, os.W_OK) else None))
    (root / "work").mkdir()
    try:
        yield Shell(work=root / "work", state=root / "state", more=more)
    finally:
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture
def alone() -> Iterator[Shell]:
    """A shell where nothing runs."""
    with shell() as it:
        yield it


@pytest.fixture(scope="module")
def up() -> Iterator[Shell]:
    """A shell beside a pipeline that is up."""
    with shell() as it:
        pipeline = it.start("up", "--quiet")
        try:
            until(lambda: it("doctor").returncode == 0, 30)
            yield it
        finally:
            pipeline.send_signal(signal.SIGINT)
            _, errors = pipeline.communicate(timeout=60)
        assert pipeline.returncode == 0, errors.decode()


def until(true: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.05)


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_run_brings_up_a_pipeline_and_shows_results(alone: Shell) -> None:
    alone.write("a.yaml", "name: good\ncommand: echo hello; echo $PWD\n")
    alone.write("b.yaml", 'name: bad\ncommand: echo no >&2; echo "no licence" > $JOBMILL_ERROR_FILE; exit 3\n')
    done = alone("run", "a.yaml", "b.yaml")
    assert done.returncode == 1
    assert "hello" in done.stdout and str(alone.work) in done.stdout
    assert "exit 3: no licence" in done.stdout and "  no\n" in done.stdout
    assert "files: " in done.stdout
    assert not (alone.state / "redis.sock").exists(), "the pipeline ends with the run"
    again = alone("run", "a.yaml", "--json", "--slots", "3")
    row = json.loads(again.stdout)
    assert (again.returncode, row["state"], row["exit"]["exit_value"]) == (0, "done", 0)
    assert row["usage"]["wall"] >= 0


def test_run_tells_what_is_wrong_before_it_starts_anything(alone: Shell) -> None:
    alone.write("bad.yaml", "comand: true\n")
    done = alone("run", "bad.yaml")
    assert done.returncode == 2
    assert done.stderr.startswith("jobmill: bad.yaml:1: comand: unknown key (did you mean 'command'?)")
    assert not alone.state.exists()


def test_run_whose_process_is_killed_leaves_no_pipeline(alone: Shell) -> None:
    alone.write("long.yaml", "command: sleep 1\n")
    running = alone.start("run", "long.yaml")
    until(lambda: (alone.state / "supervisor.lock").exists() and (alone.state / "supervisor.lock").read_text())
    supervisor = int((alone.state / "supervisor.lock").read_text())
    running.kill()
    running.communicate(timeout=10)
    until(lambda: not lives(supervisor), 40)


def test_of_two_runs_the_longer_one_goes_on_alone(alone: Shell) -> None:
    alone.write("short.yaml", "command: sleep 1\n")
    alone.write("long.yaml", "command: sleep 3; echo still here\n")
    first = alone.start("run", "short.yaml")
    until(lambda: "running" in alone("list").stdout)
    second = alone("run", "long.yaml")
    _, err = first.communicate(timeout=30)
    assert first.returncode == 0, err.decode()
    assert second.returncode == 0 and "still here" in second.stdout, second.stderr


def test_run_brings_workers_to_a_server_that_runs_elsewhere(valkey: Server) -> None:
    with shell(JOBMILL_REDIS_URL=valkey.url) as it:
        it.write("a.yaml", "id: there\ncommand: echo there\n")
        done = it("run", "a.yaml")
        assert done.returncode == 0 and "  there\n" in done.stdout, done.stderr
        assert json.loads(it("show", "--json", "there").stdout)["state"] == "done"
        assert "no manager, no starter, no fetcher alive" in it("info").stdout
        waiting = it("submit", "-", stdin=b"command: 'true'\n")
        assert "no manager, no starter, no fetcher is alive: the jobs wait until one is" in waiting.stderr


def test_a_pipeline_that_cannot_start_says_why(alone: Shell) -> None:
    alone.write("a.yaml", "command: 'true'\n")
    alone.write("jobmill.yaml", "routes: [{name: far, system: local, rules: [{user_isnt: ann}]}]\n")
    done = alone("run", "a.yaml")
    assert done.returncode in (2, 100) and "unknown rule 'user_isnt'" in done.stderr


def test_a_terminal_that_is_not_utf8_breaks_nothing() -> None:
    with shell(PYTHONIOENCODING="ascii") as it:
        it.write("a.yaml", "name: 名\ncommand: printf 'h\\303\\251'\n")
        done = it("run", "a.yaml")
        assert done.returncode == 0 and "h\\xe9" in done.stdout


def test_interrupted_run_cancels_its_jobs(up: Shell) -> None:
    up.write("long.yaml", f"id: int-{time.time_ns()}\ncommand: sleep 60\n")
    running = up.start("run", "long.yaml", start_new_session=True)
    until(lambda: "running" in up("list", "--state", "live").stdout)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=30)
    assert running.returncode == 130, err.decode()
    assert "cancelled by" in out.decode() and "Traceback" not in err.decode()


def test_submit_wait_show_logs_explain(up: Shell) -> None:
    (up.work / "sub").mkdir()
    up.write("sub/j.yaml", "workdir: .\ncommand: pwd; echo $JOBMILL_PARAM_N; echo oops >&2; exit 4\n")
    done = up("submit", "sub/j.yaml", "--set", "params.n=7", "--tag", "t1", "--name", "naïve 名")
    job_id = done.stdout.strip()
    assert done.returncode == 0 and job_id and done.stderr == ""
    assert up("wait", job_id, "--timeout", "30s").returncode == 1
    assert up("logs", job_id).stdout == f"{up.work}/sub\n7\n"
    assert up("logs", "--stderr", job_id[:14]).stdout == "oops\n"
    shown = up("show", job_id)
    assert (
        "failed" in shown.stdout and "exit 4" in shown.stdout and "oops" in shown.stdout and "naïve 名" in shown.stdout
    )
    row = json.loads(up("show", "--json", job_id).stdout)
    assert row["exit"]["exit_value"] == 4 and row["spec"]["params"] == {"n": 7} and row["stderr"] == ["oops"]
    assert row["times"]["submitted"] <= row["times"]["ended"] and row["tags"] == ["t1"]
    assert "exit record" in up("explain", job_id).stdout
    assert job_id in up("list", "--tag", "t1").stdout and job_id not in up("list", "--tag", "t2").stdout
    assert json.loads(up("list", "--tag", "t1", "--json").stdout.splitlines()[0])["id"] == job_id
    assert up("retry", job_id).stdout == f"{job_id}  runs again\n"
    assert up("wait", job_id).returncode == 1
    assert json.loads(up("show", "--json", job_id).stdout)["run"] == 2
    assert up("logs", job_id, "--run", "1").stdout == f"{up.work}/sub\n7\n"
    wrong = up("logs", job_id, "--run", "3")
    assert wrong.returncode == 2 and "its runs: 1 to 2" in wrong.stderr


def test_submit_wait_reads_standard_input(up: Shell) -> None:
    done = up("submit", "-", "--wait", "--json", stdin=b"command: echo hi\n---\ncommand: exit 1\n")
    assert [json.loads(line)["state"] for line in done.stdout.splitlines()] == ["done", "failed"]
    assert done.returncode == 1


def test_the_same_id_for_another_job_is_refused_before_it_is_sent(up: Shell) -> None:
    up.write("one.yaml", "id: only-one\ncommand: 'true'\n")
    assert up("submit", "one.yaml", "--wait").returncode == 0
    again = up("submit", "one.yaml", "--wait")
    assert again.returncode == 0 and "has run before and ended done" in again.stderr
    up.write("one.yaml", "id: only-one\ncommand: 'false'\n")
    other = up("submit", "one.yaml")
    assert other.returncode == 2 and "another job has it" in other.stderr


def test_waiting_reasons_hold_release_cancel(up: Shell) -> None:
    up.write(
        "w.yaml",
        "id: dep-w\ncommand: 'true'\ndepends_on: [never-there]\n---\nid: held-w\ncommand: 'true'\nhold: true\n",
    )
    assert up("submit", "w.yaml").stdout.split() == ["dep-w", "held-w"]
    until(lambda: "held-w" in up("list", "--state", "held").stdout)
    assert "waits for never-there (not submitted yet)" in up("explain", "dep-w").stdout
    late = up("wait", "dep-w", "--timeout", "0.3")
    assert late.returncode == 111 and "have not ended after" in late.stderr and "waits for never-there" in late.stderr
    assert up("cancel", "dep-w", "--reason", "not needed").stdout == "dep-w  cancelled\n"
    assert "not needed" in up("show", "dep-w").stdout
    assert up("release", "--state", "held").stdout == "held-w  released\n"
    assert up("wait", "held-w").returncode == 0
    assert up("hold", "held-w").returncode == 1
    assert up("retry", "no-such-job").returncode == 2


def test_a_paused_system_says_so(up: Shell) -> None:
    assert "→ 0  (paused)" in up("capacity", "set", "LocalJobs", "0").stdout
    try:
        job_id = up("submit", "-", stdin=b"command: 'true'\n").stdout.strip()
        until(lambda: "LocalJobs is closed: 0/0" in up("explain", job_id).stdout)
    finally:
        up("capacity", "set", "LocalJobs", "66")
    assert up("wait", job_id, "--timeout", "20s").returncode == 0
    assert json.loads(up("capacity", "get", "LocalJobs", "--json").stdout) == {"LocalJobs": {"used": 0, "limit": 66}}
    wrong = up("capacity", "set", "LocalJob", "3")
    assert wrong.returncode == 2 and "did you mean 'LocalJobs'?" in wrong.stderr


def test_refused_entries_are_looked_after(up: Shell) -> None:
    assert up("redis", "-x", "RPUSH", "Job_Queue", stdin=b"nam: x").stdout == "1\n"
    until(lambda: "unknown key" in up("dead", "list").stdout)
    (entry,) = (json.loads(line) for line in up("dead", "list", "--json").stdout.splitlines())
    assert entry["entry"] == "nam: x" and "did you mean 'name'" in entry["reason"]
    assert up("dead", "show", "0").stdout == "nam: x\n"
    assert up("dead", "requeue", "all").stdout.startswith("1 pushed back")
    until(lambda: up("dead", "list", "--json").stdout)
    assert up("dead", "drop", "5").returncode == 2
    assert up("dead", "drop", "0").stdout == "1 dropped\n"
    assert up("dead", "list").stderr == "Dead_Queue is empty\n"


def test_a_pushed_job_that_is_refused_ends_the_wait(up: Shell) -> None:
    up("redis", "RPUSH", "Job_Queue", json.dumps({"id": "toobig", "command": "true", "resources": {"cpus": 9999}}))
    done = up("wait", "toobig")
    assert done.returncode == 2 and "9999 wanted" in done.stdout


def test_what_a_job_writes_is_shown_in_bearable_parts(up: Shell) -> None:
    lines = "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done"
    up.write("a.yaml", f"command: '{lines}; yes x | head -c 9999 | tr -d \\\\n > $JOBMILL_ERROR_FILE; exit 1'\n")
    failed = up("run", "a.yaml")
    assert "line 19990\n" in failed.stdout and "line 19989\n" not in failed.stdout
    assert max(map(len, (failed.stdout + failed.stderr).splitlines())) < 700
    assert len(json.loads(up("show", "last", "--json").stdout)["exit"]["message"]) > 3000
    up.write("b.yaml", "command: yes '12345678' | head -c 3000000 > $JOBMILL_RETURN_FILE\n")
    assert "returned more than 1 MiB" in up("run", "b.yaml").stdout
    up.write("c.yaml", "command: echo oops > $JOBMILL_RETURN_FILE\n")
    assert "returned what is no JSON" in up("run", "c.yaml").stdout
    assert "no JSON" in json.loads(up("run", "--json", "c.yaml").stdout)["return_problem"]
    up.write("d.yaml", "command: seq -s , 1 5000 | sed 's/.*/[&]/' > $JOBMILL_RETURN_FILE\n")
    assert "1, 2, 3" in up("run", "d.yaml").stdout and len(up("run", "d.yaml").stdout) < 2500
    assert json.loads(up("run", "--json", "d.yaml").stdout)["returned"][-1] == 5000


def test_logs_are_followed_to_the_end(up: Shell) -> None:
    up.write(
        "f.yaml", "steps:\n- {name: a, command: 'echo one; sleep 0.5; echo two'}\n- {name: b, command: 'echo three'}\n"
    )
    job_id = up("submit", "f.yaml").stdout.strip()
    until(lambda: up("show", job_id).returncode == 0)
    assert up("logs", "-f", "--step", "a", job_id).stdout == "one\ntwo\n"
    assert up("logs", "-f", "--step", "b", job_id).stdout == "three\n"
    wrong = up("logs", "--step", "c", job_id)
    assert wrong.returncode == 2 and "known: a, b" in wrong.stderr


def test_info_watch_systems_redis(up: Shell) -> None:
    view = json.loads(up("info", "--json").stdout)
    assert view["settings"] == {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction"}
    assert {p["role"] for p in view["processes"] if p["alive"]} == {"manager", "starter", "fetcher"}
    text = up("info").stdout
    assert "durable" in text and "LocalJobs" in text and "\x1b" not in text
    assert up("watch", "--count", "2", "--interval", "0.1").stdout.count("ended/s") == 2
    assert "kinds: " in up("systems").stdout
    assert up("redis", "LLEN", "Job_Queue").stdout == "0\n"
    refused = up("redis", "NOPE")
    assert refused.returncode == 100 and "unknown command" in refused.stderr


def test_dry_run_changes_nothing(up: Shell) -> None:
    before = up("info", "--json").stdout
    done = up("submit", "-", "--dry-run", "--json", stdin=b"command: ls\nmem: 1G\n")
    told = json.loads(done.stdout)
    assert told["system"] == "local" and told["spec"]["resources"] == {"memory": 1024} and "id" not in told["spec"]
    away = up("submit", "-", "--dry-run", "--system", "moon", stdin=b"command: ls\n")
    assert away.returncode == 2 and "unknown system 'moon'" in away.stdout
    assert json.loads(before)["ended"] == json.loads(up("info", "--json").stdout)["ended"]


def test_a_second_pipeline_is_refused(up: Shell) -> None:
    done = up("up", timeout=20)
    assert done.returncode == 100 and "runs already in" in done.stderr


@pytest.mark.parametrize(
    "words", [["list"], ["show", "x"], ["info"], ["wait", "x"], ["cancel", "x"], ["dead", "list"], ["redis", "PING"]]
)
def test_without_a_server_each_command_says_so_in_one_line(alone: Shell, words: list[str]) -> None:
    done = alone(*words)
    assert done.returncode == 111
    expected = f"jobmill: no Redis server answers at unix://{alone.state}/redis.sock: start one with: jobmill up\n"
    assert done.stderr == expected and done.stdout == ""


def test_doctor_names_what_is_wrong(alone: Shell) -> None:
    done = alone("doctor")
    assert done.returncode == 1 and "WRONG server" in done.stdout and "→ jobmill up" in done.stdout


def test_lint_names_file_line_and_key(alone: Shell) -> None:
    alone.write("good.yaml", "command: ls\n")
    alone.write("bad.yaml", "command: ls\nresources:\n  cpu: 4\n")
    alone.write("jobmill.yaml", "systems:\n  here: {kind: locl}\n")
    assert alone("lint", "good.yaml").stdout == "good.yaml: ok (job)\n"
    done = alone("lint", "good.yaml", "bad.yaml", "jobmill.yaml")
    assert done.returncode == 2
    assert "bad.yaml:3: resources.cpu: unknown key (did you mean 'cpus'?)" in done.stdout
    assert "unknown kind of system 'locl' (did you mean 'local'?)" in done.stdout


def test_usage_errors_exit_with_2(alone: Shell) -> None:
    wrong = alone("lsit")
    assert wrong.returncode == 2 and "did you mean 'list'?" in wrong.stderr
    assert alone("wait").returncode == 2
    assert alone("list", "--limit", "0").returncode == 2
    assert alone("list", "--state", "runing").returncode == 2
    assert alone("--version").stdout.startswith("jobmill ")
    for shell_name in ("bash", "zsh", "fish"):
        assert "_JOBMILL_COMPLETE" in alone("completion", shell_name).stdout


def test_a_closed_pipe_is_silent(up: Shell) -> None:
    listing = up.start("info")
    assert listing.stdout is not None
    listing.stdout.close()
    assert listing.stderr is not None
    with listing.stderr:
        assert listing.stderr.read() == b""
    assert listing.wait(20) == 141


def test_names_cannot_move_the_cursor(up: Shell) -> None:
    job = {"id": "sly", "command": "printf '\\033[2J' >&2; exit 1", "tags": ["sly"]}
    up("redis", "RPUSH", "Job_Queue", json.dumps(job))
    up("wait", "sly")
    assert "\x1b" not in up("show", "sly").stdout


@pytest.mark.parametrize("command", ["info", "list"])
def test_commands_import_neither_pydantic_nor_rich(up: Shell, command: str) -> None:
    code = (
        "import sys; from jobmill.scripts.jobmill import main; code = main([sys.argv[1]]);"
        " sys.exit(code or ' '.join(m for m in ('pydantic', 'rich', 'yaml') if m in sys.modules) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, command],
        cwd=up.work,
        env=up.env,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_server_that_dies_meanwhile_is_waited_for(up: Shell) -> None:
    job_id = up("submit", "-", stdin=b"command: sleep 2\n").stdout.strip()
    until(lambda: "running" in up("list", job_id).stdout)
    waiting = up.start("wait", job_id)
    time.sleep(0.3)
    os.kill(int((up.state / "server.pid").read_text()), signal.SIGKILL)
    out, err = waiting.communicate(timeout=60)
    assert waiting.returncode == 0, err.decode()
    assert out.decode() == f"{job_id}  done\n"
