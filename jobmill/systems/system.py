"""The contract of an execution system: plural verbs over plain values, and no Redis.

A *token* names one launch: ``<life>:<job id>:<run>``. The life, ``<record>.<arrival>``, tells the job from an earlier
one of its id, whose record was pruned (`launch_token`). A *handle* is the text by which the system finds that launch
again; it is stored in the record and given back verbatim.

A system that gives handles out (a batch scheduler) is launched in three steps: `submit` *held*, with the token in the
submission's name or comment; the record commits the handle; `release`. Only a handle that the record committed is ever
released, and it commits one for a token. So a submission that nobody knows of never starts, and may be killed.
"""

from __future__ import annotations

import enum
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from jobmill.systems.container_template import ContainerTemplate
    from jobmill.systems.run_as import RunAs

Token = str
Handle = str
Progress = Callable[[str], None]  # takes words such as "stages in 3/7, 2.1 of 5 GB"; may be called often


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """One file or folder to be brought to where the job runs."""

    source: str  # absolute path where the submitter is
    target: str  # relative to the job's working directory, or absolute there


@dataclass(frozen=True, kw_only=True)
class Submission:
    """One launch, ready for a system; everything relative has been made absolute."""

    token: Token
    job_id: str
    run: int
    argv: Sequence[str]  # what to execute; a shell command is ("/bin/sh", "-c", text)
    workdir: str | None = None  # absolute; None: the run folder
    env: Mapping[str, str] = field(default_factory=dict)  # on top of the system's clean environment
    stdin: str | None = None  # absolute path; None: /dev/null
    stdout: str | None = None  # absolute path; None: `stdout` in the run folder
    stderr: str | None = None  # absolute path; None: `stderr` in the run folder
    files: Mapping[str, str] = field(default_factory=dict)  # name in the run folder -> text, written before the start
    cpus: int = 1  # slots that it takes where the system counts slots
    gpus: int = 0
    memory: int | None = None  # MiB
    nodes: int | None = None  # None: as the system does it
    tasks: int | None = None
    walltime: float | None = None  # seconds
    name: str = ""
    native: str | None = None  # handed to a scheduler untouched
    queue: str | None = None
    account: str | None = None
    user: str | None = None  # who submitted it
    run_as: RunAs | None = None  # as whom by the job's route, which goes before the system's own `run_as`
    order: Mapping[str, Any] | None = None  # set by the system: as whom it runs, and by which words
    container: Mapping[str, Any] | None = None  # image and what else the spec says of it
    inputs: Sequence[Transfer] = ()  # brought there by `stage_in` before `submit`
    place: str | None = None  # set by `stage_in`: the host that has the inputs
    staged: str | None = None  # set by `stage_in`: the folder there from which the launch takes them


class ExitStatus(enum.StrEnum):
    """How a launch ended (the words of Soma-Workflow and DRMAA)."""

    FINISHED_REGULARLY = "finished_regularly"
    FINISHED_SIGNAL = "finished_signal"
    FINISHED_UNCLEAR = "finished_unclear"
    ABORTED = "aborted"
    ABORTED_BEFORE_RUNNING = "aborted_before_running"
    KILLED_BY_USER = "killed_by_user"
    UNDETERMINED = "undetermined"


