"""The poller of one endpoint: one query for all of its launches, and only what changed since the last answer is work.

What the record has left to this poll is kept in memory, and read on in the order in which it was left
(`jobmill.ledger.polls`); a poller that is new, or follows a dead one, reads all of it first. A poll is made in pieces,
so that the loop keeps beating; whatever it has not recorded when it dies, the next poller finds again: nothing is known
by the last answer alone.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence

from jobmill.errors import SystemUnavailable
from jobmill.fetcher.ends import Ends
from jobmill.fetcher.poll_pace import PollPace
from jobmill.jobs.states import POLLED
from jobmill.ledger import poll, polls
from jobmill.ledger.poll import Due, Seen
from jobmill.ledger.polls import Left
from jobmill.ledger.record import BATCH, Record, batches
from jobmill.systems.system import ExecutionSystem, ExitInfo, Handle, NativeState, Notice, Observation, Token
from jobmill.worker.endpoints import Endpoints

logger = logging.getLogger("jobmill")

PIECE = 4 * BATCH  # launches that are dealt with before the loop goes on
SLOW = 1.0  # seconds after which it does so, too: a slow cluster must not keep it from its heartbeat and lease
QUICK = 20  # launches of an answer that are as quickly compared as one is dealt with
LOOK = 0.5  # seconds between two looks whether another's poll is due
PATIENCE = 2.0  # seconds after it was due at which another fetcher takes a poll over
SOON = 0.05  # seconds that a loop rests between two polls at least
ASK = 2000  # exit records that are asked for at once
ABSENT = 2.0  # seconds to the poll of its own of a launch that is missing
OUTAGE = 5.0  # seconds between polls of an endpoint that did not answer and has not been given up
COMPARE = 300.0  # seconds in which all that is known is compared with the record once
GLANCE, OTHERS = 1.0, 5.0  # seconds between looks at notices, of who makes the polls and of the other fetchers
READ = 5.0  # seconds between looks at what was left to the poll, besides those that a notice asks for
HURRY = 300.0  # seconds for which an end that its system has not noted brings polls forward: who tells it may be wrong
STRANGE = 60.0  # seconds for which the launch of a notice is looked for in the record
RUNS = Observation(state=NativeState.RUNNING, alive=True)
GONE = (NativeState.ENDED, NativeState.ABSENT)

Pieces = Generator[int, None, float]  # launches dealt with, again and again; in the end the seconds to the next poll


class Poller:
    """Any number of fetchers may have one: the record lets one of them poll, and another when that one is late."""

    def __init__(
        self,
        record: Record,
        suffix: str,  # of the lane's queues
        system: ExecutionSystem,
        endpoints: Endpoints,
        ends: Ends,
        *,
        lease: float,  # seconds after which a poll in hand may be made by another
        strange: Callable[[str, Collection[Handle]], None],  # told of launches that the record has not committed
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._record = record
        self._suffix = suffix
        self._system = system
        self._endpoints = endpoints
        self._ends = ends
        self._lease = lease
        self._strange = strange
        self._clock = clock
        self._at = 0.0  # the loop's time of the next look
        self._held = ""  # by what the poll is held, or was left
        self._failed = False  # the last poll did not reach the system
        self._in_hand = False
        self._renewed = 0.0
        self._pieces: Pieces | None = None
        # What is known. All of it may be lost, and any of it may be old.
        self._known: dict[Handle, Left] = {}  # what the record has left to this poll
        self._since = polls.ALL  # from where on it has not been read
        self._read_at = 0  # the server's time (ms) of that
        self._looks: Mapping[Handle, Observation] = {}  # the last answer
        self._open: set[Handle] = set()  # what has to be looked at, changed or not
        self._line: list[Handle] = []  # what is to be compared with the record, yet
        self._strangers: set[Handle] = set()  # in the last answer, and not known
        self._verified = clock()
        # What launches tell themselves, and what follows from it for the next poll.
        self._pace = PollPace(system.poll_interval, system.poll_interval_max)
        self._tokens: dict[Token, Handle] = {}  # of what is known
        self._told: Mapping[Token, Notice] = {}  # dealt with
        self._ended_at: dict[Token, float] = {}  # since when they tell that they ended
        self._unknown: dict[Token, float] = {}  # tell something, and are not known; since when
        self._glance_at = 0.0
        self._read_on = 0.0  # when to read on without a notice
        self._fresh = False  # something was left to the poll after the last one
        self._hurry = False  # something has ended, and the system has to say how
        self._doubted = False  # the last answer lacked so much that it was not believed

    def turn(self, now: float) -> float:
        """Make a poll, or a part of it, when it is due; return in how many seconds there is more to do."""
        if self._pieces is None:
            if now >= self._at:
                wait = self._begin(now)
                if wait > 0:
                    self._at = now + wait
                    return self._rest(now)
            elif self._system.notifies and now >= self._glance_at:
                self._pieces = self._glance()
            else:
                return self._rest(now)
        elif self._in_hand and now - self._renewed > self._lease / 3 and not self._renew(now):
            return LOOK
        assert self._pieces is not None
        try:
            until = self._clock() + SLOW
            dealt = next(self._pieces)
            while dealt < PIECE and self._clock() < until:
                dealt += next(self._pieces)
        except StopIteration as end:
            self._pieces = None
            if not self._in_hand:
                self._glance_at = now + end.value
                self._reschedule(now)
                return self._rest(now)
            self._held = polls.keep(self._record, self._system.name, self._held, end.value)
            self._in_hand = False
            self._pace.last = now
            self._at = now + max(SOON, end.value)
            self._reschedule(now)
            if self._failed:  # another fetcher may reach it: it is first at the next poll
                self._failed, self._held = False, ""
                self._at += PATIENCE + LOOK
            return self._rest(now)
        except BaseException:
            self._pieces = None  # begun anew under the same lease: what was not recorded is found again
            raise
        return 0.0

    def _rest(self, now: float) -> float:
        """Return the seconds to what is next."""
        return max(0.0, (min(self._at, self._glance_at) if self._system.notifies else self._at) - now)

    def _reschedule(self, now: float) -> None:
        """Poll earlier than was meant where a glance gave a reason."""
        at = self._at
        if self._fresh:
            at = self._pace.fresh(now, at)
        if self._hurry:
            at = self._pace.hurry(now, at)
        if at < self._at and self._held:
            self._at = at
            self._held = polls.keep(self._record, self._system.name, self._held, max(0.0, at - now))

    def _begin(self, now: float) -> float:
        """Take the poll where it is due; return 0 then, otherwise the seconds to the next look."""
        name = self._system.name
        if self._in_hand and self._renew(now):
            self._pieces = self._poll()
            return 0.0
        if (wait := self._endpoints.rest(name)) > 0:
            return wait
        held, wait = polls.take(self._record, name, self._held, lease=self._lease, patience=PATIENCE)
        if not held:
            return min(max(SOON, wait), LOOK)
        self._held, self._in_hand, self._renewed = held, True, now
        self._pieces = self._poll()
        return 0.0

    def _renew(self, now: float) -> bool:
        """Hold the poll in hand for another lease; False: another has taken it over."""
        self._held = polls.keep(self._record, self._system.name, self._held, self._lease)
        self._renewed = now
        if not self._held:  # it took longer than the lease: another makes it, and this one begins anew after that
            logger.warning("another fetcher has taken over the poll of %s", self._system.name)
            self._pieces, self._in_hand, self._at = None, False, now + LOOK
        return bool(self._held)

    def _poll(self) -> Pieces:
        """Read what was left to this poll, ask, and record what changed. In this order: what is missing is gone."""
        began, system = self._clock(), self._system
        plain = yield from self._read()
        if system.notifies:
            with contextlib.suppress(SystemUnavailable):  # they are advice: the survey says what is wrong
                yield from self._take_notices()
        self._fresh = self._hurry = False
        identity = self._record.identity()
        try:
            with self._endpoints.asked(system.name):
                answer = system.survey(identity)
            yield len(answer) // QUICK
            gone = self._compare(answer)
            silent = self._silent(gone, answer)
            yield len(answer) // QUICK
            told = self._ended().difference(gone)  # their system has not taken note of it yet
            missing = yield from self._collect([*gone, *told], plain)
        except SystemUnavailable:
            self._failed = True
            return max(1.2 * self._endpoints.pause(system.name), min(system.poll_interval, OUTAGE))
        if told:
            missing = [h for h in missing if h not in told]
            late = self._clock() - HURRY
            self._hurry = any(h in self._known and self._ended_at.get(_token(h), 0.0) > late for h in told)
        if self._doubtful(missing):
            return min(system.poll_interval, OUTAGE)
        self._looks = answer
        for some in batches(missing):  # they have polls of their own from now on: absent, grace, lost (law 5)
            self._disturbed(some, ABSENT, {"absent": "now"})
            yield len(some)
        changed = [h for h in self._open if h in self._known and h in answer]
        for some in batches(changed):
            self._note(some, answer)
            yield len(some)
        self._open.intersection_update(answer)
        yield from self._verify()
        strangers = {h for h in answer.keys() - self._known.keys() if answer[h].state not in GONE}
        if again := strangers & self._strangers:  # twice: no launch whose commit was on its way
            self._strange(system.name, again)
        self._strangers = strangers
        return self._pace.polled(self._clock() - began, news=silent)

    def _ended(self) -> set[Handle]:
        """Return what is known and has told that it ended."""
        return {self._tokens[t] for t, word in self._told.items() if word is not Notice.STARTED and t in self._tokens}

    def _silent(self, gone: Sequence[Handle], answer: Mapping[Handle, Observation]) -> bool:
        """Tell whether the answer has news that launches did not tell themselves, some stragglers aside."""
        if not self._system.notifies:
            return False
        news = [h for h in gone if h in self._known]
        for handle in self._open:
            look = answer.get(handle)
            if look is not None and handle in self._known:
                if look.held:
                    return True
                if look.state is NativeState.RUNNING and self._known[handle].state == "submitted":
                    news.append(handle)
        told: Mapping[Token, Notice] = {}
        with contextlib.suppress(SystemUnavailable):  # the answer stands without them
            told = self._system.notices() if news else {}
        return sum(_token(h) not in told for h in news) * 10 > len(news)

    def _glance(self) -> Pieces:
        """Take what launches tell of themselves; the system is not asked."""
        try:
            if self._clock() >= self._read_on:
                yield from self._read()
                yield from self._verify()
            yield from self._take_notices()
        except SystemUnavailable:  # it lies where its files are
            return OTHERS
        return GLANCE if self._held else OTHERS

    def _take_notices(self) -> Generator[int, None, None]:
        """Record what notices tell that is new; raises SystemUnavailable."""
        told = self._system.notices()
        news = {token: word for token, word in told.items() if self._told.get(token) is not word}
        if any(token not in self._tokens for token in news):  # it was committed just now, or not by us
            yield from self._read()
        now = self._clock()
        strange = {t: self._unknown.get(t, now) for t in news if t not in self._tokens}
        self._unknown = {t: since for t, since in strange.items() if now - since < STRANGE}
        of = {word: [self._tokens[t] for t, it in news.items() if it is word and t in self._tokens] for word in Notice}
        for some in batches([h for h in of[Notice.STARTED] if self._known[h].state == "submitted"]):
            self._note(some, dict.fromkeys(some, RUNS))
            yield len(some)
        self._hurry = self._hurry or bool(of[Notice.ENDED])
        for some in batches([h for h in of[Notice.DONE] if h in self._known]):
            exits = self._system.done(some)
            self._hurry = self._hurry or len(exits) < len(some)
            self._finish([(h, exits[h]) for h in some if h in exits])
            yield len(some)
        ends = [token for token, word in told.items() if word is not Notice.STARTED and token in self._tokens]
        self._ended_at = {token: self._ended_at.get(token, now) for token in ends}
        # last: what could not be dealt with is news again
        self._told = {token: word for token, word in told.items() if token not in self._unknown}

    def _read(self) -> Generator[int, None, dict[Handle, Left]]:
        """Read on what was left to this poll; return what needs no second look at the record when it has ended."""
        plain: dict[Handle, Left] = {}
        since, first = self._since, 0
        while since:
            now, since, rows = polls.left(self._record, self._suffix, self._system.name, since, BATCH)
            if not first:
                first = now
                if now < self._read_at and self._since != polls.ALL:  # the server's clock was set back: read all
                    self._read_at, since, first = 0, polls.ALL, 0
                    continue
            for row in rows:
                if not row.terms:
                    plain[row.handle] = row
                if self._known.get(row.handle) != row:
                    self._fresh = self._fresh or row.handle not in self._known
                    self._known[row.handle] = row
                    self._tokens[_token(row.handle)] = row.handle
                    self._open.add(row.handle)
            yield len(rows)
        self._since, self._read_at = polls.after(first), first
        self._read_on = self._clock() + READ
        return plain

    def _compare(self, answer: Mapping[Handle, Observation]) -> list[Handle]:
        """Open what changed; return what is known and has ended, or is missing, by this answer."""
        looks, known, reopen = self._looks, self._known, self._open.add
        for handle, look in answer.items():
            was = looks.get(handle)
            if was is not look and was != look:
                reopen(handle)
        gone = list(known.keys() - answer.keys())
        gone += [h for h in self._open if h in known and h in answer and answer[h].state in GONE]
        return gone

    def _collect(self, gone: Sequence[Handle], plain: Mapping[Handle, Left]) -> Generator[int, None, list[Handle]]:
        """Finish what has an exit record; return what has none. Raises SystemUnavailable."""
        missing: list[Handle] = []
        for asked in batches(gone, ASK):
            with self._endpoints.asked(self._system.name):
                exits = self._system.exit_info(asked)
            yield len(asked) // QUICK
            missing += [h for h in asked if h not in exits]
            ended = [(h, exits[h]) for h in asked if h in exits]
            # Success is what it is, whoever has wished for an end by now; all else may be the work of a kill.
            at_once = [
                h for h, info in ended if h in plain and info.regular and not info.term_sig and not self._system.stages
            ]
            for some in batches(at_once):
                self._ends.finish_plain([(plain[h], exits[h]) for h in some], self._system.name)
                self._drop(some)
                yield len(some)
            for rest in batches([(h, info) for h, info in ended if h in self._known]):
                self._finish(rest)
                yield len(rest)
        return missing

    def _finish(self, ended: Sequence[tuple[Handle, ExitInfo]]) -> None:
        """End what the record has as it was known; who is to be killed, or never started, has polls of its own."""
        rows = poll.facts(self._record, [self._known[h].job_id for h, _ in ended])
        over = []
        for (handle, info), job in zip(ended, rows, strict=True):
            if job is None or not self._is(handle, job) or job.wish or job.killed:
                continue
            if info.reason == "not_started":
                self._disturbed([handle], 0.0, {"absent": "now"})
            else:
                over.append((job, info))
        self._ends.finish(over)
        self._drop(handle for handle, _ in ended)

    def _doubtful(self, missing: Sequence[Handle]) -> bool:
        """Tell whether an answer lacks so much, without exit records, that it is asked again before it is believed."""
        much = len(missing) > max(BATCH, len(self._known) // 2)
        self._doubted = much and not self._doubted
        if self._doubted:
            logger.warning("%s told of %d launches less: asks again", self._system.name, len(missing))
        return self._doubted

    def _note(self, handles: Sequence[Handle], answer: Mapping[Handle, Observation]) -> None:
        """Record what changed, release what is held though it was committed."""
        seen: list[Seen] = []
        news: list[tuple[Handle, Left]] = []
        held: list[Handle] = []
        for handle in handles:
            look, job = answer[handle], self._known[handle]
            if look.overdue:  # nobody there holds it to its walltime
                self._disturbed([handle], 0.0, {"killed": "now"})
                continue
            state = look.state.value
            if look.state is NativeState.SUBMITTED and job.state in ("running", "collecting"):
                state = job.state  # what has started is not in line again: an answer that came late, or wrong
            if look.held:
                held.append(handle)
            now = job._replace(state=state, native_state=look.native_state or "", progress=look.progress or "")
            if now == job:
                self._open.discard(handle)
                continue
            fields = {"progress": now.progress, "native_state": now.native_state}
            seen.append(_seen(job, state, None, fields))
            news.append((handle, now))
        for (handle, now), word in zip(news, poll.touch(self._record, seen), strict=True):
            if word == "stale":
                self._drop([handle])
            else:
                self._known[handle] = now
                self._open.discard(handle)
        if held:
            self._release(held)

    def _release(self, held: Sequence[Handle]) -> None:
        """Release what the record has committed and nobody wishes away; it stays open until it is seen released."""
        ours = [h for h in held if h in self._known]
        rows = poll.facts(self._record, [self._known[h].job_id for h in ours])
        self._open.update(ours)
        free = [h for h, job in zip(ours, rows, strict=True) if self._is(h, job) and job and not job.wish]
        if free:
            with contextlib.suppress(SystemUnavailable), self._endpoints.asked(self._system.name):
                self._system.release(free)

    def _verify(self) -> Generator[int, None, None]:
        """Compare a share of what is known with the record: others end jobs, too."""
        now = self._clock()
        share = math.ceil(len(self._known) * max(1.0, now - self._verified) / COMPARE)
        self._verified = now
        self._line = self._line or list(self._known)
        some, self._line = self._line[:share], self._line[share:]
        for handles in batches([h for h in some if h in self._known]):
            rows = poll.facts(self._record, [self._known[h].job_id for h in handles])
            for handle, job in zip(handles, rows, strict=True):
                known = self._known[handle]
                if job is None or not self._is(handle, job):
                    self._drop([handle])
                elif job.state != known.state:
                    self._known[handle] = known._replace(state=job.state)
                    self._open.add(handle)
            yield len(handles)

    def _disturbed(self, handles: Sequence[Handle], wait: float, fields: Mapping[str, str]) -> None:
        """Give launches polls of their own, which they keep until nothing is wrong with them any more."""
        poll.touch(self._record, [_seen(self._known[h], "", wait, fields) for h in handles])
        self._drop(handles)

    def _is(self, handle: Handle, job: Due | None) -> bool:
        """Tell whether the record still has a launch as it is known here: live, in the same run of the same life."""
        if job is None or job.state not in POLLED or job.handle != handle:
            return False
        known = self._known[handle]
        return (job.run, job.arrival) == (known.run, known.arrival)

    def _drop(self, handles: Iterable[Handle]) -> None:
        for handle in handles:
            self._known.pop(handle, None)
            self._tokens.pop(_token(handle), None)
            self._open.discard(handle)


def _token(handle: Handle) -> Token:
    return handle.rpartition("/")[2]


def _seen(job: Left, state: str, poll_in: float | None, fields: Mapping[str, str]) -> Seen:
    return Seen(job_id=job.job_id, run=job.run, arrival=job.arrival, state=state, poll_in=poll_in, fields=fields)
