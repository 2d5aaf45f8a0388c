"""The runner of one rank of a pilot: takes launches from the line on the shared file system as its slots get free.

Standard library only, Python 3.6 and later. It runs them as the local runner does; nobody talks to it. What it looks at
while it is idle is the time of one folder and the names in another one, a few times a second (`tick`).
"""

import json
import os
import select
import signal
import sys
import time

from jobmill.systems import child_wait, pilot_line, pilot_room, process_tree, run_folder, runner, switch
from jobmill.systems.pilot_line import FORCE, KILLS, LINE, WORK, Entry, Line
from jobmill.systems.pilot_room import BEAT, Room
from jobmill.systems.pilot_watch import PilotWatch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

TICK, SLOWEST = 0.25, 0.9  # seconds between two looks of an idle rank; of many ranks, `PER_SECOND` looks in all
PER_SECOND = 64.0
FRESH = 2.0  # seconds for which a folder that changed is read at each look: its time may be coarse, or cached
WHOLE = 10.0  # seconds after which it is read whatever its time says
AHEAD, MOST_AHEAD = 0.1, 64  # taken beyond the free slots: what is started within so many seconds, so many launches
RESERVE = 2.0  # seconds that a launch which needs more slots than are free is left to others, then they are kept for it
FEW = 8  # ranks that may run for the same launch at once
STALE = 1.0  # seconds for which what was read counts
SOON = 0.01  # seconds between two looks while there is something to take
REST = 5.0  # seconds for which nothing is taken where the file system does not do what it should
LAST = 3.0  # seconds before the end of the allocation at which all has to be over
PARTING = 10.0  # seconds before that end at which a rank leaves