@dataclass(frozen=True, kw_only=True)
class ExitInfo:
    """The exit record of one launch, with what said so."""

    exit_status: ExitStatus
    exit_value: int | None = None  # what the program returned, 0-255
    term_sig: int | None = None  # the signal that ended it
    reason: str | None = None  # timeout, oom, node_fail, lost, submit_failed, cancelled …
    resource_usage: Mapping[str, float] = field(default_factory=dict)  # wall, cpu: seconds; max_memory: MiB
    native_id: str | None = None  # pid, scheduler's job id …
    native_state: str | None = None
    host: str | None = None
    evidence: str | None = None  # what said so: "exit record", "accounting", "absent pid and record" …
    message: str | None = None  # verbatim words for the user: stderr of a refused submit, the job's error file
    started: float | None = None  # Unix time, seconds, by the clock of the job's host
    ended: float | None = None

    @property
    def regular(self) -> bool:
        """True when the program ended by itself with 0 and nothing contradicts it."""
        return self.exit_status is ExitStatus.FINISHED_REGULARLY and self.exit_value == 0 and self.reason is None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that are known, by name."""
        return {k: v for k, v in self.__dict__.items() if v is not None and v != {}}

    def to_json(self) -> str:
        """Return the record's text: one line of JSON without the fields that are unknown."""
        return json.dumps(self.to_dict(), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> ExitInfo:
        """Read `to_json` text; raise ValueError when it is none."""
        return cls.from_dict(json.loads(text))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ExitInfo:
        """Read a mapping with the field names; unknown names are left out (a newer writer)."""
        known = {k: v for k, v in values.items() if k in cls.__dataclass_fields__}
        known["exit_status"] = ExitStatus(known["exit_status"])
        return cls(**known)


class NativeState(enum.StrEnum):
    """What a system says of a launch that it was asked about."""

    SUBMITTED = "submitted"  # known there, not started
    RUNNING = "running"
    ENDED = "ended"  # `exit_info` has or will have the record
    ABSENT = "absent"  # the system answered and knows nothing of it: not an end by itself
    UNKNOWN = "unknown"  # the system could not be asked


@dataclass(frozen=True, kw_only=True)
class Observation:
    """One answer to `status`."""

    state: NativeState
    native_state: str | None = None
    reason: str | None = None  # the scheduler's own words for why it is so
    host: str | None = None
    progress: str | None = None  # "3/7 map" where the job runs in steps
    alive: bool = False  # something of this launch (process, container, instance) still exists
    held: bool = False  # accepted and not released by us: it does not start by itself (no hold of somebody else's)
    orphan: bool = False  # nobody waits for it there: only polls find its end
    overdue: bool = False  # an orphan whose walltime is over: it has to be killed


def observation(fields: Mapping[str, Any]) -> Observation:
    """Return what plain values say, by field name; unknown names are left out (a newer far end)."""
    known = {k: v for k, v in fields.items() if k in Observation.__dataclass_fields__}
    return Observation(**{**known, "state": NativeState(known["state"])})


class Notice(enum.StrEnum):
    """What a launch tells of itself."""

    STARTED = "started"
    ENDED = "ended"  # how, its system has to be asked
    DONE = "done"  # with 0, and nothing there speaks against it


class Settled(enum.StrEnum):
    """Answers of `settle` other than a handle to adopt."""

    NOT_STARTED = "not_started"  # and it is now made sure that it never starts
    UNKNOWN = "unknown"  # cannot be asked now; ask again
    LOST = "lost"  # can never be known (the machine rebooted)


@dataclass(frozen=True, kw_only=True)
class Launch:
    """A launch whose owner died: what the record knows of it."""

    token: Token
    handle: Handle | None = None


class SubmitFailure(enum.StrEnum):
    """What a submission without a handle is worth."""

    TRANSIENT = "transient"  # certainly not accepted: try again later, costs nothing
    LIMIT = "limit"  # a submit limit was hit: back-pressure
    PERMANENT = "permanent"  # the job ends as failed, reason submit_failed
    UNCLEAR = "unclear"  # it may have been accepted (a submit that timed out): never sent again before `settle` looked


@dataclass(frozen=True, kw_only=True)
class SubmitError:
    """One submission that was refused, or of which it is unclear; with the system's words verbatim."""

    failure: SubmitFailure
    message: str


@dataclass(frozen=True, kw_only=True)
class Start:
    """A pushed notice: this launch runs now."""

    token: Token
    native_id: str
    host: str


@dataclass(frozen=True, kw_only=True)
class End:
    """A pushed notice: this launch ended."""

    token: Token
    exit: str  # ExitInfo.to_json() text, spliced on without being parsed
    # Reasons that are no end: `withdrawn` (given back), `no_spool`, `unreachable` (not now), `taken` (another has its
    # marker and has said nothing yet: it is settled when its lease runs out).


@dataclass(frozen=True, kw_only=True)
class Unwatched:
    """A pushed notice: nobody is left who could tell how this launch ends; only polls find it."""

    token: Token


@dataclass(frozen=True, kw_only=True)
class Check:
    """One line of `check()`: what doctor prints."""

    name: str
    ok: bool
    detail: str
    fix: str = ""


class ExecutionSystem(ABC):
    """One configured place where jobs run. Instances are not shared between threads."""

    kind: ClassVar[str]  # the word in `kind:` of the configuration and the entry point's name
    capacity_set: ClassVar[str | None] = None  # name of its in-queue set when not `<Name>Jobs`
    launches_at_once: ClassVar[bool] = False  # True: the handle is known beforehand (`handle_for`), no held submission
    one_host: ClassVar[bool] = False  # True: it belongs to the host where it was first started
    surveys: ClassVar[bool] = False  # True: it answers for all its launches at once (`survey`), which is asked instead
    stages: ClassVar[bool] = False  # it shares no files with us: `stage_in` before, `stage_out` after a run
    pushes: ClassVar[bool] = False  # it gives handles out, and tells ends by `fileno` and `ends` all the same
    runs_as_users: ClassVar[bool] = False  # True: it knows `run_as`, of its own and of a submission
    runs_containers: ClassVar[bool] = False  # True: it makes a job's container itself (`Submission.container`)
    container: ContainerTemplate | None = None  # how a job's command is put into a container, where it makes none
    poll_interval: ClassVar[float] = 10.0  # seconds between polls of one launch, or between surveys
    poll_interval_max: ClassVar[float | None] = None  # to which that grows as long as surveys tell no news; None: never
    queries_per_minute: ClassVar[float | None] = None  # polls keep to it, over all processes; None: it minds none
    notifies: ClassVar[bool] = False  # its launches tell themselves when they start and end (`notices`)
    stage_patience: float = 3600.0  # seconds for which `stage_out` is tried again where it is out of reach
    absence_grace: ClassVar[float] = 10.0  # seconds that one may be absent without a record before it is lost

    name: str  # its name in the configuration

    @classmethod
    @abstractmethod
    def build(cls, name: str, options: Mapping[str, Any], spool: Path) -> ExecutionSystem:
        """Make the system from its mapping in the configuration; raise ConfigError for what it cannot use."""

    @classmethod
    def limits(cls, slots: int | None, limit: int | None, options: Mapping[str, Any]) -> Mapping[str, int | None]:
        """Return this system's capacities by the configuration: ``queue`` is its in-queue set; None: no limit given.

        A system without a limit of ``queue`` is closed; other names are amounts (``slots``, ``cpus``, ``memory``).
        """
        return {"queue": limit}

    @abstractmethod
    def submit(self, submissions: Sequence[Submission]) -> Sequence[Handle | SubmitError]:
        """Launch, held where the system gives handles out; one answer for each submission, in order.

        SystemUnavailable means that certainly nothing of this batch was accepted; where that is not certain, the answer
        is UNCLEAR. The same token again is the same launch, not a second one, as far as the system can tell.
        """

    @abstractmethod
    def status(self, handles: Sequence[Handle]) -> Mapping[Handle, Observation]:
        """Ask for all at once; a handle without an answer is UNKNOWN."""

    @abstractmethod
    def exit_info(self, handles: Sequence[Handle]) -> Mapping[Handle, ExitInfo]:
        """Return the exit records that exist; a handle without one is left out."""

    @abstractmethod
    def settle(self, launches: Sequence[Launch]) -> Mapping[Token, Handle | Settled]:
        """After a crash: find each launch by its token and adopt it, or make sure that it never starts.

        Where submissions are held, one that is not found may be told as NOT_STARTED: should it appear late, it is held,
        its commit is refused, and the sweep of strays (`inventory`) removes it.
        """

    @abstractmethod
    def kill(self, handles: Sequence[Handle], *, force: bool) -> Mapping[Handle, bool]:
        """Signal everything of each launch (TERM, with ``force`` KILL); True: nothing of it exists any more."""

    @abstractmethod
    def logs(self, handle: Handle, stream: str, offset: int, limit: int = 1 << 20) -> bytes:
        """Return up to ``limit`` bytes of ``stdout``, ``stderr`` or a named file of the run folder from ``offset``."""

    def stage_in(self, submission: Submission, progress: Progress) -> Submission:
        """Bring the inputs of one launch to where it will run; return the submission as it is to be submitted.

        Blocks, and is called off the launching thread, on an instance of its own. Doing it again for the same token
        goes on where it stopped. ``progress`` has to be called often: it raises StageStopped when the files are not
        wanted any more, and a minute without it counts as a file system that does not answer. Raises StageFailed for
        what will never work (no such file), SystemUnavailable. Who does not override it takes no inputs.
        """
        return submission

    def stage_out(self, handle: Handle, folder: Path, globs: Sequence[str], progress: Progress) -> Sequence[str]:
        """Bring what an ended launch left into ``folder`` here: stdout and stderr, its own files, what ``globs`` match.

        Only where `stages`. Globs are relative to the working directory; what they match comes to ``outputs/``. Returns
        those that match nothing. Blocks, as `stage_in` does, and may be repeated; without globs it is quick. Raises
        StageFailed (a file that changes all the time), SystemUnavailable (a full disk here, too: it may pass).
        """
        raise NotImplementedError(f"{self.kind} shares its files with us")

    @abstractmethod
    def check(self) -> Sequence[Check]:
        """Find out whether this system can run jobs now, with a fix for what is wrong."""

    def lead(self) -> bool:
        """Try to be the only starter of this system on this host; True while this process is."""
        return True

    def handle_for(self, token: Token) -> Handle:
        """Return the handle of a launch with this token, which it ends with; only where `launches_at_once`."""
        raise NotImplementedError(f"{self.kind} gives handles out itself")

    def release(self, handles: Sequence[Handle]) -> None:
        """Let held submissions start; idempotent, and without effect on what was killed or has ended.

        Nothing to do where `submit` starts at once.
        """

    def inventory(self, record: str) -> Mapping[Handle, Token]:
        """Return every launch of this record that the system still has, held or not.

        Their tokens begin with ``<record>.``; those of before lives were told apart with ``<record>:``. What has ended
        and is only kept in a history is left out. Raises SystemUnavailable rather than telling a part.
        """
        return {}

    def survey(self, record: str) -> Mapping[Handle, Observation]:
        """Observe every launch of this record (tokens as in `inventory`), held or not, by one query.

        Only where `surveys`. What has ended may be in it or not: one that is missing is looked for by `exit_info`. The
        same observation again costs least as the same object. Raises SystemUnavailable rather than telling a part.
        """
        raise NotImplementedError(f"{self.kind} answers for single launches only")

    @property
    def queries(self) -> int:
        """Return how many queries this instance has put to what is behind it; orders (submit, kill) are none."""
        return 0

    def notices(self) -> Mapping[Token, Notice]:
        """Return what launches tell of themselves, by one look that asks nobody; it comes late, or never.

        Only where `notifies`; its handles end with ``/`` and the token. Each is told until it is forgotten (`forget`).
        """
        return {}

    def done(self, handles: Sequence[Handle]) -> Mapping[Handle, ExitInfo]:
        """Return the exit records of launches that tell that they are done, where they alone are proof of success."""
        return {}

    def fileno(self) -> int | None:
        """Return a descriptor that becomes readable when `ends` has something, or None where nothing is pushed."""
        return None

    def ends(self) -> Sequence[Start | End | Unwatched]:
        """Return what was pushed since the last call, without blocking."""
        return ()

    def withdraw(self, tokens: Sequence[Token]) -> None:
        """Take launches that wait for a slot here out of line; each one that was out is told by `ends`."""

    def forget(self, handles: Sequence[Handle]) -> None:
        """Drop what the system itself keeps of ended launches; results stay."""

    def set_slots(self, slots: int) -> None:
        """Set how many launches may run at once, where the system keeps that limit itself."""

    def close(self) -> None:
        """Take nothing more; what runs goes on."""
