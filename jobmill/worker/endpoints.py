"""The systems as one worker reaches them: a breaker for each, and what the record has to know of it."""

from __future__ import annotations

import logging
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from jobmill.errors import ServerFull, SystemUnavailable
from jobmill.ledger import endpoint, queries
from jobmill.ledger.record import Record
from jobmill.systems.breaker import Breaker
from jobmill.systems.system import ExecutionSystem

logger = logging.getLogger("jobmill")

REST = 5.0  # seconds between looks whether there is something left of a budget
FORGET = 120.0  # seconds after its next try was due at which a word that nobody repeats is removed


class Endpoints:
    """Every verb that may find a system out of reach is called within `asked`."""

    def __init__(
        self,
        record: Record,
        clock: Callable[[], float] = time.monotonic,
        *,
        systems: Mapping[str, ExecutionSystem] | None = None,  # whose queries are counted
    ) -> None:
        self._record = record
        self._systems = dict(systems or {})
        self._counted: dict[str, int] = defaultdict(int)  # system -> queries of ours that the record knows
        self._breakers: dict[str, Breaker] = defaultdict(lambda: Breaker(clock, random.random))
        self._news: set[str] = set()  # opened since the last tick
        self._answered: set[str] = set()  # those that answered since the last tick
        self._healed: set[str] = set()  # those whose breaker closed since then
        self._said: set[str] = set()  # those of which the record said at the last tick that they do not answer

    def pause(self, system: str) -> float:
        """Return for how many seconds a system is not to be asked; 0: ask."""
        return self._breakers[system].pause

    def told(self, system: str) -> str:
        """Return why a system is not asked."""
        return f"{system} does not answer: {self._breakers[system].why}"

    @contextmanager
    def asked(self, system: str) -> Iterator[None]:
        """Ask a system within this; raise SystemUnavailable at once while its breaker is open."""
        breaker = self._breakers[system]
        if breaker.pause:
            raise SystemUnavailable(self.told(system))
        try:
            yield
        except SystemUnavailable as error:
            first = not breaker.open
            self._answered.discard(system)
            if breaker.failed(str(error)):
                self._healed.discard(system)
                self._news.add(system)
                if first:
                    logger.warning("%s; nothing is asked of it for a while", self.told(system))
            else:
                logger.warning("system %s cannot be asked: %s", system, error)
            raise
        self._answered.add(system)
        if breaker.worked():
            self._news.discard(system)
            self._healed.add(system)
            logger.warning("%s answers again", system)

    def rest(self, system: str) -> float:
        """Return for how many seconds a system is not to be polled, because its budget of queries is spent; 0: poll."""
        budget = self._systems[system].queries_per_minute if system in self._systems else None
        if budget is None:
            return 0.0
        return 0.0 if self._count(system, budget) < budget else REST

    def _count(self, system: str, budget: float) -> float:
        """Tell the record what we have asked since the last time; return what all have asked in the last minute."""
        whole = self._systems[system].queries
        last_minute = queries.spend(self._record, system, whole - self._counted[system], budget)
        self._counted[system] = whole
        return last_minute

    def tick(self) -> None:
        """Tell the record which systems do not answer, and take back what is said of those that do.

        What another worker said is taken back by an answer that came after it was seen: not by one before the outage.
        """
        for system, it in self._systems.items():
            if it.queries_per_minute is not None and it.queries != self._counted[system]:
                self._count(system, it.queries_per_minute)
        for system in sorted(self._news):
            breaker = self._breakers[system]
            try:
                endpoint.tell(self._record, system, pause=breaker.pause, age=breaker.age, why=breaker.why)
            except ServerFull as error:  # it is advice; ends must not wait for it
                logger.warning("cannot tell that %s does not answer: %s", system, error)
            self._news.discard(system)
        said = endpoint.outages(self._record, old=True)
        answer = self._healed | (self._answered & self._said)
        gone = [name for name, word in said.items() if name in answer or word.until + FORGET < word.now]
        endpoint.clear(self._record, gone)
        self._said = set(said) - set(gone)
        self._answered.clear()
        self._healed.clear()
