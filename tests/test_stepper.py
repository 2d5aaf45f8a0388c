"""The stepper for real: every test starts it as a runner would, in its own process, and reads the run folder."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from jobmill.jobs import stepper
from jobmill.systems.step_progress import progress

MODULE = """
import os, sys
def make(start, count=3):
    print("making", count)
    return {"values": list(range(start, start + count)), "label": "made"}
def pair(values): return sum(values), max(values)
def one(total, **rest): return total * 2
def boom(): raise ValueError("no\\nluck")
def leave(): sys.exit(4)
def odd(): return {"good": 1, "handle": object()}
def nan(): return float("nan")
def nothing(): return None
def echo(x): return x
def where(): return os.getcwd(), sys.path[0], __name__
class Box:
    @staticmethod
    def call(label="none"): return label
"""


class Run:
    """One run folder and what the stepper left there."""

    def __init__(self, folder: Path, done: subprocess.CompletedProcess[str] | None = None) -> None:
        self.folder, self.done = folder, done

    @property
    def code(self) -> int:
        assert self.done is not None
        return self.done.returncode

    def text(self, name: str) -> str:
        return (self.folder / name).read_text()

    def json(self, name: str) -> Any:
        return json.loads(self.text(name))

    @property
    def lines(self) -> list[list[str]]:
        return [line.split()[:3] for line in self.text("steps").splitlines()]


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Start the stepper over a list of steps, in a workdir that holds the module `work`."""
    folder, workdir = tmp_path / "run.1", tmp_path / "workdir"
    folder.mkdir()
    workdir.mkdir()
    (workdir / "work.py").write_text(MODULE)

    def _start(
        steps: list[Any],
        params: Mapping[str, Any] | None = None,
        env: Mapping[str, str] | None = None,
        python: str = sys.executable,
    ) -> subprocess.Popen[str]:
        (folder / "job.yaml").write_text(json.dumps({"steps": steps, "params": params or {}}))
        return subprocess.Popen(
            [python, "-I", "-S", stepper.__file__, str(folder)],
            cwd=workdir,
            env={"PATH": os.environ["PATH"], **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    return _start


@pytest.fixture
def run(start: Start, tmp_path: Path) -> Callable[..., Run]:
    """Run steps to their end."""

    def _run(steps: list[Any], **more: Any) -> Run:
        process = start(steps, **more)
        out, err = process.communicate(timeout=30)
        done = subprocess.CompletedProcess(process.args, process.returncode, out, err)
        return Run(tmp_path / "run.1", done)

    return _run


def wait_for(seen: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 20
    while not seen():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.01)


def has(path: Path) -> Callable[[], bool]:
    return lambda: path.exists() and path.read_text().strip() != ""


def test_commands_run_in_order_each_with_its_own_log(run: Callable[..., Run]) -> None:
    ran = run(
        [
            {"name": "index", "command": "echo one; echo two >&2; pwd"},
            {"name": "map", "command": ["printf", "%s", "a b"], "log": "logs/map.txt"},
        ]
    )
    assert ran.code == 0
    assert ran.text("index.log").splitlines()[:2] == ["one", "two"]
    assert ran.text("index.log").splitlines()[2].endswith("workdir")
    assert ran.text("logs/map.txt") == "a b"
    assert ran.lines == [
        ["started", "1/2", "index"],
        ["ended", "1/2", "index"],
        ["started", "2/2", "map"],
        ["ended", "2/2", "map"],
    ]
    assert " exit=0 wall=" in ran.text("steps").splitlines()[1]
    assert progress(ran.folder) == "2/2 map"
    assert not (ran.folder / "return.json").exists()
    assert not list(ran.folder.glob("step.*"))


def test_outputs_of_functions_feed_later_steps(run: Callable[..., Run]) -> None:
    ran = run(
        [
            {"name": "make", "function": "work:make", "inputs": {"start": 2}},
            {"name": "pair", "function": "work:pair", "outputs": ["total", "most"]},
            {"name": "one", "function": "work:one", "outputs": ["twice"], "inputs": {"also": "$make.label"}},
            {"name": "again", "function": "work:one", "outputs": ["twice"], "inputs": {"total": "$twice"}},
        ]
    )
    assert (ran.code, ran.done and ran.done.stderr) == (0, "")
    assert ran.json("outputs.json") == {
        "make": {"values": [2, 3, 4], "label": "made"},
        "pair": {"total": 9, "most": 4},
        "one": {"twice": 18},
        "again": {"twice": 36},
    }
    assert ran.json("return.json") == {"twice": 36}
    assert ran.text("make.log") == "making 3\n"


def test_explicit_inputs_win_over_outputs_and_outputs_over_params(run: Callable[..., Run]) -> None:
    steps = [
        {"name": "by-param", "function": "work:echo", "outputs": ["seen"]},
        {"name": "make", "command": 'echo \'{"x": "output"}\' > "$JOBMILL_STEP_OUTPUTS"'},
        {"name": "by-output", "function": "work:echo", "outputs": ["seen"]},
        {"name": "by-input", "function": "work:echo", "inputs": {"x": "input"}, "outputs": ["seen"]},
        {"name": "nested", "function": "work:echo", "inputs": {"x": {"a": ["$by-output.seen", "$$x", 1]}}},
    ]
    kept = run(steps, params={"x": "param"}).json("outputs.json")
    assert [kept[name]["seen"] for name in ("by-param", "by-output", "by-input")] == ["param", "output", "input"]
    assert kept["nested"] == {"a": ["output", "$x", 1]}


def test_commands_see_inputs_and_outputs_in_the_environment(run: Callable[..., Run]) -> None:
    ran = run(
        [
            {"name": "make", "function": "work:make", "inputs": {"start": 0}},
            {
                "name": "show",
                "inputs": {"my-file": "$label", "flag": True},
                "command": 'echo "$JOBMILL_OUTPUT_VALUES|$JOBMILL_OUTPUT_LABEL|$JOBMILL_INPUT_MY_FILE"; '
                'echo "$JOBMILL_INPUT_FLAG|$JOBMILL_STEP"',
            },
        ]
    )
    assert ran.text("show.log") == "[0, 1, 2]|made|made\ntrue|2/2 show\n"


def test_an_output_too_large_for_the_environment_is_left_in_the_file(run: Callable[..., Run]) -> None:
    big = 'printf \'{"big": "%0200000d", "small": 1}\' 7 > "$JOBMILL_STEP_OUTPUTS"'
    show = 'echo "${JOBMILL_OUTPUT_BIG-unset} $JOBMILL_OUTPUT_SMALL"; grep -c big "$JOBMILL_OUTPUTS"'
    ran = run([{"name": "make", "command": big}, {"name": "show", "command": show}])
    assert ran.code == 0
    assert "JOBMILL_OUTPUT_BIG (200000 bytes) does not fit" in ran.text("show.log")
    assert ran.text("show.log").endswith("unset 1\n1\n")


def test_the_first_failing_step_ends_the_job_with_its_exit_value(run: Callable[..., Run]) -> None:
    ran = run(
        [
            {"name": "index", "command": "true"},
            {"name": "map", "command": "echo first; echo the last words; exit 3"},
            {"name": "never", "command": "touch never"},
        ]
    )
    assert ran.code == 3
    assert ran.text("error") == "step 2/3 map failed: exit 3; see map.log\n  first\n  the last words\n"
    assert " exit=3 " in ran.text("steps").splitlines()[-1]
    assert progress(ran.folder) == "2/3 map"


def test_a_step_that_explains_itself_is_quoted(run: Callable[..., Run], tmp_path: Path) -> None:
    error_file = tmp_path / "message"
    steps = [
        {"name": "warn", "command": 'echo warning > "$JOBMILL_ERROR_FILE"'},
        {"name": "map", "command": 'echo no licence > "$JOBMILL_ERROR_FILE"; exit 9'},
    ]
    ran = run(steps, env={"JOBMILL_ERROR_FILE": str(error_file)})
    assert ran.code == 9
    assert error_file.read_text() == "step 2/2 map failed: exit 9: no licence; see map.log\n"


def test_an_exception_leaves_its_traceback_in_the_log_and_one_line_for_the_user(run: Callable[..., Run]) -> None:
    ran = run([{"name": "bad", "function": "work:boom"}])
    assert ran.code == 1
    assert ran.text("error") == "step 1/1 bad failed: ValueError: no luck; see bad.log\n"
    assert 'work.py", line' in ran.text("bad.log")


def test_a_function_may_exit(run: Callable[..., Run]) -> None:
    assert run([{"name": "bad", "function": "work:leave"}]).code == 4


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ({"function": "work:odd"}, "output 'handle' (object) cannot be kept as JSON"),
        ({"function": "work:nan", "outputs": ["x"]}, "output 'x' (float) cannot be kept as JSON"),
        ({"function": "work:pair"}, "parameter 'values' has no value"),
        ({"function": "work:pair", "inputs": {"valeus": 1}}, "input 'valeus' is no parameter (parameters: values)"),
        ({"function": "work:nothing", "outputs": ["a", "b"]}, "answered one NoneType for the outputs a, b"),
        ({"function": "work:make", "inputs": {"start": 1}, "outputs": ["values", "x"]}, "declared output 'x'"),
        ({"function": "work:where", "outputs": ["a", "b"]}, "answered 3 values for 2 outputs"),
        ({"function": "work:absent"}, "'work' has no 'absent' (it has: Box, boom"),
        ({"function": "wrok:make"}, "no module 'wrok' in "),
        ({"function": "work:echo", "inputs": {"x": "$HOME"}}, "'$HOME' names no param and no output of an earlier"),
        ({"command": "true", "outputs": ["x"]}, "declared output 'x' was not produced (got: none)"),
        ({"command": 'echo [1] > "$JOBMILL_STEP_OUTPUTS"'}, "must be a JSON object"),
        ({"command": 'echo \'{"x": NaN}\' > "$JOBMILL_STEP_OUTPUTS"'}, "NaN is not a JSON number"),
    ],
)
def test_what_cannot_be_kept_or_called_fails_with_its_name(run: Callable[..., Run], step: Any, words: str) -> None:
    ran = run([{"name": "odd", **step}])
    assert ran.code == 2
    message = ran.text("error")
    assert message.startswith("step 1/1 odd failed: ")
    assert words in message
    assert message.count("\n") == 1


