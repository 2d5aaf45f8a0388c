"""The fetcher's work: finish what is pushed, poll what is due, kill what users wish away."""

from __future__ import annotations

import contextlib
import json
import logging
import random
import re
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jobmill.config import Config
from jobmill.errors import SystemUnavailable
from jobmill.fetcher.ends import Ends
from jobmill.fetcher.homecoming import Homecoming
from jobmill.fetcher.janitor import SEALS, Janitor
from jobmill.fetcher.judge import judge
from jobmill.fetcher.output_look import Launch, Look
from jobmill.fetcher.poller import Poller
from jobmill.jobs.identifier import ID_PATTERN
from jobmill.jobs.states import LAUNCHED
from jobmill.ledger import admission, ending, launch, poll
from jobmill.ledger.ending import RunEnd
from jobmill.ledger.exchange import Call
from jobmill.ledger.keys import lane_suffix, launch_name
from jobmill.ledger.membership import Membership
from jobmill.ledger.poll import Due, Seen
from jobmill.ledger.record import BATCH, Record
from jobmill.systems import registry
from jobmill.systems.system import ExecutionSystem, ExitInfo, ExitStatus, Handle, NativeState, Observation
from jobmill.worker.endpoints import Endpoints
from jobmill.worker.work import Work

logger = logging.getLogger("jobmill")

KILL_GRACE = 5.0  # seconds between TERM and KILL
AGAIN, GUEST_AGAIN = 0.25, 2.0  # seconds between two looks at what is being killed; where queries are counted
ABSENT = 2.0  # seconds between two looks at what is absent, at least
ORPHAN = 1.0  # seconds between polls of a job that has steps to tell, or whose end nobody will push
OUTAGE = 5.0  # seconds between polls of a system that did not answer and has not been given up
CLAIM = 0.5  # seconds between two looks for what is due
QUIET_CLAIM = 2.0  # seconds, where for long nothing was due: who makes something due rings
MOST_LEFT = 10_000  # launches that a system out of reach is to forget, once it is back
FORGETS = 1.0  # seconds of a tick for that: a host that does not answer takes its time at each of many calls
QUIET = 6  # looks that found nothing
_ID = re.compile(ID_PATTERN)


