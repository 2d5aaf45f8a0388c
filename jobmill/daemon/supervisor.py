"""The supervisor: keeps the embedded server and the workers running, and stops them in order.

Whatever dies is started again, the server included; nothing is ever waited for without an end. Should the supervisor
itself be killed, its workers see the end of the pipe that it held (``--parent-fd``) and stop warm; the server goes on,
and the next supervisor of the folder adopts it.
"""

from __future__ import annotations

import contextlib
import enum
import fcntl
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import TextIO

from jobmill.daemon.backoff import Backoff
from jobmill.daemon.journal import Journal
from jobmill.daemon.server import EmbeddedServer
from jobmill.daemon.worker import Worker, WorkerProcess, ending, pidfd
from jobmill.errors import ConfigError, JobmillError, PermanentError, ServerUnavailable

PERMANENT = (ConfigError.exit_code, PermanentError.exit_code)  # a worker says: somebody has to change something
BLIND = 0.1  # seconds between looks at a process that no descriptor tells of
ECHO = 0.4  # seconds that the terminal may be behind the log


class Phase(enum.Enum):
    """Where the pipeline is between start and end."""

    RUNNING = enum.auto()
    WARM = enum.auto()  # the workers finish what they have in hand
    COLD = enum.auto()  # they have seconds
    LAST = enum.auto()  # no worker is left; the server stops
    OVER = enum.auto()


