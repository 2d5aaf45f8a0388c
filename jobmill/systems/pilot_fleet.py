"""The allocations of one pilot: asked for when launches wait, adopted after a crash, tidied up when they are over.

Any number of processes may do it at once: making an allocation's folder is the right to ask for it, the first word on
its end counts, and it is submitted held with its folder's name, so that one whose asker died is found by it. Whoever
asked for more than its folder knows of asked in vain: what has no folder, or an end, is cancelled.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import shlex
import shutil
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobmill.errors import SystemUnavailable
from jobmill.systems import batch_script, pilot_line, run_folder, slot_table
from jobmill.systems.batch_row import Phase, Row
from jobmill.systems.command_line import Unanswered
from jobmill.systems.pilot_here import PilotHere
from jobmill.systems.pilot_line import KILLS, LINE, WORK, Entry, Line
from jobmill.systems.pilot_options import PilotOptions
from jobmill.systems.pilot_pace import PilotPace
from jobmill.systems.pilot_room import LEFT, SILENT, Room
from jobmill.systems.system import Submission, SubmitError

logger = logging.getLogger("jobmill")

START = "import sys; sys.path.insert(0, sys.argv[4]); from jobmill.systems.pilot_head import main; main()"
YOUNG = 5.0  # seconds that a launch waits for ranks that live before it is a reason for another allocation
UNANSWERED = 20.0  # seconds after which what was asked for, and is not known to the scheduler, was not taken
PAUSE, LONGEST = 5.0, 300.0  # seconds until a scheduler that refused is asked again: the first time, at most
KEPT = 30  # ended allocations whose folders are kept for who wants to read them


@dataclass
class Allocation:
    """One allocation, by its files."""

    room: Room
    native: str = ""
    began: bool = False
    ended: dict[str, Any] | None = None
    ranks: dict[int, dict[str, Any]] = field(default_factory=dict)

    @property
    def number(self) -> int:
        """Its number: the pilot counts them."""
        return self.room.number


class PilotFleet:
    """What one process knows of the allocations, and does about them."""

    def __init__(self, name: str, spool: Path, line: Line, options: PilotOptions) -> None:
        self.name = name
        self.spool = spool
        self.options = options
        self.line = line
        self.why = ""  # why the next allocation is not asked for
        self._prefix = ""
        self._here: PilotHere | None = None
        self._rows: dict[int, Row] = {}  # of the last question
        self._asked_at = -1e9  # time.monotonic()
        self._seen: dict[int, float] = {}  # time.monotonic() when an allocation was seen first
        self._gone: dict[int, float] = {}  # since when the scheduler does not know one any more
        self._over: dict[int, tuple[dict[str, Any], float]] = {}  # ended: how, and since when we know
        self._beats: dict[tuple[int, int], tuple[int, float]] = {}  # of a rank: last beat, when it was seen first
        self._waiting: dict[bytes, float] = {}  # in line: since when
        self._empty_since: float | None = None
        self._pause_until = 0.0
        over, o = options.over, options
        self._pace = None  # this machine may be asked at any time
        if over is not None:
            most, per_minute = over.options.poll_interval_max, over.options.queries_per_minute
            self._pace = PilotPace(line, o.poll_interval, most, per_minute)
        self._refusals = 0

    @property
    def prefix(self) -> str:
        """What the tokens of this pilot's allocations begin with; no record has it, so nobody sweeps them."""
        if not self._prefix:
            path = self.line.path(b"id")
            text = pilot_line.read(path)
            if not text:
                pilot_line.put_first(path, f"p{secrets.token_hex(6)}".encode())
                text = pilot_line.read(path) or b""
            self._prefix = f"pilot.{text.decode('ascii')}:{self.name}:"
        return self._prefix

    @property
    def scheduler(self) -> Any:
        """Who gives allocations: the verbs of a batch system."""
        if self.options.over is not None:
            return self.options.over
        if self._here is None:
            self._here = PilotHere(self.line, path=self.options.path, token=self.prefix)
        return self._here

    # Looking.

    def look(self) -> dict[int, Allocation]:
        """Return all allocations that have a folder, by their files; raises OSError."""
        now = time.monotonic()
        found: dict[int, Allocation] = {}
        for number in self.line.allocations():
            room = Room(self.line, number)
            self._seen.setdefault(number, now)
            if number in self._over:
                found[number] = Allocation(room, ended=self._over[number][0], began=True)
                continue
            ended = room.ended()
            if ended is not None:
                self._over[number] = (ended, now)
                found[number] = Allocation(room, ended=ended, began=True)
                continue
            it = Allocation(room, native=room.text("native"), began=room.has("began"), ranks=room.ranks())
            for rank, values in it.ranks.items():
                beat = values["beat"]
                if self._beats.get((number, rank), (-1, 0.0))[0] != beat:
                    self._beats[number, rank] = (beat, now)
            found[number] = it
        return found

    def silent(self, number: int, rank: int) -> float:
        """Return for how many seconds a rank has given no sign of life, as far as this process has seen."""
        return time.monotonic() - self._beats.get((number, rank), (0, time.monotonic()))[1]

    def dead(self, number: int, known: dict[int, Allocation], rank: int) -> bool:
        """Tell whether certainly nothing of a rank writes any more."""
        it = known.get(number)
        if it is None:  # its folder is long removed, or was made since we looked, or those are just not to be seen
            return number < max(known, default=0) and not os.path.lexists(Room(self.line, number).folder)
        if it.ended is not None:
            return True
        values = it.ranks.get(rank)
        if values is None:
            return False
        return values.get("state") == LEFT or (
            here(values) and not slot_table.locked(self.line.spool, str(values.get("table")))
        )

    def over_since(self, number: int) -> float:
        """Return for how many seconds this process knows of an allocation's end; -1: it knows of none."""
        return time.monotonic() - self._over[number][1] if number in self._over else -1.0

    def told(self, number: int) -> str:
        """Return in a few words which allocation that is, and how it is by the scheduler."""
        row = self._rows.get(number)
        kind = self.scheduler.kind
        if row is None:
            return f"allocation {number}"
        reason = f", {row.reason}" if row.reason else ""
        return f"allocation {number} ({kind} {row.native}: {row.state}{reason})"

    # Asking.

    def ask(self, known: dict[int, Allocation]) -> None:
        """Ask the scheduler for all, and do what its answer demands; raises SystemUnavailable."""
        now = time.monotonic()
        if not known or not self._due(known, now):
            return
        scheduler = self.scheduler
        before = scheduler.queries
        self._asked_at = now
        if self._pace is not None:
            self._pace.asks()  # one that does not answer is not asked more often
        rows = {int(row.token[len(self.prefix) :]): row for row in scheduler.queue() if self._ours(row)}
        lost = {
            it.native: n for n, it in known.items() if it.ended is None and it.native and n not in rows
        }  # the queue has forgotten them
        if lost:
            found = dict(scheduler.look(list(lost)))
            left = [native for native in lost if native not in found]
            if left:
                with suppress(SystemUnavailable):
                    found.update((row.native, row) for row in scheduler.books(left, ()))
            rows.update((lost[native], row) for native, row in found.items() if native in lost)
        self._rows = rows
        if self._pace is not None:
            self._pace.asked(rows, scheduler.queries - before)
        for number, it in known.items():
            if it.ended is None:
                self._judge(it, rows.get(number), now)
        strays = [
            row
            for number, row in rows.items()
            if not row.phase.ended and (number not in known or known[number].ended is not None) and self._stray(number)
        ]
        self._cancel(strays)

    def _due(self, known: dict[int, Allocation], now: float) -> bool:
        """Tell whether to ask the scheduler now: seldom, as long as all is as it told last, and ranks tell the rest."""
        if self._pace is None:
            return now - self._asked_at >= self.options.poll_interval
        due = self._pace.due(news=any(self._newer(it) for it in known.values()))
        self._rows = self._pace.rows
        return due

    def _newer(self, it: Allocation) -> bool:
        """Tell whether there is more to know of an allocation, or to do about it, than the last answer said."""
        row = self._rows.get(it.number)
        if it.ended is not None:
            return row is not None and not row.phase.ended  # it is to be cancelled
        leaves = bool(it.ranks) and all(values.get("state") == LEFT for values in it.ranks.values())
        return row is None or row.phase is Phase.HELD or leaves or it.room.has("taken") or self._unheard(it)

    def _unheard(self, it: Allocation) -> bool:
        """Tell whether a rank that has not left gives no sign of life."""
        return any(it.ranks[rank].get("state") != LEFT and self.silent(it.number, rank) > SILENT for rank in it.ranks)

    def _stray(self, number: int) -> bool:
        """Tell whether an allocation has no folder, or an end, now: another process may have asked since we looked."""
        room = Room(self.line, number)
        return room.has("ended") or not os.path.lexists(room.folder)

    def _ours(self, row: Row) -> bool:
        return row.token.startswith(self.prefix) and row.token[len(self.prefix) :].isdecimal()

    def _judge(self, it: Allocation, row: Row | None, now: float) -> None:
        """Adopt an allocation that its asker could not note, free it, or note its end."""
        if row is not None:
            self._gone.pop(it.number, None)
            if not it.native:
                it.native = row.native
                it.room.put("native", row.native)
            if row.phase.ended:
                words = {"phase": row.phase.value, "state": row.state, "native": row.native, "host": row.host}
                self.end(it, by=self.scheduler.kind, reason=row.reason, **words)
            elif row.phase is Phase.HELD and not it.began:
                self.scheduler.free([row.native])
            return
        since = self._gone.setdefault(it.number, now)
        patience = 2 * self.options.late + 10 if it.native else UNANSWERED
        alive = any(
            values.get("state") != LEFT and self.silent(it.number, rank) < SILENT for rank, values in it.ranks.items()
        )
        if now - since > patience and not alive:
            state = "the scheduler knows nothing of it" if it.native else "it was never taken"
            self.end(it, by=self.scheduler.kind, phase=Phase.UNKNOWN.value, state=state)

    def end(self, it: Allocation, **words: Any) -> None:
        """Note how an allocation ended; the first word counts."""
        it.room.end(**words)
        it.ended = it.room.ended()
        if it.ended is not None:
            self._over[it.number] = (it.ended, time.monotonic())
        logger.info("%s: allocation %d ended: %s", self.name, it.number, it.ended)

    def _cancel(self, rows: Iterable[Row]) -> None:
        """End what nobody needs: what begins meanwhile finds its end noted, and leaves."""
        rows = list(rows)
        if rows:
            logger.warning("%s: cancels allocations that are over: %s", self.name, [row.native for row in rows])
            with suppress(SystemUnavailable):
                self.scheduler.cancel(rows, force=False)
                self.scheduler.destroy([row.native for row in rows])

    # Scaling.

    def scale(self, known: dict[int, Allocation]) -> None:
        """Ask for as many allocations as what waits fills, up to the limit; take back those that nobody needs."""
        now = time.monotonic()
        waiting = [it for it in self.line.entries(LINE) if not self.options.too_large(it.cpus, it.walltime)]
        self._waiting = {it.name: self._waiting.get(it.name, now) for it in waiting}
        live = [it for it in known.values() if it.ended is None]
        pending = [it for it in live if not it.ranks]
        self._empty_since = None if waiting else self._empty_since or now
        if not waiting:
            if self._empty_since is not None and now - self._empty_since > max(self.options.idle, YOUNG):
                for it in pending:
                    if not it.began and now - self._seen.get(it.number, now) > self.options.idle:
                        self.end(it, by="jobmill", phase=Phase.CANCELLED.value, state="nobody needs it any more")
            return
        at_work = any(self._takes(it) for it in live)
        ripe = [it for it in waiting if not at_work or now - self._waiting[it.name] >= YOUNG]
        need = -(-sum(it.cpus for it in ripe) // self.options.slots) - len(pending)
        count = min(need, self.options.allocations - len(live))
        if need > 0 and count <= 0:
            self.why = f"{len(live)} of {self.options.allocations} allocations are there"
        if count <= 0 or now < self._pause_until or self._doomed(known):
            return
        next_one = max([*known, *(number for number, _ in self.line.ranks())], default=0) + 1
        for number in range(next_one, next_one + count):
            if not self._start(number):
                break

    def _takes(self, it: Allocation) -> bool:
        """Tell whether an allocation has ranks that may take something soon."""
        for rank, values in it.ranks.items():
            left = values.get("left")
            drains = isinstance(left, int | float) and left <= self.options.drain
            if values.get("state") == "up" and not drains and self.silent(it.number, rank) < SILENT:
                return True
        return False

    def _doomed(self, known: dict[int, Allocation]) -> bool:
        """Tell whether the last allocations had no ranks at all: the next would fare no better for a while."""
        count, last = 0, -1
        for number in sorted(known, reverse=True):
            it = known[number]
            if it.ended is None or it.ended.get("by") == "jobmill":
                continue
            if it.room.ranks():
                break
            count, last = count + 1, max(last, number)
        if not count:
            return False
        wait = min(LONGEST, PAUSE * 2 ** (count - 1))
        if self._ended_for(last) < wait:
            newest = known[max(known)]
            ended = newest.ended or {}
            words = newest.room.text("native.log")[-500:] or str(ended.get("state"))
            self.why = f"its last {count} allocations started no rank, the next one is asked for later: {words}"
            return True
        return False

    def _ended_for(self, number: int) -> float:
        """Return for how many seconds an allocation has been over; the clocks of its nodes may be others than ours."""
        ended, known = self._over[number]
        told = ended.get("time")
        if known == self._seen.get(number) and isinstance(told, int | float):  # it was over before we came
            seconds = time.time() - told
            if seconds >= 0:
                return seconds
        return time.monotonic() - known

    def _start(self, number: int) -> bool:
        """Ask for one allocation; False: another process does, or the scheduler does not take it."""
        room = Room(self.line, number)
        if not room.claim():
            return False
        it = Allocation(room)
        self._seen[number] = time.monotonic()
        folder, script = self._write(room)
        token = f"{self.prefix}{number}"
        o = self.options
        submission = Submission(
            token=token,
            job_id=f"pilot-{self.name}",
            run=number,
            argv=("pilot",),
            cpus=o.cpus,
            nodes=o.nodes,
            tasks=o.ranks,
            memory=o.memory,
            walltime=o.walltime,
            name=f"pilot-{self.name}",
            queue=o.queue,
            account=o.account,
        )
        try:
            answer = self.scheduler.send(submission, folder, script)
        except Unanswered as error:  # it may have been taken: then the queue tells
            self._refused(str(error))
            return False
        except SystemUnavailable as error:
            self._refused(str(error))
            self.end(it, by="jobmill", phase=Phase.CANCELLED.value, state=f"not taken: {error}")
            return False
        if isinstance(answer, SubmitError):
            self._refused(answer.message)
            if answer.failure.value != "unclear":
                self.end(it, by="jobmill", phase=Phase.CANCELLED.value, state=f"refused: {answer.message}")
            return False
        room.put("native", answer)
        self._refusals, self.why = 0, ""
        with suppress(SystemUnavailable):  # else it is seen held, and freed then
            self.scheduler.free([answer])
        self._asked_at = -1e9
        logger.info("%s: asked for allocation %d: %s", self.name, number, answer)
        return True

    def _refused(self, why: str) -> None:
        wait = min(LONGEST, PAUSE * 2**self._refusals)
        self._refusals = min(self._refusals + 1, 10)
        self._pause_until = time.monotonic() + wait
        self.why = f"{self.scheduler.kind} gave no allocation, it is asked again in {wait:g} s: {why}"
        logger.warning("%s: %s", self.name, self.why)

    def _write(self, room: Room) -> tuple[str, str]:
        """Write what an allocation has to know, and its script; return its folder and the script's text."""
        o = self.options
        terms = {"launcher": o.launch_words(), "python": o.python, "ranks": o.ranks, "cpus": o.cpus, "idle": o.idle}
        terms |= {"drain": o.drain, "kill_grace": o.kill_grace, "walltime": o.walltime, "env": dict(o.job_env)}
        library = batch_script.library(self.spool)
        folder = os.fsdecode(room.folder)
        words = [o.python, "-I", "-S", "-c", START, str(self.spool), self.name, str(room.number), str(library)]
        words.append(self.scheduler.id_variable)
        log = "" if self.scheduler.keeps_words else f"exec >>{shlex.quote(f'{folder}/native.log')} 2>&1\n"
        script = f"#!/bin/sh\n# jobmill {self.prefix}{room.number}\n{log}exec {shlex.join(words)}\n"
        pilot_line.put(room.path("terms"), json.dumps(terms).encode(), 0o600)
        room.put("script", script)
        return folder, script

    def prune(self, known: dict[int, Allocation]) -> None:
        """Remove the folders of old allocations; the newest ones stay, and with them the next number."""
        over = sorted(n for n, it in known.items() if it.ended is not None)
        working = {number for number, _ in self.line.ranks()}
        for number in over[:-KEPT]:
            if number not in working and number != max(known) and number not in self._rows:
                shutil.rmtree(known.pop(number).room.folder, ignore_errors=True)

    def close_rank(self, number: int, rank: int) -> None:
        """Remove the folders of a rank that is gone; what is in them stays where it is."""
        name = pilot_line.rank_name(number, rank)
        with suppress(OSError):
            for left in self.line.names(KILLS, name):
                self.line.drop(left, KILLS + b"/" + name)
            os.rmdir(self.line.path(KILLS, name))
        with suppress(OSError):
            os.rmdir(self.line.path(WORK, name))

    def pending(self, it: Entry, known: dict[int, Allocation]) -> str:
        """Return for what a launch waits."""
        if wrong := self.options.too_large(it.cpus, it.walltime):
            return f"it came before the options were changed, and fits no allocation any more: {wrong}"
        live = [a for a in known.values() if a.ended is None]
        coming = [a for a in live if not a.ranks]
        if coming:
            return f"waits for {self.told(coming[0].number)}"
        if self.why:
            return self.why
        if live:
            return f"waits for {it.cpus} free slots in {', '.join(self.told(a.number) for a in live[:3])}"
        return "waits for an allocation"


def here(values: dict[str, Any]) -> bool:
    """Tell whether something that wrote these words runs on this host, since its last boot, where we see it."""
    return values.get("boot") == run_folder.BOOT and values.get("ns") == run_folder.NAMESPACE