class Fetcher(Work):
    """Takes from the Exit_Queue of its lane, polls the lane's Running_Queue, and its endpoints."""

    role = "fetcher"

    def __init__(self, record: Record, config: Config, *, lane: str = "") -> None:
        self._record = record
        self.lane = lane
        self.digest = config.digest
        self._queue = "Exit_Queue" + lane_suffix(lane)
        self._suffix = lane_suffix(lane)

        def build(name: str) -> ExecutionSystem:
            system = config.systems[name]
            return registry.system_class(system.kind).build(name, system.all_options, config.spool)

        self._systems = {name: build(name) for name, s in config.systems.items() if s.lane == lane}
        self._home = Homecoming(record, Path(config.spool), self._systems, build, lease=config.limits.lease)
        self._ends = Ends(record, Path(config.spool), self._home)
        self._endpoints = Endpoints(record, systems=self._systems)
        self._janitor = Janitor(record, config, lane, self._systems, self._endpoints)
        self._member: Membership | None = None
        self.lease = config.limits.lease  # also of a claimed poll: then another fetcher makes it
        self._pollers = [
            Poller(
                record,
                self._suffix,
                system,
                self._endpoints,
                self._ends,
                lease=self.lease,
                strange=self._janitor.suspect,
            )
            for system in self._systems.values()
            if system.surveys
        ]
        self._claim_at = 0.0
        self._quiet = 0  # looks in a row that found nothing due

    def queues(self) -> Sequence[str]:
        """Return the one list that it takes from."""
        return (self._queue,)

    def enter(self, member: Membership) -> None:
        """Act under this name from now on."""
        self._member = member

    def taking(self, queue: str) -> Call[admission.Batch]:
        """Take up to one batch."""
        assert self._member is not None
        return admission.taking(self._member, self._queue, BATCH)

    def ring(self, queue: str, batch: admission.Batch | None = None) -> int:
        """Finish one batch of pushed ends."""
        assert self._member is not None
        batch = batch or self._record.do(self.taking(queue))
        if not batch.entries:
            return 0
        self._quiet = 0
        if b"" in batch.entries:  # something is due
            self._claim_at = 0.0
        ends: dict[tuple[str, int], RunEnd] = {}
        sealed: list[tuple[str, int, int | None]] = []
        pushed = self._sent_home([row for entry in batch.entries if (row := _pushed(entry))])
        known = self._known(pushed)
        missing = self._missing(pushed, known)
        again: list[str] = []
        for row in pushed:
            job_id, run, arrival = str(row["id"]), int(row["run"]), int(row.get("arrival", 0))
            name = launch_name(job_id, arrival)
            job = known.get(job_id)
            if job is not None and arrival not in (0, job.arrival):
                continue  # the end of another life is void: what is known of this one does not judge it
            if row["exit"].get("reason") == "not_started" and job is not None and job.seals < SEALS:
                sealed.append((name, run, None))
                continue
            lacks = missing.get((job_id, run, job.arrival), "") if job is not None else ""
            if lacks is None:
                if job is not None and not job.handle:  # it cannot be polled before its commit
                    again.append(json.dumps(row))
                continue
            try:
                ends[name, run] = judge(
                    job_id,
                    run,
                    row["exit"],
                    terms=row.get("judge") or {},
                    missing=lacks,
                    retries=job.retries if job is not None else 0,
                    arrival=arrival,
                )
            except (ValueError, TypeError, AttributeError, OverflowError) as error:  # no starter wrote this
                logger.error("an entry of Exit_Queue cannot be judged: %s", error, extra={"id": job_id, "run": run})
        if again:
            ending.push(self._record, self.lane, again)
        launch.seal(self._record, sealed, "the marker was taken and the guard knows that nothing was started")
        words = ending.finish(self._record, list(ends.values()), taken=(self._member, batch))
        self._ends.tell(list(ends.values()), words)
        if "wished" in words:  # to be killed, now
            self._claim_at = 0.0
        return len(batch.entries)

    def _sent_home(self, pushed: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Keep the exit records of launches whose files are elsewhere: they are polled now. Return the other ends."""
        if not self._home.any:
            return pushed
        rest: list[dict[str, Any]] = []
        seen: list[Seen] = []
        for row in pushed:
            never = row["exit"].get("reason") == "not_started"  # it is sealed
            if self._home.serves(str(row.get("system"))) and not never and _whole(row["exit"]):
                exit_text, arrival = json.dumps(row["exit"]), int(row.get("arrival", 0))
                seen.append(self._home.collecting(row["id"], row["run"], arrival, exit_text, 0.0))
            else:
                rest.append(row)
        if seen:
            poll.touch(self._record, seen)
            self._claim_at = 0.0
        return rest

    def _known(self, pushed: Sequence[dict[str, Any]]) -> dict[str, Due]:
        """Ask for what the record has of those jobs whose end cannot be judged without: most can."""
        ids = [str(row["id"]) for row in pushed if row.get("judge") or row["exit"].get("reason") == "not_started"]
        return {job.job_id: job for job in poll.facts(self._record, ids) if job is not None}

    def _missing(self, pushed: Sequence[dict[str, Any]], known: Mapping[str, Due]) -> dict[Launch, str | None]:
        """Look for the outputs of runs that are still to be ended."""
        looks: list[tuple[Due, Look | None]] = []
        for row in pushed:
            job = known.get(row["id"])
            if job is not None and job.state in LAUNCHED and job.run == row["run"]:
                with contextlib.suppress(ValueError, TypeError, AttributeError):  # no starter wrote this
                    looks.append((job, self._ends.look(job, row["exit"], row.get("judge") or {})))
        return self._ends.missing(looks)

    def flush(self, now: float) -> float | None:
        """Poll what is due: single jobs, then endpoints."""
        if now == float("inf"):
            return None
        self._ends.come_home()
        if now >= self._claim_at:
            due = poll.claim(self._record, self._suffix, BATCH, self.lease)
            self._poll(due)
            self._quiet = 0 if due else self._quiet + 1
            wait = CLAIM if self._quiet < QUIET else QUIET_CLAIM
            self._claim_at = now if len(due) >= BATCH else now + wait * random.uniform(0.8, 1.2)
        return max(0.0, min([self._claim_at - now, *[poller.turn(now) for poller in self._pollers]]))

    def tick(self, now: float) -> None:
        """Let the janitor do its rounds."""
        assert self._member is not None
        self._janitor.tick(now)
        self._home.tick(now)
        self._forget()
        self._endpoints.tick()

    def filenos(self) -> Sequence[int]:
        """Return the descriptors that tell of files that came home."""
        return self._home.filenos()

    def readable(self) -> None:
        """Leave it to `flush`, which speaks to the record."""
        self._home.woken()

    def _forget(self) -> None:
        """Let systems drop what they keep of ended launches; that it is lost with this process is no harm."""
        for name, handles in list(self._ends.leavings.items()):
            system = self._systems.get(name)
            if system is None or type(system).forget is ExecutionSystem.forget:
                del self._ends.leavings[name]
                continue
            with contextlib.suppress(SystemUnavailable):
                until = time.monotonic() + FORGETS
                while handles and not self._endpoints.pause(name) and time.monotonic() < until:
                    try:  # it is no proof that a system answers: some keep their troubles with it to themselves
                        system.forget(handles[:BATCH])
                    except SystemUnavailable as error:
                        with self._endpoints.asked(name):
                            raise error
                    del handles[:BATCH]
            del handles[:-MOST_LEFT]

    def _poll(self, due: Sequence[Due]) -> None:
        by_system: dict[str, list[Due]] = defaultdict(list)
        for job in due:
            by_system[job.system].append(job)
        for name, jobs in by_system.items():
            system = self._systems.get(name)
            if system is None:
                continue  # a system of another configuration: its own fetchers poll it
            if system.surveys:
                jobs = self._left_to_the_endpoint(jobs)
            if self._home.serves(name):  # what has ended needs no look at the system: only its files
                known = [(j, ExitInfo.from_json(j.exited)) for j in jobs if j.exited and not j.wish]
                self._ends.finish(known)
                jobs = [j for j in jobs if not j.exited or j.wish]
            if rest := self._endpoints.rest(name):  # who is to be killed does not wait for a budget
                later = [_seen(j, j.state, rest, {}) for j in jobs if not j.wish]
                poll.touch(self._record, later)
                jobs = [j for j in jobs if j.wish]
            if not jobs:
                continue
            try:
                observed = self._observe(system, [j.handle for j in jobs])
                ended = [h for h, look in observed.items() if look.state in (NativeState.ENDED, NativeState.ABSENT)]
                exits = {**_exited(jobs), **self._exits(system, ended)}
            except SystemUnavailable:
                self._freeze(system, [j for j in jobs if not j.exited])
                self._ends.finish([(j, ExitInfo.from_json(j.exited)) for j in jobs if j.exited])
            else:
                self._judge_all(system, jobs, observed, exits)

    def _left_to_the_endpoint(self, jobs: Sequence[Due]) -> list[Due]:
        """Leave jobs with which nothing is wrong to the poll of their endpoint; return the others."""
        calm = [j for j in jobs if not j.disturbed]
        seen = [Seen(job_id=j.job_id, run=j.run, arrival=j.arrival, state="", poll_in=poll.FAR) for j in calm]
        poll.touch(self._record, seen)
        return [j for j in jobs if j.disturbed]

    def _observe(self, system: ExecutionSystem, handles: Sequence[Handle]) -> dict[Handle, Observation]:
        with self._endpoints.asked(system.name):
            answers = system.status(handles)
        unknown = Observation(state=NativeState.UNKNOWN)
        return {h: answers.get(h, unknown) for h in handles}

    def _exits(self, system: ExecutionSystem, handles: Sequence[Handle]) -> Mapping[Handle, ExitInfo]:
        if not handles:
            return {}
        with self._endpoints.asked(system.name):
            return system.exit_info(handles)

    def _freeze(self, system: ExecutionSystem, jobs: Sequence[Due]) -> None:
        """Leave the states of an outage as they are, until its breaker lets somebody ask again (law 5).

        An absence is counted anew after it: what answered just before it broke down may have known nothing any more.
        """
        pause = self._endpoints.pause(system.name)
        wait = 1.2 * max(pause, min(system.poll_interval, OUTAGE))
        # a touch leaves those with a wish due: in a pause they would come back at once, so their claim runs out
        poll.touch(self._record, [_seen(j, j.state, wait, {"absent": ""}) for j in jobs if not (j.wish and pause)])

    def _judge_all(
        self,
        system: ExecutionSystem,
        jobs: Sequence[Due],
        observed: Mapping[Handle, Observation],
        exits: Mapping[Handle, ExitInfo],
    ) -> None:
        seen: list[Seen] = []
        held: list[Handle] = []  # committed, and nobody let it start
        over: list[tuple[Due, ExitInfo]] = []
        doomed: list[tuple[Due, Observation]] = []
        for job in jobs:
            look, info = observed[job.handle], exits.get(job.handle)
            if job.wish and (info is None or look.alive):
                doomed.append((job, look))
            elif info is not None and info.reason == "not_started":
                launch.seal(self._record, [(_name(job), job.run, job.fence)], info.message or "it never started")
            elif info is not None:
                over.append((job, info))
            elif look.overdue or (job.killed and not job.wish):  # nobody there holds it to its walltime
                doomed.append((job, look))
            elif look.state in (NativeState.ABSENT, NativeState.ENDED):
                if job.absent and job.now - job.absent > system.absence_grace:
                    over.append((job, _lost(look, system.absence_grace)))
                else:
                    seen.append(_seen(job, job.state, _again(system, ABSENT, system.poll_interval), {"absent": "now"}))
            else:
                state = "unknown" if look.state is NativeState.UNKNOWN else look.state.value
                if look.state is NativeState.SUBMITTED and job.state in ("running", "collecting"):
                    state = job.state  # what has started is not in line again: an answer that came late, or wrong
                if look.held:
                    held.append(job.handle)
                fields = {"progress": look.progress or "", "native_state": look.native_state or "", "absent": ""}
                if system.surveys:  # nothing is wrong with it any more
                    seen.append(_seen_at(job, state, poll.FAR, fields))
                    continue
                often = look.progress or look.orphan or job.owner in self._janitor.dead
                seen.append(_seen(job, state, ORPHAN if often else system.poll_interval, fields))
        if doomed:
            self._kill(system, doomed, seen, over)
        if held:
            with contextlib.suppress(SystemUnavailable), self._endpoints.asked(system.name):
                system.release(held)
        poll.touch(self._record, seen)
        self._ends.finish(over)

    def _kill(
        self,
        system: ExecutionSystem,
        doomed: Sequence[tuple[Due, Observation]],
        seen: list[Seen],
        over: list[tuple[Due, ExitInfo]],
    ) -> None:
        """Kill many at once: what resists must not keep this loop from its heartbeat."""
        gone: dict[Handle, bool] = {}
        exits: Mapping[Handle, ExitInfo] = {}
        try:
            for force in (False, True):
                some = [j.handle for j, _ in doomed if (j.killed > 0 and j.now - j.killed > KILL_GRACE) is force]
                if some:
                    with self._endpoints.asked(system.name):
                        gone.update(system.kill(some, force=force))
            exits = self._exits(system, [handle for handle, absent in gone.items() if absent])
        except SystemUnavailable:
            gone = {}  # nothing is proved, and it is killed again
        for job, look in doomed:
            info = exits.get(job.handle)
            late = job.killed > 0 and job.now - job.killed > 1.0
            if info is None and gone.get(job.handle) and look.state is not NativeState.UNKNOWN and late:
                status = ExitStatus.KILLED_BY_USER if job.wish else ExitStatus.UNDETERMINED
                if not job.handle:  # it was never committed, so it has never started
                    status = ExitStatus.ABORTED_BEFORE_RUNNING
                reason = "cancelled" if job.wish else "timeout"
                info = ExitInfo(exit_status=status, reason=reason, evidence="no process of it is left")
            if info is None:
                told = job.handle in gone or not gone  # some systems kill so many at once that not each has its turn
                words = {"killed": "now"} if told else {}
                seen.append(_seen(job, job.state, _again(system, AGAIN, GUEST_AGAIN), words))
            else:
                over.append((job, info))


def _again(system: ExecutionSystem, soon: float, guest: float) -> float:
    """Return after how many seconds a launch is looked at again: later where queries are counted."""
    return soon if system.queries_per_minute is None else max(soon, guest)


def _seen(job: Due, state: str, poll_in: float, fields: Mapping[str, str]) -> Seen:
    return _seen_at(job, state, poll_in * random.uniform(0.9, 1.1), fields)


def _seen_at(job: Due, state: str, poll_in: float, fields: Mapping[str, str]) -> Seen:
    return Seen(job_id=job.job_id, run=job.run, arrival=job.arrival, state=state, poll_in=poll_in, fields=fields)


def _exited(jobs: Sequence[Due]) -> dict[Handle, ExitInfo]:
    return {job.handle: ExitInfo.from_json(job.exited) for job in jobs if job.exited}


def _name(job: Due) -> str:
    return launch_name(job.job_id, job.arrival)


def _pushed(entry: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(entry)
        mappings = (row["exit"], row.get("judge") or {}, row["exit"].get("resource_usage") or {})
        numbers = (row["run"], row.get("arrival", 0))
        whole = all(type(number) is int for number in numbers) and all(isinstance(part, dict) for part in mappings)
        if _ID.fullmatch(row["id"]) and whole and numbers[1] >= 0:
            return row  # type: ignore[no-any-return]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    if entry:
        logger.error("an entry of Exit_Queue is no end: %r", entry[:200])
    return None


def _whole(values: dict[str, Any]) -> bool:
    try:
        ExitInfo.from_dict(values)
        return True
    except (ValueError, KeyError, TypeError):  # no starter wrote this
        return False


def _lost(look: Observation, grace: float) -> ExitInfo:
    return ExitInfo(
        exit_status=ExitStatus.UNDETERMINED,
        reason="lost",
        evidence=f"neither a process nor an exit record for {grace:g} s",
        message=look.reason or "it was started, it is gone, and nobody saw how it ended",
        native_state=look.native_state,
    )
