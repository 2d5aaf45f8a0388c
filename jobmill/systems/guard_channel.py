"""The starter's end of a guard: commands out, events in, and a new guard when one dies."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import select
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from jobmill.systems import run_folder
from jobmill.systems.guard import BOOTSTRAP
from jobmill.systems.system import End, Start, Submission, Token, Unwatched

log = logging.getLogger(__name__)
ROOT = str(Path(__file__).resolve().parent.parent.parent)  # what holds the package `jobmill`
PIPE_SIZE = 1 << 20  # bytes that the kernel is asked to hold for each direction
CHUNK = 1 << 18
PAUSE_MAX = 1.0  # seconds between starts of guards that die at once
TAKEN = run_folder.never_started("taken", "its marker is taken, and nobody has told a start or an end")
WITHDRAWN = run_folder.never_started("withdrawn", "taken out of line before it started")


class Guarded:
    """One guard process and its two pipes."""

    def __init__(self, arguments: Sequence[str], errors: Path) -> None:
        """Start it in a session of its own, with nothing of ours but three descriptors."""
        command_reader, self.commands = os.pipe()
        self.events, event_writer = os.pipe()
        for fd in (self.commands, self.events):
            os.set_blocking(fd, False)
            with contextlib.suppress(OSError):  # over the user's limit for pipes: smaller ones do as well
                fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
        self.outgoing = bytearray()
        self.partial = b""
        self.failed = False  # it left by itself; it should not have, as long as we are here
        try:
            self.pid = os.posix_spawn(
                sys.executable,
                [sys.executable, "-I", "-S", "-c", BOOTSTRAP.format("guard"), ROOT, "guard", *arguments],
                {"PATH": "/usr/local/bin:/usr/bin:/bin"},  # no token of a job that we may be part of
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, command_reader, 0),
                    (os.POSIX_SPAWN_DUP2, event_writer, 1),
                    (os.POSIX_SPAWN_OPEN, 2, str(errors), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
                ],
                setsid=True,
                setsigmask=(),
            )
        except BaseException:
            os.close(self.commands)
            os.close(self.events)
            raise
        finally:
            os.close(command_reader)
            os.close(event_writer)
        self.pidfd: int | None = os.pidfd_open(self.pid)

    def dead(self) -> bool:
        """Tell whether the guard is gone; its zombie goes with the answer."""
        if self.pidfd is None:
            return True
        with contextlib.suppress(ChildProcessError):
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid == 0:
                return False
            self.failed = os.WIFEXITED(status)
        os.close(self.pidfd)
        self.pidfd = None
        return True

    def close_commands(self) -> None:
        """Give the runner the end of its input."""
        if self.commands >= 0:
            os.close(self.commands)
            self.commands = -1
        self.outgoing.clear()


class GuardChannel:
    """What one LocalSystem has sent and not yet seen end, over as many guards as it takes."""

    def __init__(self, *, spool: Path, system: str, grace: float, slots: int, env: Mapping[str, str]) -> None:
        self.waiting: dict[Token, bytes] = {}  # launch lines without a start so far, in order
        self.started: dict[Token, Guarded | None] = {}  # start told, end not; and the guard that will tell it
        self._spool = os.fsencode(spool)
        self._arguments = [str(spool), system, repr(grace)]
        self._errors = spool / "guards" / system / "errors"
        self._slots = slots
        self._env = env
        self._withdrawn: set[Token] = set()
        self._notices: list[Start | End | Unwatched] = []
        self._epoll = select.epoll()
        self._timer_due: float | None = None  # time.monotonic() of the next start of a guard
        self._pause = 0.0
        self._born = 0.0
        self._old: list[Guarded] = []
        self._guard: Guarded | None = None
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
        )
        line = b"launch %s %d %s\n" % (it.token.encode(), max(1, it.cpus), json.dumps(fields).encode("ascii"))
        self.waiting[it.token] = line
        self._withdrawn.discard(it.token)
        if self._guard is not None:
            self._guard.outgoing += line

    def withdraw(self, tokens: Sequence[Token]) -> None:
        """Ask for launches back; each that was still in line is told as a withdrawn End."""
        mine = [token for token in tokens if token in self.waiting]
        self._withdrawn.update(mine)
        if mine:
            self._send(b"withdraw %s\n" % json.dumps(mine).encode("ascii"))

    def set_slots(self, slots: int) -> None:
        """Change the number of slots."""
        self._slots = slots
        self._send(b"slots %d\n" % slots)

    def forget(self, tokens: Sequence[Token]) -> None:
        """Drop launches whose end nobody can tell any more."""
        for token in tokens:
            self.started.pop(token, None)

    def flush(self) -> None:
        """Write as much as the pipe takes; the rest goes with `receive`."""
        guard = self._guard
        if guard is None or guard.commands < 0:
            return
        had = bool(guard.outgoing)
        try:
            while guard.outgoing:
                with memoryview(guard.outgoing) as view:
                    count = os.write(guard.commands, view[:CHUNK])
                del guard.outgoing[:count]
        except BlockingIOError:
            self._epoll.modify(guard.commands, select.EPOLLOUT)
            return
        except OSError:  # no reader: guard and runner are gone, which the pidfd tells
            guard.outgoing.clear()
        if had:
            self._epoll.modify(guard.commands, 0)

    def receive(self) -> Sequence[Start | End | Unwatched]:
        """Return what happened since the last call, without blocking."""
        for guard in [*self._old, *([self._guard] if self._guard else [])]:
            self._read(guard)
        if self._guard is not None and self._guard.dead():
            self._bury(self._guard)
        if self._guard is None and self._timer_due is not None and time.monotonic() >= self._timer_due:
            self._start()
        self.flush()
        notices, self._notices = self._notices, []
        return notices

    def close(self) -> None:
        """Leave the guards alone: the end of their input makes them finish what runs."""
        for guard in [*self._old, *([self._guard] if self._guard else [])]:
            guard.close_commands()
            os.close(guard.events)
            if not guard.dead() and guard.pidfd is not None:
                os.close(guard.pidfd)
        self._old, self._guard = [], None
        self._epoll.close()

    def _send(self, line: bytes) -> None:
        if self._guard is not None:
            self._guard.outgoing += line
            self.flush()

    def _start(self) -> None:
        """Start a guard and hand it everything that has not started."""
        self._born, self._timer_due = time.monotonic(), None
        try:
            guard = self._guard = Guarded(self._arguments, self._errors)
        except OSError as error:  # out of processes or descriptors: that passes
            log.error("cannot start a guard: %s", error)
            self._timer_due = self._born + PAUSE_MAX
            return
        self._epoll.register(guard.events, select.EPOLLIN)
        self._epoll.register(guard.commands, 0)
        assert guard.pidfd is not None
        self._epoll.register(guard.pidfd, select.EPOLLIN)
        self._resend(0)

    def _resend(self, epoch: int) -> None:
        """Tell a new runner all that it has to know; ends that were told to nobody are read from the folders."""
        assert self._guard is not None
        before = self._guard if epoch else (self._old[-1] if self._old else None)
        for token in [*self.started, *self.waiting]:
            self._catch_up(token, before)
        if not self._old:
            self._give_up(None)
        lines = [b"\nsync %d\n" % epoch, b"env %s\n" % json.dumps(dict(self._env)).encode("ascii")]
        lines.append(b"slots %d\n" % self._slots)
        lines += self.waiting.values()
        if self._withdrawn:
            lines.append(b"withdraw %s\n" % json.dumps(sorted(self._withdrawn)).encode("ascii"))
        self._guard.outgoing[:] = b"".join(lines)
        self.flush()

    def _catch_up(self, token: Token, guard: Guarded | None) -> None:
        """Read from its folder what became of a launch, which ``guard`` has started, while nobody could tell us."""
        try:
            run = run_folder.read(run_folder.folder_of(self._spool, token))
        except OSError:
            return
        if run is None or run.token != token:
            return
        if run.pid is not None:
            self._started(token, run.pid, guard)
        if run.end is not None:
            self._ended(token, run.end)

    def _read(self, guard: Guarded) -> None:
        """Take the events of one guard."""
        while True:
            try:
                data = os.read(guard.events, CHUNK)
            except BlockingIOError:
                return
            if not data:
                if guard in self._old:  # its runner has drained: nobody writes any more
                    self._old.remove(guard)
                    os.close(guard.events)
                    self._give_up(guard)
                elif guard is self._guard:
                    with contextlib.suppress(FileNotFoundError):
                        self._epoll.unregister(guard.events)
                return
            lines = (guard.partial + data).split(b"\n")
            guard.partial = lines.pop()
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
        elif word == "restarted":
            self._resend(int(token))
        elif word == "bad":
            log.error("the runner did not understand us: %s", rest)

    def _started(self, token: Token, pid: int, guard: Guarded | None) -> None:
        if self.waiting.pop(token, None) is not None:
            self.started[token] = guard
            self._withdrawn.discard(token)
            self._notices.append(Start(token=token, native_id=str(pid), host=run_folder.HOST))

    def _ended(self, token: Token, record: str) -> None:
        if token in self.started or token in self.waiting:
            self.started.pop(token, None)
            self.waiting.pop(token, None)
            self._withdrawn.discard(token)
            self._notices.append(End(token=token, exit=record))

    def _give_up(self, guard: Guarded | None) -> None:
        """Nobody writes for this guard any more: what it started and has not ended is left to polls."""
        for token in [token for token, by in self.started.items() if by is guard]:
            self._catch_up(token, guard)
            if token in self.started:
                del self.started[token]
                self._notices.append(Unwatched(token=token))

    def _bury(self, guard: Guarded) -> None:
        """Let a dead guard's runner drain, and start another guard, after a pause when they die at once."""
        guard.close_commands()
        self._old.append(guard)
        self._guard = None
        failed = guard.failed and time.monotonic() - self._born < 1.0
        if failed and self._pause:
            self._timer_due = time.monotonic() + self._pause
        self._pause = min(PAUSE_MAX, self._pause * 2 + 0.05) if failed else 0.0  # killed: another one at once
        self._read(guard)
        if self._timer_due is None:
            self._start()