def test_a_missing_program_is_127_as_in_a_shell(run: Callable[..., Run]) -> None:
    ran = run([{"name": "x", "command": ["no-such-program-here", "a"]}])
    assert ran.code == 127
    assert ran.text("error").startswith('step 1/1 x failed: cannot start ["no-such-program-here", "a"]: No such file')


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ([], "holds no steps"),
        ([{"name": "a"}], "step 1/1 a: needs either `command` or `function`"),
        ([{"name": "a", "command": "x", "function": "m:f"}], "needs either"),
        ([{"name": "a", "function": "os.system"}], "not of the form pkg.mod:call"),
        ([{"name": "a", "command": "x"}, {"name": "a", "command": "x"}], "an earlier step has this name"),
        ([{"command": "touch ran"}, {"name": "b", "command": "x", "log": "./run"}], "step 2/2 b: log './run' is"),
        ([{"name": "a", "command": "x", "log": "step.1.outputs"}], "step 1/1 a: log 'step.1.outputs' is a file of"),
        (["ls"], "step 1/1: must be a mapping"),
    ],
)
def test_bad_steps_are_refused_before_anything_runs(run: Callable[..., Run], steps: Any, words: str) -> None:
    ran = run(steps)
    assert ran.code == 2
    assert words in ran.text("error")
    assert not (ran.folder / "steps").exists()
    assert not (ran.folder.parent / "workdir" / "ran").exists()


