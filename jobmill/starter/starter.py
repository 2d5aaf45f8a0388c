"""The starter's work: begin what is granted, launch it, tell what started and what ended."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Mapping, Sequence

from jobmill.config import Config
from jobmill.errors import Evicted, JobmillError, StageFailed, SystemUnavailable
from jobmill.jobs.registry import class_for
from jobmill.jobs.spec import JobSpec
from jobmill.jobs.terms import judging_terms
from jobmill.ledger import admission, capacity, ending, launch, poll
from jobmill.ledger.exchange import Call
from jobmill.ledger.keys import lane_suffix
from jobmill.ledger.membership import Membership
from jobmill.ledger.poll import Seen
from jobmill.ledger.record import BATCH, Record, batches
from jobmill.rules.acting import Acting
from jobmill.rules.route import parse_routes
from jobmill.starter.bench import Bench
from jobmill.starter.flight import Flight
from jobmill.starter.granted import Granted
from jobmill.starter.refused import Refused
from jobmill.starter.setbacks import Setbacks
from jobmill.starter.stager import Stager
from jobmill.systems.launch_token import life
from jobmill.systems.system import (
    ExecutionSystem,
    ExitInfo,
    ExitStatus,
    Handle,
    Start,
    Submission,
    SubmitError,
    SubmitFailure,
    Token,
    Unwatched,
)
from jobmill.worker.endpoints import Endpoints
from jobmill.worker.pace import Pace
from jobmill.worker.work import Work

logger = logging.getLogger("jobmill")

SETTLE = 0.03  # seconds that a start waits for its end before it is committed: a short job needs no commit
STEPS = 0.5  # seconds until the first poll of a job in steps
# a full disk, or hosts that are all out of reach, must not fail job after job
NOT_NOW = ('"reason":"no_spool"', '"reason":"unreachable"')
PARTING = 0.5  # seconds that a stop waits for launches to come back out of line


class Starter(Work):
    """Takes from the Granted_Queue of its lane; owns the systems of that lane."""

    role = "starter"

    def __init__(self, record: Record, config: Config, *, lane: str = "") -> None:
        self._record = record
        self.lane = lane
        self.digest = config.digest
        self.lease = config.limits.lease
        self._queue = "Granted_Queue" + lane_suffix(lane)
        self._bench = Bench(record, config, lane)
        self._acting = Acting(parse_routes([it.entry for it in config.routes], config.kinds))
        self._stager = Stager(record, self._bench.build)
        self._endpoints = Endpoints(record)
        self._refused = Refused(self._endpoints)
        self._setbacks = Setbacks()
        self._member: Membership | None = None
        self._turn = 0  # of the next begin: what was asked for and not answered is asked for again
        self._unlet = False  # what was begun last stands in the private list until the next turn
        self._handles: dict[str, str] = {}  # system -> what stands in front of the token in its handles
        self._flights: dict[Token, Flight] = {}
        self._fresh: dict[Token, None] = {}  # those of them that are not committed, in order of launch
        self._ends: list[str] = []
        self._ends_since = 0.0
        self._pace = Pace()  # of the ends: while many arrive they are gathered
        self._back: list[Flight] = []  # out of line before they started
        self._later: dict[tuple[str, float], list[Flight]] = {}  # why, delay -> what did not start for that reason
        self._unclear: list[Flight] = []  # perhaps accepted: to be settled, never sent again
        self._unwatched: list[Flight] = []  # nobody will tell their ends

    def queues(self) -> Sequence[str]:
        """Return the one list that it takes from."""
        return (self._queue,)

    def wants(self, queue: str) -> bool:
        """Take only when this starter leads the systems of its lane; a second one on the same host stands by."""
        return self._bench.leads

    def enter(self, member: Membership) -> None:
        """Act under this name from now on. Launches of an old name are investigated by others: markers keep peace."""
        self._member = member
        self._turn, self._unlet = 0, False
        self._stager.stop(unwanted=True)
        self._bench.enter()
        systems = self._bench.systems.items()
        self._handles = {name: s.handle_for(member.identity) for name, s in systems if s.launches_at_once}

    def taking(self, queue: str) -> Call[launch.Begun]:
        """Take and begin up to one batch."""
        assert self._member is not None
        return launch.beginning(self._member, self._queue, self._turn, self.lease, handles=self._handles)

    def ring(self, queue: str, batch: admission.Batch | None = None) -> int:
        """Launch one batch, which was begun by the look at it."""
        begun = batch or self._record.do(self.taking(queue))
        assert isinstance(begun, launch.Begun)
        asked, self._turn = self._turn, begun.turn
        if begun.turn == asked + 1:
            self._unlet = True
            granted = [Granted.read(entry) for entry, go in zip(begun.entries, begun.went, strict=True) if go]
            self._launch([self._prepare(g) for g in granted if g is not None])
        return BATCH if begun.cut else len(begun.entries)

    def _life(self, granted: Granted) -> str:
        assert self._member is not None
        return life(self._member.identity, granted.arrival)

    def _prepare(self, granted: Granted) -> tuple[Flight, Submission | str]:
        """Make the Job; return what its system is to launch, or why it cannot be launched. Asks nobody."""
        g, flight = granted, _flight(granted)
        system = self._bench.systems.get(g.system)
        if system is None:
            known = ", ".join(self._bench.systems)
            return flight, f"this starter has no system {g.system!r} (it has: {known})"
        try:
            spec = JobSpec.from_canonical(g.spec)
            kind = class_for(spec.class_type, system.kind)
            spool = self._bench.spool
            job = kind(spec, job_id=g.job_id, run=g.run, record=self._life(g), system=system, spool=spool)
            job.run_as = self._acting.run_as(spec, g.system)
            submission = job.prepare()
        except (JobmillError, ValueError) as error:
            return flight, str(error)
        flight.judge = json.dumps(terms) if (terms := judging_terms(spec)) else ""
        flight.poll_in = poll.FAR if system.surveys else STEPS if spec.steps else system.poll_interval
        return flight, submission

    def _launch(self, prepared: Sequence[tuple[Flight, Submission | str]]) -> None:
        """Group launches by system, and use the plural verb."""
        grouped: dict[str, list[tuple[Flight, Submission]]] = {}
        for flight, submission in prepared:
            if not isinstance(submission, str) and submission.inputs:
                self._stage_in(flight, submission)
            elif not isinstance(submission, str):
                grouped.setdefault(flight.system, []).append((flight, submission))
            elif flight.system in self._bench.systems:
                self._failed(flight, submission)
            else:
                self._put_off(flight, submission)
        self._submit_all(grouped)

    def _submit_all(self, grouped: Mapping[str, Sequence[tuple[Flight, Submission]]]) -> None:
        for name, launches in grouped.items():
            self._submit(self._bench.systems[name], launches)

    def _stage_in(self, flight: Flight, submission: Submission) -> None:
        """Have the inputs brought where the job will run, beside the loop; `_staged` goes on."""
        system = self._bench.systems[flight.system]
        if type(system).stage_in is ExecutionSystem.stage_in:
            self._failed(
                flight, f"{system.name} (kind {system.kind}) brings no inputs; take inputs: out", "stage_failed"
            )
        elif pause := self._endpoints.pause(system.name):
            self._put_off(flight, self._endpoints.told(system.name), pause)
        else:
            self._stager.add(flight, submission)

    def _staged(self) -> None:
        """Submit what has its inputs; what has not is given back, or ends."""
        grouped: dict[str, list[tuple[Flight, Submission]]] = {}
        for flight, answer in self._stager.done():
            if isinstance(answer, StageFailed):
                self._failed(flight, str(answer), "stage_failed")
            elif isinstance(answer, JobmillError):
                self._put_off(flight, f"inputs: {answer}")
            else:
                grouped.setdefault(flight.system, []).append((flight, answer))
        self._submit_all(grouped)

    def _submit(self, system: ExecutionSystem, prepared: Sequence[tuple[Flight, Submission]]) -> None:
        if pause := self._endpoints.pause(system.name):
            for flight, _ in prepared:
                self._put_off(flight, self._endpoints.told(system.name), pause)
            return
        for flight, submission in prepared:
            self._flights[submission.token] = flight
            self._fresh[submission.token] = None
        answers: Sequence[Handle | SubmitError]
        try:
            with self._endpoints.asked(system.name):
                answers = system.submit([submission for _, submission in prepared])
        except SystemUnavailable as error:  # certainly nothing of it was accepted
            answers = [SubmitError(failure=SubmitFailure.TRANSIENT, message=str(error))] * len(prepared)
        held: list[tuple[Flight, Handle]] = []
        for (flight, submission), answer in zip(prepared, answers, strict=True):
            if not isinstance(answer, SubmitError):
                if not system.launches_at_once:  # committed below; its end is pushed, or found by polls
                    self._fresh.pop(submission.token, None)
                    if not system.pushes:
                        self._flights.pop(submission.token, None)
                    held.append((flight, answer))
                continue
            self._forget(submission.token)
            if answer.failure is SubmitFailure.PERMANENT:
                self._failed(flight, answer.message)
            elif answer.failure is SubmitFailure.UNCLEAR:
                logger.warning("it is unclear whether a launch was accepted: %s", answer.message, extra=_names(flight))
                self._unclear.append(flight)
            else:
                self._put_off(flight, answer.message)
        if held:
            self._release(system, held)

    def _release(self, system: ExecutionSystem, held: Sequence[tuple[Flight, Handle]]) -> None:
        """Commit what was submitted held, then let it start; whoever is refused kills what it started (law 4).

        Only what was committed is released. A wish leaves it held: the poll that is due now kills it. A release that
        does not get through is made by a poll, which sees it held.
        """
        words = launch.commit(self._record, [_commitment(f, "submitted", handle=h) for f, h in held])
        ours = [h for (_, h), word in zip(held, words, strict=True) if word == "ok"]
        refused = [h for (_, h), word in zip(held, words, strict=True) if word in ("stale", "ended")]
        if ours:
            self._setbacks.over(system.name)
            with contextlib.suppress(SystemUnavailable), self._endpoints.asked(system.name):
                system.release(ours)
        self._refused.add(system, refused)

    def _put_off(self, flight: Flight, why: str, delay: float | None = None) -> None:
        """Note a launch that did not happen; `flush` gives it back, again when a reply is cut."""
        if delay is None:
            delay = self._setbacks.delay(flight.system)
        self._later.setdefault((why, max(0.1, round(delay, 1))), []).append(flight)

    def _failed(self, flight: Flight, message: str, reason: str = "submit_failed") -> None:
        info = ExitInfo(
            exit_status=ExitStatus.ABORTED_BEFORE_RUNNING,
            reason=reason,
            message=message,
            evidence=f"answer of system {flight.system}",
        )
        self._push(flight.end(info.to_json()))

    def _push(self, end: str) -> None:
        if not self._ends:
            self._ends_since = time.monotonic()
        self._ends.append(end)

    def _forget(self, token: Token) -> Flight | None:
        self._fresh.pop(token, None)
        return self._flights.pop(token, None)

    def filenos(self) -> Sequence[int]:
        """Return the descriptors of systems that push."""
        return [*self._stager.filenos(), *self._bench.filenos()]

    def readable(self) -> None:
        """Gather what the systems push."""
        now = time.monotonic()
        for system in self._bench.systems.values():
            for notice in system.ends():
                if isinstance(notice, Start):
                    started = self._flights.get(notice.token)
                    self._setbacks.over(system.name)
                    if started is not None and not started.started:
                        started.started, started.native = now, notice.native_id
                elif (flight := self._forget(notice.token)) is None:
                    continue
                elif isinstance(notice, Unwatched):
                    self._unwatched.append(flight)
                else:
                    if '"reason":"withdrawn"' in notice.exit:
                        self._back.append(flight)
                    elif any(word in notice.exit for word in NOT_NOW):
                        self._put_off(flight, str(json.loads(notice.exit).get("message", "")))
                    elif '"reason":"taken"' not in notice.exit:  # else its lease runs out, and it is settled
                        self._push(flight.end(notice.exit, far=system.stages))

    def flush(self, now: float) -> float | None:
        """Push ends, at once when few arrive and gathered when many do; commit starts that outlive `SETTLE`."""
        waits: list[float] = []
        if now < float("inf"):
            self._staged()
        else:
            with contextlib.suppress(Evicted):  # then others have given it back; what follows counts all the same
                self._hand_back()
        for some in batches(self._back):
            words = launch.abort(self._record, [f.launch for f in some], delay=0, why="taken out of line")
            self._stager.drop([f for f, word in zip(some, words, strict=True) if word == "cancelled"])
        self._back = []
        for (why, delay), flights in list(self._later.items()):
            for some in batches(flights):
                launch.abort(self._record, [f.launch for f in some], delay=delay, why=why)
            logger.warning("gave back: %s", why, extra={"jobs": len(flights)})
            del self._later[why, delay]
        if self._unclear:  # told again when a reply is cut; and were it never told, the leases run out
            assert self._member is not None
            for some in batches(self._unclear):
                launch.overdue(self._record, lane_suffix(self.lane), self._member.name, [f.launch for f in some])
            self._unclear = []
        for some in batches(self._unwatched):
            seen = [Seen(job_id=f.job_id, run=f.run, arrival=f.arrival, state="running", poll_in=0) for f in some]
            poll.touch(self._record, seen)
        if self._unwatched:
            ending.push(self._record, self.lane, [""])  # something is due
        self._unwatched = []
        if self._ends:
            linger = self._pace.linger() - (now - self._ends_since)
            if linger <= 0 or len(self._ends) >= BATCH:
                for lines in batches(self._ends):
                    ending.push(self._record, self.lane, lines)
                self._pace.note(len(self._ends), now)
                self._ends = []
            else:
                waits.append(linger)
        ripe: list[Token] = []
        for token in self._fresh:
            flight = self._flights[token]
            if not flight.started:
                continue
            if now - flight.started < SETTLE:
                waits.append(SETTLE - (now - flight.started))
                break  # in order of launch: those behind it started later
            ripe.append(token)
        for tokens in batches(ripe):
            self._commit(tokens)
        return min(waits, default=None)

    def _commit(self, tokens: Sequence[Token]) -> None:
        flights = [self._flights[token] for token in tokens]
        words = launch.commit(self._record, [_commitment(f, "running") for f in flights])
        for token, flight, word in zip(tokens, flights, words, strict=True):
            self._fresh.pop(token, None)
            if word == "stale":  # it is no longer ours to run
                system = self._bench.systems[flight.system]
                self._refused.add(system, [system.handle_for(token)])

    def starting(self) -> Sequence[str]:
        """Return what is launched and not committed: its leases are renewed."""
        return [*self._stager.starting(), *[self._flights[token].job_id for token in self._fresh]]

    def wished(self, wishes: Mapping[str, str]) -> None:
        """Take launches that still wait for a slot out of line; what runs is killed by the fetcher."""
        self._back += self._stager.stop(wishes, unwanted=True)
        tokens: dict[str, list[Token]] = {}
        for token in self._fresh:
            flight = self._flights[token]
            if flight.job_id in wishes and not flight.started:
                tokens.setdefault(flight.system, []).append(token)
        for name, some in tokens.items():
            self._bench.systems[name].withdraw(some)

    def tick(self, now: float) -> None:
        """Lead when nobody else does, follow the live limits, kill again what must not run."""
        self._bench.tick(capacity.limits(self._record))
        self.readable()  # a system may have to do something in time, with nothing to read
        self._refused.kill()
        self._stager.tick(now)
        self._endpoints.tick()
        self._let_go()  # nothing more was granted for a second

    def _hand_back(self) -> None:
        """Give back what a look has begun whose answer nobody read: the bell was dropped."""
        assert self._member is not None
        unread = self._record.do(launch.beginning(self._member, self._queue, self._turn, self.lease, count=0))
        if unread.turn == self._turn + 1:
            granted = [Granted.read(entry) for entry, go in zip(unread.entries, unread.went, strict=True) if go]
            self._back += [_flight(g) for g in granted if g is not None]
        self._turn, self._unlet = unread.turn, bool(unread.entries)
        self._let_go()

    def _let_go(self) -> None:
        """Let what was begun leave the private list."""
        if self._unlet:
            assert self._member is not None
            self._record.do(launch.beginning(self._member, self._queue, self._turn, self.lease, count=0))
            self._unlet = False

    def close(self) -> None:
        """Give back what waits for a slot; jobs that run go on, and the fetchers find their ends."""
        self._back += self._stager.stop(unwanted=False)
        waiting = [token for token in self._fresh if not self._flights[token].started]
        for system in self._bench.systems.values():
            system.withdraw(waiting)
        deadline = time.monotonic() + PARTING
        while waiting and time.monotonic() < deadline:
            self.readable()
            waiting = [t for t in waiting if t in self._flights and not self._flights[t].started]
            time.sleep(0.005)
        self._bench.close()


def _flight(g: Granted) -> Flight:
    return Flight(job_id=g.job_id, run=g.run, fence=g.fence, arrival=g.arrival, system=g.system)


def _names(flight: Flight) -> dict[str, object]:
    return {"id": flight.job_id, "run": flight.run}


def _commitment(flight: Flight, state: str, handle: Handle = "") -> launch.Commitment:
    return launch.Commitment(
        job_id=flight.job_id,
        run=flight.run,
        fence=flight.fence,
        state=state,
        handle=handle,
        native=flight.native,
        poll_in=flight.poll_in,
        arrival=flight.arrival,
    )
