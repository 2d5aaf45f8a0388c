"""The one connection to a host: real sshds, real keys, real agents, and cables that are pulled."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from farm import Farm, Missing, Sshd, one_sshd, three_hosts

from jobmill.systems.ssh_host import SshHost
from jobmill.systems.ssh_link import SshLink

pytestmark = pytest.mark.timeout(60)
MakeLink = Callable[..., SshLink]

CLIENT = """
import json, sys, time
from pathlib import Path
from jobmill.systems.ssh_host import SshHost
from jobmill.systems.ssh_link import SshLink
link = SshLink(SshHost.from_json(sys.argv[1]), Path(sys.argv[2]))
print("ready", flush=True)
sys.stdin.readline()
socks = [link.open(f"echo {n}; cat") for n in range(int(sys.argv[3]))]
for sock in socks:
    sock.shutdown(1)
for n, sock in enumerate(socks):
    data = b""
    while piece := sock.recv(65536):
        data += piece
    assert data == b'{"ok": true}\\n%d\\n' % n, data
print("done", flush=True)
"""


def absent(error: Missing) -> Any:
    """Fail in CI, skip elsewhere."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI has to have every component: {error}", pytrace=False)
    pytest.skip(str(error))


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """A server that no test changes."""
    try:
        with one_sshd(tmp_path_factory.mktemp("sshd")) as server:
            yield server
    except Missing as error:
        absent(error)


@pytest.fixture
def make_link(tmp_path: Path) -> Iterator[MakeLink]:
    """Make links that share a folder; their masters are gone afterwards."""
    links: list[SshLink] = []

    def make(server: Sshd, folder: str = "link", **more: Any) -> SshLink:
        host = SshHost.of("bird", server.options(**more), "systems.bird")
        links.append(SshLink(host, tmp_path / folder))
        return links[-1]

    yield make
    for link in links:
        end_master(link)
        link.close()


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    """Three hosts with cables; each test leaves them joined and running."""
    try:
        with three_hosts(tmp_path_factory.mktemp("farm")) as made:
            yield made
    except Missing as error:
        absent(error)


def end_master(link: SshLink) -> None:
    """Kill the master of a link, and wait until it is gone."""
    pid = link.master
    if pid is not None and (b"ssh_master" in cmdline(pid) or b"jobmill-ssh" in cmdline(pid)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not alive(pid))


def cmdline(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def alive(pid: int | None) -> bool:
    """Tell whether a process exists and is no zombie."""
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def wait_until(true: Callable[[], bool], seconds: float = 10.0) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.02)


def first_line(sock: socket.socket) -> dict[str, Any]:
    """Read the master's line and nothing behind it."""
    sock.settimeout(30)
    line = b""
    while not line.endswith(b"\n"):
        byte = sock.recv(1)
        if not byte:
            return {}
        line += byte
    answer: dict[str, Any] = json.loads(line)
    return answer


def rest(sock: socket.socket, seconds: float = 30) -> bytes:
    """Read to the end."""
    sock.settimeout(seconds)
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := sock.recv(1 << 16):
            data += piece
    sock.close()
    return data


def output(link: SshLink, command: str) -> bytes:
    """Run a command; fail unless the connection served it."""
    sock = link.open(command)
    assert first_line(sock) == {"ok": True}
    return rest(sock)


def refusal(link: SshLink, command: str = "true") -> dict[str, Any]:
    """Return the master's answer to an open that cannot succeed."""
    with link.open(command) as sock:
        answer = first_line(sock)
        assert "error" in answer, answer
        assert rest(sock) == b""
    return answer


