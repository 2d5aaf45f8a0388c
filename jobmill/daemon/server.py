"""The embedded server: one Valkey or Redis of our own on a unix socket in the state folder.

Whoever starts the server hands it a locked descriptor (``server.lock``) that it keeps for its whole life. So the lock
says that a server of this folder lives, however it was started and whoever was killed since, and there can be but one.

    server.lock     locked while the server lives
    redis.sock      its socket (elsewhere when the folder's path is too long for one, see `socket_path`)
    server.pid      its process id
    server.log      its own log
    data/           the append-only file: every write is on disk before it is acknowledged
"""

from __future__ import annotations

import fcntl
import os
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from jobmill.daemon.address import SOCKET_PATH_LIMIT, address, ask, is_running, socket_path
from jobmill.daemon.binary import find_binary
from jobmill.daemon.server_log import ServerLog
from jobmill.errors import PermanentError, ServerUnavailable

__all__ = ["EmbeddedServer", "address", "is_running"]

# The supported setting of a jobmill server; `everysec` loses acknowledged writes when the machine dies.
DURABLE = ("--appendonly", "yes", "--appendfsync", "always", "--save", "", "--maxmemory-policy", "noeviction")
# A job's hash stays one compact list although its exit record or handle is longer than the usual 64 bytes: half the
# memory of an ended job. By the option's older name, which every version knows.
COMPACT = ("--hash-max-ziplist-value", "4096")


