"""The janitor, a loop in every fetcher: what is due, who is dead, which leases ran out, what is old or adds not up."""

from __future__ import annotations

import contextlib
import logging
import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice

from jobmill.config import Config
from jobmill.errors import SystemUnavailable
from jobmill.fetcher.judge import judge
from jobmill.fetcher.strays import Strays
from jobmill.jobs.terms import judging_terms
from jobmill.ledger import capacity, ending, launch, listing, membership, upkeep
from jobmill.ledger.keys import lane_suffix, launch_name
from jobmill.ledger.launch import Commitment, Expired
from jobmill.ledger.record import BATCH, Record
from jobmill.systems.launch_token import life
from jobmill.systems.system import ExecutionSystem, ExitStatus, Handle, Launch, Settled, Token
from jobmill.worker.endpoints import Endpoints

logger = logging.getLogger("jobmill")

INVESTIGATION = 2.0  # seconds until a launch that could not be settled is investigated again, by anybody
SEALS = 8  # sealed launches of one job after which it is given up: it kills whoever starts it
RECOUNT = 30.0  # seconds between recounts of the sets
PAGES = 20  # of a recount, some 250 members each, in one round
REVISIT = 15.0  # seconds between looks at the lists of processes that are known to be dead
REGRANT = 60.0  # seconds after which a granted job without a list entry is pushed anew


