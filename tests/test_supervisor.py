"""The supervisor, with real processes: what dies comes back, what is stopped stops in order, nothing is left behind."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from jobmill.daemon.address import is_running
from jobmill.daemon.backoff import FIRST, HEALTHY, LONGEST, Backoff
from jobmill.daemon.journal import Journal
from jobmill.daemon.server import EmbeddedServer
from jobmill.daemon.supervisor import Supervisor, running
from jobmill.daemon.worker import Worker, workers
from jobmill.errors import PermanentError, ServerUnavailable

# A worker that keeps the contract: TERM is its warm stop, so is the end of the pipe; HUP is noted.
WORKER = """
import os, select, signal, sys, time
parent, name, linger = int(sys.argv[sys.argv.index("--parent-fd") + 1]), sys.argv[1], float(sys.argv[2])
def say(word):
    os.write(2, f"{name}[{os.getpid()}] {word} {os.environ.get('JOBMILL_REDIS_URL')}\\n".encode())
reader, writer = os.pipe(); os.set_blocking(writer, False); signal.set_wakeup_fd(writer)
terms = 0
def on(number, frame):
    global terms
    if number == signal.SIGHUP: say("reloads")
    else: terms += 1
signal.signal(signal.SIGTERM, on); signal.signal(signal.SIGHUP, on)
say("ready")
while not terms:
    ready, _, _ = select.select([reader, parent], [], [])
    if reader in ready: os.read(reader, 100)
    if parent in ready: say("orphaned"); break
