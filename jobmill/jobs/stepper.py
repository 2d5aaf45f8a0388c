"""Runs the ``steps:`` of one job in order, a child process each; standard library only, Python 3.6 or later.

Started as ``python -I -S stepper.py RUN_FOLDER`` in the job's workdir. It reads ``steps`` and ``params`` from the run
folder's ``job.yaml`` (the JSON that jobmill wrote) and leaves there

    steps           a line at each start and end: `started 3/7 map <time>`, `ended 3/7 map exit=0 wall=1.2`
    <step>.log      what the step printed, stdout and stderr in order (`log:` names another file)
    outputs.json    {step: {name: value}}, replaced whole after each step
    return.json     the last step's outputs, unless the job wrote $JOBMILL_RETURN_FILE itself

A command step sees earlier outputs as $JOBMILL_OUTPUT_<NAME> and its `inputs` as $JOBMILL_INPUT_<NAME>, and may write
a JSON object of outputs to $JOBMILL_STEP_OUTPUTS. A function step (`pkg.mod:call`) is called by function_step.py in a
fresh interpreter ($JOBMILL_PYTHON, else the one that runs this).

The first step that fails ends the job: with the step's exit value, or by the very signal that ended the step, so that
whoever waits for this process sees the truth (128+n would look like a program's own exit value). TERM, INT, HUP and
QUIT go to the step's whole process group; when the step is over this process dies by the same signal. Should this
process be killed without a word (kill -9), its lifeline kills the group: no step outlives its job.
"""

# ruff: noqa: PTH100, PTH103, PTH105, PTH108, PTH110, PTH118, PTH120, PTH123
# (it runs on hosts that have nothing but Python 3.6)

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time

TYPE_CHECKING = False  # no `typing` at run time: it would be a third of the start-up
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any, NoReturn

if not __package__:  # started by its path: at the end, so that nothing here hides a module of the standard library
    sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from jobmill.jobs.lifeline import ENDS_US, PASSED_ON, Lifeline  # noqa: E402
from jobmill.jobs.step import BadSteps, Step, checked  # noqa: E402

ENVIRONMENT_BUDGET = 256 * 1024  # bytes of outputs exported to one step; the kernel refuses to start it beyond 2 MiB
ONE_VALUE = 96 * 1024  # bytes; the kernel refuses a single string of 128 KiB
TAIL_LINES, TAIL_BYTES = 5, 2000
REFERENCE = re.compile(r"\$([A-Za-z_][A-Za-z0-9_.-]*)\Z")


def variable(prefix: str, name: str) -> str:
    """Return the environment variable for a name: upper case, anything but letters and digits as ``_``."""
    return prefix + re.sub(r"[^A-Za-z0-9]", "_", name).upper()


