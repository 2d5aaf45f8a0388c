"""The contract of a job: one spec bound to one execution system, for one run of it.

The workers use the plural path: `prepare()` for each job of a batch, then the system's plural verb. The other methods
are the same path for one job, for scripts, tests and the interactive prompt; they keep no record of their own, so
after a crash it is the ledger, or the same constructor arguments, that finds the run again.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from jobmill.errors import PermanentError, SystemRefused, SystemUnavailable
from jobmill.jobs import modules
from jobmill.jobs.spec import JobSpec
from jobmill.jobs.spec_fields import RESERVED_ENV
from jobmill.systems.system import (
    ExecutionSystem,
    ExitInfo,
    Handle,
    Submission,
    SubmitError,
    SubmitFailure,
    Token,
    Transfer,
)

if TYPE_CHECKING:
    from jobmill.systems.run_as import RunAs

STEPPER = str(Path(__file__).with_name("stepper.py"))
RETURN_FILE = "return.json"  # in the run folder; the job finds its path in $JOBMILL_RETURN_FILE
OF_A_RUN = RESERVED_ENV | {"JOBMILL_RUN_FOLDER", "JOBMILL_TOKEN"}
SECRET = frozenset({"JOBMILL_REDIS_URL"})  # may hold the worker's password; a job that submits gets its own by `env`
_NO_LETTER = re.compile(r"[^A-Za-z0-9]")


class Job:
    """One run of one spec on one system.

    This class itself serves any system of a kind that no other class claims: a plain command, the run folder, nothing
    staged. A subclass says what its kind of system needs beyond that.
    """

    class_type: ClassVar[str] = ""  # the word after `ClassType:` in a job file, and the entry point's name
    kinds: ClassVar[frozenset[str]] = frozenset()  # kinds of system that it may run on
    usual_on: ClassVar[frozenset[str]] = frozenset()  # kinds on which a job without ClassType is of this class

    def __init__(
        self, spec: JobSpec, *, job_id: str, run: int, record: str, system: ExecutionSystem, spool: str | Path
    ) -> None:
        """Bind; touches neither disk nor system.

        ``record``: the token's first part, by which a job is told from others of its id (`launch_token.life`);
        ``spool``: the folder that holds ``jobs/``, on the job's host.
        """
        self.spec = spec
        self.job_id = job_id
        self.run = run
        self.system = system
        self.token: Token = f"{record}:{job_id}:{run}"
        self.folder = f"{spool}/jobs/{job_id}/run.{run}"  # the run folder
        self.run_as: RunAs | None = None  # as whom by its route; may be set before `prepare`
        self.handle: Handle | None = None  # once submitted; may be set to bind to a launch that exists
        self._exit: ExitInfo | None = None

    def prepare(self) -> Submission:
        """Return what the system needs to launch this run; everything in it is absolute. No disk, no network."""
        submission = self._submission()
        if submission.container is None or self.system.runs_containers:
            return submission
        if self.system.container is None:  # never run bare what was to be contained
            raise PermanentError(
                f"job {self.job_id} wants a container, and system '{self.system.name}' ({self.system.kind}) runs none; "
                "name another system, or give this one a template (its option `container`)"
            )
        if self.spec.steps:
            raise PermanentError(f"job {self.job_id}: steps in a container need a system of kind docker")
        return self.system.container.applied(submission, self.folder)

    def _submission(self) -> Submission:
        spec = self.spec
        resources = spec.resources
        workdir = self.workdir()
        base = workdir or self.folder
        return Submission(
            token=self.token,
            job_id=self.job_id,
            run=self.run,
            argv=modules.loading(spec.modules, self.argv()) if spec.modules else self.argv(),
            workdir=workdir,
            env=self.environment(),
            stdin=spec.stdin and self.absolute(spec.stdin, base),
            stdout=spec.stdout and self.absolute(spec.stdout, base),
            stderr=spec.stderr and self.absolute(spec.stderr, base),
            files=self.files(),
            cpus=resources.cpus or 1,
            gpus=resources.gpus or 0,
            memory=resources.memory,
            nodes=resources.nodes,
            tasks=resources.tasks,
            walltime=resources.walltime,
            name=spec.name or self.job_id,
            native=spec.native,
            queue=spec.queue,
            account=spec.account,
            user=spec.user,
            run_as=self.run_as,
            inputs=self.inputs() if spec.inputs else (),
            container=self.container(),
        )

    @property
    def changes_user(self) -> bool:
        """True where it runs as its user, by its route or by its system, and not as who launches it."""
        return self.run_as is not None or getattr(self.system, "run_as", None) is not None

    def workdir(self) -> str | None:
        """Return where it runs, as its host knows it; None: in its run folder."""
        return None if self.spec.workdir is None else self.absolute(self.spec.workdir, self.folder)

    def container(self) -> Mapping[str, Any] | None:
        """Return what the spec says of its container, None where it wants none."""
        return None if self.spec.container is None else self.spec.container.model_dump(exclude_unset=True)

    def argv(self) -> tuple[str, ...]:
        """Return the words to execute: steps by the stepper, text by a shell, a list as it is."""
        command = self.spec.command
        if self.spec.steps:
            # Isolated and without site: the user's PYTHON* variables and start-up files are for the steps alone.
            return (sys.executable, "-I", "-S", STEPPER, self.folder)
        if isinstance(command, str):
            return ("/bin/sh", "-c", command)
        if not command:
            raise PermanentError(f"job {self.job_id} has neither `command` nor `steps`")
        return tuple(command)

    def environment(self) -> dict[str, str]:
        """Return what the spec adds to the system's clean environment.

        In rising order: the variables of ``inherit_env`` from this process, the ``params`` as JOBMILL_PARAM_<NAME>
        (upper case, other signs as ``_``; all but text as JSON), ``env``.
        """
        spec = self.spec
        found: dict[str, str] = {}
        if spec.inherit_env:
            if self.changes_user:
                raise PermanentError(
                    f"job {self.job_id}: inherit_env would give variables of the starter's user to another one, as "
                    f"whom it runs on system '{self.system.name}' (run_as); take it out, and use env:"
                )
            found = inherited(spec.inherit_env)
        if spec.params:
            for name, value in spec.params.items():
                text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
                found["JOBMILL_PARAM_" + _NO_LETTER.sub("_", name).upper()] = text
        if spec.env:
            found.update(spec.env)
        return found

    def files(self) -> Mapping[str, str]:
        """Return the texts that the run folder must hold before the start."""
        if not self.spec.steps:
            return {}
        job = json.loads(self.spec.canonical())  # people read it, too: only what was asked for. JSON is YAML
        return {"job.yaml": json.dumps(job, indent=1, ensure_ascii=False) + "\n"}

    def inputs(self) -> tuple[Transfer, ...]:
        """Return what is to be staged in; raise PermanentError for a path that is relative to nobody's folder."""
        found = []
        for one in self.spec.inputs:
            source = os.path.expanduser(one.source)  # noqa: PTH111 - Path's raises for unknown users
            if not source.startswith("/"):
                raise PermanentError(
                    f"job {self.job_id}: input {one.source!r} is relative, and a job that was pushed has no folder "
                    "that it could be relative to; write an absolute path, or send it by jobmill submit"
                )
            found.append(Transfer(source=os.path.normpath(source), target=one.target))
        return tuple(found)

    def absolute(self, path: str, base: str) -> str:
        """Return a path of the spec as the job's host knows it; a relative one is relative to ``base``."""
        return path if path.startswith("/") else os.path.normpath(f"{base}/{path}")

    def run_job(self) -> Handle:
        """Launch this run and return its handle; doing it twice launches once where the system knows handles ahead.

        Inputs are staged in first. Raises SystemRefused when the system will never take it, StageFailed when its inputs
        can never come, SystemUnavailable when it may later.
        """
        submission = self.prepare()
        if submission.inputs:
            submission = self.system.stage_in(submission, lambda _: None)
        answer = self.system.submit([submission])[0]
        if isinstance(answer, SubmitError):
            words = f"system '{self.system.name}' did not take job {self.job_id}: {answer.message}"
            raise SystemRefused(words) if answer.failure is SubmitFailure.PERMANENT else SystemUnavailable(words)
        self.handle = answer
        self.system.release([answer])
        return answer

    def is_finished(self) -> bool:
        """Tell whether there is an exit record. A system that cannot be asked, or knows nothing, is no end."""
        return self.exit_info() is not None

    def exit_info(self) -> ExitInfo | None:
        """Return how the run ended, or None as long as there is no exit record."""
        if self._exit is None and self.handle is not None:
            self._exit = self.system.exit_info([self.handle]).get(self.handle)
        return self._exit

    def get_return_data(self) -> Any:
        """Return the JSON that the job wrote to $JOBMILL_RETURN_FILE, or None when it wrote none.

        Raises PermanentError before the run's end, and when what was written is no JSON.
        """
        if not self.is_finished():
            raise PermanentError(f"job {self.job_id} has not ended yet; its return data is not whole")
        text = self.read(RETURN_FILE)
        if not text.strip():
            return None
        try:
            return json.loads(text)
        except ValueError as error:
            raise PermanentError(f"{self.folder}/{RETURN_FILE} of job {self.job_id} is no JSON: {error}") from None

    def read(self, stream: str) -> bytes:
        """Return all of `stdout`, `stderr` or a named file of the run folder; empty when there is none."""
        parts: list[bytes] = []
        while self.handle is not None:
            part = self.system.logs(self.handle, stream, sum(map(len, parts)))
            if not part:
                break
            parts.append(part)
        return b"".join(parts)

    def kill(self, *, force: bool = False) -> bool:
        """Signal everything that the run started (TERM, with ``force`` KILL); True: nothing of it exists any more.

        A signal is a wish: call it again until it returns True.
        """
        return True if self.handle is None else self.system.kill([self.handle], force=force).get(self.handle, False)

    def clean_up(self) -> None:
        """Let the system forget an ended run; results stay. Raises PermanentError while it may still run."""
        if self.handle is None:
            return
        if not self.is_finished():
            raise PermanentError(f"job {self.job_id} has not ended; kill it first, or wait")
        self.system.forget([self.handle])


def inherited(wanted: bool | Sequence[str]) -> dict[str, str]:
    """Return the named variables of this process's environment, with True all of them.

    What names another run is left out (a worker may itself have been started by a job), and so is what holds the
    worker's own password.
    """
    names = os.environ if wanted is True else wanted or ()
    return {name: os.environ[name] for name in names if name in os.environ and name not in OF_A_RUN | SECRET}
