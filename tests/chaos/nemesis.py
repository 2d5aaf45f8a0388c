"""The faults of a run: chosen by the seed, in order, so that a run can be replayed."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Sequence

from tests.chaos.checker import Moment
from tests.chaos.disk import available
from tests.chaos.evidence import now
from tests.chaos.faults import cluster, machine, network, process, server
from tests.chaos.faults.fault import Fault, Missed
from tests.chaos.world import World

FAULTS = {f.name: f for f in (*process.FAULTS, *network.FAULTS, *server.FAULTS, *machine.FAULTS, *cluster.FAULTS)}
LANES = 3  # faults at once, at most
SPARE = 4  # faults that are drawn for each that shall hit something
GAP = 1.0  # seconds between faults of a lane, at most
BOTH = 3.0  # seconds between two kills that may count as one: nobody has taken over yet


def usable(names: Sequence[str], system: str) -> list[Fault]:
    """Return the faults of these names (none: all that this user and this system can have); raise KeyError."""
    chosen = [FAULTS[name] for name in names] if names else list(FAULTS.values())
    return [f for f in chosen if system in f.systems and (names or available() or not f.disk)]


class Nemesis:
    """Injects so many faults into a world, some at once."""

    def __init__(self, world: World, faults: Sequence[Fault], *, count: int, seed: int) -> None:
        draw = random.Random(f"faults {seed}")
        weights = [fault.weight for fault in faults]
        self.sequence = draw.choices(faults, weights, k=count * SPARE) if faults else []
        self.injected: Counter[str] = Counter()
        self.missed = 0  # faults that found nothing to hit
        self._done: list[tuple[Fault, Moment]] = []
        self.failed: list[str] = []  # faults that could not be injected: a fault of this program
        self._left = count  # faults that are still to hit something
        self._world, self._seed = world, seed
        self._next = 0
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._lanes = [threading.Thread(target=self._serve, name=f"nemesis-{n}", daemon=True) for n in range(LANES)]

    @property
    def losses(self) -> list[Moment]:
        """Return when something was injected after which ends cannot be known.

        A runner without its guard, which lets its last jobs end, takes what it watches with it; so do both at once.
        """
        found = [moment for fault, moment in self._done if fault.loses]
        guards, runners = ([m for fault, m in self._done if fault.kills == role] for role in ("guard", "runner"))
        for since, to in runners:
            near = [guard for guard in guards if guard[0] <= to + BOTH]
            if near:
                found.append((since, max([to, *(end for _, end in near)])))
        return found

    @property
    def busy(self) -> bool:
        """Tell whether faults are still to come or under way."""
        return any(lane.is_alive() for lane in self._lanes)

    def start(self) -> None:
        """Begin."""
        for lane in self._lanes:
            lane.start()

    def stop(self) -> None:
        """Inject nothing more; every fault under way is healed when this returns."""
        self._over.set()
        for lane in self._lanes:
            if lane.ident is not None:
                lane.join()

    def _serve(self) -> None:
        self._over.wait(random.Random(threading.current_thread().name).uniform(0.5, 2 * GAP))  # not all at once
        while not self._over.is_set():
            with self._lock:
                number = self._next
                if number >= len(self.sequence) or not self._left:
                    return
                self._next += 1
                self._left -= 1
            fault, draw = self.sequence[number], random.Random(f"fault {self._seed} {number}")
            since = now() - fault.forgets
            try:
                fault.inject(self._world, draw, self._over.wait)
                with self._lock:
                    self.injected[fault.name] += 1
                    self._done.append((fault, (since, now())))
            except Missed:
                with self._lock:
                    self.missed += 1
                    self._left += 1
            except Exception as error:  # told at the end, and the run counts as failed
                self.failed.append(f"{fault.name}: {error!r}")
            self._over.wait(draw.uniform(0.05, GAP))
