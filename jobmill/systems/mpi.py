"""The `mpi` system: a pilot. One allocation of a batch system, or this machine, in which ranks run many small jobs.

A launch is a file in a line on the file system that the nodes share (`pilot_line`), held until the record has
committed its handle. Ranks, started by mpirun or srun, take from the line what fits into their slots, and run it as
the local runner does (`pilot_rank`). Allocations come and go (`pilot_fleet`): what has not started waits for the next.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import threading
import time
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

from jobmill.errors import StageFailed, SystemUnavailable
from jobmill.systems import far_words, pilot_end, pilot_line, run_folder
from jobmill.systems.pilot_fleet import Allocation, PilotFleet, here
from jobmill.systems.pilot_line import DONE, FORCE, HELD, KILLS, LINE, WORK, Entry, Line
from jobmill.systems.pilot_notices import PilotNotices
from jobmill.systems.pilot_options import PilotOptions
from jobmill.systems.pilot_room import SILENT
from jobmill.systems.refusal import refusal
from jobmill.systems.spool_launches import TOKEN, SpoolLaunches
from jobmill.systems.spool_stage import SpoolStage
from jobmill.systems.step_progress import progress
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

logger = logging.getLogger("jobmill")

LIMIT = 1000  # launches in its line and at work where the configuration does not say
KILL_WAIT = (0.1, 0.3, 0.6)  # seconds between looks whether a kill has done its work
UNTOLD = 10_000  # launches whose ends are pushed though they were submitted before anybody listened
OLD = 86400.0  # seconds after which an ended launch that nobody has fetched leaves the folders
TIDY = 600.0  # seconds between looks for those
_HANDLE = re.compile(rf"([0-9]{{1,6}})x([0-9]{{1,9}})/({TOKEN.pattern})", re.ASCII)
ABSENT = Observation(state=NativeState.ABSENT, reason="it is not in the pilot's line, and nothing tells of its start")
Where = Mapping[Token, tuple[Entry, bytes]]


class MpiSystem(ExecutionSystem):
    """A pilot: many small jobs in allocations of a batch system, or in one of this machine."""

    kind: ClassVar[str] = "mpi"
    surveys: ClassVar[bool] = True
    pushes: ClassVar[bool] = True

    def __init__(self, *, name: str, spool: Path, options: PilotOptions) -> None:
        self.name = name
        self.spool = Path(spool).absolute()
        self.options = options
        self.container = options.container
        self.one_host = options.over is None  # type: ignore[misc]  # then its allocations are of this host
        self.poll_interval = options.poll_interval  # type: ignore[misc]
        self.absence_grace = 2 * options.late + 10  # type: ignore[misc]
        self._line = Line(os.fsencode(self.spool), name)
        self._fleet = PilotFleet(name, self.spool, self._line, options)
        self._launches = SpoolLaunches(os.fsencode(self.spool), name)
        self._stage = SpoolStage(self.spool, name)
        self._notices: PilotNotices | None = None
        self._sent: deque[Token] = deque(maxlen=UNTOLD)  # submitted, and not yet handed to the notices
        self._lock = threading.RLock()  # of the fleet: the thread of the notices sees to it as well
        self._seen: dict[tuple[Any, ...], Observation] = {}  # the same look is the same object
        self._made = False
        self._tidied_at = -TIDY

    @classmethod
    def build(cls, name: str, options: Mapping[str, Any], spool: Path) -> MpiSystem:
        """Make the system from its mapping; raise ConfigError for an unknown option or a value that cannot be."""
        return cls(name=name, spool=Path(spool), options=PilotOptions.parse(name, options, Path(spool)))

    @classmethod
    def limits(cls, slots: int | None, limit: int | None, options: Mapping[str, Any]) -> Mapping[str, int | None]:
        """Launches that wait in its line or run; what runs at once is up to the ranks."""
        return {"queue": LIMIT if limit is None else limit}

    def _make(self) -> None:
        """Make the folders; raise SystemUnavailable where that cannot be."""
        if self._made:
            return
        try:
            self._line.make()
            (self.spool / "jobs").mkdir(exist_ok=True)
        except OSError as error:
            raise self._unusable(error) from error
        self._made = True

    def _unusable(self, error: OSError) -> SystemUnavailable:
        return SystemUnavailable(f"{self.name}: cannot use the spool {self.spool}: {error.strerror}")

    # Launching.

    def submit(self, submissions: Sequence[Submission]) -> Sequence[Handle | SubmitError]:
        """Put launches into the folder of the held ones."""
        self._make()
        answers: list[Handle | SubmitError] = []
        for it in submissions:
            wrong = refusal(it) or self._unfit(it)
            if wrong is not None:
                answers.append(SubmitError(failure=SubmitFailure.PERMANENT, message=wrong))
                continue
            entry = pilot_line.entry(self._cpus(it), it.walltime, it.token)
            try:
                self._hold(it, entry)
            except OSError as error:
                if not answers:
                    raise self._unusable(error) from error
                answers.append(SubmitError(failure=SubmitFailure.TRANSIENT, message=str(self._unusable(error))))
            else:
                answers.append(_handle(entry))
        taken = zip(submissions, answers, strict=True)
        self._sent.extend(it.token for it, answer in taken if not isinstance(answer, SubmitError))
        if self._notices is not None:
            self._expect(self._notices)
        return answers

    def _expect(self, notices: PilotNotices) -> None:
        """Have the ends told of what was submitted since the last time."""
        sent = [self._sent.popleft() for _ in range(len(self._sent))]
        notices.expect(sent)

    def _cpus(self, it: Submission) -> int:
        return max(1, it.cpus) * max(1, it.tasks or 1)

    def _unfit(self, it: Submission) -> str | None:
        """Return why no allocation of this pilot can ever hold a launch, or None."""
        o, job = self.options, f"job {it.job_id}"
        if (it.nodes or 1) > 1:
            return (
                f"{job}: nodes: {it.nodes}: a job in a pilot runs on one node; name a batch system itself (slurm, …), "
                "which gives it an allocation of its own"
            )
        if self._cpus(it) > o.cpus:
            tasks = f" in {it.tasks} tasks" if (it.tasks or 1) > 1 else ""
            return f"{job}: {self._cpus(it)} cpus{tasks} wanted, a rank of {self.name} has {o.cpus}; ask for less"
        if it.gpus:
            return f"{job}: gpus: {it.gpus}: a pilot deals out no GPUs; name a batch system itself"
        if it.memory and o.memory and it.memory > o.memory:
            return f"{job}: {it.memory} MiB of memory wanted, a node of {self.name} has {o.memory}"
        if it.native:
            return f"{job}: native words go to a scheduler, and {self.name} submits no job of its own to one"
        most = None if o.walltime is None else o.walltime - o.kill_grace - 10
        if most is not None and it.walltime and it.walltime > most:
            return (
                f"{job}: a walltime of {it.walltime:g} s never fits into an allocation, which has {most:g} s for work"
            )
        return None

    def _hold(self, it: Submission, entry: Entry) -> None:
        """Put one launch among the held ones, unless it had its turn, or has it; raises OSError."""
        run = run_folder.read(self._launches.folder(it.token))
        if run is not None and run.token == it.token:
            return
        if os.path.lexists(self._line.path(LINE, entry.name)):
            return
        argv = list(it.argv)
        if (it.tasks or 1) > 1:
            argv = [*self.options.task_words(it.tasks or 1, max(1, it.cpus)), *argv]
        env = dict(it.env) | ({"JOBMILL_TASKS": str(it.tasks)} if it.tasks else {})
        fields = [argv, it.workdir, env, it.stdin, it.stdout, it.stderr, dict(it.files), it.walltime]
        fields += [it.staged] if it.staged else []
        self._line.put(entry.name, pilot_line.launch_line(it.token, entry.cpus, fields))

    def stage_in(self, submission: Submission, progress: Progress) -> Submission:
        """Copy the inputs to where the launch takes them from, or into the given workdir."""
        if not submission.inputs:
            return submission
        if (wrong := self._unfit(submission)) is not None:
            raise StageFailed(wrong)
        return self._stage.bring(submission, progress)

    def lead(self) -> bool:
        """Any number of starters may serve it. Removes what was staged and taken by nobody."""
        if time.monotonic() - self._tidied_at > TIDY:
            self._tidied_at = time.monotonic()
            self._stage.tidy()
            with suppress(OSError):
                self._tidy()
        return True

    def _tidy(self) -> None:
        """Drop ended launches whose ends nobody has fetched for a day: their records stay."""
        for it in self._line.entries(DONE):
            with suppress(FileNotFoundError):
                if time.time() - os.lstat(self._line.path(DONE, it.name)).st_ctime > OLD:
                    self._line.drop(it.name, DONE)

    def release(self, handles: Sequence[Handle]) -> None:
        """Put held launches into line."""
        self._make()
        try:
            for it in _own(handles):
                self._line.move(it.name, HELD, LINE)
        except OSError as error:
            raise self._unusable(error) from error
        if self._notices is None:
            with suppress(SystemUnavailable):  # the survey tries again
                self._turn()

    def fileno(self) -> int | None:
        """Return a descriptor that is readable when an end was pushed."""
        if self._notices is None:
            self._make()
            self._notices = PilotNotices(self._line, self._turn)
            self._expect(self._notices)
        return self._notices.fileno()

    def ends(self) -> Sequence[Start | End | Unwatched]:
        """Return what was pushed since the last call."""
        return () if self._notices is None else self._notices.receive()

    def close(self) -> None:
        """Leave; what is in line stays there, and allocations go on."""
        if self._notices is not None:
            self._notices.close()
            self._notices = None

    # Allocations.

    def _turn(self) -> None:
        """See to the allocations: ask about them, deal with what those left that are gone, ask for more."""
        with self._lock:
            try:
                known = self._fleet.look()
                with suppress(SystemUnavailable):
                    self._fleet.ask(known)
                self._deal(known)
                self._fleet.scale(known)
                self._fleet.prune(known)
            except OSError as error:
                raise self._unusable(error) from error

    def _deal(self, known: Mapping[int, Allocation]) -> None:
        """Give what dead ranks had taken back to the line, or its end."""
        for number, rank in self._line.ranks():
            it = known.get(number)
            if not self._fleet.dead(number, dict(known), rank):
                continue
            name = pilot_line.rank_name(number, rank)
            work = WORK + b"/" + name
            late = self._fleet.over_since(number) < self.options.late if number in known else False
            ours = it is not None and here(it.ranks.get(rank) or it.room.json(f"rank.{rank}") or {})
            if late and not ours:
                continue  # what it wrote last may not be seen yet
            for entry in self._line.entries(work):
                with suppress(OSError, ValueError):
                    self._deal_with(entry, work, number, it)
            self._fleet.close_rank(number, rank)

    def _deal_with(self, entry: Entry, work: bytes, number: int, it: Allocation | None) -> None:
        folder = self._launches.folder(entry.token)
        run = run_folder.read(folder)
        if run is None or run.token != entry.token:
            self._line.move(entry.name, work, LINE)
            return
        if run.end is None:
            if run.boot == run_folder.BOOT and run.namespace == run_folder.NAMESPACE and not self._processless(entry):
                return  # it runs on without its rank; it can be killed, and its walltime is over some day
            ended = None if it is None else it.ended
            if it is not None and ended is None and it.room.has("taken"):
                return  # why, its end will tell
            word, record = pilot_end.verdict(run, folder, self._fleet.told(number), ended)
            pilot_end.write(folder, entry.token, word, record)
        self._line.move(entry.name, work, DONE)

    def _processless(self, entry: Entry) -> bool:
        """Tell whether nothing of a launch on this host is left."""
        look = self._launches.observe(entry.token, False)
        return look["state"] in ("absent", "ended")

    # Looking.

    def survey(self, record: str) -> Mapping[Handle, Observation]:
        """Tell of every launch that is held, in line, or taken."""
        self._make()
        if self._notices is None:
            self._turn()
        where = self._where()
        ours = (f"{record}.", f"{record}:")
        some = {token: found for token, found in where.items() if token.startswith(ours) and found[1] != DONE}
        looks = self._looks(some)
        return {_handle(some[token][0]): look for token, look in looks.items()}

    def status(self, handles: Sequence[Handle]) -> Mapping[Handle, Observation]:
        """Tell of each by a look at the folders, and by its run folder."""
        own = {it.token: it for it in _own(handles)}
        if not own:
            return {}
        where = self._where(own)
        looks = self._looks({token: where[token] for token in own if token in where})
        answers: dict[Handle, Observation] = {}
        for handle in handles:
            found = _HANDLE.fullmatch(handle)
            if found is not None:
                token = found.group(3)
                answers[handle] = looks[token] if token in looks else self._unlisted(token)
        return answers

    def _where(self, wanted: Collection[Token] = ()) -> Where:
        """Return where each launch is; what a rank puts back meanwhile may be passed over, so it is looked again."""
        try:
            found = self._line.where()
            if any(token not in found for token in wanted):
                found = {**self._line.where(), **found}
        except OSError as error:
            raise self._unusable(error) from error
        return found

    def _looks(self, where: Where) -> dict[Token, Observation]:
        with self._lock:
            try:
                known = self._fleet.look()
            except OSError as error:
                raise self._unusable(error) from error
            return {token: self._look(entry, place, known) for token, (entry, place) in where.items()}

    def _look(self, entry: Entry, place: bytes, known: Mapping[int, Allocation]) -> Observation:
        if place == HELD:
            if self._record(entry.token) is not None:
                return self._same(state=NativeState.ENDED)
            return self._same(state=NativeState.SUBMITTED, native_state="held", held=True, alive=True)
        if place == DONE:
            return self._same(state=NativeState.ENDED)
        try:
            run = run_folder.read(self._launches.folder(entry.token))
        except OSError as error:
            return self._same(state=NativeState.UNKNOWN, reason=str(error))
        marked = run is not None and run.token == entry.token
        if run is not None and marked and run.end is not None:
            return self._same(state=NativeState.ENDED, host=run.host)
        if place == LINE:
            words = self._fleet.pending(entry, dict(known))
            return self._same(state=NativeState.SUBMITTED, native_state="waiting", reason=words, alive=True)
        if run is None or not marked:
            return self._same(
                state=NativeState.SUBMITTED, native_state="taken", reason="waits for a slot of its rank", alive=True
            )
        if run.boot == run_folder.BOOT and run.namespace == run_folder.NAMESPACE:
            return self._same(**observation(self._launches.observe(entry.token, False)).__dict__)
        number, rank = pilot_line.rank_of(place.rpartition(b"/")[2]) or (0, 0)
        it = known.get(number)
        if it is None or it.ended is not None:
            words = f"its {self._fleet.told(number)} has ended; its record may come yet"
            return self._same(state=NativeState.UNKNOWN, reason=words, host=run.host)
        if self._fleet.silent(number, rank) > SILENT:
            words = f"rank {rank} of {self._fleet.told(number)} on {run.host} gives no sign of life"
            return self._same(state=NativeState.UNKNOWN, reason=words, host=run.host, alive=True)
        folder = os.fsdecode(self._launches.folder(entry.token))
        return self._same(
            state=NativeState.RUNNING, native_state="running", host=run.host, alive=True, progress=progress(folder)
        )

    def _unlisted(self, token: Token) -> Observation:
        """Tell of a launch that is in none of the folders."""
        if not (self.spool / "jobs").is_dir():  # moved, or not mounted: what is not seen is not absent
            words = f"the spool {self.spool} has no folder `jobs`: is it mounted?"
            return self._same(state=NativeState.UNKNOWN, reason=words)
        try:
            run = run_folder.read(self._launches.folder(token))
        except OSError as error:
            return self._same(state=NativeState.UNKNOWN, reason=str(error))
        if run is None or run.token != token:
            return ABSENT
        if run.end is not None:
            return self._same(state=NativeState.ENDED, host=run.host)
        return self._same(**observation(self._launches.observe(token, False)).__dict__)

    def _same(self, **fields: Any) -> Observation:
        """Return an observation, the same object for the same words."""
        key = tuple(fields.items())
        if key not in self._seen:
            if len(self._seen) > 10_000:
                self._seen.clear()
            self._seen[key] = Observation(**fields)
        return self._seen[key]

    def exit_info(self, handles: Sequence[Handle]) -> Mapping[Handle, ExitInfo]:
        """Return the records that there are; those of dead ranks' launches are written by the survey."""
        found = {}
        for handle in handles:
            if (parts := _HANDLE.fullmatch(handle)) and (record := self._record(parts.group(3))) is not None:
                found[handle] = record
        return found

    def _record(self, token: Token) -> ExitInfo | None:
        try:
            run = run_folder.read(self._launches.folder(token))
        except OSError:
            return None
        if run is None or run.token != token or run.end is None:
            return None
        return ExitInfo.from_json(far_words.record(run.end))  # a job can write to its folder

    def settle(self, launches: Sequence[Launch]) -> Mapping[Token, Handle | Settled]:
        """Adopt what is in any folder, or has its marker; seal what is nowhere, so that it never starts."""
        self._make()
        where = self._where([it.token for it in launches])
        answers: dict[Token, Handle | Settled] = {}
        for it in launches:
            if it.token in where and self._sealed(it.token) is not True:
                answers[it.token] = _handle(where[it.token][0])
            else:
                answers[it.token] = self._settled(it)
        return answers

    def _sealed(self, token: Token) -> bool | None:
        """Tell whether a launch was sealed; None: it has no marker that could be read."""
        try:
            run = run_folder.read(self._launches.folder(token))
        except (OSError, ValueError):
            return None
        return None if run is None or run.token != token else run.sealed

    def _settled(self, it: Launch) -> Handle | Settled:
        if not TOKEN.fullmatch(it.token):
            return Settled.UNKNOWN
        try:
            run_folder.seal(os.fsencode(self.spool), it.token, "-", "not_started", "its starter died before it started")
            return Settled.NOT_STARTED
        except FileExistsError:
            sealed = self._sealed(it.token)
        except (OSError, run_folder.Superseded):
            return Settled.UNKNOWN
        if sealed is None:
            return Settled.UNKNOWN
        return Settled.NOT_STARTED if sealed else it.handle or _handle(pilot_line.entry(1, 0, it.token))

    def inventory(self, record: str) -> Mapping[Handle, Token]:
        """Return what is held, in line, or taken."""
        self._make()
        ours = (f"{record}.", f"{record}:")
        return {
            _handle(entry): token
            for token, (entry, place) in self._where().items()
            if token.startswith(ours) and place != DONE and self._record(token) is None
        }

    def logs(self, handle: Handle, stream: str, offset: int, limit: int = 1 << 20) -> bytes:
        """Return a part of a file in the run folder."""
        found = _HANDLE.fullmatch(handle)
        if found is None:
            raise ValueError(f"{handle!r} is not a handle of a pilot")
        return self._launches.read(found.group(3), stream, offset, limit)

    # Ending.

    def kill(self, handles: Sequence[Handle], *, force: bool) -> Mapping[Handle, bool]:
        """Seal what has not started; signal what runs here, have its rank signal what runs elsewhere."""
        own = {_handle(it): it for it in _own(handles)}
        answers = dict.fromkeys(handles, False)
        far: list[Handle] = []
        where = self._where() if own else {}
        for handle, entry in own.items():
            gone = self._kill(entry, force, 0.5 if force and len(own) == 1 else 0.0)
            answers[handle] = bool(gone)
            if gone is None:
                self._request(entry, where, force)
                far.append(handle)
        left = [handle for handle in own if not answers[handle]]
        for pause in KILL_WAIT if left else ():
            time.sleep(pause)
            for handle in left:
                answers[handle] = self._record(own[handle].token) is not None and (
                    handle in far or bool(self._kill(own[handle], force, 0.0))
                )
            left = [handle for handle in left if not answers[handle]]
            if not left:
                break
        return answers

    def _kill(self, entry: Entry, force: bool, patience: float) -> bool | None:
        """Kill what this host can; None: its rank has to do it."""
        try:
            run = run_folder.read(self._launches.folder(entry.token))
        except OSError:
            return False
        if run is not None and run.token == entry.token and not run.sealed:
            if run.boot != run_folder.BOOT or run.namespace != run_folder.NAMESPACE:
                return True if run.end is not None else None
            return self._launches.kill(entry.token, False, force, patience)
        gone = self._launches.kill(entry.token, False, force, patience)  # seals it
        if gone:
            with suppress(OSError):
                self._line.drop(entry.name, HELD, LINE)
        return gone

    def _request(self, entry: Entry, where: Where, force: bool) -> None:
        """Ask the rank that has a launch to kill it."""
        place = where[entry.token][1] if entry.token in where else b""
        if place.startswith(WORK + b"/"):
            name = where[entry.token][0].name + (FORCE if force else b"")
            with suppress(OSError):
                pilot_line.write(self._line.path(KILLS, place.rpartition(b"/")[2], name), b"")

    def forget(self, handles: Sequence[Handle]) -> None:
        """Drop the files of ended launches from the folders; results stay."""
        for it in _own(handles):
            self._stage.drop(it.token)
            if self._record(it.token) is not None:
                with suppress(OSError):
                    self._line.drop(it.name, HELD, LINE, DONE)
        if self._notices is not None:
            self._notices.forget([it.token for it in _own(handles)])

    def check(self) -> Sequence[Check]:
        """Look at the spool, at the launcher, and at who gives allocations."""
        checks = [self._check_spool()]
        over = self.options.over
        if over is not None:
            checks += over.check()
            return checks
        program = self.options.launch_words()[0]
        found = shutil.which(program, path=self.options.path)
        fix = "" if found else "install one, as apt-get install openmpi-bin, or say `launcher` and `path`"
        detail = found or f"no {program}"
        if found and os.geteuid() == 0 and self.options.refuses_root():
            detail = f"{found} starts nothing for root"
            fix = "run the workers as a user, or say `launcher: [mpirun, --allow-run-as-root, …]` (docs/systems.md)"
        checks.append(Check(name="launcher", ok=not fix, detail=detail, fix=fix))
        cores = len(os.sched_getaffinity(0))
        slots = self.options.slots
        fix = "" if slots <= cores else f"let ranks x cpus be {cores} unless the jobs mostly wait"
        checks.append(Check(name="slots", ok=True, detail=f"{slots} slots on {cores} cores", fix=fix))
        return checks

    def _check_spool(self) -> Check:
        try:
            self._make()
            probe = self._line.path(HELD, f".check.{os.getpid()}".encode())
            pilot_line.write(probe, b"x")
            os.unlink(probe)
        except (OSError, SystemUnavailable) as error:
            fix = "make it writable for this user, and set `spool` to a file system that the nodes share"
            return Check(name="spool", ok=False, detail=str(error), fix=fix)
        shared = "" if self.options.over is None else "; the nodes have to see it as well"
        return Check(name="spool", ok=True, detail=f"{self.spool} is writable{shared}")


def _handle(it: Entry) -> Handle:
    """Return the handle of a launch: it says what its name in line says."""
    return f"{it.cpus}x{it.walltime}/{it.token}"


def _own(handles: Collection[Handle]) -> list[Entry]:
    """Return what handles of ours name; others are left out."""
    found = [_HANDLE.fullmatch(handle) for handle in handles]
    return [Entry(int(it.group(1)), int(it.group(2)), it.group(3)) for it in found if it is not None]
