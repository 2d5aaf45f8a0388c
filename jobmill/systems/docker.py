"""The `docker` system: a container per job, on one engine (docker, or podman, which speaks as it does).

A launch is `create` (held), `start` once the record has committed it, and an end that is taken down in the run folder
with everything that was printed; only then the container may go. Whatever has not our labels is never touched, and no
volume is ever removed.
"""

from __future__ import annotations

import os
import random
import re
import socket
import subprocess
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any, ClassVar, ParamSpec, TypeVar

from jobmill.errors import StageFailed, SystemUnavailable
from jobmill.systems import container_end, container_launch, container_logs, run_folder
from jobmill.systems.container_check import checks_of
from jobmill.systems.container_end import when
from jobmill.systems.container_engine import ContainerEngine, Unanswered
from jobmill.systems.container_folder import ContainerFolder
from jobmill.systems.container_rules import ContainerRules
from jobmill.systems.container_starts import Starts, held, ours
from jobmill.systems.refusal import refusal
from jobmill.systems.spool_launches import TOKEN
from jobmill.systems.spool_stage import SpoolStage
from jobmill.systems.step_progress import progress
from jobmill.systems.system import (
    Check,
    ExecutionSystem,
    ExitInfo,
    ExitStatus,
    Handle,
    Launch,
    NativeState,
    Observation,
    Progress,
    Settled,
    Submission,
    SubmitError,
    SubmitFailure,
    Token,
)

P = ParamSpec("P")
R = TypeVar("R")
HOST = socket.gethostname()
AT_ONCE = 4  # commands of the engine at the same time
WHOLE = 7.0  # seconds for all that one verb asks of the engine: a worker that is silent for ten counts as dead
PATIENCE = 4.0  # seconds after which a submit sends no more
LOOKS = 8  # containers in line for their start that one survey asks for
COLLECT = 2.0  # seconds that one query takes at most for the output of what has ended
SWEEP = 50  # ended containers that are removed at once
KILLED_UNSTARTED = "it was killed before it started"

HELD = Observation(state=NativeState.SUBMITTED, native_state="created", held=True, alive=True)
STARTING = Observation(state=NativeState.SUBMITTED, native_state="starting", alive=True)
RUNNING = Observation(state=NativeState.RUNNING, native_state="running", host=HOST, alive=True)
OVERDUE = Observation(state=NativeState.RUNNING, native_state="running", host=HOST, alive=True, overdue=True)
LEAVING = Observation(state=NativeState.RUNNING, native_state="exited", reason="its output is being brought", host=HOST)
ENDED = Observation(state=NativeState.ENDED, native_state="exited", host=HOST)
ABSENT = Observation(state=NativeState.ABSENT, reason="the engine has no such container")
_HANDLE = re.compile(rf"[0-9a-f]{{12,64}}/{TOKEN.pattern}", re.ASCII)


def _bounded(verb: Callable[P, R]) -> Callable[P, R]:
    """Give all that a verb asks of the engine `WHOLE` seconds together."""

    @wraps(verb)
    def bounded(*args: P.args, **kwargs: P.kwargs) -> R:
        system = args[0]
        assert isinstance(system, DockerSystem)
        with system.engine.within(WHOLE):
            return verb(*args, **kwargs)

    return bounded


