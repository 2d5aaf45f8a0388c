"""The `local` system: jobs on this machine, started and waited for by a guard and its runner.

The run folders say everything: status, exit_info, settle, kill and logs work from any process on this host. Only the
process that submits talks to the guard.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from jobmill.errors import ConfigError, StageFailed, SystemUnavailable, nearest
from jobmill.systems import far_words, run_as, run_folder
from jobmill.systems.container_template import ContainerTemplate
from jobmill.systems.guard_channel import GuardChannel
from jobmill.systems.leader import Leader
from jobmill.systems.local_guard import ROOT, LocalGuard
from jobmill.systems.refusal import refusal
from jobmill.systems.spool_launches import ADOPT, SpoolLaunches
from jobmill.systems.spool_stage import SpoolStage
from jobmill.systems.system import (
    Check,
    End,
    ExecutionSystem,
    ExitInfo,
    Handle,
    Launch,
    NativeState,
    Observation,
    Progress,
    Settled,
    Start,
    Submission,
    SubmitError,
    SubmitFailure,
    Token,
    Unwatched,
    observation,
)

OPTIONS = ("slots", "kill_grace", "path", "shell", "env", "container", *run_as.OPTIONS)
STANDARD_PATH = ("/usr/local/bin", "/usr/bin", "/bin")
KILLS = 2.0  # seconds of one call to `kill`, before the rest has to wait for the next
FREE_LEAST = 64  # MiB on the spool's disk below which `check` warns


class LocalSystem(ExecutionSystem):
    """This machine. A handle is ``<boot id>/<token>``."""

    kind: ClassVar[str] = "local"
    capacity_set: ClassVar[str | None] = "LocalJobs"
    launches_at_once: ClassVar[bool] = True
    one_host: ClassVar[bool] = True
    runs_as_users: ClassVar[bool] = True
    poll_interval: ClassVar[float] = 10.0
    absence_grace: ClassVar[float] = 2.0  # one kernel tells of process, lock and record: nothing is late

    def __init__(
        self,
        *,
        name: str,
        spool: Path,
        slots: int,
        kill_grace: float = 5.0,  # seconds between TERM and KILL at the walltime
        path: str | None = None,  # PATH of the jobs
        shell: str = "/bin/sh",  # SHELL of the jobs
        env: Mapping[str, str] | None = None,  # on top of the clean environment
        container: ContainerTemplate | None = None,  # how jobs with `container:` are run
        run_as: run_as.RunAs | None = None,  # None: jobs run as our own user
    ) -> None:
        self.name = name
        self.run_as = run_as
        self.spool = Path(spool).absolute()
        self.slots = slots
        self.kill_grace = kill_grace
        self.env = clean_environment(path=path, shell=shell) | dict(env or {})
        self.container = container
        self._launches = SpoolLaunches(os.fsencode(self.spool), name)
        self._stage = SpoolStage(self.spool, name)
        self._channel: GuardChannel | None = None
        self._leader = Leader(self.spool / f"{name}.leader")
        self._led = False

    @classmethod
    def build(cls, name: str, options: Mapping[str, Any], spool: Path) -> LocalSystem:
        """Make the system from its mapping; raise ConfigError for an unknown option or a value that cannot be."""
        where = f"systems.{name}"
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
            raise ConfigError(f"{where}: a system's name is letters, digits, `.`, `_` and `-`, at most 64")
        for key in options:
            if key not in OPTIONS:
                raise ConfigError(
                    f"{where}: unknown option {key!r}{nearest(key, OPTIONS)}; a local system knows {', '.join(OPTIONS)}"
                )
        slots = options.get("slots")
        if slots is None:
            slots = os.cpu_count() or 1
        if not isinstance(slots, int) or isinstance(slots, bool) or slots < 0:
            raise ConfigError(f"{where}.slots: {slots!r} is not a number of slots; write a whole number from 0")
        grace = options.get("kill_grace", 5)
        if not isinstance(grace, int | float) or isinstance(grace, bool) or not 0 <= grace < 86400:
            raise ConfigError(f"{where}.kill_grace: {grace!r} is not a number of seconds from 0 to 86400")
        for key in ("path", "shell"):
            if options.get(key) is not None and not isinstance(options[key], str):
                raise ConfigError(f"{where}.{key}: {options[key]!r} is not a text")
        env = options.get("env") or {}
        if not isinstance(env, Mapping) or not all(isinstance(k, str) and k and "=" not in k for k in env):
            raise ConfigError(f"{where}.env: write a mapping of names to texts")
        return cls(
            name=name,
            spool=spool,
            slots=slots,
            kill_grace=float(grace),
            path=options.get("path"),
            shell=options.get("shell") or "/bin/sh",
            env={k: str(v) for k, v in env.items()},
            container=ContainerTemplate.of(where, options.get("container")),
            run_as=run_as.RunAs.of(options, where),
        )

    # Launching: for the one process that leads the lane.

    @classmethod
    def limits(cls, slots: int | None, limit: int | None, options: Mapping[str, Any]) -> Mapping[str, int | None]:
        """In line: what runs, and what may be granted ahead of it; CPUs are slots, memory (MiB) is this machine's."""
        count = slots if slots is not None else os.cpu_count() or 1
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
        queue = limit if limit is not None else count + 64
        return {"queue": queue, "slots": count, "cpus": count, "memory": memory, "gpus": 0}

    def lead(self) -> bool:
        """Try to become the only starter of this system on this host; the kernel takes it back when we die."""
        led = self._led
        self._led = self._leader.lead()
        if self._led and not led:
            self._stage.tidy()
        return self._led

    def handle_for(self, token: Token) -> Handle:
        """Return ``<boot id>/<token>``: after a reboot an absent marker proves nothing, so the boot is part of it."""
        return f"{run_folder.BOOT}/{token}"

    def submit(self, submissions: Sequence[Submission]) -> Sequence[Handle | SubmitError]:
        """Hand launches to the runner, which starts each as soon as its slots are free; never blocks."""
        answers: list[Handle | SubmitError] = []
        channel = self._open()
        for it in submissions:
            acting = it.run_as or self.run_as
            wrong = refusal(it) or (acting.refusal(it) if acting is not None else None)
            if wrong is not None:
                answers.append(SubmitError(failure=SubmitFailure.PERMANENT, message=wrong))
                continue
            if acting is not None:
                it = replace(it, order=acting.order(it))
            channel.launch(it)
            answers.append(self.handle_for(it.token))
        channel.flush()
        return answers

    def stage_in(self, submission: Submission, progress: Progress) -> Submission:
        """Copy the inputs into the given workdir, or where the runner takes them from into the run folder."""
        if not submission.inputs:
            return submission
        acting = submission.run_as or self.run_as
        if acting is None:
            return self._stage.bring(submission, progress)
        if wrong := acting.refusal(submission):
            raise StageFailed(wrong)
        return self._stage.bring(submission, progress, acting.place(submission))

    def fileno(self) -> int | None:
        """Return a descriptor that is readable when `ends` has something to do; it stays the same once there is one."""
        return self._open().fileno()

    def ends(self) -> Sequence[Start | End | Unwatched]:
        """Return starts and ends since the last call; also moves what `submit` could not write yet."""
        return () if self._channel is None else self._channel.receive()

    def withdraw(self, tokens: Sequence[Token]) -> None:
        """Take launches out of line; each is told as an End with reason ``withdrawn``, and may be submitted again."""
        if self._channel is not None:
            self._channel.withdraw(tokens)

    def forget(self, handles: Sequence[Handle]) -> None:
        """Expect no end of these any more, and drop what was staged for them alone; their run folders stay."""
        for handle in handles:
            self._stage.drop(handle.partition("/")[2])
        if self._channel is not None:
            self._channel.forget([handle.partition("/")[2] for handle in handles])

    def set_slots(self, slots: int) -> None:
        """Set how many slots may be taken from now on; nothing that runs is touched."""
        self.slots = slots
        if self._channel is not None:
            self._channel.set_slots(slots)

    def close(self) -> None:
        """Leave: what waits in line is dropped (nothing of it was marked), what runs goes on and is recorded."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        self._leader.leave()
        self._led = False

    def _open(self) -> GuardChannel:
        if self._channel is None:
            try:
                (self.spool / "guards" / self.name).mkdir(parents=True, exist_ok=True)
                (self.spool / "jobs").mkdir(exist_ok=True)
            except OSError as error:
                raise SystemUnavailable(f"{self.name}: cannot use the spool {self.spool}: {error.strerror}") from error
            arguments = [str(self.spool), self.name, repr(self.kill_grace)]
            errors = self.spool / "guards" / self.name / "errors"
            self._channel = GuardChannel(
                lambda: LocalGuard(arguments, errors, self.env), slots=self.slots, read=self._run
            )
        return self._channel

    def _run(self, token: Token) -> run_folder.Run | None:
        return run_folder.read(self._launches.folder(token))

    # Looking: from any process on this host, by the files alone.

    def status(self, handles: Sequence[Handle]) -> Mapping[Handle, Observation]:
        """Tell from marker, pid, start time and boot id how each launch is."""
        seen = {handle: observation(self._launches.observe(*_parts(handle))) for handle in handles}
        waiting = self._channel.waiting if self._channel is not None else {}
        for handle, look in seen.items():
            if look.state is NativeState.ABSENT and handle.partition("/")[2] in waiting:
                words = f"waits for one of {self.slots} slots"
                seen[handle] = Observation(state=NativeState.SUBMITTED, reason=words)
        return seen

    def exit_info(self, handles: Sequence[Handle]) -> Mapping[Handle, ExitInfo]:
        """Return the records of the launches that ended; a lost one has none."""
        texts = {handle: self._launches.exit_record(_parts(handle)[0]) for handle in handles}
        # a job can write to its own folder
        return {h: ExitInfo.from_json(far_words.record(text)) for h, text in texts.items() if text is not None}

    def settle(self, launches: Sequence[Launch]) -> Mapping[Token, Handle | Settled]:
        """Adopt what has started; take the marker of what has not, so that it never starts."""
        answers: dict[Token, Handle | Settled] = {}
        for it in launches:
            handle = it.handle or self.handle_for(it.token)
            word = self._launches.settle(*_parts(handle))
            answers[it.token] = handle if word == ADOPT else Settled(word)
        return answers

    def kill(self, handles: Sequence[Handle], *, force: bool) -> Mapping[Handle, bool]:
        """Signal every process of each launch, wherever it fled; what has not started is kept from starting.

        Returns after some seconds, without those that had no turn: what another user has to kill takes a process each.
        """
        if self._channel is not None:
            self._channel.withdraw([handle.partition("/")[2] for handle in handles])
        patience = (1.0 if force else 0.05) if len(handles) == 1 else 0.0  # seconds; many share one pause below
        until = time.monotonic() + KILLS
        gone: dict[Handle, bool] = {}
        for handle in handles:
            if time.monotonic() < until:
                gone[handle] = self._launches.kill(*_parts(handle), force, patience)
        left = [handle for handle in gone if not gone[handle]]
        if left and len(handles) > 1:
            time.sleep(0.05)
            for handle in left:
                if time.monotonic() < until:
                    gone[handle] = self._launches.kill(*_parts(handle), force, 0.0)
        return gone

    def logs(self, handle: Handle, stream: str, offset: int, limit: int = 1 << 20) -> bytes:
        """Return a part of a file in the run folder, b"" when it is not there (yet)."""
        return self._launches.read(_parts(handle)[0], stream, offset, limit)

    def check(self) -> Sequence[Check]:
        """Look at spool, disk, shell, subreaper and slots."""
        checks = []
        probe = self.spool / f".check.{os.getpid()}"
        try:
            self.spool.mkdir(parents=True, exist_ok=True)
            probe.write_text("x")
            probe.unlink()
            checks.append(Check(name="spool", ok=True, detail=f"{self.spool} is writable"))
            free = shutil.disk_usage(self.spool).free >> 20
            fix = "" if free >= FREE_LEAST else f"free at least {FREE_LEAST} MiB there, or set `spool` elsewhere"
            checks.append(Check(name="disk", ok=not fix, detail=f"{free} MiB free on the spool's disk", fix=fix))
        except OSError as error:
            detail = f"{self.spool}: {error.strerror}"
            checks.append(Check(name="spool", ok=False, detail=detail, fix="make it writable for this user"))
        shell = os.access("/bin/sh", os.X_OK)
        checks.append(Check(name="shell", ok=shell, detail="/bin/sh", fix="" if shell else "install a POSIX shell"))
        checks.append(_check_guard())
        if self.run_as is not None:
            checks.append(self.run_as.check(self.spool))
        cores = len(os.sched_getaffinity(0))
        fits = self.slots <= cores
        fix = "" if fits else f"set slots to {cores} unless the jobs mostly wait"
        checks.append(Check(name="slots", ok=True, detail=f"{self.slots} slots on {cores} cores", fix=fix))
        return checks


def _parts(handle: Handle) -> tuple[Token, bool]:
    """Return the token of a handle, and whether this machine was started anew since."""
    boot, _, token = handle.partition("/")
    return token, boot != run_folder.BOOT


def clean_environment(*, path: str | None, shell: str) -> dict[str, str]:
    """Return what every job sees whatever the starter's environment holds.

    PATH is the option's, else the absolute folders of our own in their order, completed by the standard ones. LANG,
    TZ and TMPDIR are ours where set (C.UTF-8, none, /tmp); HOME, USER and LOGNAME come from the user database.
    """
    try:
        user = pwd.getpwuid(os.getuid())
        name, home = user.pw_name, user.pw_dir
    except KeyError:  # a container with a numeric user
        name, home = str(os.getuid()), os.environ.get("HOME", "/")
    if path is None:
        own = [folder for folder in os.environ.get("PATH", "").split(":") if folder.startswith("/")]
        path = ":".join(dict.fromkeys((*own, *STANDARD_PATH)))
    env = {"HOME": home, "USER": name, "LOGNAME": name, "SHELL": shell, "PATH": path}
    env["LANG"] = os.environ.get("LANG") or "C.UTF-8"
    env["TMPDIR"] = os.environ.get("TMPDIR") or "/tmp"
    if os.environ.get("TZ"):
        env["TZ"] = os.environ["TZ"]
    return env


def _check_guard() -> Check:
    """Find out, in a child, whether this Python and kernel let a guard inherit the jobs of a dead runner."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from jobmill.systems import child_wait as c;"
        " sys.exit(0 if c.prctl(c.PR_SET_CHILD_SUBREAPER, 1) else 'the kernel refuses PR_SET_CHILD_SUBREAPER')"
    )
    argv = [sys.executable, "-I", "-S", "-c", code, ROOT]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Check(name="guard", ok=False, detail=str(error), fix="use a Python that can start itself")
    if done.returncode:
        detail = done.stderr.strip().rpartition("\n")[2]
        return Check(name="guard", ok=False, detail=detail, fix="use Linux 3.4 or later and a Python that has ctypes")
    return Check(name="guard", ok=True, detail=f"{sys.executable} can guard jobs (child subreaper)")
