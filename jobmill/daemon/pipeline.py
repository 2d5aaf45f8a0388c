"""A whole pipeline for one command: the one that serves already, else one of its own that ends with it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from jobmill.config import Config
from jobmill.daemon.address import address, is_running
from jobmill.daemon.supervisor import running
from jobmill.errors import JobmillError, PermanentError, ServerUnavailable
from jobmill.ledger.membership import missing_roles
from jobmill.ledger.record import Record

PATIENCE = 60.0  # seconds that a pipeline has until its server serves and its workers are alive
WATCH = 0.5  # seconds between looks whether anybody still serves
STOPPING = 45.0  # seconds that it has to stop before it is left to itself


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pipeline:
    """What serves now."""

    url: str
    own: bool  # started here, and ends with us
    process: int | None = None  # of the supervisor, where it was started here


def served(config: Config) -> bool:
    """Tell whether a server answers and a process of each role is alive."""
    url = config.redis.url
    if url is None and not is_running(config.state):
        return False
    record = Record(url or address(config.state), prefix=config.redis.prefix)
    try:
        return not missing_roles(record)
    except ServerUnavailable:
        if config.redis.url:
            raise  # somebody else's server: no pipeline of ours brings it back
        return False
    finally:
        record.close()


@contextlib.contextmanager
def pipeline(config: Config, *, slots: int | None = None, keep: bool = False) -> Iterator[Pipeline]:
    """Give a pipeline that serves ``config``; one that is started here stops, warm, when the caller is done or dies.

    Where somebody else's serves it is used, and one of our own takes over should it end before we do. ``slots``: jobs
    at once on the local system, for a pipeline of our own. ``keep``: let it run on. Raises ServerUnavailable and
    PermanentError with the reason when it cannot be brought up.
    """
    with contextlib.ExitStack() as stack:
        chosen = config.source
        if slots is not None:
            chosen = stack.enter_context(_with_slots(config, slots, keep=keep))
        own = stack.enter_context(_Own(config, chosen, keep=keep))
        if not served(config):
            own.start()
            own.wait_until_up()
        own.watch()
        url = config.redis.url or address(config.state)
        yield Pipeline(url=url, own=own.child is not None, process=own.child.pid if own.child else None)


class _Own:
    """The pipeline of our own: `jobmill up` as a child that sees the end of a pipe when we are gone."""

    def __init__(self, config: Config, chosen: Path | None, *, keep: bool) -> None:
        self.child: subprocess.Popen[bytes] | None = None
        self._config, self._chosen, self._keep = config, chosen, keep
        self._reading, self._held = os.pipe()
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  # closed by __exit__
        self._over = threading.Event()
        self._watcher: threading.Thread | None = None

    def __enter__(self) -> _Own:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._over.set()
        if self._watcher is not None:
            self._watcher.join()
        os.close(self._reading)
        os.close(self._held)  # the child stops, warm
        if self.child is not None and not self._keep and not (kind and issubclass(kind, KeyboardInterrupt)):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.child.wait(STOPPING)
        self._said.close()

    def start(self) -> None:
        """Start it, unless a supervisor of the same folder lives: its pipeline is coming up, or serves."""
        if running(self._config.state) is not None:
            return
        words = [sys.executable, "-P", "-m", "jobmill.scripts.jobmill", "up", "--quiet"]
        if self._chosen is not None:
            words += ["--config", str(self._chosen.absolute())]
        env = os.environ | {"JOBMILL_STATE": str(self._config.state)}
        if self._config.redis.url:
            env["JOBMILL_REDIS_URL"] = self._config.redis.url  # not in argv: it may hold a password
        self.child = subprocess.Popen(
            words if self._keep else [*words, "--parent-fd", str(self._reading)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._said,
            env=env,
            pass_fds=() if self._keep else (self._reading,),
            start_new_session=True,  # Ctrl-C is for us: it outlives the jobs that we still cancel
        )

    def wait_until_up(self) -> None:
        """Return when the pipeline serves; raise what the child said when it ended instead."""
        deadline, pause = time.monotonic() + PATIENCE, 0.02
        while not served(self._config):
            if self.child is not None and self.child.poll() is not None:
                status, self.child = self.child.returncode, None
                if running(self._config.state) is None:
                    words = os.pread(self._said.fileno(), 4096, 0).decode(errors="replace").strip()
                    failure: type[JobmillError] = ServerUnavailable if status == 111 else PermanentError
                    said = words.removeprefix("jobmill: ") or f"status {status}"
                    raise failure(f"the pipeline did not start: {said}")
                continue  # somebody else was first: theirs serves
            if self.child is None and running(self._config.state) is None:
                self.start()  # the one that was there ended just now
            if time.monotonic() > deadline:
                log = self._config.state / "jobmill.log"
                raise ServerUnavailable(
                    f"the pipeline in {self._config.state} is not up after {PATIENCE:g} s; see {log}"
                )
            time.sleep(pause)
            pause = min(0.1, pause * 1.5)

    def watch(self) -> None:
        """Take over, from now on, when no supervisor of the folder is left: another run's ended, ours was killed."""
        if self._config.redis.url is None:
            self._watcher = threading.Thread(target=self._take_over, daemon=True)
            self._watcher.start()

    def _take_over(self) -> None:
        pause = WATCH
        while not self._over.wait(pause):
            gone = self.child is None or self.child.poll() is not None
            if gone and running(self._config.state) is None:
                pause = min(10.0, pause * 2)  # should it end at once, again and again
                with contextlib.suppress(OSError):
                    self.start()


@contextlib.contextmanager
def _with_slots(config: Config, slots: int, *, keep: bool) -> Iterator[Path]:
    """Give a copy of the configuration in which each local system has so many slots."""
    systems = {
        name: dataclasses.replace(system, slots=slots, limit=max(system.limit, slots))
        if system.kind == "local"
        else system
        for name, system in config.systems.items()
    }
    config.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="run-", dir=config.state))
    # the server's URL is masked in the text; the workers have it from their environment, or it is the embedded one
    redis = dataclasses.replace(config.redis, url=None)
    text = dataclasses.replace(config, systems=systems, redis=redis, state=config.state.absolute()).to_yaml()
    (folder / "jobmill.yaml").write_text(text)
    if config.source is not None and (config.source.parent / "plugins").is_dir():
        (folder / "plugins").symlink_to((config.source.parent / "plugins").absolute())
    try:
        yield folder / "jobmill.yaml"
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
