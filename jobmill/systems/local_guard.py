"""A guard on this machine: a child process and its two pipes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from jobmill.systems.guard import BOOTSTRAP
from jobmill.systems.guarded import Guarded

ROOT = str(Path(__file__).resolve().parent.parent.parent)  # what holds the package `jobmill`
PIPE_SIZE = 1 << 20  # bytes that the kernel is asked to hold for each direction


class LocalGuard(Guarded):
    """One guard process."""

    def __init__(self, arguments: Sequence[str], errors: Path, env: Mapping[str, str]) -> None:
        """Start it in a session of its own, with nothing of ours but three descriptors."""
        super().__init__()
        self.env = env
        command_reader, self.commands = os.pipe()
        self.events, event_writer = os.pipe()
        for fd in (self.commands, self.events):
            os.set_blocking(fd, False)
            with contextlib.suppress(OSError):  # over the user's limit for pipes: smaller ones do as well
                fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
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
        self.ready = True

    def descriptors(self) -> Sequence[int]:
        """Return the descriptor that tells of its death."""
        return () if self.pidfd is None else (self.pidfd,)

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

    def leave(self) -> None:
        """Leave it alone: the end of its input makes it finish what runs."""
        super().leave()
        if not self.dead() and self.pidfd is not None:
            os.close(self.pidfd)
