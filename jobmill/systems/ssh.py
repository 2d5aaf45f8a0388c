"""The `ssh` system: jobs on hosts behind SSH, started and waited for by a guard and its runner on each.

A launch is a line on a channel of the one connection that this machine has to a host. Which host takes a launch is
decided when one has room; a handle does not say it, so whoever looks for a launch asks all of them. What no host that
answers knows, while another does not answer, is unknown: it may be there.

A handle is ``<Unix time>/<token>``: since then, at the earliest, the launch has been under way.
"""

from __future__ import annotations

import contextlib
import random
import select
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from jobmill.errors import StageFailed, SystemUnavailable
from jobmill.systems import far_stage, far_words, launch_token, run_folder
from jobmill.systems.desk import ask_all
from jobmill.systems.far_check import check_host
from jobmill.systems.far_host import FarHost
from jobmill.systems.far_place import FarPlace
from jobmill.systems.far_places import Places
from jobmill.systems.guard_channel import WITHDRAWN
from jobmill.systems.leader import Leader
from jobmill.systems.refusal import refusal
from jobmill.systems.run_as import RunAs
from jobmill.systems.ssh_config import hosts_of
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

PATIENCE = 30.0  # seconds that a launch waits here for a host that can be reached, before it is given back
LOGS = 20.0  # seconds for a part of a log