def test_the_job_s_own_return_file_stands(run: Callable[..., Run], tmp_path: Path) -> None:
    mine = tmp_path / "return-here"
    step = {"name": "a", "command": 'echo \'{"x": 1}\' > "$JOBMILL_STEP_OUTPUTS"; echo 42 > "$JOBMILL_RETURN_FILE"'}
    run([step], env={"JOBMILL_RETURN_FILE": str(mine)})
    assert mine.read_text() == "42\n"
    mine.unlink()
    run([{"name": "a", "function": "work:Box.call", "outputs": ["y"]}], env={"JOBMILL_RETURN_FILE": str(mine)})
    assert json.loads(mine.read_text()) == {"y": "none"}


def test_the_workdir_is_first_on_the_path(run: Callable[..., Run], tmp_path: Path) -> None:
    ran = run([{"name": "a", "function": "work:where", "outputs": ["cwd", "first", "name"]}])
    workdir = str(tmp_path / "workdir")
    assert ran.json("return.json") == {"cwd": workdir, "first": workdir, "name": "work"}


def test_a_signal_that_ends_a_step_ends_the_job(run: Callable[..., Run]) -> None:
    ran = run([{"name": "a", "command": "kill -SEGV $$"}])
    assert ran.code == -signal.SIGSEGV
    assert ran.text("error") == "step 1/1 a failed: signal 11 (SIGSEGV); see a.log\n"
    assert " signal=11 " in ran.text("steps")


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_reaches_the_whole_group_of_the_step(start: Start, tmp_path: Path, signum: signal.Signals) -> None:
    pids = tmp_path / "pids"
    # Two sleeps below a shell: a signal to the shell alone would leave them behind.
    command = f"(sleep 60 & echo $! >> {pids}; wait) & sleep 60 & echo $! >> {pids}; wait"
    process = start([{"name": "long", "command": command}])
    wait_for(lambda: pids.exists() and len(pids.read_text().split()) == 2, "both sleeps")
    sleepers = [int(pid) for pid in pids.read_text().split()]
    began = time.monotonic()
    process.send_signal(signum)
    process.communicate(timeout=20)
    assert process.returncode == -signum
    assert time.monotonic() - began < 10
    if signum is signal.SIGTERM:
        wait_for(lambda: not any(alive(pid) for pid in sleepers), "the sleeps to end")
    else:  # sh starts background work with INT ignored: only the shell itself ended
        for pid in sleepers:
            os.kill(pid, signal.SIGKILL)
    ran = Run(tmp_path / "run.1")
    assert ran.text("error") == f"step 1/1 long stopped by {signum:d} ({signum.name}); see long.log\n"
    assert f" signal={signum:d} " in ran.text("steps")


