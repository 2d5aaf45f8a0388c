"""The data-plane connection: every command is sent once, and what goes wrong is said in our own words."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Server
from servers import locate

from jobmill.client import Client
from jobmill.errors import PermanentError, ServerFull, ServerUnavailable, UnknownName, UsageError
from jobmill.ledger import connection
from jobmill.ledger.record import Record
from jobmill.screen.waiting import wait


class Cutter:
    """A proxy that hands commands to the server, and cuts the connection in place of the reply when told to."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"
        self.cut = False
        self.connections = 0
        self._threads: list[threading.Thread] = []
        self._serve(self._accept)

    def _serve(self, work: object, *args: object) -> None:
        thread = threading.Thread(target=work, args=args, daemon=True)  # type: ignore[arg-type]
        thread.start()
        self._threads.append(thread)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            far = socket.socket(socket.AF_UNIX)
            far.connect(str(self._target))
            self._serve(self._pump, near, far, False)
            self._serve(self._pump, far, near, True)

    def _pump(self, source: socket.socket, sink: socket.socket, replies: bool) -> None:
        try:
            while data := source.recv(65536):
                if replies and self.cut:
                    break  # the server has executed the command; its answer never arrives
                sink.sendall(data)
        except OSError:
            pass
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            if replies:
                end.close()

    def close(self) -> None:
        # shutdown wakes the accept that is under way; close alone does not
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(5)