def as_text(value: "Any") -> str:
    """Return a value as a shell wants it: text as it is, true/false, numbers, all else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def write_whole(path: str, text: str) -> None:
    """Replace a file in one move, so that a reader never sees half of it."""
    with open(path + ".new", "w", encoding="utf-8") as new:
        new.write(text)
    os.replace(path + ".new", path)


class Stepper:
    """The steps of one job, under way."""

    def __init__(self, folder: str) -> None:
        self.folder = os.path.abspath(folder)
        self.return_file = os.environ.get("JOBMILL_RETURN_FILE") or self.path("return.json")
        self.job: dict[str, Any] = {}
        self.kept: dict[str, dict[str, Any]] = {}  # step -> its outputs
        self.lifeline: Lifeline  # from the first step on
        self.group = 0  # process group of the running step; 0: none
        self.stop = 0  # the signal that ends us
        self.early: list[int] = []  # signals that came while a step was being made

    def path(self, name: str) -> str:
        """Return a file's path in the run folder."""
        return os.path.join(self.folder, name)

    def run(self) -> int:
        """Run all steps; return the exit value, or die by the signal that ended a step."""
        for signum in ENDS_US + PASSED_ON:
            signal.signal(signum, self.on_signal)
        try:
            with open(self.path("job.yaml"), encoding="utf-8") as text:
                self.job = json.load(text)
            steps = checked(self.job)
        except (BadSteps, ValueError) as error:
            self.complain(f"the steps cannot be run: {error}")
            return 2
        self.lifeline = Lifeline()
        failed = 0
        for step in steps:
            failed = self.take(step)
            if self.stop or failed:
                break
        self.lifeline.cut()
        if self.stop or failed < 0:
            die_by(self.stop or -failed)
        if failed:
            return failed
        last = self.kept.get(steps[-1].name)
        if last and not os.path.exists(self.return_file):
            write_whole(self.return_file, json.dumps(last, indent=1) + "\n")
        return 0

    def on_signal(self, signum: int, frame: "FrameType | None") -> None:
        """Remember what ends us, and hand every signal on to the whole group of the running step."""
        if signum in ENDS_US:
            self.stop = signum
        if not self.group:
            self.early.append(signum)
        else:
            with contextlib.suppress(OSError):  # over already, or not ours any more (a set-uid program)
                os.killpg(self.group, signum)

    def take(self, step: Step) -> int:
        """Run one step to its end; return 0, its exit value, or minus the signal that ended it."""
        log_path = self.path(step.log)
        os.makedirs(os.path.dirname(log_path), exist_ok=True)
        broken = ""  # what keeps a step from success whatever its program says
        with open(log_path, "ab") as log:
            log_start = log.seek(0, os.SEEK_END)
            self.note(f"started {step.label} {time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())}")
            start = time.monotonic()
            try:
                code = self.spawn_and_wait(step, log.fileno())
            except BadSteps as error:
                code, broken = 2, str(error)
            except OSError as error:
                code = 127 if isinstance(error, FileNotFoundError) else 126  # as a shell says it
                broken = f"cannot start {as_text(step.command or step.function)}: {error.strerror or error}"
            wall = time.monotonic() - start
        ending = f"exit={code}" if code >= 0 else f"signal={-code}"
        if code == 0 and not self.stop:
            try:
                self.keep(step)
            except BadSteps as error:
                broken = str(error)
                ending += " outputs=bad"
        self.note(f"ended {step.label} {ending} wall={wall:.3f}")
        if code == 0 and not broken and not self.stop:
            for kind in ("call", "outputs", "error"):
                remove(self.own_file(step, kind))
            return 0
        if self.stop:
            self.complain(f"step {step.label} stopped by {signal_name(self.stop)}; see {step.log}")
            return code
        why = [f"exit {code}" if code >= 0 else f"signal {signal_name(-code)}"]
        own_words = broken or read_text(self.own_file(step, "error")).strip()
        if own_words:  # they say more than the number; for a command both matter
            why = [own_words] if broken or (step.function and code > 0) else [*why, own_words]
        lines = "" if own_words else tail(log_path, log_start)
        self.complain(f"step {step.label} failed: {': '.join(why)}; see {step.log}", lines)
        return code or 2

    def spawn_and_wait(self, step: Step, log: int) -> int:
        """Start the step in a process group of its own and wait for it; the code as in `take`."""
        available = self.available()
        inputs = self.resolve(step.inputs, available, step)
        if step.function:
            call = {"function": step.function, "inputs": inputs, "available": available, "outputs": step.outputs}
            call["step"] = step.name
            write_whole(self.own_file(step, "call"), json.dumps(call))
            python = os.environ.get("JOBMILL_PYTHON") or sys.executable
            script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "function_step.py")
            argv = [python, "-u", script, self.own_file(step, "call")]
        elif isinstance(step.command, str):
            argv = ["/bin/sh", "-c", step.command]
        else:
            argv = [str(word) for word in step.command or ()]
        env = self.environment(step, inputs, log)
        self.early = [self.stop] if self.stop else []
        try:
            child = subprocess.Popen(argv, stdout=log, stderr=log, env=env, preexec_fn=self.lead_group)
            self.group = child.pid
            for signum in self.early:
                self.on_signal(signum, None)
            # Seen dead, forgotten, only then reaped: a late signal never goes to a stranger who got the same number.
            os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        finally:
            self.group = 0
            self.lifeline.tell(0)
        return child.wait()

    def lead_group(self) -> None:
        """In the step's child, before it executes: lead a group of its own, in the same session, and say so."""
        os.setpgrp()
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # should somebody have killed the lifeline
        self.lifeline.tell(os.getpid())
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)

    def available(self) -> "dict[str, Any]":
        """Return what a name stands for now: job params, over them earlier outputs, the later step wins."""
        known = dict(self.job.get("params") or {})
        for outputs in self.kept.values():
            known.update(outputs)
        return known

    def resolve(self, value: "Any", available: "dict[str, Any]", step: Step) -> "Any":
        """Replace ``$name`` and ``$step.name`` in inputs, nested ones too, by what they stand for."""
        if isinstance(value, dict):
            return {key: self.resolve(inner, available, step) for key, inner in value.items()}
        if isinstance(value, list):
            return [self.resolve(inner, available, step) for inner in value]
        if not isinstance(value, str) or not value.startswith("$"):
            return value
        if value.startswith("$$"):
            return value[1:]
        match = REFERENCE.match(value)
        name = match.group(1) if match else ""
        if name in available:
            return available[name]
        for dot in (found.start() for found in re.finditer(r"\.", name)):  # both halves may hold dots
            if name[dot + 1 :] in self.kept.get(name[:dot], ()):
                return self.kept[name[:dot]][name[dot + 1 :]]
        known = sorted(available) + [f"{s}.{n}" for s, outputs in self.kept.items() for n in outputs]
        raise BadSteps(
            f"inputs: '{value}' names no param and no output of an earlier step (known: {', '.join(known) or 'none'}); "
            "a dollar sign itself is written '$$'"
        )

    def environment(self, step: Step, inputs: "dict[str, Any]", log: int) -> "dict[str, str]":
        """Return the step's environment: the job's own, the step's place, inputs and earlier outputs."""
        env = dict(os.environ)
        env["JOBMILL_STEP"] = step.label
        env["JOBMILL_STEP_OUTPUTS"] = self.own_file(step, "outputs")
        env["JOBMILL_ERROR_FILE"] = self.own_file(step, "error")
        env["JOBMILL_RUN_FOLDER"] = self.folder
        env["JOBMILL_RETURN_FILE"] = self.return_file
        env["JOBMILL_OUTPUTS"] = self.path("outputs.json")
        wanted = {variable("JOBMILL_INPUT_", name): value for name, value in inputs.items()}
        for outputs in self.kept.values():  # of two outputs with one name the later step's stands
            wanted.update((variable("JOBMILL_OUTPUT_", name), value) for name, value in outputs.items())
        left = ENVIRONMENT_BUDGET
        for key, value in wanted.items():
            text = as_text(value)
            size = len(text.encode("utf-8", "surrogateescape"))
            if size <= min(left, ONE_VALUE) and "\0" not in text:
                left -= size
                env[key] = text
            elif not step.function:
                where = env["JOBMILL_OUTPUTS"]
                words = f"jobmill: {key} ({size} bytes) does not fit into the environment; read {where}\n"
                os.write(log, words.encode())
        return env

    def keep(self, step: Step) -> None:
        """Take over what the step wrote to $JOBMILL_STEP_OUTPUTS; raise BadSteps when it is not what was promised."""
        path = self.own_file(step, "outputs")
        text = read_text(path)
        values: dict[str, Any] = {}
        if text.strip():
            try:
                values = json.loads(text, parse_constant=no_constant)
            except ValueError as error:
                raise BadSteps(f"$JOBMILL_STEP_OUTPUTS is not JSON: {error}") from None
            if not isinstance(values, dict):
                raise BadSteps("$JOBMILL_STEP_OUTPUTS must be a JSON object: {name: value}")
        missing = ", ".join(name for name in step.outputs if name not in values)
        if missing:
            raise BadSteps(f"declared output '{missing}' was not produced (got: {', '.join(values) or 'none'})")
        if values:
            self.kept[step.name] = values
            write_whole(self.path("outputs.json"), json.dumps(self.kept, indent=1) + "\n")

    def own_file(self, step: Step, kind: str) -> str:
        """Return the path of a step's own small file: `call`, `outputs` or `error`; they stay when it fails."""
        return self.path(f"step.{step.number}.{kind}")

    def note(self, line: str) -> None:
        """Append one line to the `steps` file with one write, so that the last line is always whole."""
        steps = os.open(self.path("steps"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(steps, (line + "\n").encode("utf-8", "surrogateescape"))
        finally:
            os.close(steps)

    def complain(self, message: str, more: str = "") -> None:
        """Write the job's error message, one line first, and show it on stderr."""
        text = message + "\n" + more
        sys.stderr.write(text)
        write_whole(os.environ.get("JOBMILL_ERROR_FILE") or self.path("error"), text)


def signal_name(signum: int) -> str:
    """Return ``9 (SIGKILL)``, or the number alone where it has no name."""
    try:
        return f"{signum} ({signal.Signals(signum).name})"
    except ValueError:
        return str(signum)


def die_by(signum: int) -> "NoReturn":
    """End this process by a signal, so that its parent sees the true one."""
    import resource

    sys.stderr.flush()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the core of interest is the step's, not ours
    if signum not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(signum, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signum])
    os.kill(os.getpid(), signum)
    time.sleep(1)  # only for signals whose default is not to end a process
    os._exit(128 + signum)


def read_text(path: str) -> str:
    """Return a file's text; empty when there is none."""
    try:
        with open(path, encoding="utf-8", errors="replace") as text:
            return text.read()
    except FileNotFoundError:
        return ""


def no_constant(word: str) -> "NoReturn":
    """Refuse NaN and Infinity, which other readers of JSON choke on."""
    raise ValueError(f"{word} is not a JSON number")


def remove(path: str) -> None:
    """Remove a file that may not exist."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def tail(path: str, since: int) -> str:
    """Return the last lines of a log, nothing from before byte ``since``."""
    with open(path, "rb") as log:
        size = log.seek(0, os.SEEK_END)
        log.seek(max(since, size - TAIL_BYTES))
        lines = [line for line in log.read().decode("utf-8", "replace").splitlines() if line.strip()]
    return "".join(f"  {line}\n" for line in lines[-TAIL_LINES:])


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: stepper.py RUN_FOLDER")
    try:
        sys.exit(Stepper(sys.argv[1]).run())
    except OSError as error:  # a full disk, a run folder that is gone
        sys.exit(f"jobmill: the steps cannot go on: {error}")
