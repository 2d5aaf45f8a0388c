"""The systems as one worker reaches them: a breaker for each, and what the record has to know of it."""

from __future__ import annotations

import logging
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from jobmill.errors import ServerFull, SystemUnavailable
from jobmill.ledger import endpoint
from jobmill.ledger.record import Record
from jobmill.systems.breaker import Breaker

logger = logging.getLogger("jobmill")

FORGET = 120.0  # seconds after its next try was due at which a word that nobody repeats is removed


class Endpoints:
    """Every verb that may find a system out of reach is called within `asked`."""

    def __init__(self, record: Record, clock: Callable[[], float] = time.monotonic) -> None:
        self._record = record
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

    def tick(self) -> None:
        """Tell the record which systems do not answer, and take back what is said of those that do.

        What another worker said is taken back by an answer that came after it was seen: not by one before the outage.
        """
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