class DockerSystem(ExecutionSystem):
    """A container for each job, on one engine.

    A handle is ``<container id>/<token>``.
    """

    kind: ClassVar[str] = "docker"
    one_host: ClassVar[bool] = True  # run folders and the right to start a container are this host's
    surveys: ClassVar[bool] = True
    runs_containers: ClassVar[bool] = True

    def __init__(self, *, name: str, spool: Path, rules: ContainerRules) -> None:
        self.name = name
        self.spool = Path(spool).absolute()
        self.rules = rules
        self.poll_interval = rules.poll_interval  # type: ignore[misc]  # of this one, not of all
        self.engine = ContainerEngine(rules.engine, rules.host)
        self._starts = Starts(self.engine)
        self._collector = container_logs.Collector(self.engine)
        self._running: dict[str, _Running] = {}  # by container, what a survey has to know of it
        self._over: dict[str, float] = {}  # containers whose end is taken down, and since when (monotonic)
        self._stage = SpoolStage(self.spool, name)
        self._tidied = False
        self._remover: subprocess.Popen[bytes] | None = None
        owner = [int(number) for number in (rules.user or "").split(":") if number]
        self._owner = (owner[0], owner[-1]) if owner else None

    @classmethod
    def build(cls, name: str, options: Mapping[str, Any], spool: Path) -> DockerSystem:
        """Make the system from its mapping; raise ConfigError for an unknown option or a value that cannot be."""
        return cls(name=name, spool=spool, rules=ContainerRules.parse(f"systems.{name}", options))

    # Launching.

    def submit(self, submissions: Sequence[Submission]) -> Sequence[Handle | SubmitError]:
        """Create held containers, a few at once."""
        until = time.monotonic() + PATIENCE
        with ThreadPoolExecutor(AT_ONCE) as pool:
            answers = list(pool.map(lambda it: self._create(it, until), submissions))
        down = [answer for answer in answers if isinstance(answer, SystemUnavailable)]
        if down and len(down) == len(answers):
            raise down[0]
        transient = SubmitFailure.TRANSIENT
        return [SubmitError(failure=transient, message=str(a)) if isinstance(a, Exception) else a for a in answers]

    def _create(self, it: Submission, until: float) -> Handle | SubmitError | SystemUnavailable:
        """Create one; return SystemUnavailable where certainly nothing was."""
        if (wrong := refusal(it)) is not None:
            return _refused(wrong)
        folder = self._folder(it.token)
        try:
            plan = self._plan(it, folder)
        except container_launch.Unsuitable as error:
            return _refused(str(error))
        if time.monotonic() > until:
            return SystemUnavailable(f"{self.rules.engine} is slow: it was not asked")
        below = (
            it.workdir if it.workdir and container_launch.inside(it.workdir, str(folder.path)) != it.workdir else None
        )
        links = {name: place for name, place in (("stdout", it.stdout), ("stderr", it.stderr)) if place}
        try:
            if not folder.enter(it.files, links=links, folder=below, staged=it.staged, owner=self._owner):
                over = folder.exit()  # the same token again, after its end
                return f"{over.native_id}/{it.token}" if over else _unclear("this launch is over already")
        except run_folder.Superseded as error:
            return _refused(str(error))
        except OSError as error:
            return SystemUnavailable(f"cannot use the spool {self.spool}: {error.strerror}")
        env_file = os.memfd_create("env", os.MFD_CLOEXEC)
        try:
            run_folder.write(env_file, plan.lines.encode())
            words = container_launch.words_of(plan, f"/proc/self/fd/{env_file}")
            with self.engine.within(max(1.0, until - time.monotonic()) + WHOLE - PATIENCE):
                answer = self.engine.call(*words, env=plan.variables, pass_fds=[env_file])
                if answer.code == 0:
                    return f"{answer.out.split()[-1]}/{it.token}"
                if "already in use" in answer.err:  # the same token again
                    return self._same(plan.name, it.token)
        except Unanswered as error:
            return _unclear(str(error))
        except SystemUnavailable as error:
            return error
        finally:
            os.close(env_file)
        if "no such image" in answer.err.lower() or "image not known" in answer.err:
            image = (it.container or {}).get("image") or self.rules.image
            return _refused(
                f"{answer.words}; jobs never pull images: {self.rules.engine} pull {image}, where the engine runs"
            )
        if answer.passing:
            return SystemUnavailable(answer.words)
        return _refused(answer.words)

    def _plan(self, it: Submission, folder: ContainerFolder) -> container_launch.ContainerLaunch:
        return container_launch.plan(
            it, system=self.name, rules=self.rules, folder=str(folder.path), podman=self.engine.podman
        )

    def stage_in(self, submission: Submission, progress: Progress) -> Submission:
        """Copy the inputs to where the launch takes them from into its run folder, or into the given workdir."""
        if not submission.inputs:
            return submission
        try:  # before anything is written into a folder that the job may not have
            self._plan(submission, self._folder(submission.token))
        except container_launch.Unsuitable as error:
            raise StageFailed(str(error)) from None
        return self._stage.bring(submission, progress)

    def lead(self) -> bool:
        """Any number of starters may serve it. Removes what was staged and taken by nobody."""
        if not self._tidied:
            self._tidied = True
            self._stage.tidy()
        return True

    def _same(self, name: str, token: Token) -> Handle | SubmitError:
        for container, facts in self.engine.inspected([name]).items():
            if ours(facts, self._labels(token)):
                return f"{container}/{token}"
        return _unclear(f"there is a container {name}, with other labels")

    def release(self, handles: Sequence[Handle]) -> None:
        """Start held containers; what takes longer than a second goes on behind."""
        for handle in _own(handles):
            container, token = _parts(handle)
            self._starts.add(container, self._folder(token), self._labels(token))
        self._starts.wait(1.0)

    # Looking.

    @_bounded
    def survey(self, record: str) -> Mapping[Handle, Observation]:
        """Tell of what is held or runs; bring the output of what has ended, and remove what ended some time ago."""
        listed = self.engine.listed({"jobmill.record": record, "jobmill.system": self.name})
        self._running = {c: it for c, it in self._running.items() if c in listed and listed[c].state == "running"}
        self._over = {c: since for c, since in self._over.items() if c in listed}
        starting = {c for c, row in listed.items() if row.state == "created" and self._folder(row.token).is_starting()}
        # An engine tells of a container that is being started when it has started: of those in line only some are asked
        # for. That a start failed is seen late then; to be released again does nothing to it.
        created = [c for c, row in listed.items() if row.state == "created" and c not in starting]
        unasked = set(created) - set(random.sample(created, min(LOOKS, len(created))))
        asked = [c for c in listed if c not in starting and c not in unasked and not self._known(c)]
        facts = self.engine.inspected(asked)
        over = {c: f for c, f in facts.items() if self._is_over(f)}
        whole = self._take_down(over)
        seen: dict[Handle, Observation] = {}
        for container, row in listed.items():
            if container in starting:
                seen[f"{container}/{row.token}"] = STARTING
            elif container in unasked and container not in self._over:
                seen[f"{container}/{row.token}"] = HELD
            elif container in over and container not in whole:
                seen[f"{container}/{row.token}"] = LEAVING
            elif container not in self._over and (container in facts or container in self._running):
                seen[f"{container}/{row.token}"] = self._look(container, facts.get(container))
        self._sweep()
        return seen

    def _known(self, container: str) -> bool:
        return container in self._running or container in self._over

    @_bounded
    def status(self, handles: Sequence[Handle]) -> Mapping[Handle, Observation]:
        """Tell of each by one query; what has ended is told as ended once all of it is in its run folder."""
        starting = {handle for handle in _own(handles) if self._folder(_parts(handle)[1]).is_starting()}
        facts = self._facts([handle for handle in handles if handle not in starting])
        over = {c: f for c, f in facts.items() if self._is_over(f)}
        whole = self._take_down(over)
        seen: dict[Handle, Observation] = dict.fromkeys(starting, STARTING)
        for handle in _own(handles):
            container, token = _parts(handle)
            if handle in starting:
                continue
            if container not in facts:
                seen[handle] = ENDED if self._folder(token).exit() else ABSENT
            elif container in over:
                seen[handle] = ENDED if container in whole else LEAVING
            else:
                seen[handle] = self._look(container, facts[container])
        return seen

    def _look(self, container: str, facts: Mapping[str, Any] | None) -> Observation:
        """Return what is to be said of a container that has not ended; ``facts``: where they were asked for."""
        it = self._running.get(container)
        if facts is not None:
            if held(facts["state"]):
                return HELD
            it = self._running[container] = _Running(facts, self.spool)
        if it is None:
            return ABSENT
        steps = it.steps and progress(it.steps, self._owner[0] if self._owner else os.getuid())
        overdue = it.deadline is not None and time.time() > it.deadline
        if not steps:
            return OVERDUE if overdue else RUNNING
        return Observation(
            state=NativeState.RUNNING, native_state="running", host=HOST, alive=True, progress=steps, overdue=overdue
        )

    @_bounded
    def exit_info(self, handles: Sequence[Handle]) -> Mapping[Handle, ExitInfo]:
        """Return the ends that are taken down; those that are not yet are, as far as that is quick."""
        found: dict[Handle, ExitInfo] = {}
        rest: list[Handle] = []
        for handle in _own(handles):
            folder = self._folder(_parts(handle)[1])
            if (info := folder.exit()) is not None:
                found[handle] = info
            elif not (self._starts.pending(folder.token) or folder.is_starting()):
                rest.append(handle)
        if rest:
            self._take_down({c: f for c, f in self._facts(rest).items() if container_end.ended(f["state"])})
            ends = ((handle, self._folder(_parts(handle)[1]).exit()) for handle in rest)
            found.update((handle, info) for handle, info in ends if info is not None)
        return found

    def _facts(self, handles: Collection[Handle]) -> dict[str, dict[str, Any]]:
        """Ask for the containers of handles; one that is not ours any more is none."""
        tokens = dict(map(_parts, _own(handles)))
        facts = self.engine.inspected(list(tokens))
        return {c: f for c, f in facts.items() if ours(f, self._labels(tokens[c]))}

    def _is_over(self, facts: Mapping[str, Any]) -> bool:
        """Tell whether a container of ours has ended, or was refused its start."""
        if held(facts["state"]):
            return self._folder(str(facts["labels"]["jobmill.token"])).exit() is not None
        return container_end.ended(facts["state"])

    def _take_down(self, over: Mapping[str, Mapping[str, Any]]) -> set[str]:
        """Bring output and write the end of containers that have ended; return those of which all is there."""
        folders = {c: self._folder(str(f["labels"]["jobmill.token"])) for c, f in over.items()}
        whole: set[str] = set()
        brought: dict[Token, str] = {}
        wanted: dict[Token, tuple[str, ContainerFolder]] = {}
        for container, folder in folders.items():
            try:
                if folder.exit() is not None or not folder.enter():
                    whole.add(container)
                elif when(over[container]["state"].get("StartedAt")) is None:
                    brought[folder.token] = ""  # it never ran
                else:
                    wanted[folder.token] = container, folder
            except run_folder.Superseded:  # nobody asks for this life any more
                whole.add(container)
            except OSError:
                continue  # it stays as it is, and is tried again
        if wanted:
            brought |= self._collector.bring(wanted, time.monotonic() + COLLECT)
        for container, folder in folders.items():
            if folder.token in brought and container not in whole:
                with suppress(OSError):
                    info = self._record(container, over[container]["state"], folder)
                    if lacks := brought[folder.token]:
                        info = replace(info, evidence=f"{info.evidence}; the engine does not give its output: {lacks}")
                    folder.end(info)
                    whole.add(container)
        now = time.monotonic()
        self._over.update((container, now) for container in whole if container not in self._over)
        return whole

    def _record(self, container: str, state: Mapping[str, Any], folder: ContainerFolder) -> ExitInfo:
        run = folder.run()
        return container_end.record_of(
            state,
            container=container,
            host=HOST,
            killed=folder.was_sent(),
            overdue=run is not None and run.over,
            last_words=folder.last_words(),
            message=folder.message(),
        )

    @_bounded
    def settle(self, launches: Sequence[Launch]) -> Mapping[Token, Handle | Settled]:
        """Find containers by their token; one that appears later is held, and never released."""
        found: dict[Token, Handle] = {}
        for record in {self._labels(it.token)["jobmill.record"] for it in launches}:
            listed = self.engine.listed({"jobmill.record": record, "jobmill.system": self.name})
            found.update((row.token, f"{container}/{row.token}") for container, row in listed.items())
        return {it.token: found.get(it.token, Settled.NOT_STARTED) for it in launches}

    @_bounded
    def inventory(self, record: str) -> Mapping[Handle, Token]:
        """Return what is held or runs."""
        listed = self.engine.listed({"jobmill.record": record, "jobmill.system": self.name})
        unclear = [container for container, row in listed.items() if row.state != "running"]
        over = {c for c, f in self.engine.inspected(unclear).items() if self._is_over(f)}
        return {f"{c}/{row.token}": row.token for c, row in listed.items() if c not in over}

    def logs(self, handle: Handle, stream: str, offset: int, limit: int = 1 << 20) -> bytes:
        """Return a part of what was printed, or of a file in the run folder."""
        container, token = _parts(handle)
        folder = self._folder(token)
        if stream in container_logs.STREAMS and folder.exit() is None and stream not in folder.links():
            return container_logs.read(self.engine, container, stream, offset, limit)
        if folder.path.joinpath("run").exists() and folder.run() is None:
            return b""  # another life's words
        return folder.read(stream, offset, limit, follow=self._owner is None)

    # Ending.

    @_bounded
    def kill(self, handles: Sequence[Handle], *, force: bool) -> Mapping[Handle, bool]:
        """Signal the first process of each container, with which all others end; remove what is held."""
        tokens = dict(map(_parts, _own(handles)))
        starting = {c for c, token in tokens.items() if self._folder(token).is_starting()}
        asked = [handle for handle in _own(handles) if _parts(handle)[0] not in starting]
        facts, name = self._facts(asked), "KILL" if force else "TERM"
        live = [c for c, f in facts.items() if not container_end.ended(f["state"])]
        own, left = set(_own(handles)), list[str]()
        resisting = set(starting)  # it will run at once, and is killed then
        for container in live:
            folder = self._folder(tokens[container])
            if held(facts[container]["state"]):
                if not self._discard(container, folder):
                    resisting.add(container)
                continue
            deadline = _Running(facts[container], self.spool).deadline
            with suppress(OSError):
                folder.sent(name, overdue=deadline is not None and time.time() > deadline)
            left.append(container)
        if left:
            self.engine.call("kill", f"--signal={name}", *left)
            resisting |= self._resisting(left, 1.0 if force else 0.2)
        return {handle: handle in own and _parts(handle)[0] not in resisting for handle in handles}

    def _resisting(self, containers: Sequence[str], patience: float) -> set[str]:
        """Wait for ends, for so many seconds; return what has not ended."""
        deadline = time.monotonic() + patience
        left = set(containers)
        while True:
            facts = self.engine.inspected(sorted(left))
            left = {c for c, f in facts.items() if not container_end.ended(f["state"])}
            if not left or time.monotonic() > deadline:
                return left
            time.sleep(0.05)

    def _discard(self, container: str, folder: ContainerFolder) -> bool:
        """Remove a held container, so that it never starts; False: it is being started, or resists."""
        with suppress(OSError, run_folder.Superseded):
            if folder.run() is None:
                folder.enter()
        with folder.starting() as right:
            if right is None and folder.run() is not None:
                return False  # without a run file nobody can start it
            facts = self._facts([f"{container}/{folder.token}"]).get(container)
            if facts is not None and not held(facts["state"]):
                return False
            self.engine.remove([container])  # not by force: one that runs after all stays
            if self.engine.inspected([container]):
                return False
            with suppress(OSError):
                folder.end(_never_started(container), started=False)
        return True

    @_bounded
    def forget(self, handles: Sequence[Handle]) -> None:
        """Remove containers whose ends are taken down; their volumes stay."""
        for handle in _own(handles):
            self._stage.drop(_parts(handle)[1])
        over = [handle for handle in _own(handles) if self._folder(_parts(handle)[1]).exit() is not None]
        self.engine.remove([c for c, f in self._facts(over).items() if self._is_over(f)])

    def _sweep(self) -> None:
        """Remove containers that ended some time ago, behind; what resists is tried again."""
        if self._remover is not None and self._remover.poll() is None:
            return
        now = time.monotonic()
        old = [container for container, since in self._over.items() if now - since > self.rules.keep][:SWEEP]
        self._remover = None
        if old:
            with suppress(OSError):
                self._remover = subprocess.Popen(
                    [self.engine.program, "rm", *old],
                    env=self.engine.env,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )

    def check(self) -> Sequence[Check]:
        """Look at the engine, what it can limit, the usual image, and the spool."""
        return checks_of(self.engine, self.rules, self.spool)

    def close(self) -> None:
        """Begin nothing more; what runs goes on."""
        self._starts.close()
        self._collector.close()
        if self._remover is not None:
            with suppress(subprocess.TimeoutExpired):
                self._remover.wait(5)
            self._remover = None

    def _folder(self, token: Token) -> ContainerFolder:
        return ContainerFolder(self.spool, token)

    def _labels(self, token: Token) -> dict[str, str]:
        return container_launch.labels_of(token, self.name)