@pytest.fixture
def cutter(valkey: Server) -> Iterator[Cutter]:
    proxy = Cutter(valkey.socket)
    yield proxy
    proxy.close()


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[str]:
    """Give the port of a server that wants a password."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = [locate("valkey"), "--port", str(port), "--requirepass", "s3cret@/x", "--save", "", "--dir", str(tmp_path)]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.01)
    yield str(port)
    process.kill()
    process.wait(10)


@pytest.mark.parametrize("act", ["push", "pop", "script", "script sent whole", "read"])
def test_a_command_whose_reply_is_cut_was_executed_once(valkey: Server, cutter: Cutter, act: str) -> None:
    here, there = Record(valkey.url), Record(cutter.url)
    there.ping()
    here.client.rpush("L", "a", "b", "c")
    if act == "script":
        there.run("push", "Other", "x")
        here.client.delete("Other")
    cutter.cut = True
    with pytest.raises(ServerUnavailable, match=r"127\.0\.0\.1"):
        if act == "push":
            there.call("RPUSH", "L", "d")
        elif act == "pop":
            there.call("LPOP", "L")
        elif act == "read":
            there.read([("INCR", "n"), ("INCR", "n")])
        else:
            there.run("push", "Other", "x")
    cutter.cut = False
    # the script's first sending was NOSCRIPT, which runs nothing: with its reply cut nothing was executed at all
    lengths = {"push": 4, "pop": 2}
    assert here.client.llen("L") == lengths.get(act, 3)
    assert here.client.llen("Other") == {"script": 1}.get(act, 0)
    assert int(here.client.get("n") or 0) == (2 if act == "read" else 0)
    there.ping()  # and the next call connects anew
    assert cutter.connections == 2
    there.close()
    here.close()


def test_a_blocking_command_whose_reply_is_cut_is_not_sent_again(valkey: Server, cutter: Cutter) -> None:
    here, there = Record(valkey.url), Record(cutter.url)
    there.ping()
    cutter.cut = True
    here.client.rpush("Q", "1", "2")
    with pytest.raises(ServerUnavailable):
        there.call("BLMOVE", "Q", "P", "LEFT", "RIGHT", 1)
    assert here.client.lrange("P", 0, -1) == [b"1"]
    there.close()
    here.close()


def test_no_server_at_all(tmp_path: Path) -> None:
    for url in (f"unix://{tmp_path}/none.sock", "redis://127.0.0.1:1/0"):
        begin = time.monotonic()
        with pytest.raises(ServerUnavailable, match="no Redis server answers at") as caught:
            Record(url).ping()
        assert time.monotonic() - begin < 1
        assert "\n" not in str(caught.value)
        assert url in str(caught.value)


def test_a_server_that_does_not_answer_is_given_up(valkey: Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        record = Record(url, client=connection.connect(url, timeout=0.2))
        begin = time.monotonic()
        with pytest.raises(ServerUnavailable):
            record.ping()
        assert 0.1 < time.monotonic() - begin < 2
        record.close()


def test_the_password_is_not_shown_beside_an_unknown_job(locked: str) -> None:
    client = Client(f"redis://:s3cret%40%2Fx@127.0.0.1:{locked}/0")
    for ask in (lambda: client.job("nope"), lambda: wait(client, ["nope"], timeout=1, as_json=False)):
        with pytest.raises(UnknownName) as caught:
            ask()
        assert "s3cret" not in str(caught.value) and "127.0.0.1" in str(caught.value)
    client.close()


def test_a_wrong_password_is_permanent_and_never_shown(locked: str) -> None:
    for words in (":wrong-one@", ""):
        with pytest.raises(PermanentError, match="refuses this user") as caught:
            Record(f"redis://{words}127.0.0.1:{locked}/0").ping()
        assert "wrong-one" not in str(caught.value)
    good = Record(f"redis://:s3cret%40%2Fx@127.0.0.1:{locked}/0")
    good.ping()
    good.close()


def test_what_an_acl_forbids_is_permanent(valkey: Server) -> None:
    admin = Record(valkey.url)
    admin.call("ACL", "SETUSER", "submitter", "on", ">pw", "~Job_Queue", "+rpush", "+ping")
    try:
        record = Record(valkey.url.replace("unix://", "unix://submitter:pw@"))
        record.call("RPUSH", "Job_Queue", "x")
        with pytest.raises(PermanentError, match="refuses this user"):
            record.call("GET", "Record")
        record.close()
    finally:
        admin.call("ACL", "DELUSER", "submitter")
        admin.close()


def test_a_full_server_says_so_for_commands_and_scripts(server: Server) -> None:
    record = Record(server.url)
    record.client.config_set("maxmemory", 1)
    try:
        with pytest.raises(ServerFull, match="jobmill doctor"):
            record.call("SET", "x", "y")
        with pytest.raises(ServerFull, match="jobmill doctor"):
            record.run("register", "name", "role", "manager")
    finally:
        record.client.config_set("maxmemory", 0)
    record.close()


def test_other_refusals_are_permanent_and_name_the_server(valkey: Server) -> None:
    record = Record(valkey.url)
    record.call("SET", "Job_Queue", "not a list")
    with pytest.raises(PermanentError, match=r"refused a command: WRONGTYPE"):
        record.call("RPUSH", "Job_Queue", "x")
    record.close()


@pytest.mark.parametrize("url", ["http://h/0", "h:6379", "", "redis://h:port/0"])
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(UsageError, match="Redis address"):
        connection.connect(url)


@pytest.mark.parametrize(
    "url",
    ["redis://u:top@h:1/0", "redis://:top@h", "rediss://u:to@p@h/0", "sentinel://:top@h/m", "unix://u:top@/a/b.sock",
     "unix:///a/b.sock?password=top&db=1", "redis://h?db=1&password=top", "redis://u:a:top@h/0"],
)  # fmt: skip
def test_passwords_are_masked(url: str) -> None:
    hidden = connection.mask(url)
    assert "top" not in hidden
    assert "p@" not in hidden
    assert "***" in hidden
    assert hidden.startswith(url.partition("://")[0])
    assert connection.mask("redis://h:6379/0") == "redis://h:6379/0"
    assert connection.mask("unix:///run/a@b.sock") == "unix:///run/a@b.sock"


def test_the_password_of_an_unknown_scheme_is_masked() -> None:
    with pytest.raises(UsageError) as caught:
        connection.connect("amqp://u:top@h/0")
    assert "top" not in str(caught.value)
    assert "unix://" in str(caught.value)


def test_a_server_that_stopped_answering_is_given_up_and_the_connection_dropped(tmp_path: Path) -> None:
    path = tmp_path / "s"
    words = [locate("valkey"), "--port", "0", "--unixsocket", str(path), "--save", "", "--dir", str(tmp_path)]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        record = Record(f"unix://{path}", client=connection.connect(f"unix://{path}", timeout=0.3))
        while time.monotonic() < deadline:
            try:
                record.ping()
                break
            except ServerUnavailable:
                time.sleep(0.01)
        process.send_signal(signal.SIGSTOP)
        with pytest.raises(ServerUnavailable):
            record.call("INCR", "n")
        process.send_signal(signal.SIGCONT)
        # the late reply belongs to nobody: the next answer is the next command's
        assert record.call("INCR", "n") in (1, 2)
        assert record.call("ECHO", "x") == b"x"
        record.close()
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait(10)


def test_the_members_of_a_set_come_in_pages_and_a_cut_among_them_is_an_outage(valkey: Server) -> None:
    record = Record(valkey.url)
    names = {f"member-{n}-{'x' * 80}" for n in range(1200)}
    record.call("SADD", "Full", *names)
    pages = record.members("Full")
    assert next(pages) in names
    assert set(record.members("Full")) == names
    with pytest.raises(ServerUnavailable):
        list(Record("redis://127.0.0.1:1/0").members("Full"))
