"""Whether more can be taken in: how many wait, and how full the server is."""

from __future__ import annotations

import logging

from jobmill.ledger import listing
from jobmill.ledger.record import Record

logger = logging.getLogger("jobmill")

FULL = 0.8  # of maxmemory, above which nothing more is taken in: ends need the rest


class Census:
    """Refreshed about once a second."""

    def __init__(self, record: Record, max_waiting: int) -> None:
        self._record = record
        self._max_waiting = max_waiting
        self.crowded = False
        self._admitted = -1

    def refresh(self, admitted: int) -> None:
        """Look at the record; say so once when the answer changes.

        ``admitted``: entries that this manager has dealt with so far. Where it took none since the last look, and could
        have, it does not count again.
        """
        waiting = 0
        if admitted != self._admitted or self.crowded:
            waiting = listing.waiting(self._record)
        self._admitted = admitted
        used, limit = listing.memory(self._record)
        full = limit > 0 and used > FULL * limit
        crowded = waiting >= self._max_waiting or full
        if crowded and not self.crowded:
            why = f"the server uses {used / limit:.0%} of its maxmemory" if full else f"{waiting:,} jobs wait"
            logger.warning("takes nothing more from Job_Queue: %s", why)
        elif self.crowded and not crowded:
            logger.info("takes from Job_Queue again")
        self.crowded = crowded