class _Running:
    """What is known of a container that runs, and does not change."""

    def __init__(self, facts: Mapping[str, Any], spool: Path) -> None:
        labels, started = facts["labels"], when(facts["state"].get("StartedAt"))
        walltime = labels.get("jobmill.walltime")
        self.deadline = started + float(walltime) if walltime and started else None  # Unix time
        self.steps = ""  # the run folder of a job in steps
        if labels.get("jobmill.steps"):
            self.steps = str(ContainerFolder(spool, labels["jobmill.token"]).path)


def _parts(handle: Handle) -> tuple[str, Token]:
    """Return container and token of a handle; raise ValueError for one of another kind of system."""
    if _HANDLE.fullmatch(handle) is None:
        raise ValueError(f"{handle!r} is not a handle of a docker system")
    container, _, token = handle.partition("/")
    return container, token


def _own(handles: Collection[Handle]) -> list[Handle]:
    """Return those that can be handles of such a system."""
    return [handle for handle in handles if _HANDLE.fullmatch(handle)]


def _refused(message: str) -> SubmitError:
    return SubmitError(failure=SubmitFailure.PERMANENT, message=message)


def _unclear(message: str) -> SubmitError:
    return SubmitError(failure=SubmitFailure.UNCLEAR, message=message)


def _never_started(container: str) -> ExitInfo:
    return ExitInfo(
        exit_status=ExitStatus.ABORTED_BEFORE_RUNNING,
        reason="killed",
        native_id=container,
        host=HOST,
        evidence="the held container was removed",
        message=KILLED_UNSTARTED,
        ended=round(time.time(), 3),
    )
