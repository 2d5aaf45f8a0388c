"""The `drmaa` system: any scheduler with a library of DRMAA 1, whose session lives in a child process.

Source: DRMAA 1.0, https://www.ogf.org/documents/GFD.133.pdf, C binding GFD.143. The library asks for an environment
before it is loaded, allows one session a process, and may crash: none of it happens to us (`drmaa_child`).

DRMAA lists no jobs. Each id is written down with its token before it is told (`drmaa_session`), so whatever was
submitted here is found by any process; what was accepted while the session died is found by nobody, and starts nothing:
it is held, and its marker is taken. What ends is told by our own record, then by what the session heard of it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from jobmill.errors import ConfigError, SystemUnavailable
from jobmill.systems.batch import BatchSystem
from jobmill.systems.batch_options import BatchOptions
from jobmill.systems.batch_row import Phase, Row
from jobmill.systems.drmaa_child import DrmaaError
from jobmill.systems.drmaa_desk import DrmaaDesk, specification
from jobmill.systems.drmaa_request import DrmaaRequest
from jobmill.systems.gridengine_name import name_of
from jobmill.systems.system import Check, ExitInfo, ExitStatus, Handle, Submission, SubmitError, SubmitFailure, Token

if find_spec("drmaa") is None:  # only the child imports it: that loads the library
    raise ModuleNotFoundError("No module named 'drmaa'", name="drmaa")


class DrmaaSystem(BatchSystem):
    """Jobs of one scheduler, by its DRMAA library."""

    kind: ClassVar[str] = "drmaa"
    surveys: ClassVar[bool] = False
    id_variable: ClassVar[str] = "JOB_ID,PBS_JOBID,SLURM_JOB_ID,LSB_JOBID"  # the first that is set
    id_form: ClassVar[re.Pattern[str]] = re.compile(r"(?!DRMAA_)[A-Za-z0-9]\S*")  # DRMAA_JOB_IDS_…: all of a session
    books_late: ClassVar[float] = 10.0  # a session hears of ends once a second, from a scheduler that takes its time

    def __init__(
        self,
        *,
        name: str,
        spool: Path,
        options: BatchOptions,
        request: DrmaaRequest,
        library: str | None = None,
        contact: str = "",
    ) -> None:
        """``library``: path of the libdrmaa, None: as `env` has it; ``contact``: which of its schedulers."""
        super().__init__(name=name, spool=spool, options=options)
        self.request = request
        self.desk = DrmaaDesk(self.spool.path, name, self.commands.env, library=library, contact=contact)

    @classmethod
    def build(cls, name: str, options: Mapping[str, Any], spool: Path) -> DrmaaSystem:
        """Make the system from its mapping; raise ConfigError for an unknown option or a value that cannot be."""
        parsed = BatchOptions.parse(name, cls.kind, options, ("library", "contact", "resources"))
        for key in ("library", "contact"):
            value = options.get(key)
            if value is not None and (not isinstance(value, str) or not value.isprintable()):
                raise ConfigError(f"systems.{name}.{key}: {value!r} is no text")
        if options.get("poll_interval_max") is not None:
            raise ConfigError(f"systems.{name}.poll_interval_max: each job is asked for by itself, each poll_interval")
        if parsed.login is not None:
            raise ConfigError(f"systems.{name}.host: a DRMAA session is here; the other clusters can be behind SSH")
        library, contact = options.get("library"), options.get("contact") or ""
        if library is not None and not library.startswith("/"):
            raise ConfigError(f"systems.{name}.library: {library!r} is no absolute path")
        request = DrmaaRequest.parse(name, options.get("resources"))
        return cls(name=name, spool=Path(spool), options=parsed, request=request, library=library, contact=contact)

    @property
    def queries(self) -> int:
        """Return how often the library was asked for states."""
        return self.desk.child.queries

    def lead(self) -> bool:
        """Any number of starters may serve it. Removes what is left over."""
        if not self._tidied:
            with suppress(SystemUnavailable):  # it is only tidying up
                self.desk.tidy(lambda tokens: self.spool.records(tokens).keys())
        return super().lead()

    def send(self, it: Submission, folder: str, script: str) -> str | SubmitError:
        """Submit a job held, by the path of its script: a line end in an argument is an error to some libraries."""
        try:
            words = [*self.request.words(it), *self.options.native, *shlex.split(it.native or "")]
        except ValueError as error:
            return _refused(f"job {it.job_id}: {error}")
        native = specification(words)
        if native is None:
            return _refused(f"job {it.job_id}: a native specification has no quotes and no spaces in a word: {words}")
        place = {"workingDirectory": str(self.spool.path), "outputPath": f":{folder}/native.log", "joinFiles": True}
        what = {"remoteCommand": "/bin/sh", "args": [f"{folder}/script"], "jobName": name_of(it.token)}
        more = {"nativeSpecification": native} if native else {}
        return self.desk.run({**place, **what, **more}, it.token)

    def free(self, ids: Sequence[str]) -> None:
        """Release held jobs; one that is gone, or was released, does not disturb the others."""
        self._control(ids, "release")

    def _control(self, ids: Sequence[str], action: str) -> None:
        try:
            self.desk.control(ids, action)
        except DrmaaError as error:
            raise SystemUnavailable(str(error)) from error

    def queue(self) -> Sequence[Row]:
        """Ask for all that were submitted here and not forgotten."""
        return list(self.look(self.desk.ids()).values())

    def look(self, ids: Sequence[str]) -> Mapping[str, Row]:
        """Ask for some. What ended is not in it: its record tells, or what the session heard.

        But what failed without a record is: it may wait in line in an error state.
        """
        rows = self.desk.states(ids)
        ended = [row for row in rows.values() if row.phase.ended]
        records = self.spool.records([row.token for row in ended if row.token]) if ended else {}
        stuck = {
            row.native
            for row in ended
            if row.phase is Phase.FAILED and row.token not in records and self.desk.end(row.native) is None
        }
        return {native: row for native, row in rows.items() if not row.phase.ended or native in stuck}

    def books(self, ids: Sequence[str], tokens: Sequence[Token]) -> Sequence[Row]:
        """Read what sessions heard of ends."""
        return self.desk.ends(ids, tokens)

    def exit_info(self, handles: Sequence[Handle]) -> Mapping[Handle, ExitInfo]:
        """Return certain ends. What failed before it began is taken out of line, and never starts."""
        answers = dict(super().exit_info(handles))
        for handle, info in list(answers.items()):
            native, _, token = handle.partition("/")
            if info.native_state == "failed" and not self.spool.records([token]):
                self._control([native], "terminate")
                buried = self.spool.bury(token, f"{self.kind}:{native}", str(info.message or "it failed"))
                if not buried and info.exit_status is ExitStatus.ABORTED_BEFORE_RUNNING:
                    del answers[handle]  # it began meanwhile, and ends now: that is told
        return answers

    def cancel(self, rows: Sequence[Row], *, force: bool) -> None:
        """Take jobs out of line. What runs is told by a file in its run folder: DRMAA knows only an end by force."""
        waiting = [row.native for row in rows if row.phase is not Phase.RUNNING]
        if waiting:
            self._control(waiting, "terminate")
        for row in rows:
            if row.phase is Phase.RUNNING and row.token:
                self.spool.wish(row.token, "KILL" if force else "TERM")

    def destroy(self, ids: Sequence[str]) -> None:
        """Have the scheduler end what runs, with our program."""
        self._control(ids, "terminate")

    def forget(self, handles: Sequence[Handle]) -> None:
        """Drop what was staged and not taken, and what is kept of the jobs' ids."""
        super().forget(handles)
        self.desk.forget([handle.partition("/")[0] for handle in handles])

    def check_more(self) -> Sequence[Check]:
        """Tell whose library it is."""
        told = self.desk.about()
        detail = f"{told['system']} by {told['library']}, DRMAA {told['version']}, {told['contact'] or 'no contact'}"
        return [Check(name="library", ok=True, detail=detail)]

    def _check_answer(self) -> Check:
        try:
            self.desk.about()
        except (SystemUnavailable, DrmaaError) as error:
            fix = "see library: (path of libdrmaa), env: (what it needs to find its cluster) and contact:"
            return Check(name=self.kind, ok=False, detail=str(error), fix=fix)
        return super()._check_answer()

    def close(self) -> None:
        """Leave the session; jobs go on."""
        super().close()
        self.desk.close()


def _refused(message: str) -> SubmitError:
    return SubmitError(failure=SubmitFailure.PERMANENT, message=message)
