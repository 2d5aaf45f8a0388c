"""The `ec2` system: a fleet of instances, each of which is a host as the `ssh` system knows it.

Instances come and go by the fleet's thread; this side takes up those that are ready, and lets go of those that are
gone. Which launch was on an instance that is gone is noted when it is sent, so that its end has a reason.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import select
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from jobmill.errors import ConfigError, StageFailed, StageStopped, SystemUnavailable
from jobmill.systems import launch_token, run_folder, ssh_config
from jobmill.systems.ec2_check import check_fleet
from jobmill.systems.ec2_fleet import Fleet
from jobmill.systems.ec2_handle import Origin, token_of
from jobmill.systems.ec2_home import Home
from jobmill.systems.ec2_host_key import HostKeys
from jobmill.systems.ec2_options import Ec2Options
from jobmill.systems.ec2_placed import Placed
from jobmill.systems.ec2_plan import Want
from jobmill.systems.ec2_spend import SHOWN
from jobmill.systems.ec2_visit import Visits
from jobmill.systems.ec2_way import Way
from jobmill.systems.far_host import FarHost
from jobmill.systems.place import Here
from jobmill.systems.ssh import PATIENCE, SshSystem
from jobmill.systems.staging import walk
from jobmill.systems.system import (
    Check,
    End,
    ExitInfo,
    ExitStatus,
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
)

logger = logging.getLogger("jobmill")

_leading: dict[Path, Fleet] = {}  # of this process, by folder: who stages inputs asks it for an instance
FIND = 15.0  # seconds
HURRY = 2.0  # seconds between two looks at EC2 for an instance that somebody else sees
FATES = {"preempted": "EC2 took its spot instance back", "node_fail": "its instance is gone"}


class Ec2System(SshSystem):
    """Instances of EC2, started when jobs wait."""

    kind: ClassVar[str] = "ec2"
    runs_as_users: ClassVar[bool] = False  # an instance has no accounts of its users

    def __init__(
        self, *, name: str, options: Ec2Options, spool: Path, paths: Mapping[str, str], keep: float | None = None
    ) -> None:
        """Asks nobody; the fleet begins with `lead`, or with the first question."""
        super().__init__(name=name, hosts=(), spool=spool, paths=paths, keep=keep)
        self.options = options
        self._spool = spool
        self._folder = spool / "ec2" / name
        self._origin = Origin(since=self._since, region=options.region or "", leader=secrets.token_hex(4))
        self._placed = Placed(self._folder / "placed")
        self._way = Way(name, options.host, self._folder, spool)
        self._keys: HostKeys | None = None
        self._fleet: Fleet | None = None
        self._visits: Visits | None = None
        self._news = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._news, select.EPOLLIN)

    @classmethod
    def build(cls, name: str, options: Mapping[str, Any], spool: Path) -> Ec2System:
        """Make the system from its mapping; raise ConfigError for an unknown option or a value that cannot be."""
        found = Ec2Options.of(name, options)
        hosts = {"host": "localhost", **found.host}
        _, paths, keep = ssh_config.hosts_of(name, hosts, Path(spool))  # checks what holds for each instance
        return cls(name=name, options=found, spool=Path(spool), paths=paths, keep=keep)

    @classmethod
    def limits(cls, slots: int | None, limit: int | None, options: Mapping[str, Any]) -> Mapping[str, int | None]:
        """In line there or running; ``slots`` is of one instance, and how many there are is the fleet's business."""
        return {"queue": limit}

    # Launching: for the one process that leads the lane.

    def lead(self) -> bool:
        """Try to lead; whoever does has the fleet launch and end instances from then on."""
        if not super().lead():
            return False
        try:
            fleet = self._begun()
        except SystemUnavailable:  # `submit` says why
            return True
        if not fleet.leads:
            with contextlib.suppress(OSError):
                self._placed.led(f"{self._origin}")
            fleet.leads = True
            _leading[self._folder] = fleet
            with contextlib.suppress(OSError):  # a cache: without it the first job tells
                self._serve((self._folder / "record").read_text().strip())
        return True

    def handle_for(self, token: Token) -> Handle:
        """Return the handle, which names no instance: they come and go."""
        return f"{self._origin}/{token}"

    def submit(self, submissions: Sequence[Submission]) -> Sequence[Handle | SubmitError]:
        """Put launches in line for an instance; never blocks, asks nobody."""
        answers: dict[int, Handle | SubmitError] = {}
        fit: list[Submission] = []
        for i, it in enumerate(submissions):
            if words := self._too_large(it):
                answers[i] = SubmitError(failure=SubmitFailure.PERMANENT, message=words)
            else:
                fit.append(it)
        if fit:
            self._serve(_record(fit[0].token), keep=True)
            self._follow()  # a carrier may know an instance before we do
        others = iter(super().submit(fit))
        return [answers[i] if i in answers else next(others) for i in range(len(submissions))]

    def ends(self) -> Sequence[Start | End | Unwatched]:
        """Return starts and ends since the last call; takes up instances that are ready by now."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._news)
        with contextlib.suppress(SystemUnavailable):  # without the key there are no instances, and `submit` says why
            self._follow()
        return super().ends()

    def withdraw(self, tokens: Sequence[Token]) -> None:
        """As any host's; what is out of line wants no instance any more."""
        super().withdraw(tokens)
        self._say()

    def close(self) -> None:
        """Leave. The instances go on; whoever leads next, or their leases, end them."""
        if self._fleet is not None:
            if _leading.get(self._folder) is self._fleet:
                del _leading[self._folder]
            self._fleet.close()
        if self._visits is not None:
            self._visits.close()
        super().close()
        if self._news >= 0:
            os.close(self._news)
            self._news = -1

    def _begin(self, submissions: Sequence[Submission]) -> None:
        """Nothing: instances are begun when they are ready."""

    def _send(self) -> None:
        # first who has a slot kept: others must not wait in front of it for that very slot
        self._line = deque(sorted(self._line, key=lambda entry: entry[0].place is None))
        super()._send()
        self._say()

    def _say(self) -> None:
        """Tell the fleet who waits, and where our launches are."""
        if self._fleet is not None:
            self._fleet.report({host.name: host.used for host in self.hosts.values()})
            self._fleet.renew(it.token for it, _ in self._line if it.place is not None)
            self._fleet.want([_want(it) for it, _ in self._line if it.place is None])

    def _host_for(self, it: Submission, used: int) -> FarHost | None:
        """Return the fullest instance with room, so that others fall idle; nothing is sent ahead of a free slot."""
        cpus = max(1, it.cpus)
        mine = [host for host in self.hosts.values() if it.place in (None, host.name)]
        for host in sorted(mine, key=lambda host: -host.used):
            if host.has_room(cpus, ahead=False) and self._begun().place(host.name, cpus, it.token):
                try:
                    self._placed.note([(it.token, host.name)], durable=True)
                except OSError as error:  # not noted, it could be taken for one that never started
                    logger.warning("%s: %s waits, it cannot be noted where: %s", self.name, it.token, error)
                    return None
                return host
        return None

    def _give_back(self) -> None:
        """Give back what waits while EC2, or the budget, gives no instance; a boot is waited for."""
        lost = [it.token for it, _ in self._line if it.place is not None and it.place not in self.hosts]
        for token in lost:  # its inputs went with the instance: they are staged anew
            record = run_folder.never_started("unreachable", "the instance that had its inputs is gone")
            self._notices.append(End(token=token, exit=record))
        self._line = deque(entry for entry in self._line if entry[0].token not in lost)
        if any(host.ready for host in self.hosts.values()):
            return
        held = self._begun().held
        late = time.monotonic() - (PATIENCE if held else self.options.boot + PATIENCE)
        record = run_folder.never_started("unreachable", held or "no instance came up")
        while self._line and self._line[0][1] < late:
            self._notices.append(End(token=self._line.popleft()[0].token, exit=record))

    def _follow(self) -> None:
        """Take up the instances that are ready, let go of those that are gone."""
        there = {host.name: host for host in self._begun().hosts()}
        for id_ in [id_ for id_ in self.hosts if id_ not in there]:
            host = self.hosts.pop(id_)
            self._notices += host.receive()
            self._notices += [Unwatched(token=token) for token in host.taken]  # polls tell what came of them
            if host.channel is not None:
                with contextlib.suppress(OSError, ValueError):
                    self._epoll.unregister(host.channel.fileno())
            host.close()
        for id_, one in there.items():
            if id_ not in self.hosts:
                try:
                    host = ssh_config.host(self.name, id_, self._way.options(one), f"systems.{self.name}", self._spool)
                except (OSError, ConfigError) as error:  # again at the next look
                    logger.warning("%s: cannot take up %s: %s", self.name, id_, error)
                    continue
                self.hosts[id_] = host
        if self._begun().leads:  # also those that were taken up before it led
            for host in self.hosts.values():
                if host.channel is None:
                    self._epoll.register(host.begin(self._begun().record).fileno(), select.EPOLLIN)

    # Staging: beside the loop, by an instance of its own.

    def stage_in(self, submission: Submission, progress: Progress) -> Submission:
        """Wait for a slot of an instance, which is kept for this launch, and bring the inputs there.

        In the process that leads. Raises SystemUnavailable with EC2's own words when there is none.
        """
        fleet = _leading.get(self._folder)
        if not submission.inputs or fleet is None:
            return super().stage_in(submission, progress)
        if words := self._too_large(submission):
            raise StageFailed(words)
        walk(Here(), submission.inputs, progress)  # what is missing here is told before an instance costs anything
        want = _want(submission)
        self._serve(_record(submission.token), keep=True)
        fleet.serve(_record(submission.token))
        fleet.start()

        def told(words: str) -> None:
            fleet.renew([submission.token])
            progress(words)

        try:
            place = self._berth(fleet, submission.token, want, told)
            return super().stage_in(replace(submission, place=place), told)
        except StageStopped:
            raise  # perhaps another carrier goes on, at the same instance; else the claim runs out
        except BaseException:
            fleet.release(submission.token)
            raise

    def _berth(self, fleet: Fleet, token: Token, want: Want, told: Progress) -> str:
        """Wait for a slot of an instance which this one sees, too; return the instance, or raise SystemUnavailable."""
        began = hurried = time.monotonic()
        while (place := fleet.claim(token, want)) is None or place not in self.hosts:
            waited, held = time.monotonic() - began, "" if place else fleet.held
            if waited > (PATIENCE if held else self.options.boot + (2 if place else 1) * PATIENCE):
                raise SystemUnavailable(held or (f"{place} does not answer" if place else "no instance came up"))
            told("waits for its instance" if place else "waits for an instance")
            time.sleep(0.2)
            if place:
                if time.monotonic() - hurried > HURRY:
                    self._begun().hurry()
                    hurried = time.monotonic()
                self._follow()
        return place

    def stage_out(self, handle: Handle, folder: Path, globs: Sequence[str], progress: Progress) -> Sequence[str]:
        """As any host's; that no instance has it is told only when all have been asked.

        What has come home is noted here before the instance is told that nobody needs it there: so whoever dies
        meanwhile, the launch neither keeps its instance for long, nor is its end missed with it.
        """
        token = token_of(handle)
        if (home := Home.read(folder, token, globs)) is not None:
            with contextlib.suppress(SystemUnavailable):
                self._let_go(handle)
            return [glob for glob in globs if glob in home.unmatched]
        if elsewhere := self._gone([handle]):
            raise SystemUnavailable(elsewhere[token])
        if not self._found(handle):
            raise SystemUnavailable(f"{self.name}: not every instance has answered yet")
        id_ = self._placed.of(token)
        if id_ is not None and (fate := self._begun().fate(id_)):
            raise StageFailed(f"{FATES[fate]} ({id_}), and its files with it")
        unmatched = super().stage_out(handle, folder, globs, progress)
        Home(token=token, globs=tuple(globs), unmatched=tuple(unmatched)).write(folder)
        self._let_go(handle)
        return unmatched

    def _let_go(self, handle: Handle) -> None:
        """Mark a launch at its instance as fetched; raise SystemUnavailable where that is not certain."""
        token = token_of(handle)
        if self._places.of(token) is None:
            self._found(handle)
            self._places.look(self._asked([handle]), self._gone([handle]))
        if (host := self._places.of(token)) is not None:
            host.desk(_record(token)).ask("tidy", launches=[(token, 0.0)])

    def logs(self, handle: Handle, stream: str, offset: int, limit: int = 1 << 20) -> bytes:
        """As any host's; waits a little for the instances to be found."""
        self._found(handle)
        return super().logs(handle, stream, offset, limit)

    def _found(self, handle: Handle) -> bool:
        """Wait, for a bounded time, until its instance is known here, or all of them have answered."""
        until = time.monotonic() + FIND
        while True:
            self._asked_for([handle])
            if self._placed.of(token_of(handle)) in self.hosts or self._begun().whole:
                return True
            if time.monotonic() > until:
                return False
            time.sleep(0.2)

    # Looking: from any process.

    def status(self, handles: Sequence[Handle]) -> Mapping[Handle, Observation]:
        """Ask the instances; what is on none of them is absent only when EC2, too, knows of no other."""
        self._asked_for(handles)
        seen: dict[Handle, Observation] = {}
        words = "not every instance has answered yet"
        try:
            seen.update(super().status(handles))
        except SystemUnavailable as error:  # perhaps they are gone, which is EC2's to say
            words = str(error)
            self._begun().hurry()
        with contextlib.suppress(OSError):
            known = {token_of(h): self._places.name(token_of(h)) for h, it in seen.items() if it.alive}
            self._placed.note([(token, id_) for token, id_ in known.items() if id_])
        fleet, elsewhere = self._begun(), self._gone(handles)
        whole, held = fleet.whole, fleet.held
        for handle in handles:
            look = seen.get(handle)
            if look is not None and look.state is NativeState.SUBMITTED and held and look.host is None:
                seen[handle] = Observation(state=look.state, reason=held)
            if look is not None and look.state not in (NativeState.ABSENT, NativeState.UNKNOWN):
                continue
            id_ = self._placed.of(token_of(handle))
            if token_of(handle) in elsewhere:
                continue
            if id_ is not None and (fate := fleet.fate(id_)):
                seen[handle] = Observation(state=NativeState.ABSENT, reason=FATES[fate], host=id_)
            elif id_ is not None and id_ not in self.hosts:  # the others know nothing of it, which proves nothing
                seen[handle] = Observation(state=NativeState.UNKNOWN, reason=f"{id_}: {fleet.words(id_) or words}")
            elif look is None and not self.hosts and whole:
                seen[handle] = Observation(state=NativeState.ABSENT, reason="there is no instance")
            elif look is None or look.state is NativeState.UNKNOWN or not whole:
                reason = (look.reason if look is not None else None) or words
                seen[handle] = Observation(state=NativeState.UNKNOWN, reason=reason)
        return seen

    def exit_info(self, handles: Sequence[Handle]) -> Mapping[Handle, ExitInfo]:
        """Return the records of what has ended; what ran on an instance that is gone ended with it."""
        self._asked_for(handles)
        found: dict[Handle, ExitInfo] = {}
        if self.hosts:
            with contextlib.suppress(SystemUnavailable):  # those that are gone have an answer all the same
                found.update(super().exit_info(handles))
        fleet, elsewhere = self._begun(), self._gone(handles)
        for handle in handles:
            id_ = self._placed.of(token_of(handle))
            if (
                token_of(handle) not in elsewhere
                and handle not in found
                and id_ is not None
                and (fate := fleet.fate(id_))
            ):
                found[handle] = ExitInfo(
                    exit_status=ExitStatus.ABORTED,
                    reason=fate,
                    host=id_,
                    native_id=id_,
                    evidence=f"EC2: {fleet.words(id_)}",
                    message=f"{FATES[fate]} ({id_})",
                )
        return found

    def settle(self, launches: Sequence[Launch]) -> Mapping[Token, Handle | Settled]:
        """Adopt what has started; say that one never starts only when no instance can have it, and none had it."""
        handles = {it.token: it.handle or self.handle_for(it.token) for it in launches}
        self._asked_for(list(handles.values()))
        answers: dict[Token, Handle | Settled] = dict.fromkeys(handles, Settled.NOT_STARTED)
        if self.hosts:
            answers.update(super().settle(launches))
        fleet, elsewhere = self._begun(), self._gone(list(handles.values()))
        whole = fleet.whole
        for token, handle in handles.items():
            id_ = self._placed.of(token)
            if answers[token] == handle:
                continue
            if token in elsewhere:
                answers[token] = Settled.UNKNOWN
                continue
            if id_ is not None and id_ not in self.hosts:
                answers[token] = handle if fleet.fate(id_) else Settled.UNKNOWN  # the next poll tells its end
            elif not whole:
                answers[token] = Settled.UNKNOWN
            elif answers[token] is Settled.NOT_STARTED and id_ is None and self._may_be_gone(handle):
                answers[token] = Settled.LOST
        return answers

    def kill(self, handles: Sequence[Handle], *, force: bool) -> Mapping[Handle, bool]:
        """Signal every process of each launch; one whose instance is gone is gone."""
        self._asked_for(handles)
        gone = dict(super().kill(handles, force=force))
        fleet, elsewhere = self._begun(), self._gone(handles)
        whole = fleet.whole
        for handle in handles:
            id_ = self._placed.of(token_of(handle))
            if token_of(handle) in elsewhere:
                gone[handle] = gone[handle] and self._places.of(token_of(handle)) is not None
            elif id_ is not None and id_ not in self.hosts:  # the others know nothing of it, which proves nothing
                gone[handle] = fleet.fate(id_) is not None
            elif not self.hosts:
                gone[handle] = whole
            elif id_ is None:
                gone[handle] = gone[handle] and whole
        return gone

    def check(self) -> Sequence[Check]:
        """Ask EC2 whether it knows us, would launch, and what is there; looks at no instance."""
        return check_fleet(self.name, self.options, self._folder, self._fleet.record if self._fleet else "")

    def _too_large(self, it: Submission) -> str:
        """Return why no instance can ever run it, or nothing."""
        if it.cpus <= self.options.slots:
            return ""
        return f"it takes {it.cpus} slots, an instance of {self.name} has {self.options.slots}"

    def _may_be_gone(self, handle: Handle) -> bool:
        """Tell whether a launch that nobody noted may have been on an instance that ended since."""
        origin = Origin.of(handle)
        if self._placed.complete(f"{origin}"):
            return False
        if time.time() - origin.since > SHOWN / 2:  # EC2 may have forgotten it
            return True
        return any(not it.live and (it.ended or time.time()) >= origin.since for it in self._begun().instances)

    def _gone(self, handles: Sequence[Handle]) -> dict[Token, str]:
        """Return the launches that are in a region where we do not look, and what to do about it."""
        gone = {}
        for handle in handles:
            there, here = Origin.of(handle).region, self.options.region
            if there and here and there != here:
                words = f"it is in {there}, and {self.name} is in {here} by now: set region: {there} until its jobs "
                gone[token_of(handle)] = words + "have ended"
        return gone

    def _asked(self, handles: Sequence[Handle]) -> dict[Token, float]:
        """As any host's, but none is taken for rebooted: a young instance is young, and a rebooted one is let go."""
        return dict.fromkeys(super()._asked(handles), -3600.0)

    def _asked_for(self, handles: Sequence[Handle]) -> None:
        """Begin to look at the instances of the record to which these launches belong."""
        for handle in handles[:1]:
            with contextlib.suppress(ValueError):
                self._serve(_record(token_of(handle)))
        self._follow()

    def _serve(self, record: str, *, keep: bool = False) -> None:
        """Have the fleet look at the instances of this record; ``keep``: for the next start, too."""
        if not record:
            return
        fleet = self._begun()
        if keep and record != fleet.record:
            with contextlib.suppress(OSError):
                self._folder.mkdir(parents=True, exist_ok=True)
                (self._folder / "record").write_text(record)
        fleet.serve(record)
        fleet.start()

    def _begun(self) -> Fleet:
        """Return the fleet; raises SystemUnavailable where the key file cannot be read."""
        if self._fleet is None:
            try:
                self._keys = HostKeys(self.options.key)
            except ConfigError as error:
                raise SystemUnavailable(f"{self.name}: {error}") from error
            self._visits = Visits(self._way.link, self._jobs)
            self._fleet = Fleet(
                name=self.name,
                options=self.options,
                keys=self._keys,
                folder=self._folder,
                visit=self._visits,
                changed=self._wake,
            )
        return self._fleet

    def _wake(self) -> None:
        with contextlib.suppress(OSError):
            os.eventfd_write(self._news, 1)

    def _jobs(self) -> str:
        return f"{self.options.host.get('folder') or '.jobmill'}/spool/{self._begun().record}/jobs"


def _want(it: Submission) -> Want:
    return Want(intent=it.token.rpartition(":")[0], slots=max(1, it.cpus))


def _record(token: Token) -> str:
    return launch_token.record_and_arrival(launch_token.life_of(token))[0]