end = time.monotonic() + linger
while time.monotonic() < end and terms < 2: time.sleep(0.01)
say("cold" if terms > 1 else "warm")
"""


def good(name: str, linger: float = 0.0) -> Worker:
    return Worker(name=name, argv=(sys.executable, "-S", "-c", WORKER, name, str(linger)))


def script(name: str, code: str) -> Worker:
    return Worker(name=name, argv=(sys.executable, "-S", "-c", code))


def wait_until(condition: Callable[[], object], seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


class Pipeline:
    """A supervisor in a thread of the test."""

    def __init__(self, folder: Path, *some: Worker, server: bool = False, **options: object) -> None:
        self.folder = folder
        self.server = EmbeddedServer(folder) if server else None
        self.supervisor = Supervisor(some, folder=folder, server=self.server, **options)  # type: ignore[arg-type]
        self.code: int | None = None
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.code = self.supervisor.run(signals=False)
        except BaseException as error:
            self.error = error

    @property
    def log(self) -> str:
        path = self.folder / "jobmill.log"
        return path.read_text() if path.exists() else ""

    def pids(self, name: str, word: str = "ready") -> list[int]:
        return [int(pid) for pid in re.findall(rf"^{name}\[(\d+)\] {word}", self.log, re.MULTILINE)]

    def stop(self, seconds: float = 15.0) -> None:
        self.supervisor.stop()
        self.join(seconds)

    def join(self, seconds: float = 15.0) -> None:
        self.thread.join(seconds)
        assert not self.thread.is_alive(), self.log


@pytest.fixture
def pipeline(tmp_path: Path) -> Iterator[Callable[..., Pipeline]]:
    made: list[Pipeline] = []

    def make(*some: Worker, **options: object) -> Pipeline:
        made.append(Pipeline(tmp_path / "state", *some, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for one in made:
        one.supervisor.stop()
        one.supervisor.stop()
        one.thread.join(30)
        assert not one.thread.is_alive()
    EmbeddedServer(tmp_path / "state").stop()


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in ("Z", "X")
    except FileNotFoundError:
        return True


def test_killed_worker_comes_back_quickly(pipeline: Callable[..., Pipeline]) -> None:
    mill = pipeline(good("manager"), good("starter"))
    wait_until(lambda: mill.pids("manager") and mill.pids("starter"))
    (first,) = mill.pids("manager")
    os.kill(first, signal.SIGKILL)
    begin = time.monotonic()
    wait_until(lambda: len(mill.pids("manager")) == 2)
    assert time.monotonic() - begin < 2.0
    mill.stop()
    assert mill.code == 0
    assert len(mill.pids("starter")) == 1, "the other worker was not touched"
    assert re.search(rf"manager\[{first}\] was killed by SIGKILL; starts again in 0\.\d s", mill.log)
    assert all(gone(pid) for name in ("manager", "starter") for pid in mill.pids(name))


def test_dying_worker_is_started_ever_more_seldom(pipeline: Callable[..., Pipeline]) -> None:
    mill = pipeline(script("fetcher", "raise SystemExit(111)"))
    wait_until(lambda: mill.log.count("exited with status 111") >= 5)
    mill.stop()
    delays = [float(word) for word in re.findall(r"starts again in (\d+\.\d) s", mill.log)]
    assert delays[0] <= 0.1
    assert delays[4] >= 0.8
    assert mill.log.count("fetcher[") >= 10


@given(st.lists(st.floats(min_value=0, max_value=100), min_size=1, max_size=40), st.floats(min_value=0, max_value=1))
def test_backoff_stays_within_its_bounds(lives: list[float], jitter: float) -> None:
    backoff = Backoff(jitter=lambda: jitter)
    deaths = 0
    for lived in lives:
        deaths = 1 if lived >= HEALTHY else deaths + 1
        delay = backoff.died(lived=lived)
        longest = min(LONGEST, FIRST * 2 ** (deaths - 1))
        assert longest / 2 <= delay <= longest
    assert Backoff(jitter=lambda: 1.0).died(lived=0) == FIRST


def test_idle_supervisor_sleeps(pipeline: Callable[..., Pipeline]) -> None:
    turns = 0

    def clock() -> float:
        nonlocal turns
        turns += 1
        return time.monotonic()

    mill = pipeline(good("manager"), server=True, clock=clock)
    wait_until(lambda: mill.pids("manager"))
    time.sleep(0.1)
    before = turns
    time.sleep(0.5)
    assert turns - before <= 5, "it looked at the clock again and again with nothing to do"


def test_stop_is_warm_then_cold_and_the_server_goes_last(pipeline: Callable[..., Pipeline]) -> None:
    mill = pipeline(good("manager", linger=0.3), good("starter", linger=60), server=True)
    wait_until(lambda: mill.pids("manager") and mill.pids("starter"))
    assert mill.server is not None
    mill.supervisor.stop()
    wait_until(lambda: mill.pids("manager", "warm"))
    assert not mill.pids("starter", "warm")
    assert is_running(mill.folder), "the server serves while a worker finishes its batch"
    mill.stop()
    assert mill.pids("starter", "cold")
    assert mill.code == 0
    assert not is_running(mill.folder)
    assert mill.server.poll() is not None
    order = [mill.log.index(words) for words in ("stops warm", "stops cold", "all workers have stopped", "info: ends")]
    assert order == sorted(order)


def test_worker_that_ignores_its_stop_is_killed(pipeline: Callable[..., Pipeline]) -> None:
    deaf = "import os, signal, time; signal.signal(15, signal.SIG_IGN); os.write(2, b'deaf\\n'); time.sleep(100)"
    mill = pipeline(script("starter", deaf), warm_timeout=0.2)
    wait_until(lambda: "deaf" in mill.log)
    mill.stop(5)
    assert "starter has not stopped in time and is killed" in mill.log
    assert mill.code == 0


def test_reload_reaches_every_worker(pipeline: Callable[..., Pipeline]) -> None:
    mill = pipeline(good("manager"), good("fetcher"))
    wait_until(lambda: mill.pids("manager") and mill.pids("fetcher"))
    mill.supervisor.reload()
    wait_until(lambda: mill.pids("manager", "reloads") and mill.pids("fetcher", "reloads"))
    mill.stop()
    assert len(mill.pids("manager")) == 1


def test_killed_server_comes_back_with_its_data_and_workers_stay(pipeline: Callable[..., Pipeline]) -> None:
    mill = pipeline(good("manager"), server=True)
    wait_until(lambda: mill.pids("manager"))
    assert mill.server is not None
    assert f"ready {mill.server.url}" in mill.log
    with redis.Redis.from_url(mill.server.url) as client:
        client.rpush("Job_Queue", "job")
    first = mill.server.pid
    assert first
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: mill.log.count("serves at") == 2)
    with redis.Redis.from_url(mill.server.url) as client:
        assert client.lrange("Job_Queue", 0, -1) == [b"job"]
    mill.stop()
    assert len(mill.pids("manager")) == 1
    assert re.search(r"the server ended \(SIGKILL\): .*; starts again in 0\.\d s", mill.log)


def up(folder: Path) -> subprocess.Popen[bytes]:
    """Start a supervisor with its signals in a process of its own, as ``jobmill up`` does."""
    code = (
        "import sys; from pathlib import Path\n"
        "from jobmill.daemon.server import EmbeddedServer; from jobmill.daemon.supervisor import Supervisor\n"
        "from jobmill.daemon.worker import Worker\n"
        "worker = Worker(name='manager', argv=(sys.executable, '-S', '-c', sys.argv[2], 'manager', '0'))\n"
        "folder = Path(sys.argv[1])\n"
        "raise SystemExit(Supervisor([worker], folder=folder, server=EmbeddedServer(folder)).run())"
    )
    return subprocess.Popen([sys.executable, "-c", code, str(folder), WORKER])


def test_killed_supervisor_leaves_orphans_that_stop_and_a_server_that_is_adopted(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    log = folder / "jobmill.log"

    def words(text: str) -> int:
        return log.read_text().count(text) if log.exists() else 0

    first = up(folder)
    wait_until(lambda: words("] ready"))
    assert running(folder) == first.pid
    first.kill()
    first.wait()
    wait_until(lambda: words("] orphaned"))
    wait_until(lambda: words("] warm"))
    assert running(folder) is None
    assert is_running(folder)

    second = up(folder)
    wait_until(lambda: words("] ready") == 2)
    assert words("adopted") == 1
    second.send_signal(signal.SIGHUP)
    wait_until(lambda: words("] reloads"))
    (orphan,) = re.findall(r"server\[(\d+)\] adopted", log.read_text())
    os.kill(int(orphan), signal.SIGKILL)
    wait_until(lambda: words("serves at") == 3)
    second.send_signal(signal.SIGTERM)
    assert second.wait(15) == 0
    assert not is_running(folder)


def test_control_c_is_a_warm_stop(tmp_path: Path) -> None:
    process = up(tmp_path / "state")
    log = tmp_path / "state" / "jobmill.log"
    wait_until(lambda: log.exists() and "] ready" in log.read_text())
    process.send_signal(signal.SIGINT)
    assert process.wait(15) == 0
    assert "] warm" in log.read_text()


def test_second_supervisor_of_a_folder_is_refused(pipeline: Callable[..., Pipeline]) -> None:
    mill = pipeline(good("manager"))
    wait_until(lambda: mill.pids("manager"))
    with pytest.raises(PermanentError, match=rf"runs already in .*process {os.getpid()}\); .*stop it"):
        Supervisor([], folder=mill.folder).run(signals=False)
    mill.stop()
    assert running(mill.folder) is None


@pytest.mark.parametrize("code", [2, 100])
def test_worker_that_can_never_start_ends_the_run_with_its_words(code: int, pipeline: Callable[..., Pipeline]) -> None:
    refuses = f"import os, sys; os.write(2, b'jobmill.yaml:3: slots: not a number\\n'); sys.exit({code})"
    mill = pipeline(good("manager"), script("starter", refuses))
    mill.join()
    assert mill.code == code
    assert mill.supervisor.failure == f"starter exited with status {code}: jobmill.yaml:3: slots: not a number"
    assert all(gone(pid) for pid in mill.pids("manager"))


def test_missing_command_ends_the_run(pipeline: Callable[..., Pipeline]) -> None:
    mill = pipeline(Worker(name="manager", argv=("/no/such/program",)))
    mill.join()
    assert mill.code == 100
    assert "manager cannot be started: /no/such/program: No such file" in mill.supervisor.failure


def test_server_that_cannot_start_is_an_error_at_once(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path, settings=("--no-such-setting", "1"))
    with pytest.raises(ServerUnavailable, match=r"server\.log"):
        Supervisor([good("manager")], folder=tmp_path, server=server).run(signals=False)
    assert "ready" not in (tmp_path / "jobmill.log").read_text()


def test_echo_shows_the_workers_words_and_ours(pipeline: Callable[..., Pipeline]) -> None:
    terminal = io.StringIO()
    mill = pipeline(good("manager"), echo=terminal, as_json=True)
    wait_until(lambda: "] ready" in terminal.getvalue())
    mill.stop()
    assert terminal.getvalue() == mill.log
    assert json.loads(mill.log.splitlines()[0])["message"] == "starts"


def test_lost_terminal_is_no_reason_to_stop(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with contextlib.suppress(BrokenPipeError), os.fdopen(writing, "w", buffering=1) as terminal:
        journal = Journal(tmp_path / "jobmill.log", echo=terminal)
        journal.line("Grüße")
        journal.follow()
        assert not journal.echoes
        journal.line("still here")
        journal.close()
    assert (tmp_path / "jobmill.log").read_text().endswith("still here\n")


def test_the_last_words_of_a_worker_are_its_own(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "jobmill.log")
    words = b"""2026-11-21 02:40:23.101 manager[7] info: starts pid=7
jobmill-manager: routes: unknown rule 'x'
2026-11-21 02:40:23.407 fetcher[8] info: starts pid=8
{"time": 1.5, "level": "info", "process": "starter[9]", "message": "starts"}
jobmill-starter: lane
"""
    os.write(journal.descriptor, words)
    journal.line("manager exited")
    assert journal.last_line(0, of="manager") == "jobmill-manager: routes: unknown rule 'x'"
    assert "fetcher[8]" in journal.last_line(0, of="fetcher")
    assert journal.last_line(0, of="starter") == "jobmill-starter: lane"
    os.write(journal.descriptor, b"Fatal Python error: no memory\n")
    assert journal.last_line(0, of="manager") == "Fatal Python error: no memory"
    assert journal.last_line(journal.size(), of="manager") == ""
    journal.close()


def test_workers_are_started_by_command() -> None:
    found = workers("--config", "jobmill.yaml")
    # -P: a redis.py or json.py in the current folder is not taken for the library's
    commands = [(sys.executable, "-P", "-m", f"jobmill.scripts.{n}") for n in ("manager", "starter", "fetcher")]
    assert [worker.argv for worker in found] == [(*command, "--config", "jobmill.yaml") for command in commands]