class PilotRank(runner.Runner):
    """One rank: a runner that feeds itself."""

    def __init__(
        self,
        spool: bytes,
        table: bytes,
        table_fd: int,
        epoch: int,
        place: "tuple[Line, Room, int]",
        terms: "dict[str, Any]",
    ) -> None:
        """``place``: line, allocation, number of the rank; ``terms``: what the allocation's file says."""
        runner.Runner.__init__(self, spool, table, table_fd, epoch, float(terms["kill_grace"]))
        self.line, self.room, self.rank = place
        self.rank_name = pilot_line.rank_name(self.room.number, self.rank)
        self.jobs_of = PilotWatch(self.watch.grace, self.emit, (os.getppid(),), self.line, self.rank_name)
        self.watch = self.jobs_of
        self.foreign_due = None  # other ranks have slots of their own
        self.slots = int(terms["cpus"])
        self.ranks = int(terms["ranks"])
        self.idle = float(terms["idle"])  # seconds
        self.drain = float(terms["drain"])  # seconds
        self.tick = min(SLOWEST, max(TICK, self.ranks / PER_SECOND))
        now = time.monotonic()
        self.until: "float | None" = None  # time.monotonic() of the allocation's end
        if terms.get("walltime"):
            gone = min(120.0, max(0.0, time.time() - float(self.room.text("began") or time.time())))
            self.until = now + float(terms["walltime"]) - gone
        self.waiting: "dict[str, int]" = {}  # token -> cpus of what is taken and not started
        self.seen: "list[Entry]" = []  # in line when it was read last, the first one last
        self.since: "dict[bytes, float]" = {}  # since when a large one is in line
        self.line_time = -1  # of the folder, as it was last
        self.changed = self.read_at = -WHOLE  # time.monotonic()
        self.empty = self.resting = False  # nothing was in line; the file system has just failed
        self.look_due = self.beat_due = self.kill_due = 0.0
        self.wall = 1.0  # seconds that jobs took lately
        self.inherited: "dict[str, tuple[bytes, int]]" = {}  # of a runner before us: token -> (run folder, cpus)
        self.guard = os.getppid()
        self.leaving = False
        self.taken_since: "float | None" = None  # time.monotonic() since when the allocation is being taken away
        self.busy_time, self.busy_seen = -1, now
        self.beats = 0
        self.wakeups: "tuple[int, int]" = (-1, -1)

    def serve(self) -> None:
        """Serve until nothing more is to be done here."""
        self.wakeups = os.pipe()
        for fd in self.wakeups:
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(self.wakeups[1])
        signal.signal(signal.SIGCHLD, _nothing)
        signal.signal(signal.SIGTERM, self._drain)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        poll = select.poll()
        poll.register(self.wakeups[0], select.POLLIN)
        self._arrive()
        while True:
            now = time.monotonic()
            for it in self.watch.reap() + self.watch.steps():
                self.used -= it.cpus
                self.free.append(it.slot)
                self.wall += 0.2 * (now - it.began - self.wall)
            self.jobs_of.write_again()
            if now >= self.beat_due:
                self._beat(now)
            self._kill()
            if not self.leaving:
                self._claim(now)
            more = self._fill()
            if self.leaving:
                self._give_back()
                watched = self.watch.running or self.watch.lingering
                if not watched and not self.inherited and not self.jobs_of.unwritten:
                    break
            for _fd, _event in poll.poll(0 if more else self._wait_for()):
                try:
                    os.read(self.wakeups[0], 65536)
                except OSError:
                    pass
        self._leave()

    def emit(self, line: bytes) -> None:
        """Take note of what becomes of a launch."""
        word, _, rest = line.rstrip(b"\n").partition(b" ")
        token, _, rest = rest.partition(b" ")
        name = token.decode("utf-8", "surrogateescape")
        if word in (b"start", b"end", b"void", b"taken", b"unwatched"):
            self.waiting.pop(name, None)
        if word == b"end" and b'"reason":"no_spool"' in rest:
            self.jobs_of.back(name)
            self._rest()
        elif word in (b"void", b"taken", b"unwatched"):  # its marker is another's
            self.jobs_of.drop(name)
        elif word == b"end" and name in self.jobs_of.names and name not in self.jobs_of.unwritten:
            self._told_before(name)

    def _told_before(self, token: str) -> None:
        """Deal with an end that is not ours to write: the launch had its turn before, or it waits for the rest."""
        try:
            found = run_folder.read(run_folder.folder_of(self.spool, token))
        except OSError:
            return
        if found is not None and found.end is not None:
            self.jobs_of.over(token)

    def _drain(self, _number: int, _frame: object) -> None:
        """Our guard died, or the allocation is being ended: start nothing more."""
        self.leaving = True
        self.jobs_of.warned = True

    # What is in line.

    def _arrive(self) -> None:
        """Begin: what a runner before us took and did not start goes back, what it started is waited for."""
        for it in self.line.entries(WORK, self.rank_name):
            self.jobs_of.names[it.token] = it.name
            folder = run_folder.folder_of(self.spool, it.token)
            found = run_folder.read(folder)
            if found is None or found.token != it.token:
                self.jobs_of.back(it.token)
            elif found.end is not None:
                self.jobs_of.over(it.token)
            elif found.left is None:
                self.inherited[it.token] = (folder, it.cpus)
        self.foreign = sum(cpus for _, cpus in self.inherited.values())

    def _look_at_inherited(self) -> None:
        """See what has ended of what the guard has from a runner before us.

        Is the guard dead as well, nobody tells their ends: once they are gone, whoever surveys says that they are lost.
        """
        orphans = os.getppid() != self.guard
        for token, (folder, _cpus) in list(self.inherited.items()):
            try:
                found = run_folder.read(folder)
            except OSError:
                continue
            if found is None or found.token != token or found.end is not None:
                del self.inherited[token]
                self.jobs_of.over(token)
            elif orphans and not _lives(found):
                del self.inherited[token]
        self.foreign = sum(cpus for _, cpus in self.inherited.values())

    def _claim(self, now: float) -> None:
        """Take what fits from the line, in its order."""
        free = self.slots - self.used - self.foreign
        ahead = min(MOST_AHEAD, int(self.slots * AHEAD / max(self.wall, 0.001)))
        room = max(0, free) + ahead - sum(self.waiting.values())
        if room <= 0 or (not self.seen and now < self.look_due):
            return
        if not self.seen or now - self.read_at > STALE:
            self._read_line(now)
        took, passed = 0, []
        while self.seen and room > 0 and not self.resting:
            it = self.seen.pop()
            if it.cpus > self.slots or not self._in_time(it, now):
                continue
            # what needs more than is free is left to others first, then it is the next one here
            if it.cpus > room and (it.cpus <= 1 or self.waiting or self._young(it, now)):
                passed.append(it)
            elif self._claim_one(it):
                took += 1
                room -= it.cpus
        self.seen += reversed(passed)
        if not took:
            self.seen = []
        if not self.resting:
            self.look_due = now + (SOON if took else self.tick)
        self.resting = False

    def _young(self, it: Entry, now: float) -> bool:
        """Tell whether a launch has not been in line for so long that slots are kept for it."""
        return now - self.since.setdefault(it.name, now) < RESERVE

    def _read_line(self, now: float) -> None:
        """Read the folder; where nothing was in it, only if its time says that something has come."""
        try:
            stamp = os.stat(self.line.path(LINE)).st_mtime_ns
            if stamp != self.line_time:
                self.line_time, self.changed = stamp, now
            if self.empty and now - self.changed > FRESH and now - self.read_at < WHOLE:
                return
            self.read_at = now
            found = self.line.entries(LINE)
        except OSError:
            self._rest()
            return
        self.empty = not found
        # all ranks read the same: where they are many, each begins with its share of those that are next
        found.sort(key=lambda it: it.order)
        next_ones = min(len(found), self.ranks * self.slots)
        start = self.rank * self.slots % next_ones if next_ones and self.ranks > FEW else 0
        found = found[start:next_ones] + found[:start] + found[next_ones:]
        found.reverse()
        self.seen = found
        if len(self.since) > len(found):
            names = {it.name for it in found}
            self.since = {name: when for name, when in self.since.items() if name in names}

    def _in_time(self, it: Entry, now: float) -> bool:
        """Tell whether a launch may be started before the allocation ends."""
        if self.until is None:
            return True
        left = self.until - now
        if it.walltime:
            return it.walltime + self.watch.grace + LAST <= left
        return left > self.drain

    def _claim_one(self, it: Entry) -> bool:
        """Make one launch ours; False: another was faster."""
        work = WORK + b"/" + self.rank_name
        try:
            if not self.line.move(it.name, LINE, work):
                return False
            line = pilot_line.read(self.line.path(work, it.name))
        except OSError:
            self._rest()
            return False
        self.jobs_of.names[it.token] = it.name
        head = b"%s %d " % (run_folder.encode(it.token), it.cpus)
        if line is None or not line.startswith(head) or not line.endswith(b"\n"):
            self._spoiled(it)
            return False
        self.waiting[it.token] = it.cpus
        self.backlog.append(line.rstrip(b"\n"))
        return True

    def _spoiled(self, it: Entry) -> None:
        """End a launch whose file somebody changed."""
        try:
            words = "its file in line was spoiled"
            run_folder.seal(self.spool, it.token, self.table.decode(), "submit_failed", words)
        except (OSError, FileExistsError, run_folder.Superseded):
            pass
        self.jobs_of.drop(it.token)

    def _launch(self, token: str, cpus: int, launch: "runner.Launch") -> None:
        """As every runner does; what has no walltime of its own has the allocation's."""
        if self.until is not None:
            left = max(1.0, self.until - time.monotonic() - self.watch.grace - LAST)
            launch[7] = min(launch[7], left) if launch[7] else left
        runner.Runner._launch(self, token, cpus, launch)

    def _give_back(self) -> None:
        """Put back into line what was not started."""
        self.backlog.clear()
        for token in list(self.waiting):
            del self.waiting[token]
            self.jobs_of.back(token)

    def _rest(self) -> None:
        """The file system does not do what it should: take nothing for a while."""
        self.look_due, self.resting = time.monotonic() + REST, True
        self.seen = []
        self.backlog.clear()
        self._give_back()

    # What others want to know, and want.

    def _beat(self, now: float) -> None:
        """Give a sign of life, and see whether it is time to leave."""
        self.beat_due = now + BEAT
        if self.inherited:
            self._look_at_inherited()
        state = pilot_room.LEAVING if self.leaving else pilot_room.UP
        busy = bool(self.watch.running or self.watch.lingering or self.waiting or self.inherited)
        try:
            self._tell(state)
            if busy:
                self._touch_busy()
            if self.room.has("taken") or self.room.has("ended"):
                self._end_jobs(now)
            elif self.room.has("stop"):
                self.leaving = True
            stamp = os.stat(self.room.path("busy")).st_mtime_ns
        except FileNotFoundError:  # nobody was busy yet, or our folder is gone
            stamp = 0
            if not os.path.isdir(self.room.folder) and os.path.isdir(self.spool):
                self.leaving = True
        except OSError:
            stamp = self.busy_time
        if stamp != self.busy_time or busy:
            self.busy_time, self.busy_seen = stamp, now
        if now - self.busy_seen > self.idle and not busy:
            self.leaving = True
        if self.until is not None and not busy and self.until - now < max(PARTING, min(self.drain, self.idle)):
            self.leaving = True

    def _end_jobs(self, now: float) -> None:
        """End what runs, as the allocation is taken away: a scheduler may not reach all that the jobs started."""
        self._drain(0, None)
        self.taken_since = self.taken_since or now
        force = now - self.taken_since >= self.watch.grace
        self.beat_due = now + 0.2
        for it in list(self.watch.running.values()):
            self.jobs_of.killed.add(it.token)
            switch.kill(it.switch, it.token, it.folder, it.pid, it.start, it.ended, force, 0.0, self.watch.spare)

    def _tell(self, state: str) -> None:
        self.beats += 1
        values = {"beat": self.beats, "state": state, "host": run_folder.HOST, "boot": run_folder.BOOT}
        values.update(ns=run_folder.NAMESPACE, table=self.table.decode(), pid=os.getpid(), slots=self.slots)
        values.update(used=self.used + self.foreign, left=None if self.until is None else self.until - time.monotonic())
        self.room.put("rank.%d" % self.rank, json.dumps(values))

    def _touch_busy(self) -> None:
        path = self.room.path("busy")
        try:
            os.utime(path)
        except FileNotFoundError:
            pilot_line.write(path, b"")

    def _kill(self) -> None:
        """Do what was asked for: TERM, or by force, to all of one launch."""
        now = time.monotonic()
        if not self.jobs_of.names or now < self.kill_due:
            return
        self.kill_due = now + self.tick
        try:
            names = self.line.names(KILLS, self.rank_name)
        except OSError:
            return
        for name in names:
            force = name.endswith(FORCE)
            it = pilot_line.entry_of(name[: -len(FORCE)] if force else name)
            if it is not None:
                self._kill_one(it.token, force)
            try:
                self.line.drop(name, KILLS + b"/" + self.rank_name)
            except OSError:
                pass

    def _kill_one(self, token: str, force: bool) -> None:
        folder = run_folder.folder_of(self.spool, token)
        try:
            found = run_folder.read(folder)
        except OSError:
            return
        if found is None or found.token != token or found.end is not None:
            return
        self.jobs_of.killed.add(token)
        who = switch.Switch.marked(found)
        switch.kill(who, token, folder, found.pid, found.start, found.ended, force, 0.0, self.watch.spare)

    def _wait_for(self) -> int:
        """Return the milliseconds until something is due."""
        now = time.monotonic()
        due = [max(0.0, self.beat_due - now), 1.0]
        step = self.watch.timeout()
        if step is not None:
            due.append(step)
        if self.jobs_of.names:
            due.append(max(0.0, self.kill_due - now))
        if not self.leaving and self.slots > self.used + self.foreign:
            due.append(max(0.0, self.look_due - now))
        return int(min(due) * 1000) + 1

    def _leave(self) -> None:
        """Say that nothing of us is left to wait for."""
        self._give_back()
        try:
            self._tell(pilot_room.LEFT)
            for place in (KILLS, WORK):
                os.rmdir(self.line.path(place, self.rank_name))
        except OSError:
            pass  # whoever surveys tidies up