def alive(pid: int) -> bool:
    """True while a process runs; a zombie that nobody reaps here does not count."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_a_step_that_cleans_up_after_term_is_waited_for(start: Start, tmp_path: Path) -> None:
    marker, cleaned = tmp_path / "up", tmp_path / "cleaned"
    command = f"trap 'sleep 0.2; echo yes > {cleaned}; exit 0' TERM; echo up > {marker}; sleep 60 & wait"
    process = start([{"name": "polite", "command": command}, {"name": "never", "command": f"echo no > {cleaned}"}])
    wait_for(has(marker), "the trap")
    process.terminate()
    process.communicate(timeout=20)
    assert process.returncode == -signal.SIGTERM
    assert cleaned.read_text() == "yes\n"


def test_no_step_outlives_a_stepper_that_was_killed(start: Start, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    process = start([{"name": "long", "command": f"sleep 60 & echo $! $$ > {pids}; wait"}])
    wait_for(lambda: pids.exists() and len(pids.read_text().split()) == 2, "the sleep")
    process.kill()
    process.communicate(timeout=20)
    wait_for(lambda: not any(alive(int(pid)) for pid in pids.read_text().split()), "the step to end")
    wait_for(lambda: not running_with(str(tmp_path / "run.1")), "the lifeline to end")


def test_steps_go_on_when_only_their_lifeline_was_killed(start: Start, tmp_path: Path) -> None:
    marker, go_on = tmp_path / "up", tmp_path / "go-on"
    process = start(
        [
            {"name": "a", "command": f"echo up > {marker}; until [ -e {go_on} ]; do sleep 0.02; done"},
            {"name": "b", "command": "echo fine"},
        ]
    )
    wait_for(has(marker), "the first step")
    lifelines = [pid for pid in running_with(str(tmp_path / "run.1")) if int(pid) != process.pid]
    assert len(lifelines) == 1
    os.kill(int(lifelines[0]), signal.SIGKILL)
    go_on.write_text("")
    process.communicate(timeout=20)
    assert process.returncode == 0
    assert Run(tmp_path / "run.1").text("b.log") == "fine\n"


def test_nothing_is_left_behind_by_steps_that_ended(run: Callable[..., Run]) -> None:
    ran = run([{"name": "a", "command": ["no-such-program"]}])
    assert not running_with(str(ran.folder))


def running_with(word: str) -> list[str]:
    """The pids of all processes that have a word in their command line."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if word.encode() in (process / "cmdline").read_bytes():
                found.append(process.name)
    return found