class Janitor:
    """Does its rounds about once a second. Any number may run: every script is idempotent."""

    def __init__(
        self,
        record: Record,
        config: Config,
        lane: str,
        systems: Mapping[str, ExecutionSystem],
        endpoints: Endpoints,
    ) -> None:
        self._record = record
        self._keep = config.limits.keep_ended
        self._silence = config.limits.lease
        self._lane = lane
        self._suffix = lane_suffix(lane)
        self._systems = systems
        self._endpoints = endpoints
        self._strays = Strays(record, systems, endpoints)
        self._recount_at = self._revisit_at = 0.0
        self._pages: Iterator[None] | None = None  # of a recount under way
        self.suspect = self._strays.suspect
        self.dead: set[str] = set()  # processes whose launches nobody pushes the ends of: they are polled often

    def tick(self, now: float) -> None:
        """Do one round."""
        while upkeep.wake_due(self._record) >= BATCH:
            pass
        revisit = now >= self._revisit_at
        if revisit:
            self._revisit_at = now + REVISIT * random.uniform(0.8, 1.2)
        self._bury_the_dead(revisit=revisit)
        self._settle()
        self._strays.tick(now)
        if self._pages is None and now >= self._recount_at:
            upkeep.prune(self._record, self._keep)
            self._pages = self._recount()
        if self._pages is not None and sum(1 for _ in islice(self._pages, PAGES)) < PAGES:  # that was all
            self._pages = None
            self._recount_at = now + RECOUNT * random.uniform(0.8, 1.2)

    def _queues(self, lane: str) -> list[str]:
        suffix = lane_suffix(lane)
        return ["Job_Queue", "Result_Queue", "Granted_Queue" + suffix, "Exit_Queue" + suffix]

    def _bury_the_dead(self, *, revisit: bool) -> None:
        now = membership.server_time(self._record)
        for process in membership.processes(self._record):
            if process.evicted:
                self.dead.add(process.name)
                if revisit:
                    self._recover(process, proved=True, first=False)
                continue
            proved = membership.dead(process)
            if proved or now - process.seen > self._silence:
                self._recover(process, proved=proved, first=True)

    def _recover(self, process: membership.Process, *, proved: bool, first: bool) -> None:
        moved = membership.recover(
            self._record, process.name, self._queues(process.lane), proved=proved, silence=self._silence
        )
        if moved < 0:
            return
        expired = launch.expire(self._record, lane_suffix(process.lane), process.name)
        if first or moved > 0:
            how = "is dead" if proved else "is silent"
            logger.warning("%s %s: its lists go back", process.name, how, extra={"entries": moved, "launches": expired})

    def _settle(self) -> None:
        """Investigate launches whose lease ran out (law 3): adopt them, or make sure that they never start."""
        by_system: dict[str, list[Expired]] = defaultdict(list)
        for launched in launch.expired(self._record, self._suffix, BATCH, INVESTIGATION):
            by_system[launched.system].append(launched)
        identity = self._record.identity()
        for name, launches in by_system.items():
            system = self._systems.get(name)
            if system is None:
                continue
            tokens = {f"{life(identity, e.arrival)}:{e.job_id}:{e.run}": e for e in launches}
            answers: Mapping[Token, Handle | Settled] = {}
            with contextlib.suppress(SystemUnavailable), self._endpoints.asked(name):
                answers = system.settle([Launch(token=t, handle=e.handle or None) for t, e in tokens.items()])
            found: list[tuple[Expired, Handle]] = []
            for token, e in tokens.items():
                answer = answers.get(token, Settled.UNKNOWN)
                if isinstance(answer, Settled):
                    self._conclude(system, e, answer)
                else:
                    found.append((e, answer))
            self._adopt(system, found)

    def _conclude(self, system: ExecutionSystem, e: Expired, answer: Settled) -> None:
        launched: tuple[str, int, int | None] = (launch_name(e.job_id, e.arrival), e.run, e.fence)
        if answer is Settled.LOST:
            self._end(e, "lost", "guard and runner are gone, or the machine rebooted: whether it ran cannot be known")
        elif answer is Settled.NOT_STARTED:
            if e.seals >= SEALS and not e.wish:
                self._end(e, "launch_failed", f"{e.seals} launches were begun and never happened")
                return
            evidence = (
                f"settle by {system.name}: the marker was free and is taken"
                if system.launches_at_once
                else f"settle by {system.name}: it was not found, and cannot start any more"
            )
            if launch.seal(self._record, [launched], evidence, uncommitted=True) != ["stale"]:
                logger.warning("a launch never happened: it waits again", extra={"id": e.job_id, "run": e.run})

    def _adopt(self, system: ExecutionSystem, found: Sequence[tuple[Expired, Handle]]) -> None:
        """Commit what was found, then let it start where it is held; what the record refuses is killed (law 4)."""
        state = "running" if system.launches_at_once else "submitted"
        words = launch.commit(
            self._record,
            [
                Commitment(
                    job_id=e.job_id,
                    run=e.run,
                    fence=e.fence,
                    state=state,
                    handle=handle,
                    poll_in=0.0,
                    arrival=e.arrival,
                )
                for e, handle in found
            ],
        )
        for (e, _), word in zip(found, words, strict=True):
            if word not in ("stale", "ended"):
                logger.warning("adopted a launch whose starter died", extra={"id": e.job_id, "run": e.run})
        if system.launches_at_once:
            return
        ours = [handle for (_, handle), word in zip(found, words, strict=True) if word == "ok"]
        refused = [handle for (_, handle), word in zip(found, words, strict=True) if word in ("stale", "ended")]
        if ours:
            with contextlib.suppress(SystemUnavailable), self._endpoints.asked(system.name):
                system.release(ours)
        if refused:  # what is left of them is swept
            with contextlib.suppress(SystemUnavailable), self._endpoints.asked(system.name):
                system.kill(refused, force=True)

    def _end(self, e: Expired, reason: str, message: str) -> None:
        from jobmill.jobs.spec import JobSpec  # with pydantic: most fetchers never come here

        status = ExitStatus.UNDETERMINED if reason == "lost" else ExitStatus.ABORTED_BEFORE_RUNNING
        info = {"exit_status": status, "reason": reason, "message": message, "evidence": "settle"}
        canonical = listing.spec(self._record, e.job_id)
        row = listing.jobs(self._record, [e.job_id])
        end = judge(
            e.job_id,
            e.run,
            info,
            terms=judging_terms(JobSpec.from_canonical(canonical)) if canonical else {},
            retries=int(row[0].facts.get("retries", 0)) if row else 0,
            wished=bool(e.wish) and reason != "lost",
            arrival=e.arrival,
        )
        # what another investigator has found and adopted meanwhile runs: it is not ended here
        if ending.finish(self._record, [replace(end, uncommitted=True)]) != ["stale"]:
            logger.warning("ended %s: %s", end.state, message, extra={"id": e.job_id, "run": e.run})

    def _recount(self) -> Iterator[None]:
        """Recount the sets, some members at a time: a set may have a hundred thousand."""
        granted: list[str] = []
        for page in upkeep.reconcile(self._record, capacity.set_names(self._record)):
            if page.gone:
                ids = ",".join(page.gone[:20])
                logger.error("set %s had members that do not hold it", page.name, extra={"ids": ids})
            granted += page.granted[: max(0, BATCH - len(granted))]
            yield
        if granted and not listing.entries_under_way(self._record):
            again = upkeep.regrant(self._record, granted, REGRANT)
            if again:
                logger.error("granted jobs had no list entry and were pushed anew", extra={"ids": ",".join(again)})
