"""The starter's end of a guard: commands out, events in, and a new guard when one dies."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
import select
import time
from collections.abc import Callable, Sequence

from jobmill.errors import SystemUnavailable
from jobmill.systems import far_words, run_folder
from jobmill.systems.guarded import Guarded
from jobmill.systems.system import End, Start, Submission, Token, Unwatched

log = logging.getLogger(__name__)
CHUNK = 1 << 18
ALIVE = 60.0  # seconds after which a far guard is told that we are there
YOUNG = 1.0  # seconds; a guard that leaves by itself before this age is followed by another after a pause
TAKEN = run_folder.never_started("taken", "its marker is taken, and nobody has told a start or an end")
WITHDRAWN = run_folder.never_started("withdrawn", "taken out of line before it started")


class GuardChannel:
    """What was sent to the guard of one host and was not yet seen to end, over as many guards as it takes."""

    def __init__(
        self,
        start: Callable[[], Guarded],
        *,
        slots: int | None,
        read: Callable[[Token], run_folder.Run | None] | None = None,
        longest: float = 1.0,
    ) -> None:
        """``start``: starts a guard; ``read``: its run folder, where it can be read from here; ``slots`` None: later.

        ``longest``: seconds between starts of guards that die at once, at most.
        """
        self.waiting: dict[Token, bytes] = {}  # launch lines without a start so far, in order
        self.started: dict[Token, Guarded | None] = {}  # start told, end not; and the guard that will tell it
        self.guard: Guarded | None = None
        self.why = ""  # why there is none, or none that is ready
        self._start_guard, self._read_run, self._longest = start, read, longest
        self._slots = slots
        self._withdrawn: set[Token] = set()
        self._exposed: set[Token] = set()  # those in `waiting` that a guard out of reach may start yet
        self._notices: list[Start | End | Unwatched] = []
        self._epoll = select.epoll()
        self._timer_due: float | None = None  # time.monotonic() of the next start of a guard
        self._pause = 0.0
        self._born = 0.0
        self._spoke = 0.0  # time.monotonic() of the last command
        self._old: list[Guarded] = []
        self._start()

    def fileno(self) -> int:
        """Return the descriptor that is readable when `receive` has something to do."""
        return self._epoll.fileno()

    def launch(self, it: Submission) -> None:
        """Put one launch in line; `flush` sends."""
        if it.token in self.waiting or it.token in self.started:
            return
        fields = (
            list(it.argv),
            it.workdir,
            dict(it.env),
            it.stdin,
            it.stdout,
            it.stderr,
            dict(it.files),
            it.walltime,
            *([it.staged] if it.staged or it.order else []),
            *([dict(it.order)] if it.order else []),
        )
        line = b"launch %s %d %s\n" % (it.token.encode(), max(1, it.cpus), json.dumps(fields).encode("ascii"))
        self.waiting[it.token] = line
        self._withdrawn.discard(it.token)
        if self.guard is not None and self.guard.ready:  # else it goes with all the others, once it is
            self.guard.outgoing += line

    def withdraw(self, tokens: Sequence[Token]) -> None:
        """Ask for launches back; each that was still in line is told as a withdrawn End."""
        mine = [token for token in tokens if token in self.waiting]
        self._withdrawn.update(mine)
        self._send(self._withdrawal(mine))

    def set_slots(self, slots: int) -> None:
        """Change the number of slots."""
        self._slots = slots
        self._send([b"slots %d\n" % slots])

    def forget(self, tokens: Sequence[Token]) -> None:
        """Drop launches whose end nobody can tell any more."""
        for token in tokens:
            self.started.pop(token, None)

    def flush(self) -> None:
        """Write as much as the pipe takes; the rest goes with `receive`."""
        guard = self.guard
        if guard is None or guard.commands < 0:
            return
        had = bool(guard.pending)
        self._spoke = time.monotonic() if had else self._spoke
        try:
            while pending := guard.pending:
                with memoryview(pending) as view:
                    count = os.write(guard.commands, view[:CHUNK])
                del pending[:count]
        except BlockingIOError:
            self._epoll.modify(guard.commands, select.EPOLLOUT)
            return
        except OSError:  # no reader: guard and runner are gone, which it tells otherwise
            guard.preface.clear()
            guard.outgoing.clear()
        if had:
            self._epoll.modify(guard.commands, 0)

    def receive(self) -> Sequence[Start | End | Unwatched]:
        """Return what happened since the last call, without blocking."""
        for guard in [*self._old, *([self.guard] if self.guard else [])]:
            self._read(guard)
        if self.guard is not None and self.guard.dead():
            self._bury(self.guard)
        if self.guard is None and self._timer_due is not None and time.monotonic() >= self._timer_due:
            self._start()
        if self.guard is not None and self.guard.lingers and time.monotonic() - self._spoke > ALIVE:
            self._send([b"\n"])
        self.flush()
        notices, self._notices = self._notices, []
        return notices

    def close(self) -> None:
        """Leave the guards alone: the end of their input makes them finish what runs."""
        for guard in [*self._old, *([self.guard] if self.guard else [])]:
            guard.leave()
        self._old, self.guard = [], None
        self._epoll.close()

    def _send(self, lines: Sequence[bytes]) -> None:
        if lines and self.guard is not None and self.guard.ready:
            self.guard.outgoing += b"".join(lines)
            self.flush()

    def _withdrawal(self, tokens: Sequence[Token]) -> list[bytes]:
        """Return the commands that take launches out of line.

        Those that a guard out of reach may start yet are sealed: the marker decides between it and us.
        """
        lines = []
        for word, exposed in ((b"withdraw", False), (b"seal", True)):
            some = sorted(token for token in tokens if (token in self._exposed) is exposed)
            if some:
                lines.append(b"%s %s\n" % (word, json.dumps(some).encode("ascii")))
        return lines

    def _start(self) -> None:
        """Start a guard, and hand it everything that has not started as soon as it takes commands."""
        self._born, self._timer_due = time.monotonic(), None
        try:
            guard = self.guard = self._start_guard()
        except (OSError, SystemUnavailable) as error:  # out of processes or descriptors: that passes
            self.why = str(error)
            log.error("cannot start a guard: %s", error)
            self._pause = min(self._longest, self._pause * 2 + 0.5)
            self._timer_due = self._born + self._pause
            return
        self._epoll.register(guard.events, select.EPOLLIN)
        self._epoll.register(guard.commands, 0)
        for fd in guard.descriptors():
            self._epoll.register(fd, select.EPOLLIN)
        if guard.ready:
            self._resend(0)
        self.flush()

    def _resend(self, epoch: int) -> None:
        """Tell a new runner all that it has to know; ends that were told to nobody are read from the folders."""
        assert self.guard is not None
        before = self.guard if epoch else (self._old[-1] if self._old else None)
        for token in [*self.started, *self.waiting]:
            self._catch_up(token, before)
        if not self._old:
            self._give_up(None)
        lines = [b"\nsync %d\n" % epoch, b"env %s\n" % json.dumps(dict(self.guard.env)).encode("ascii")]
        lines.append(b"slots %d\n" % (self._slots or 0))
        sealed = self._withdrawn & self._exposed
        lines += [line for token, line in self.waiting.items() if token not in sealed]
        lines += self._withdrawal(sorted(self._withdrawn))
        self.guard.outgoing[:] = b"".join(lines)
        self.flush()

    def _catch_up(self, token: Token, guard: Guarded | None) -> None:
        """Read from its folder what became of a launch, which ``guard`` has started, while nobody could tell us."""
        if self._read_run is None:
            return  # the runner tells it when the launch is sent again
        try:
            run = self._read_run(token)
        except OSError:
            return
        if run is None or run.token != token:
            return
        if run.pid is not None:
            self._started(token, run.pid, guard)
        if run.end is not None:
            self._ended(token, far_words.record(run.end))  # a job can write to its own folder

    def _read(self, guard: Guarded) -> None:
        """Take the events of one guard."""
        while True:
            try:
                data = os.read(guard.events, CHUNK)
            except BlockingIOError:
                return
            except OSError as error:  # a connection that was reset
                guard.why = guard.why or str(error)
                data = b""
            if not data:
                guard.end()
                if guard in self._old:  # its runner has drained: nobody writes any more
                    self._old.remove(guard)
                    os.close(guard.events)
                    self._give_up(guard)
                elif guard is self.guard:
                    with contextlib.suppress(FileNotFoundError):
                        self._epoll.unregister(guard.events)
                return
            was_ready = guard.ready
            lines = guard.feed(data)
            if guard.ready and not was_ready and guard is self.guard:
                self.why = ""
                self._resend(0)
            for line in lines:
                self._take(line.decode("utf-8", "surrogateescape"), guard)
            if len(data) < CHUNK:
                return

    def _take(self, line: str, guard: Guarded) -> None:
        word, _, rest = line.partition(" ")
        token, _, value = rest.partition(" ")
        if word == "end":
            self._ended(token, value)
        elif word == "start":
            self._started(token, int(value), guard)
        elif word == "void":
            self._ended(token, value)
        elif word == "out":
            self._ended(token, WITHDRAWN)
        elif word == "taken":
            self._ended(token, TAKEN)
        elif word == "unwatched":
            self._unwatched(token)
        elif word == "restarted":
            self._resend(int(token))
        elif word == "bad":
            log.error("the runner did not understand us: %s", rest)

    def _started(self, token: Token, pid: int, guard: Guarded | None) -> None:
        if self.waiting.pop(token, None) is not None:
            self.started[token] = guard
            self._withdrawn.discard(token)
            self._exposed.discard(token)
            self._notices.append(Start(token=token, native_id=str(pid), host=guard.host if guard else run_folder.HOST))

    def _ended(self, token: Token, record: str) -> None:
        if token in self.started or token in self.waiting:
            self.started.pop(token, None)
            self.waiting.pop(token, None)
            self._withdrawn.discard(token)
            self._exposed.discard(token)
            self._notices.append(End(token=token, exit=record))

    def _unwatched(self, token: Token) -> None:
        if token in self.started:
            del self.started[token]
            self._notices.append(Unwatched(token=token))

    def _give_up(self, guard: Guarded | None) -> None:
        """Nobody writes for this guard any more: what it started and has not ended is left to polls."""
        for token in [token for token, by in self.started.items() if by is guard]:
            self._catch_up(token, guard)
            self._unwatched(token)

    def _bury(self, guard: Guarded) -> None:
        """Let a dead guard's runner drain, and start another guard, after a pause when they die at once."""
        guard.close_commands()
        self._old.append(guard)
        self.guard = None
        self.why = guard.why or self.why
        if guard.lingers and guard.ready:
            self._exposed.update(self.waiting)
        failed = guard.failed and time.monotonic() - self._born < YOUNG
        failed = failed or not guard.ready
        if failed and self._pause:
            self._timer_due = time.monotonic() + self._pause * random.uniform(0.8, 1.2)
        self._pause = min(self._longest, self._pause * 2 + 0.05) if failed else 0.0  # killed: another one at once
        self._read(guard)
        if self._timer_due is None:
            self._start()