def test_usr1_is_passed_on_and_ends_nothing(start: Start, tmp_path: Path) -> None:
    marker, seen = tmp_path / "up", tmp_path / "seen"
    command = f"trap 'echo warned > {seen}' USR1; echo up > {marker}; until [ -e {seen} ]; do sleep 0.02; done; true"
    process = start([{"name": "a", "command": command}, {"name": "b", "command": "true"}])
    wait_for(has(marker), "the trap")
    process.send_signal(signal.SIGUSR1)
    process.communicate(timeout=20)
    assert process.returncode == 0
    assert seen.read_text() == "warned\n"


def test_a_signal_that_comes_while_a_step_is_made_is_passed_on(start: Start, tmp_path: Path) -> None:
    """The step may have set its trap before its maker knows that it is there."""
    late = tmp_path / "late.py"
    late.write_text(
        "import os, runpy, signal, subprocess, sys, time\n"
        "class Late(subprocess.Popen):\n"
        "    def __init__(self, *args, **more):\n"
        "        super().__init__(*args, **more)\n"
        f"        while not os.path.exists({str(tmp_path / 'up')!r}): time.sleep(0.01)\n"
        "        os.kill(os.getpid(), signal.SIGUSR1)\n"
        "subprocess.Popen = Late\n"
        f"sys.path.insert(0, {str(Path(stepper.__file__).parents[2])!r})\n"
        f"sys.argv = [{stepper.__file__!r}, sys.argv[2]]\n"
        f"runpy.run_path({stepper.__file__!r}, run_name='__main__')\n"
    )
    seen = tmp_path / "seen"
    loop = f"until [ -e {seen} ]; do sleep 0.02; done; true"
    command = f"trap 'echo warned > {seen}' USR1; echo up > {tmp_path / 'up'}; {loop}"
    wrapper = tmp_path / "python"
    wrapper.write_text(f'#!/bin/sh\nshift 2\nexec {sys.executable} {late} "$@"\n')
    wrapper.chmod(0o755)
    process = start([{"name": "a", "command": command}], python=str(wrapper))
    _, words = process.communicate(timeout=20)
    assert process.returncode == 0, words
    assert seen.read_text() == "warned\n"


def test_progress_passes_over_a_line_that_is_not_whole(tmp_path: Path) -> None:
    assert progress(tmp_path) is None
    steps = tmp_path / "steps"
    steps.write_text("")
    assert progress(tmp_path) is None
    steps.write_text("started 1/12 index 2026-11-21T01:00:00Z\nended 1/12 index exit=0 wall=0.1\nstarted 2/12 m")
    assert progress(str(tmp_path)) == "1/12 index"
    steps.write_text("".join(f"started {n}/99999 s{n} 2026-11-21T01:00:00Z\n" for n in range(1, 3000)))
    assert progress(tmp_path) == "2999/99999 s2999"


def test_every_part_is_valid_for_python_3_6() -> None:
    names = ("stepper.py", "step.py", "lifeline.py", "function_step.py", "__init__.py")
    files = [str(Path(stepper.__file__).with_name(name)) for name in names]
    words = [str(Path(sys.executable).with_name("vermin")), "-t=3.6-", "--no-tips", *files]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Minimum required versions: 3.6" in done.stdout