def _lives(run: run_folder.Run) -> bool:
    """Tell whether the leader of a launch of this host runs."""
    process = None if run.pid is None else process_tree.process(run.pid)
    return process is not None and process.start == run.start


def _nothing(_number: int, _frame: object) -> None:
    """Let the wake-up descriptor tell."""


def main() -> None:
    """Run as ``pilot_rank <spool> <table> <descriptor> <epoch> <grace> <guard's pid> <system> <allocation> <rank>``."""
    spool, table, fd, epoch, _grace, guard, system, allocation, rank = sys.argv[2:11]
    os.set_inheritable(int(fd), False)
    os.chdir("/")
    os.setsid()  # whoever ends the guard's group does not end what we have to tell
    line = Line(os.fsencode(spool), system)
    room = Room(line, int(allocation))
    terms = room.json("terms")
    if terms is None:
        sys.exit("jobmill: %s has no terms" % os.fsdecode(room.folder))
    it = PilotRank(os.fsencode(spool), table.encode(), int(fd), int(epoch), (line, room, int(rank)), terms)
    base = json.loads(os.environ["JOBMILL_PILOT_ENV"])
    it.guard = int(guard)
    it.base = {run_folder.encode(key): run_folder.encode(value) for key, value in base.items()}
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, it._drain)
    child_wait.prctl(child_wait.PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(guard):
        it.leaving = True
    it.serve()
