"""A fleet: the instances of one `ec2` system, started when jobs wait and ended when none do.

EC2 itself says which there are, by tags. So any process may look, and whoever leads after a crash goes on. The leader
alone launches and ends. All calls of EC2 and to the instances are made by the fleet's own thread: who launches jobs
never waits for them.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from jobmill.errors import SystemUnavailable
from jobmill.systems.breaker import Breaker
from jobmill.systems.ec2_claims import Claims
from jobmill.systems.ec2_cloud import Cloud
from jobmill.systems.ec2_fates import Fates
from jobmill.systems.ec2_fleet_host import FleetHost, Visit
from jobmill.systems.ec2_host_key import HostKeys
from jobmill.systems.ec2_instance import Instance
from jobmill.systems.ec2_launcher import Launcher
from jobmill.systems.ec2_options import Ec2Options
from jobmill.systems.ec2_plan import Use, Want, plan
from jobmill.systems.ec2_request import request
from jobmill.systems.ec2_spend import Spend

logger = logging.getLogger("jobmill")

BUSY, QUIET = 5.0, 20.0  # seconds between two looks at EC2 while something changes, and while nothing does
FRESH = 60.0  # seconds for which a look is believed
SHOWS = 300.0  # seconds in which EC2 shows a launch at last
TURN = 10.0  # seconds of one turn in which launches are begun: leases have to be renewed meanwhile
REFUSED = 5.0, 600.0  # seconds of the first and the longest pause after EC2 refused to end an instance
VISITS = 16  # instances that are visited at once


class Fleet:
    """Call `serve` with the record first, `start` to begin. Everything but `turn` may be called by any thread."""

    def __init__(
        self,
        *,
        name: str,  # of the system
        options: Ec2Options,
        keys: HostKeys,
        folder: Path,  # where the spend is kept
        visit: Visit,
        leads: bool = False,  # launches and ends; otherwise it only looks, and renews where jobs are
        changed: Callable[[], None] = lambda: None,  # called by the thread when there is something new to see
        cloud: Callable[[], Cloud] | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.name = name
        self.options = options
        self.leads = leads
        self._keys = keys
        self._visit = visit
        self._clock, self._now = clock, now
        self._folder = folder
        self._changed = changed
        self._open_cloud = cloud or (
            lambda: Cloud(region=options.region, endpoint_url=options.endpoint_url, profile=options.profile)
        )
        self._cloud: Cloud | None = None
        self._spend: Spend | None = None
        self._launcher = Launcher(name, options.types, self._request)
        self._breaker = Breaker(clock, random.random)
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._closed = False
        self._thread: threading.Thread | None = None
        self.record = ""  # whose instances these are
        self._waiting: tuple[Want, ...] = ()
        self._instances: dict[str, Instance] = {}  # by id: the last look
        self._fresh: dict[str, tuple[Instance, float]] = {}  # launched by us, and not shown yet; with the time
        self._use: dict[str, Use] = {}
        self._placed: dict[str, int] = {}  # instance -> slots by launches of this process
        self._claims = Claims(clock)
        self._fates = Fates(clock)
        self._leaving: set[str] = set()  # being ended: nothing is placed there any more
        self._refused: dict[str, tuple[float, float]] = {}  # EC2 does not end it: asked again when, after what pause
        self._visited: dict[str, float] = {}
        self._young: dict[str, float] = {}  # launched by us, and never reached; since when
        self._held = ""
        self._looked = -1e9  # when EC2 last answered

    def serve(self, record: str) -> None:
        """Say whose instances these are; without it nothing is looked at, and nothing touched."""
        if record != self.record:
            self.record = record
            self._wake.set()

    def want(self, waiting: Sequence[Want]) -> None:
        """Say which jobs wait for a slot, in their order; replaces what was said before."""
        found = tuple(waiting)
        with self._lock:
            more = len(found) > len(self._waiting)
            self._waiting = found
        if more:
            self._wake.set()

    def hurry(self) -> None:
        """Look soon: something does not answer."""
        self._wake.set()

    def hosts(self) -> Sequence[FleetHost]:
        """Return every live instance that has answered, or, where this process only looks, may answer."""
        with self._lock:
            ready = [it for it in self._instances.values() if it.live and self._met(it.id)]
        return [host for it in ready if (host := self._host(it)) is not None]

    def place(self, host: str, slots: int, token: str = "") -> bool:
        """Note a launch on an instance, before it is sent there.

        False: it is about to be ended, does not answer, or has no slot that is not kept for another launch.
        """
        with self._lock:
            kept = self._claims.kept(host, but=token)
            if not self._usable(host) or (kept and self._placed.get(host, 0) + kept + slots > self.options.slots):
                return False
            self._claims.drop(token)
            self._placed[host] = self._placed.get(host, 0) + slots
            self._use[host] = Use(taken=max(self._use[host].taken or 0, self._placed[host]), met=True)
            return True

    def claim(self, token: str, want: Want) -> str | None:
        """Keep slots of an instance for a launch whose inputs are to be brought; None: not yet, it waits like others.

        Kept until it is placed or released, and no longer than it is renewed, by this or by `renew`.
        """
        with self._lock:
            new = self._claims.make(token, want)
            found = self._claims.host(token)
            if found is None or not self._usable(found):
                found = next((id_ for id_ in self._instances if self._has_room(id_, want.slots, token)), None)
                self._claims.put(token, found)
        if new and found is None:
            self._wake.set()
        return found

    def renew(self, tokens: Iterable[str]) -> None:
        """Keep the slots that are kept for these for longer."""
        with self._lock:
            for token in tokens:
                self._claims.renew(token)

    def release(self, token: str) -> None:
        """Keep nothing for this launch any more, and want nothing for it."""
        with self._lock:
            self._claims.drop(token)

    def _has_room(self, host: str, slots: int, token: str) -> bool:
        if not self._usable(host):
            return False
        there = max(self._use[host].taken or 0, self._placed.get(host, 0)) + self._claims.kept(host, but=token)
        return there + slots <= self.options.slots

    def _usable(self, host: str) -> bool:
        it = self._instances.get(host)
        return it is not None and it.live and host not in self._leaving and self._use.get(host, Use()).taken is not None

    def report(self, used: Mapping[str, int]) -> None:
        """Say how many slots the launches of this process take on each instance now; what is not named takes none."""
        with self._lock:
            self._placed = {id_: slots for id_, slots in used.items() if slots}

    def fate(self, host: str) -> str | None:
        """Return ``preempted`` or ``node_fail`` for an instance that is proved to be gone, else None."""
        with self._lock:
            return self._fates.of(host)

    def words(self, host: str) -> str:
        """Return what EC2 says of why an instance is as it is."""
        with self._lock:
            return self._fates.words(host)

    @property
    def whole(self) -> bool:
        """True when what is on none of `hosts` is nowhere: EC2 was asked just now, and each instance answers."""
        with self._lock:
            live = [it.id for it in self._instances.values() if it.live or it.state == "shutting-down"]
            return self._clock() - self._looked < FRESH and all(
                self._use.get(id_, Use()).taken is not None for id_ in live
            )

    @property
    def instances(self) -> Sequence[Instance]:
        """Return what the last look showed."""
        with self._lock:
            return list(self._instances.values())

    @property
    def held(self) -> str:
        """Return why waiting jobs get no further instance; empty: they get one, or none waits."""
        if self._breaker.open:
            return f"{self._breaker.why}; next try in {self._breaker.pause:.0f} s"
        with self._lock:
            return self._held

    def start(self) -> None:
        """Begin to look, and where it leads to act, in a thread of its own."""
        with self._lock:  # carriers may ask for it as well
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=f"fleet-{self.name}", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Stop; the instances go on, until the next leader ends them or their leases run out."""
        self._closed = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout=2.0)

    def _run(self) -> None:
        while not self._closed:
            self._wake.clear()
            try:
                pause = self.turn()
            except Exception:  # the fleet has to outlive whatever a library throws at it
                logger.exception("%s: the fleet's turn failed", self.name)
                pause = QUIET
            if not self._closed:
                self._changed()
                self._wake.wait(pause)
                time.sleep(0.2)  # several jobs that come at once are one turn's work

    def turn(self) -> float:
        """Look once and act; return the seconds to the next turn. By one thread only."""
        if not self.record:
            return QUIET
        most = self.options.lease / 4
        if pause := self._breaker.pause:
            self._visit_all(blind=True)
            return min(pause, most)
        try:
            if self._cloud is None:
                self._cloud = self._open_cloud()
            self._look(self._cloud)
            self._visit_all()
            if self._closed:  # others lead by now, perhaps
                return QUIET
            busy = self._act(self._cloud) if self.leads else bool(self._use)
        except SystemUnavailable as error:
            if self._breaker.failed(str(error)):
                logger.warning("%s: %s", self.name, error)
                if self._cloud is not None:  # credentials that have run out are read anew
                    self._cloud.close()
                    self._cloud = None
            self._visit_all(blind=True)
            return min(max(BUSY, self._breaker.pause), most)
        self._breaker.worked()
        quiet = max(BUSY, min(QUIET, self.options.idle))
        return min(BUSY if busy else quiet, most)

    def _look(self, cloud: Cloud) -> None:
        """Ask EC2 for all with our tags; raises SystemUnavailable, and then nothing has changed."""
        found = {it.id: it for it in cloud.instances(self.record, self.name)}
        with self._lock:
            asked = self._fates.wanted(found)
        strays = {it.id: it for it in cloud.by_id(asked)} if asked else {}
        at = self._clock()
        with self._lock:
            self._fresh = {id_: (it, t) for id_, (it, t) in self._fresh.items() if id_ not in found and at - t < SHOWS}
            found.update((id_, it) for id_, (it, _) in self._fresh.items())
            self._instances = found
            self._fates.note(found, asked, strays)
            for known in (self._use, self._visited):
                for id_ in [id_ for id_ in known if id_ not in found or not found[id_].live]:
                    del known[id_]
            self._leaving &= {id_ for id_, it in found.items() if it.state != "terminated"}
            self._looked = at
        if self.leads:
            if self._spend is None:
                self._spend = Spend(self._folder / "spend")
            try:
                self._spend.note(found.values(), self._now())
            except OSError as error:  # it is known in memory; a start without it counts what EC2 shows
                logger.warning("%s: cannot note the spend in %s: %s", self.name, self._folder, error.strerror)

    def _visit_all(self, *, blind: bool = False) -> None:
        """Renew the leases, and find out what is on each instance.

        ``blind``: EC2 does not answer, so that nothing can be ended. Jobs go on; what has none ends by its lease.
        """
        at, every = self._clock(), min(60.0, self.options.lease / 6)
        due: list[tuple[FleetHost, bool]] = []
        hidden: list[str] = []  # it runs, and has no address: not yet, or not the one that the configuration names
        with self._lock:
            for it in self._instances.values():
                host = self._host(it) if it.state == "running" else None
                if host is None and it.state == "running" and it.launch:
                    hidden.append(it.id)
                use = self._use.get(it.id, Use())
                # what is there and not of our own launches may be fetched, and so the instance idle, any moment
                soon = not use.met or (self.leads and (use.taken or 0) > self._placed.get(it.id, 0))
                if host is not None and (soon or at - self._visited.get(it.id, -1e9) >= every):
                    renew = bool(use.taken) if blind or not self.leads else True
                    due.append((host, renew and not (self.leads and it.id in self._leaving)))
            due.sort(key=lambda one: not self._met(one[0].name))  # who does not answer takes time
            live = [it.id for it in self._instances.values() if it.live]
        self._visit.keep(live)
        for id_ in hidden:
            self._note_visit(id_, None)
        if not due:
            return
        with ThreadPoolExecutor(min(VISITS, len(due))) as pool:
            answers = list(pool.map(lambda one: self._visit(one[0], renew=one[1]), due))
        for (host, _), taken in zip(due, answers, strict=True):
            self._note_visit(host.name, taken)

    def _note_visit(self, id_: str, taken: int | None) -> None:
        at = self._clock()
        with self._lock:
            was = self._use.get(id_, Use())
            mine = self._placed.get(id_, 0) + self._claims.kept(id_)
            if taken is None:
                silent = was.silent_since if was.silent_since is not None else at
                self._use[id_] = Use(taken=None, met=was.met, silent_since=silent)
                return
            self._visited[id_] = at
            if self._young.pop(id_, None) is not None:
                self._launcher.met()
            idle = None if taken or mine else was.idle_since if was.idle_since is not None else at
            self._use[id_] = Use(taken=max(taken, mine), met=True, idle_since=idle)

    def _act(self, cloud: Cloud) -> bool:
        """End and launch as planned; True while something is on its way."""
        at, now = self._clock(), self._now()
        with self._lock:
            instances, use, waiting = list(self._instances.values()), dict(self._use), self._waiting
            waiting += tuple(self._claims.waiting())
        # our own by our clock, which may differ from EC2's
        age = {it.id: at - self._young[it.id] if it.id in self._young else now - it.launched for it in instances}
        if self._spend is None:  # it leads since a moment ago
            return True
        spent = self._spend.spent(now, [it.id for it in instances], self.options.price)
        todo = plan(
            self.options,
            instances,
            use,
            waiting,
            now=at,
            age=age,
            spent=spent,
            bumps=self._launcher.bumps,
        )
        for id_ in [id_ for id_ in self._young if id_ not in age or not self._instances[id_].live or id_ in todo.end]:
            del self._young[id_]
            self._launcher.dud(todo.end.get(id_) or self.words(id_) or "it is gone", at)
        self._end(cloud, todo.end)
        for name in todo.launch:
            if self._clock() - at > TURN or self._closed or (self._launcher.probing and self._young):
                break
            for made in self._launcher.launch(cloud, [name], at):
                with self._lock:
                    self._instances[made.id] = made
                    self._fresh[made.id] = (made, at)
                    self._young[made.id] = at
        with self._lock:
            self._held = todo.held or (self._launcher.held(at) if todo.launch else "")
            return bool(waiting or self._leaving or any(not self._met(it.id) for it in instances if it.live))

    def _end(self, cloud: Cloud, ends: Mapping[str, str]) -> None:
        """Ask for the end of these, and again of all that were asked to end and are not proved to be gone."""
        for id_, why in ends.items():
            with self._lock:
                it = self._instances[id_]
                if it.live and (self._placed.get(id_) or self._claims.kept(id_)):
                    continue  # a job was placed there meanwhile
                new = id_ not in self._leaving
                self._leaving.add(id_)
                use = self._use.get(id_, Use())
            host = self._host(it) if it.live and use.taken is not None else None
            if host is not None and self._visit(host, renew=False):  # what ended there meanwhile is to be fetched first
                with self._lock:
                    self._leaving.discard(id_)
                    self._visited.pop(id_, None)
            elif new:
                logger.info("%s: ends %s: %s", self.name, id_, why)
        with self._lock:
            wanted = [id_ for id_ in self._leaving if self._instances[id_].state not in ("terminated", "shutting-down")]
        at = self._clock()
        self._refused = {id_: it for id_, it in self._refused.items() if id_ in wanted}
        wanted = [id_ for id_ in wanted if self._refused.get(id_, (at, 0.0))[0] <= at]
        if wanted:
            for id_, words in cloud.terminate(wanted).items():
                pause = min(REFUSED[1], 2 * self._refused[id_][1]) if id_ in self._refused else REFUSED[0]
                self._refused[id_] = at + pause, pause
                told = "%s: EC2 does not end %s, it costs on: %s; next try in %.0f s"
                logger.error(told, self.name, id_, words, pause)

    def _met(self, id_: str) -> bool:
        return self._use.get(id_, Use()).met

    def _host(self, it: Instance) -> FleetHost | None:
        return FleetHost.of(it, self.options, self._keys)

    def _request(self, launch: str, type_: str) -> Mapping[str, object]:
        return request(self.options, self._keys, record=self.record, system=self.name, launch=launch, type_=type_)