class Supervisor:
    """Runs the workers, and the embedded server when it is given one, until it is told to stop."""

    def __init__(
        self,
        workers: Sequence[Worker],
        *,
        folder: Path,
        server: EmbeddedServer | None = None,
        env: Mapping[str, str] | None = None,
        echo: TextIO | None = None,
        as_json: bool = False,
        warm_timeout: float = 30.0,
        cold_timeout: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
        spawn: Callable[..., subprocess.Popen[bytes]] = subprocess.Popen,
    ) -> None:
        """Prepare; nothing is touched before `run`.

        ``folder``: the state folder, for ``jobmill.log`` and ``supervisor.lock``. ``env``: on top of this process's
        environment. ``echo``: a terminal that shows the log too; ``as_json``: the supervisor's own lines are JSON.
        ``warm_timeout``, ``cold_timeout``: seconds that the workers have after the first and the second stop before
        they are killed.
        """
        self.failure = ""  # why `run` ended without having been told to
        self._folder, self._server, self._echo, self._as_json = folder, server, echo, as_json
        self._timeouts = {Phase.WARM: warm_timeout, Phase.COLD: cold_timeout, Phase.LAST: 20.0}
        self._clock = clock
        self._env = {**os.environ, **(env or {})}
        if server is not None:
            self._env["JOBMILL_REDIS_URL"] = server.url
        self._children = [WorkerProcess(worker, clock=clock, spawn=spawn) for worker in workers]
        self._phase = Phase.RUNNING
        self._deadline = 0.0  # of the phase
        self._serving = server is None  # the server has answered since its last start
        self._served = server is None  # … and ever
        self._server_due: float | None = None  # when to start it again
        self._server_started = 0.0
        self._server_backoff = Backoff()
        self._stops = self._reloads = 0  # requests, by signal or call
        self._wake = -1
        self._exit_code = 0
        self._selector = selectors.DefaultSelector()
        self._watched: dict[object, int] = {}  # child or server -> descriptor that tells of its end

    def stop(self) -> None:
        """Ask for the end, from any thread: once is warm, twice is cold."""
        self._stops += 1
        self._wake_up()

    def reload(self) -> None:
        """Ask for HUP to be passed on to every worker, from any thread."""
        self._reloads += 1
        self._wake_up()

    def run(self, *, signals: bool = True) -> int:
        """Keep everything running until told to stop; return the exit code for this process.

        With ``signals`` (main thread only) TERM and INT are `stop` and HUP is `reload`. Raises PermanentError when
        the folder has a supervisor already, and what the server's first start raises. A worker that exits with 2 or
        100 before it ever lived half a minute ends the run with its status, and `failure` says why.
        """
        with contextlib.ExitStack() as stack:
            stack.enter_context(_alone(self._folder))
            self._journal = Journal(self._folder / "jobmill.log", echo=self._echo, as_json=self._as_json)
            stack.callback(self._journal.close)
            self._parent, held = os.pipe()  # the workers see its end when we are gone
            stack.callback(os.close, self._parent)
            stack.callback(os.close, held)
            stack.enter_context(self._wakeable(signals))
            stack.callback(self._kill_all)
            self._journal.line("starts")
            if self._server is not None:
                self._launch_server()
            while self._phase is not Phase.OVER:
                self._turn()
            self._journal.line("ends")
        return self._exit_code

    def _turn(self) -> None:
        self._obey()
        self._look_after_server()
        if self._served:
            for child in self._children:
                self._look_after(child)
        self._advance()
        self._journal.follow()
        if self._phase is not Phase.OVER:
            for key, _ in self._selector.select(self._pause()):
                if key.data == "wake":
                    with contextlib.suppress(BlockingIOError):
                        os.read(key.fd, 4096)
                elif key.data is self._server and self._server is not None and self._server.poll() is None:
                    self._unwatch(self._server)  # gone, but a child of it still has the lock: look now and then

    def _obey(self) -> None:
        reloads, self._reloads = self._reloads, 0
        if reloads and self._phase is Phase.RUNNING:
            self._journal.line("passes HUP on to the workers")
            for child in self._children:
                child.send(signal.SIGHUP)
        if self._stops and self._phase is Phase.RUNNING:
            self._enter(Phase.WARM, "stops warm")
        if self._stops > 1 and self._phase is Phase.WARM:
            self._enter(Phase.COLD, "stops cold")

    def _enter(self, phase: Phase, words: str) -> None:
        self._phase = phase
        self._deadline = self._clock() + self._timeouts[phase]
        self._journal.line(words)
        if phase is Phase.LAST:
            if self._server is not None:
                self._server.terminate()
            return
        for child in self._children:
            child.due = None
            child.send(signal.SIGTERM)

    def _advance(self) -> None:
        """Go on from one phase of stopping to the next, when it is done or has had its time."""
        alive = [child for child in self._children if child.process is not None]
        if self._phase in (Phase.WARM, Phase.COLD):
            if self._clock() >= self._deadline:
                for child in alive:
                    self._journal.line(f"{child.worker.name} has not stopped in time and is killed")
                    child.send(signal.SIGKILL)
                self._deadline = self._clock() + 1.0
            if not alive:
                self._enter(Phase.LAST, "all workers have stopped")
        if self._phase is Phase.LAST:
            if self._server is None or self._server.poll() is not None:
                self._phase = Phase.OVER
            elif self._clock() >= self._deadline:
                self._journal.line("the server has not stopped in time and is killed")
                self._server.kill()
                self._deadline = self._clock() + 1.0

    def _look_after(self, child: WorkerProcess) -> None:
        name = child.worker.name
        status = child.status()
        if status is not None:
            pid = child.process.pid if child.process else 0
            self._unwatch(child)
            delay = child.died()
            if self._phase is not Phase.RUNNING:
                child.due = None
                self._journal.line(f"{name}[{pid}] {ending(status)}")
            elif status in PERMANENT and not child.proven:
                self._give_up(child, status, f"{name} {ending(status)}")
            else:
                self._journal.line(f"{name}[{pid}] {ending(status)}; starts again in {delay:.1f} s")
        if child.due is not None and self._clock() >= child.due:
            child.log_start = self._journal.size()
            try:
                child.start(env=self._env, log=self._journal.descriptor, parent=self._parent)
            except OSError as error:
                words = f"{name} cannot be started: {child.worker.argv[0]}: {error.strerror}"
                delay = child.died()
                if isinstance(error, FileNotFoundError | PermissionError) and not child.proven:
                    self._give_up(child, PermanentError.exit_code, words)
                else:
                    self._journal.line(f"{words}; again in {delay:.1f} s")
                return
            self._journal.line(f"{name}[{child.process.pid if child.process else 0}] started")
            self._watch(child, child.watch())

    def _give_up(self, child: WorkerProcess, code: int, words: str) -> None:
        """End the run: starting the worker again would only end in the same way."""
        said = self._journal.last_line(child.log_start, of=child.worker.name)
        self.failure = f"{words}: {said}" if said else f"{words} (see {self._journal.path})"
        self._exit_code = code
        child.due = None
        self._journal.line(f"{words}; starting it again would not help")
        if self._phase is Phase.RUNNING:
            self._enter(Phase.WARM, "stops warm")

    def _launch_server(self) -> None:
        assert self._server is not None
        self._server_due, self._serving = None, False
        self._server_started = self._clock()
        self._server.launch()
        self._journal.line(f"server[{self._server.pid or '?'}] {'adopted' if self._server.adopted else 'started'}")

    def _look_after_server(self) -> None:
        if self._server is None or self._phase in (Phase.LAST, Phase.OVER):
            return
        try:
            if self._server_due is not None:
                if self._clock() < self._server_due:
                    return
                self._launch_server()
            if not self._serving:
                self._serving = self._server.ready()
                if self._serving:
                    self._served = True
                    self._journal.line(f"server[{self._server.pid}] serves at {self._server.url}")
                    self._watch(self._server, pidfd(self._server.pid))
            elif self._server.poll() is not None:
                raise ServerUnavailable(f"the server ended ({self._server.status()}): {self._server.cause()}")
        except (JobmillError, OSError) as error:  # OSError: out of descriptors or memory, say
            self._unwatch(self._server)
            self._serving = False
            if not self._served:
                raise  # the first start: whoever typed the command is there to read it
            delay = self._server_backoff.died(lived=self._clock() - self._server_started)
            self._server_due = self._clock() + delay
            self._journal.line(f"{error}; starts again in {delay:.1f} s")

    def _pause(self) -> float | None:
        """Return how long nothing is to be done unless a descriptor tells otherwise, in seconds."""
        moments = [child.due for child in self._children if child.due is not None and self._served]
        if self._server_due is not None:
            moments.append(self._server_due)
        if self._phase is not Phase.RUNNING:
            moments.append(self._deadline)
        alive: list[object] = [child for child in self._children if child.process is not None]
        if self._server is not None and self._server_due is None:
            alive.append(self._server)
            if not self._serving:  # often at first, ever more seldom while it loads for long
                moments.append(self._clock() + min(0.25, 0.005 + (self._clock() - self._server_started) / 10))
        if any(one not in self._watched for one in alive):
            moments.append(self._clock() + BLIND)
        elif self._journal.echoes:
            moments.append(self._clock() + ECHO)
        return max(0.0, min(moments) - self._clock()) if moments else None

    def _watch(self, one: object, descriptor: int | None) -> None:
        if descriptor is not None:
            self._watched[one] = descriptor
            self._selector.register(descriptor, selectors.EVENT_READ, one)

    def _unwatch(self, one: object) -> None:
        descriptor = self._watched.pop(one, None)
        if descriptor is not None:
            self._selector.unregister(descriptor)
            os.close(descriptor)

    def _wake_up(self) -> None:
        if self._wake >= 0:
            with contextlib.suppress(BlockingIOError):  # full: it will wake up anyway
                os.write(self._wake, b"\0")

    @contextlib.contextmanager
    def _wakeable(self, signals: bool) -> Iterator[None]:
        """Let signals and other threads end a wait at once."""
        reading, self._wake = os.pipe()
        os.set_blocking(reading, False)
        os.set_blocking(self._wake, False)
        self._selector.register(reading, selectors.EVENT_READ, "wake")
        before: dict[signal.Signals, signal.Handlers | int | Callable[[int, FrameType | None], object] | None] = {}
        if signals:
            old = signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                act = self.reload if number is signal.SIGHUP else self.stop
                before[number] = signal.signal(number, lambda *_, act=act: act())
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            if signals:
                signal.set_wakeup_fd(old)
            for one in list(self._watched):
                self._unwatch(one)
            self._selector.close()
            wake, self._wake = self._wake, -1
            os.close(reading)
            os.close(wake)

    def _kill_all(self) -> None:
        """Leave nothing of ours behind, when an error ended the run; after an orderly stop nothing is left."""
        for child in self._children:
            if child.process is not None:
                child.send(signal.SIGKILL)
                child.process.wait()
        if self._server is not None and not self._server.adopted:
            self._server.stop()


def running(folder: Path) -> int | None:
    """Return the process id of the supervisor of this folder, or None when there is none."""
    try:
        with (folder / "supervisor.lock").open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        with contextlib.suppress(OSError, ValueError):
            return int((folder / "supervisor.lock").read_text())
    except OSError:
        return None
    return None


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Be the folder's only supervisor, or raise PermanentError."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(folder / "supervisor.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise PermanentError(
            f"the state folder cannot be used: {error.filename}: {error.strerror}; "
            "make it writable, or name another state folder"
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PermanentError(
                f"jobmill runs already in {folder} (process {running(folder) or 'unknown'}); "
                "use it, stop it (TERM), or name another state folder"
            ) from None
        with contextlib.suppress(OSError):  # the lock counts; the number is for people, and a full disk may refuse it
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(descriptor)