class EmbeddedServer:
    """The server of one state folder, started here or adopted while it runs; the same data at every start."""

    def __init__(
        self,
        folder: Path,
        *,
        binary: Path | None = None,
        settings: Sequence[str] = (),
        start_timeout: float = 120.0,
        stop_timeout: float = 20.0,
        clock: Callable[[], float] = time.monotonic,
        spawn: Callable[..., subprocess.Popen[bytes]] = subprocess.Popen,
    ) -> None:
        """Prepare; nothing is touched before `launch` or `start`.

        ``binary``: None finds one (`find_binary`). ``settings``: further words of the server's command line, as
        ``("--maxmemory", "1gb")``. ``start_timeout``: seconds for loading the data; ``stop_timeout``: before KILL.
        """
        self.folder = folder.resolve()
        self.socket = socket_path(folder)
        self.url = address(folder)
        self.adopted = False  # the server that we use was started by somebody else
        self._binary = binary
        self._settings = tuple(settings)
        self._start_timeout, self._stop_timeout = start_timeout, stop_timeout
        self._clock, self._spawn = clock, spawn
        self._process: subprocess.Popen[bytes] | None = None
        self._log = ServerLog(self.folder / "server.log")
        self._pid_file = self.folder / "server.pid"

    @property
    def pid(self) -> int | None:
        """The server's process id; None when it does not run, or was adopted within its first moments."""
        if self.poll() is not None:
            return None
        if self._process is not None:
            return self._process.pid
        try:
            return int(self._pid_file.read_text())  # ours to trust: it was removed before this server was started
        except (OSError, ValueError):
            return None

    def start(self, *, adopt: bool = True) -> None:
        """Launch the server, or adopt the one that runs here, and wait until it serves.

        Raises ServerUnavailable with the cause when it exits or is not ready in time, and, with ``adopt=False``,
        when one runs already; PermanentError when there is no server program or the folder cannot be used.
        """
        self.launch()
        if self.adopted and not adopt:
            raise ServerUnavailable(f"a server runs already in {self.folder} (process {self.pid or 'unknown'})")
        deadline = self._clock() + self._start_timeout
        pause = 0.005
        while not self.ready():
            if self._clock() > deadline:
                raise ServerUnavailable(
                    f"the server in {self.folder} (process {self.pid or 'unknown'}) lives but did not serve within "
                    f"{self._start_timeout:g} s; {self.cause()}"
                )
            time.sleep(pause)
            pause = min(pause * 1.5, 0.1)

    def launch(self) -> None:
        """Start the server without waiting for it, unless one of this folder lives: that one is adopted."""
        self._prepare_folders()
        lock = _lock(self.folder)
        self._process, self.adopted = None, lock is None
        if lock is None:
            return
        try:
            program = self._binary or find_binary()
            self._log.begin()
            self._pid_file.unlink(missing_ok=True)
            with self._log.append() as log:  # for words from before the server opens it by itself
                self._process = self._spawn(
                    [str(program), *self._arguments()],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=self.folder,
                    umask=0o077,
                    pass_fds=(lock,),
                    start_new_session=True,  # Ctrl-C at the terminal is for the supervisor; the server goes last
                )
        except OSError as error:
            raise PermanentError(f"the server cannot be started: {error.filename}: {error.strerror}") from error
        finally:
            os.close(lock)  # from here on the server alone holds it

    def ready(self) -> bool:
        """Tell whether the server serves now; raise ServerUnavailable with the cause when it has exited instead.

        Where the server that was to be adopted died before it answered, one of our own is launched.
        """
        if ask(self.socket, b"PING\r\n").startswith(b"+PONG"):
            return True
        if self.poll() is not None:
            if not self.adopted:
                raise ServerUnavailable(f"the server in {self.folder} ended ({self.status()}): {self.cause()}")
            self.launch()
        return False

    def poll(self) -> int | None:
        """Return None while the server lives, else its exit status (0 for an adopted one, whose status is not ours)."""
        if self._process is not None:
            return self._process.poll()
        if not self.adopted or not self.folder.is_dir():
            return 0
        lock = _lock(self.folder)
        if lock is None:
            return None
        os.close(lock)
        return 0

    def terminate(self) -> None:
        """Ask the server to stop; all that it acknowledged is on disk already, so this does not take long."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End the server at once; nothing acknowledged is lost by it."""
        self._signal(signal.SIGKILL)

    def stop(self) -> None:
        """Stop the server: TERM, after `stop_timeout` seconds KILL; return when it is gone. Stopping twice is fine."""
        if self.poll() is None:
            self.terminate()
            if not self._wait(self._stop_timeout):
                self.kill()
                self._wait(5.0)

    def status(self) -> str:
        """Say how the server ended: ``status 1``, ``SIGKILL``; only after `poll` gave a status."""
        status = self.poll() or 0
        return f"status {status}" if status >= 0 else signal.Signals(-status).name

    def cause(self) -> str:
        """Say in words for the user why the server ended, or does not serve, from what it logged since its start."""
        known = self._log.known_cause(self.folder)
        if not known and self._process is not None and self._process.poll() == -signal.SIGKILL:
            return "somebody killed it, or the kernel when memory ran out (then `dmesg` says so)"
        return known or self._log.last_words()

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            return
        pid = self.pid  # read while the lock is held: the number is still the server's
        if pid is not None:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                return

    def _wait(self, seconds: float) -> bool:
        deadline = self._clock() + seconds
        while self.poll() is None:
            if self._clock() > deadline:
                return False
            time.sleep(0.005)
        return True

    def _prepare_folders(self) -> None:
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            (self.folder / "data").mkdir(mode=0o700, exist_ok=True)
            if self.socket.parent == self.folder:
                return
            self.socket.parent.mkdir(mode=0o700, exist_ok=True)
            found = self.socket.parent.lstat()
        except OSError as error:
            raise PermanentError(
                f"the state folder cannot be used: {error.filename}: {error.strerror}; "
                "make it writable, or name another state folder"
            ) from error
        # Anybody may make a folder under the temporary directory: a stranger's would see every job.
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
            raise PermanentError(
                f"{self.socket.parent} is not a private folder of this user; remove it, or use a state folder "
                f"whose path is at most {SOCKET_PATH_LIMIT - len('/redis.sock')} bytes long"
            )

    def _arguments(self) -> list[str]:
        return [
            *("--port", "0", "--unixsocket", str(self.socket), "--unixsocketperm", "700", "--daemonize", "no"),
            *("--dir", str(self.folder / "data"), "--pidfile", str(self._pid_file)),
            *("--logfile", str(self._log.path), *DURABLE, *COMPACT, *self._settings),
        ]


def _lock(folder: Path) -> int | None:
    """Return the locked descriptor of the folder's server, or None when somebody holds it."""
    descriptor = os.open(folder / "server.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
