"""The sweep of strays: what a system still has of this record, and the record disowns, is killed.

Only for systems that hand handles out: a submission whose starter died, that was accepted twice, or that appeared
late is held and never released; and what was declared lost may be alive after all. Where the poll of the endpoint tells
of all launches, an inventory is taken only when it told of some that the record has not committed.
"""

from __future__ import annotations

import contextlib
import logging
import random
from collections import deque
from collections.abc import Collection, Mapping, Sequence

from jobmill.errors import SystemUnavailable
from jobmill.jobs.states import ENDED, POLLED
from jobmill.ledger import launch
from jobmill.ledger.launch import Standing
from jobmill.ledger.record import BATCH, Record, batches
from jobmill.systems import launch_token
from jobmill.systems.system import ExecutionSystem, Handle, Token
from jobmill.worker.endpoints import Endpoints

logger = logging.getLogger("jobmill")

SWEEP = 30.0  # seconds between two inventories
SLICE = 2000  # launches that are compared with the record in one round


class Strays:
    """Any number of fetchers may sweep: that the record disowns a launch is true for ever once it is true."""

    def __init__(self, record: Record, systems: Mapping[str, ExecutionSystem], endpoints: Endpoints) -> None:
        self._record = record
        self._systems = {name: it for name, it in systems.items() if not it.launches_at_once}
        self._endpoints = endpoints
        self._suspects: dict[str, set[Handle]] = {name: set() for name, it in self._systems.items() if it.surveys}
        self._seen: deque[tuple[str, Handle, Token]] = deque()  # in an inventory, not yet compared
        self._sweep_at = 0.0  # the first one at once: whoever died may have left something

    def suspect(self, system: str, handles: Collection[Handle]) -> None:
        """Have launches that the record has not committed looked at in the next inventory."""
        if system in self._suspects:
            self._suspects[system].update(handles)

    def tick(self, now: float) -> None:
        """Compare some of what was seen; take the next inventory when all was compared and it is time."""
        if not self._seen and now >= self._sweep_at:
            asked = [name for name, it in self._systems.items() if not it.surveys or self._suspects[name]]
            if asked:
                self._sweep_at = now + SWEEP * random.uniform(0.8, 1.2)
                self._take_inventory(asked)
        for _ in range(SLICE // BATCH):
            some = [self._seen.popleft() for _ in range(min(BATCH, len(self._seen)))]
            if some:
                self._compare(some)

    def sweep(self) -> None:
        """Take an inventory of everything and compare all of it, now."""
        for suspects in self._suspects.values():
            suspects.clear()
        self._take_inventory(list(self._systems))
        while self._seen:
            self.tick(float("-inf"))

    def _take_inventory(self, names: Sequence[str]) -> None:
        identity = self._record.identity()
        for name in names:
            if not identity:
                return
            suspects = self._suspects.get(name)
            with contextlib.suppress(SystemUnavailable), self._endpoints.asked(name):
                found = self._systems[name].inventory(identity)
                some = suspects & found.keys() if suspects else found
                self._seen.extend((name, handle, found[handle]) for handle in some)
            if suspects:
                suspects.clear()

    def _compare(self, seen: list[tuple[str, Handle, Token]]) -> None:
        """Kill what the record disowns now, after it was seen."""
        known = launch.standings(self._record, [_job(token) for _, _, token in seen])
        doomed: dict[str, list[Handle]] = {}
        for name, handle, token in seen:
            why = disowned(handle, token, known.get(_job(token)))
            if why:
                doomed.setdefault(name, []).append(handle)
                logger.warning("kills a stray on %s: %s", name, why, extra={"handle": handle, "token": token})
        for name, handles in doomed.items():
            for some in batches(handles):
                with contextlib.suppress(SystemUnavailable), self._endpoints.asked(name):
                    self._systems[name].kill(some, force=True)


def disowned(handle: Handle, token: Token, standing: Standing | None) -> str:
    """Return why the record disowns a launch, empty where it does not, or may yet commit it."""
    try:
        life, _, run = launch_token.split(token)
    except ValueError:
        return ""  # not a token of ours
    if standing is None:
        return "the record has no such job"
    arrival = launch_token.record_and_arrival(life)[1]
    if 0 < arrival < standing.arrival:
        return "its id is another job's by now"
    if arrival > standing.arrival:
        return ""  # an old copy of the record
    if run < standing.run:
        return f"the job is at run {standing.run}"
    if run > standing.run:
        return ""
    if standing.state in ENDED:
        return f"the job ended {standing.state}"
    if standing.state in POLLED and standing.handle and standing.handle != handle:
        return f"the launch is {standing.handle}"
    return ""


def _job(token: Token) -> str:
    return token.split(":")[1] if token.count(":") == 2 else ""  # "" is no job's id