class SshSystem(ExecutionSystem):
    """Hosts behind SSH."""

    kind: ClassVar[str] = "ssh"
    launches_at_once: ClassVar[bool] = True
    stages: ClassVar[bool] = True
    runs_as_users: ClassVar[bool] = True
    poll_interval: ClassVar[float] = 15.0
    absence_grace: ClassVar[float] = 10.0

    def __init__(
        self, *, name: str, hosts: Sequence[FarHost], spool: Path, paths: Mapping[str, str], keep: float | None = None
    ) -> None:
        """``paths``: folders here -> where their files are seen on the hosts; ``keep``: of run folders, seconds."""
        self.name = name
        self.hosts = {host.name: host for host in hosts}
        self.paths = dict(paths)
        self._places = Places(self.hosts, keep)
        self._since = int(time.time())
        self._leader = Leader(spool / f"{name}.leader")
        self._line: deque[tuple[Submission, float]] = deque()  # accepted and not sent, since when
        self._most: int | None = None  # slots of all hosts together, where that is bounded
        self._notices: list[Start | End | Unwatched] = []
        self._epoll = select.epoll()

    @classmethod
    def build(cls, name: str, options: Mapping[str, Any], spool: Path) -> SshSystem:
        """Make the system from its mapping; raise ConfigError for an unknown option or a value that cannot be."""
        hosts, paths, keep = hosts_of(name, options, Path(spool))
        return cls(name=name, hosts=hosts, spool=Path(spool), paths=paths, keep=keep)

    @classmethod
    def limits(cls, slots: int | None, limit: int | None, options: Mapping[str, Any]) -> Mapping[str, int | None]:
        """In line there or running, and how many of them run where ``slots`` bounds all hosts together."""
        return {"queue": limit} | ({} if slots is None else {"slots": slots})

    @property
    def run_as(self) -> RunAs | None:
        """Return how jobs become their users', on one of the hosts at least."""
        return next((host.run_as for host in self.hosts.values() if host.run_as is not None), None)

    # Launching: for the one process that leads the lane.

    def lead(self) -> bool:
        """Try to become the only starter of this system on this machine."""
        return self._leader.lead()

    def handle_for(self, token: Token) -> Handle:
        """Return the handle: since when a launch of this process may have been under way, on which hosts, its token.

        A launch whose hosts are not all configured any more is not absent because the others do not know it.
        """
        return f"{self._since}@{','.join(self.hosts)}/{token}"

    def submit(self, submissions: Sequence[Submission]) -> Sequence[Handle | SubmitError]:
        """Put launches in line for a host with room; never blocks. Raises SystemUnavailable when none is in reach."""
        self._begin(submissions)
        failed = [host.failed for host in self.hosts.values()]
        if failed and all(failed):
            raise SystemUnavailable("; ".join(failed))
        answers: list[Handle | SubmitError] = []
        for it in submissions:
            wrong = refusal(it) or next(filter(None, (host.refusal(it) for host in self.hosts.values())), None)
            if wrong is not None:
                answers.append(SubmitError(failure=SubmitFailure.PERMANENT, message=wrong))
                continue
            if not self._is_here(it.token):
                self._line.append((it, time.monotonic()))
            answers.append(self.handle_for(it.token))
        self._send()
        return answers

    def fileno(self) -> int | None:
        """Return a descriptor that is readable when `ends` has something to do."""
        return self._epoll.fileno()

    def ends(self) -> Sequence[Start | End | Unwatched]:
        """Return starts and ends since the last call; also sends what a host has room for now."""
        for host in self.hosts.values():
            self._notices += host.receive()
        self._send()
        notices, self._notices = self._notices, []
        return notices

    def withdraw(self, tokens: Sequence[Token]) -> None:
        """Take launches out of line; each is told as an End with reason ``withdrawn``, or as one that was sealed."""
        wanted = set(tokens)
        gone = [it.token for it, _ in self._line if it.token in wanted]
        self._line = deque(entry for entry in self._line if entry[0].token not in wanted)
        self._notices += [End(token=token, exit=WITHDRAWN) for token in gone]
        for host in self.hosts.values():
            if host.channel is not None:
                host.channel.withdraw(tokens)

    def forget(self, handles: Sequence[Handle]) -> None:
        """Expect no end of these any more, drop what was staged for them alone; run folders stay for `keep`."""
        tokens = [_token(handle) for handle in handles]
        with contextlib.suppress(SystemUnavailable):  # it is only tidying up
            self._places.tidy(self._asked(handles))
        for host in self.hosts.values():
            if host.channel is not None:
                host.channel.forget(tokens)
            for token in tokens:
                host.taken.pop(token, None)
        self._places.forget(tokens)

    def set_slots(self, slots: int) -> None:
        """Set how many slots may be taken on all hosts together; nothing that runs is touched."""
        self._most = slots
        for host in self.hosts.values():
            host.most = slots
            host.follow()
        self._send()

    def close(self) -> None:
        """Leave: what waits in line is dropped, what runs goes on and is recorded there."""
        for host in self.hosts.values():
            host.close()
        self._line.clear()
        self._leader.leave()

    def _begin(self, submissions: Sequence[Submission]) -> None:
        for it in submissions[:1]:
            for host in self.hosts.values():
                if host.channel is None and not refusal(it):
                    self._epoll.register(host.begin(_record(it.token)).fileno(), select.EPOLLIN)

    def _is_here(self, token: Token) -> bool:
        return any(token in host.taken for host in self.hosts.values()) or any(
            it.token == token for it, _ in self._line
        )

    def _send(self) -> None:
        """Send what is in line to the hosts that have room, the emptiest first; give back what waits for too long."""
        if not self._line:
            return
        kept: deque[tuple[Submission, float]] = deque()
        used = sum(host.used for host in self.hosts.values())
        while self._line:
            it, since = self._line.popleft()
            host = self._host_for(it, used)
            if host is not None:
                host.launch(it)
                used += max(1, it.cpus)
                continue
            kept.append((it, since))
            if it.place is None and any(host.ready for host in self.hosts.values()):
                break  # first come first served
        self._line.extendleft(reversed(kept))
        for host in self.hosts.values():
            if host.channel is not None:
                host.channel.flush()
        self._give_back()

    def _host_for(self, it: Submission, used: int) -> FarHost | None:
        cpus = max(1, it.cpus)
        bounded = self._most is not None and self._most < sum(host.slots for host in self.hosts.values())
        if self._most is not None and (self._most <= 0 or (bounded and used and used + cpus > self._most)):
            return None
        mine = [host for host in self.hosts.values() if it.place in (None, host.name)]
        free = [host for host in mine if host.has_room(cpus, ahead=not bounded)]
        return min(free, key=lambda host: host.used / host.slots, default=None)

    def _give_back(self) -> None:
        """Tell of launches for which no host is in reach for long that they did not start."""
        late = time.monotonic() - PATIENCE
        if not self._line or self._line[0][1] >= late:
            return
        ready = {host.name for host in self.hosts.values() if host.ready}
        kept: deque[tuple[Submission, float]] = deque()
        for it, since in self._line:
            if since >= late or (it.place in ready if it.place is not None else ready):
                kept.append((it, since))
                continue
            mine = [host for host in self.hosts.values() if it.place in (None, host.name)]
            names = ", ".join(host.name for host in mine)
            words = "; ".join(filter(None, (host.failed for host in mine))) or f"{names}: no connection yet"
            record = run_folder.never_started("unreachable", words)
            self._notices.append(End(token=it.token, exit=record))
        self._line = kept

    # Staging: beside the loop, by an instance of its own.

    def stage_in(self, submission: Submission, progress: Progress) -> Submission:
        """Bring the inputs to the host that has some of them already, or is the least busy; it takes the launch."""
        if not submission.inputs:
            return submission
        if wrong := next(filter(None, (host.refusal(submission) for host in self.hosts.values())), None):
            raise StageFailed(wrong)
        host = self._stage_host(submission)
        acting = host.acting(submission)
        theirs = None if acting is None else acting.place(submission)
        desk = host.desk(_record(submission.token))
        place = FarPlace(desk, host.sftp)
        try:
            return replace(far_stage.bring(desk, place, submission, progress, theirs), place=host.name)
        finally:
            place.close()
            desk.close()  # the host allows for few channels

    def stage_out(self, handle: Handle, folder: Path, globs: Sequence[str], progress: Progress) -> Sequence[str]:
        """Bring home what a launch left on its host."""
        token = _token(handle)
        host = self._host_of(handle)
        if host is None:
            raise StageFailed("no host has its run folder any more")
        desk = host.desk(_record(token))
        place = FarPlace(desk, host.sftp)
        try:
            return far_stage.fetch(desk, place, token, folder, globs, progress)
        except SystemUnavailable:
            desk.close()  # it may be the host's last channel that others of us wait for
            raise
        finally:
            if place.busy:
                desk.close()  # for many small files alone it is kept: it is a process there
            place.close()

    def _stage_host(self, submission: Submission) -> FarHost:
        some = [host for host in self.hosts.values() if host.given_slots != 0] or list(self.hosts.values())
        hosts = [host for host in some if submission.place in (None, host.name)]
        record = _record(submission.token)
        asked = [(host.desk(record), {"token": submission.token}) for host in hosts]
        answers = list(zip(hosts, map(_load, hosts, ask_all(asked, "facts", deadline=LOGS)), strict=True))
        found = [(host, answer) for host, answer in answers if not isinstance(answer, SystemUnavailable)]
        if not found:
            raise SystemUnavailable("; ".join(str(answer) for _, answer in answers) or "there is no such host")
        chosen, _ = min(found, key=lambda it: (not it[1]["staged"], it[1]["load"] / it[1]["cores"], random.random()))
        for host in hosts:
            if host is not chosen:
                host.desk(record).close()
        return chosen

    # Looking: from any process.

    def status(self, handles: Sequence[Handle]) -> Mapping[Handle, Observation]:
        """Ask the hosts, all of them for what is not known to be on one."""
        looks = self._places.look(self._asked(handles), self._gone(handles))
        seen = {handle: observation(looks[_token(handle)]) for handle in handles if _token(handle) in looks}
        for handle in handles:
            state = seen[handle].state if handle in seen else NativeState.UNKNOWN
            if state in (NativeState.ABSENT, NativeState.UNKNOWN) and self._is_here(_token(handle)):
                reason = "waits for a host with room" if state is NativeState.ABSENT else "sent; no word of it yet"
                seen[handle] = Observation(state=NativeState.SUBMITTED, reason=reason)
        return seen

    def exit_info(self, handles: Sequence[Handle]) -> Mapping[Handle, ExitInfo]:
        """Return the records of what has ended; a launch that is sealed on one host may run on another."""
        asked = self._asked(handles)
        looks = self._places.look(asked, self._gone(handles))
        ended = {token: age for token, age in asked.items() if looks.get(token, {}).get("state") == "ended"}
        texts = self._places.exits(ended)
        found = {handle: texts.get(_token(handle)) for handle in handles}
        return {handle: ExitInfo.from_json(text) for handle, text in found.items() if text is not None}

    def settle(self, launches: Sequence[Launch]) -> Mapping[Token, Handle | Settled]:
        """Adopt what has started; take the markers on all hosts of what has not, so that it never starts."""
        handles = {it.token: it.handle or self.handle_for(it.token) for it in launches}
        named = list(handles.values())
        words = self._places.settle(self._asked(named), self._gone(named))
        return {
            token: handle if words.get(token) == "adopt" else Settled(words.get(token, "unknown"))
            for token, handle in handles.items()
        }

    def kill(self, handles: Sequence[Handle], *, force: bool) -> Mapping[Handle, bool]:
        """Signal every process of each launch, wherever it fled; what has not started is kept from starting."""
        self.withdraw([_token(handle) for handle in handles])
        proved = self._places.kill(self._asked(handles), self._gone(handles), force)
        return {handle: proved.get(_token(handle), False) for handle in handles}

    def logs(self, handle: Handle, stream: str, offset: int, limit: int = 1 << 20) -> bytes:
        """Return a part of a file in the run folder there, b"" when it is not there (yet)."""
        if "/" in stream or "\0" in stream or stream in ("", ".", ".."):
            raise ValueError(f"{stream!r} is not the name of a file in the run folder")
        token = _token(handle)
        host = self._host_of(handle)
        if host is None:
            return b""
        return host.desk(_record(token)).read(token, stream, offset, limit, deadline=LOGS)

    def check(self) -> Sequence[Check]:
        """Connect to every host and look at its Python, spool, disk and slots."""
        hosts = list(self.hosts.values())
        answers = map(_load, hosts, ask_all([(host.desk(""), {}) for host in hosts], "facts", deadline=LOGS))
        return [check for host, answer in zip(hosts, answers, strict=True) for check in check_host(host, answer)]

    def _host_of(self, handle: Handle) -> FarHost | None:
        """Return the host that has a launch, None: none has. Raises SystemUnavailable where one of them may have it."""
        token = _token(handle)
        looks = self._places.look(self._asked([handle]), self._gone([handle]), deadline=LOGS)
        host = self._places.of(token)
        if host is None and looks.get(token, {}).get("state") == "unknown":
            raise SystemUnavailable(str(looks[token].get("reason")))
        return host

    def _asked(self, handles: Sequence[Handle]) -> dict[Token, float]:
        """Return for each token for how many seconds its launch may have been under way."""
        asked = {}
        for handle in handles:
            since, token = handle.partition("/")[0].partition("@")[0], _token(handle)
            if since.isdecimal() and token.count(":") == 2:
                asked[token] = max(0.0, time.time() - int(since))
        return asked

    def _gone(self, handles: Sequence[Handle]) -> dict[Token, str]:
        """Return the launches that may be on a host which the configuration has no more, and what to do about it."""
        gone = {}
        for handle in handles:
            _, _, names = handle.partition("/")[0].partition("@")
            lacking = [name for name in names.split(",") if name and name not in self.hosts]
            if lacking:
                words = f"it may be on {', '.join(lacking)}, which {self.name} has no more in the configuration: "
                gone[_token(handle)] = words + "put it back (with slots: 0) until its jobs have ended"
        return gone


def _load(host: FarHost, answer: Any | SystemUnavailable) -> Any | SystemUnavailable:
    """Return how busy a host says that it is."""
    if isinstance(answer, SystemUnavailable):
        return answer
    try:
        return far_words.load(answer)
    except ValueError as error:
        return SystemUnavailable(f"{host.name}: its desk answers nonsense: {error}")


def _token(handle: Handle) -> Token:
    return handle.partition("/")[2]


def _record(token: Token) -> str:
    return launch_token.record_and_arrival(launch_token.life_of(token))[0]