class TestStreams:
    def test_both_ways_with_the_ends_by_halves(self, sshd: Sshd, make_link: MakeLink) -> None:
        link = make_link(sshd)
        start = time.monotonic()
        sock = link.open("echo first; cat; echo last")
        assert time.monotonic() - start < 0.5  # although no master is there yet, nor a connection
        sock.sendall(b"some\0bytes\xff\n")
        assert first_line(sock) == {"ok": True}
        assert sock.recv(6) == b"first\n"
        sock.shutdown(socket.SHUT_WR)
        assert rest(sock) == b"some\0bytes\xff\nlast\n"

    def test_stdout_and_stderr_are_one(self, sshd: Sshd, make_link: MakeLink) -> None:
        assert output(make_link(sshd), "echo a; echo b >&2; echo c") in (b"a\nb\nc\n", b"a\nc\nb\n")

    def test_the_command_that_ends_its_output_still_reads(
        self, sshd: Sshd, make_link: MakeLink, tmp_path: Path
    ) -> None:
        sock = make_link(sshd).open(f"exec >&- 2>&-; cat > {tmp_path}/got")
        assert first_line(sock) == {"ok": True}
        sock.sendall(b"more")
        sock.shutdown(socket.SHUT_WR)
        assert rest(sock) == b""
        wait_until(lambda: (tmp_path / "got").exists() and (tmp_path / "got").read_bytes() == b"more")

    def test_a_command_that_is_not_there(self, sshd: Sshd, make_link: MakeLink) -> None:
        assert b"not found" in output(make_link(sshd), "no-such-command-there 1 2")

    def test_close_leaves_the_command_running(self, sshd: Sshd, make_link: MakeLink, tmp_path: Path) -> None:
        link = make_link(sshd)
        sock = link.open(f"echo $$ > {tmp_path}/pid; while sleep 0.05; do date > {tmp_path}/tick; done")
        assert first_line(sock) == {"ok": True}
        wait_until(lambda: (tmp_path / "tick").exists())
        sock.close()
        (tmp_path / "tick").unlink()
        wait_until((tmp_path / "tick").exists)
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)

    def test_what_was_written_before_close_arrives(self, sshd: Sshd, make_link: MakeLink, tmp_path: Path) -> None:
        sock = make_link(sshd).open(f"cat > {tmp_path}/got")
        sock.sendall(b"x" * 100_000)
        sock.close()  # before the connection is even there
        sock = make_link(sshd).open(f"cat > {tmp_path}/got2")
        assert first_line(sock) == {"ok": True}
        sock.sendall(b"x" * 100_000)
        sock.close()
        wait_until(lambda: (tmp_path / "got2").exists() and (tmp_path / "got2").stat().st_size == 100_000)

    def test_sftp(self, sshd: Sshd, make_link: MakeLink, tmp_path: Path) -> None:
        data = os.urandom(3 << 20)
        (tmp_path / "here").write_bytes(data)
        sftp = make_link(sshd).sftp()
        sftp.put(str(tmp_path / "here"), str(tmp_path / "there"))
        assert (tmp_path / "there").read_bytes() == data
        sftp.get(str(tmp_path / "there"), str(tmp_path / "back"))
        assert (tmp_path / "back").read_bytes() == data
        with pytest.raises(FileNotFoundError):
            sftp.stat("/no/such/file")
        sftp.close()


class TestSharing:
    def test_fifty_opens_from_three_processes_are_one_connection(self, make_link: MakeLink, tmp_path: Path) -> None:
        with one_sshd(tmp_path / "sshd") as server:
            link = make_link(server)
            words = [sys.executable, "-c", CLIENT, link.host.to_json(), str(link.folder), "17"]
            env = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
            clients = [
                subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
                for _ in range(3)
            ]
            for client in clients:
                assert client.stdout is not None and client.stdout.readline() == "ready\n"
            for client in clients:  # now all at once
                assert client.stdin is not None
                client.stdin.write("\n")
                client.stdin.flush()
            for client in clients:
                said, _ = client.communicate(timeout=40)
                assert (said, client.returncode) == ("done\n", 0)
            assert server.logins == 1
            assert server.attempts - 1 == 1  # one was the farm's own look whether it answers
            assert len(list(link.folder.glob("*.log"))) == 1
