"""The one connection to a host: real sshds, real keys, real agents, and cables that are pulled."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from farm import Farm, Missing, Sshd, free_port, make_key, one_sshd, run, three_hosts

from jobmill.errors import SystemUnavailable
from jobmill.systems import process_tree
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
    """Tell whether a process exists and any of its threads runs."""
    found = None if pid is None else process_tree.process(pid)
    return found is not None and found.state not in process_tree.GONE


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
        try:
            byte = sock.recv(1)
        except ConnectionResetError:  # the master died and had not read everything
            byte = b""
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
            assert server.attempts == 1
            assert len(list(link.folder.glob("*.log"))) == 1

    def test_a_master_is_always_there_although_it_keeps_leaving(self, sshd: Sshd, make_link: MakeLink) -> None:
        """Idle after 0.1 s: four opens at once hit every moment of its coming and going."""
        links = [make_link(sshd, idle=0.1) for _ in range(4)]
        masters = set()
        for n in range(40):
            socks = [link.open("echo hello") for link in links]
            for sock in socks:
                assert first_line(sock) == {"ok": True}
                assert rest(sock) == b"hello\n"
            masters.add(links[0].master)
            time.sleep(0.08 + 0.002 * (n % 20))
        assert len(masters) > 5

    def test_other_options_are_another_master(self, sshd: Sshd, make_link: MakeLink) -> None:
        one, other = make_link(sshd), make_link(sshd, keepalive=29)
        assert output(one, "echo x") == output(other, "echo x")
        assert one.master != other.master

    def test_the_master_has_no_token_of_a_job_and_no_options_in_argv(
        self, sshd: Sshd, make_link: MakeLink, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("JOBMILL_TOKEN", "r1.1:job:1")
        link = make_link(sshd)
        output(link, "true")
        assert b"JOBMILL" not in Path(f"/proc/{link.master}/environ").read_bytes()
        assert str(sshd.key).encode() not in cmdline(link.master or 0)


class TestFlow:
    @pytest.mark.timeout(170)
    def test_200_mb_both_ways_while_others_stay_responsive(
        self, sshd: Sshd, make_link: MakeLink, tmp_path: Path
    ) -> None:
        size = 200 << 20
        link = make_link(sshd)
        up = link.open("sha256sum")
        down = link.open(f"head -c {size} /dev/zero | tee >(sha256sum >{tmp_path}/far) | cat")
        other = link.open("cat")
        assert first_line(up) == first_line(down) == first_line(other) == {"ok": True}
        near = hashlib.sha256()

        def send() -> None:
            piece = os.urandom(1 << 20)
            for _ in range(size >> 20):
                near.update(piece)
                up.sendall(piece)
            up.shutdown(socket.SHUT_WR)

        got = 0

        def receive() -> None:
            nonlocal got
            while piece := down.recv(1 << 18):
                assert not piece.strip(b"\0")
                got += len(piece)

        threads = [threading.Thread(target=send), threading.Thread(target=receive)]
        down.settimeout(100)
        up.settimeout(100)
        for thread in threads:
            thread.start()
        delays = []
        while any(thread.is_alive() for thread in threads):
            start = time.monotonic()
            other.sendall(b"x")
            assert other.recv(1) == b"x"
            delays.append(time.monotonic() - start)
            time.sleep(0.05)
        assert got == size
        assert rest(up).split()[0].decode() == near.hexdigest()
        zeros = hashlib.sha256()
        for _ in range(size >> 20):
            zeros.update(bytes(1 << 20))
        wait_until(lambda: zeros.hexdigest() in (tmp_path / "far").read_text())
        down.close()
        other.close()
        delays.sort()
        assert delays[len(delays) // 2] < 1.0 and delays[-1] < 5.0, delays[-5:]
        assert rss(link) < 150 << 20

    def test_keys_that_are_renewed_while_much_passes(self, make_link: MakeLink, tmp_path: Path) -> None:
        size = 30 << 20
        with one_sshd(tmp_path / "sshd", "RekeyLimit 4M", "LogLevel DEBUG1") as server:
            link = make_link(server, keepalive=10)
            up, down = link.open("wc -c"), link.open(f"head -c {size} /dev/zero")
            assert first_line(up) == first_line(down) == {"ok": True}
            thread = threading.Thread(target=lambda: (up.sendall(bytes(size)), up.shutdown(socket.SHUT_WR)))
            thread.start()
            assert len(rest(down)) == size
            thread.join()
            assert int(rest(up)) == size
            assert server.log.count("SSH2_MSG_NEWKEYS received") > 4
            assert server.logins == 1

    def test_a_client_that_does_not_read_fills_nobodys_memory(self, sshd: Sshd, make_link: MakeLink) -> None:
        link = make_link(sshd)
        lazy = [link.open("yes") for _ in range(4)]
        assert output(link, "echo quick") == b"quick\n"
        before = rss(link)
        time.sleep(1.5)
        assert rss(link) < before + (40 << 20)  # a window of 2 MB each, and what the allocator makes of it
        assert output(link, "echo quick") == b"quick\n"
        for sock in lazy:
            sock.close()
        assert output(link, "echo quick") == b"quick\n"

    def test_a_command_that_does_not_read_stops_its_client(self, sshd: Sshd, make_link: MakeLink) -> None:
        link = make_link(sshd)
        sock = link.open("sleep 3; wc -c")
        assert first_line(sock) == {"ok": True}
        sock.settimeout(0.5)
        sent = 0
        with pytest.raises(TimeoutError):
            while sent < 200 << 20:
                sent += sock.send(bytes(1 << 16))
        assert sent < 20 << 20
        assert output(link, "echo quick") == b"quick\n"
        spent = cpu(link)
        time.sleep(0.5)
        assert cpu(link) - spent < 0.2  # it does not spin
        sock.settimeout(20)
        sock.shutdown(socket.SHUT_WR)
        assert int(rest(sock)) == sent

    def test_200_streams_at_a_time(self, make_link: MakeLink, tmp_path: Path) -> None:
        with one_sshd(tmp_path / "sshd", "MaxSessions 600") as server:
            link = make_link(server)
            socks = [link.open("exec cat") for _ in range(200)]
            for sock in socks:
                assert first_line(sock) == {"ok": True}
            for n, sock in enumerate(socks):
                sock.sendall(b"%d\n" % n)
            for n, sock in enumerate(socks):
                sock.shutdown(socket.SHUT_WR)
                assert rest(sock) == b"%d\n" % n
            assert server.logins == 1
            wait_until(lambda: descriptors(link) < 40)


class TestLife:
    def test_it_leaves_when_nobody_needs_it(self, sshd: Sshd, make_link: MakeLink) -> None:
        link = make_link(sshd, idle=0.5)
        sock = link.open("cat")
        assert first_line(sock) == {"ok": True}
        time.sleep(2)
        assert alive(link.master)  # somebody is there
        sock.close()
        wait_until(lambda: not alive(link.master))
        assert output(link, "echo again") == b"again\n"

    def test_it_leaves_when_its_folder_is_gone(self, sshd: Sshd, make_link: MakeLink) -> None:
        link = make_link(sshd)
        output(link, "true")
        pid = link.master
        for file in link.folder.iterdir():
            file.unlink()
        link.folder.rmdir()
        wait_until(lambda: not alive(pid))
        assert output(link, "echo again") == b"again\n"

    def test_a_socket_that_somebody_removed_is_made_again(self, sshd: Sshd, make_link: MakeLink) -> None:
        link = make_link(sshd)
        sock = link.open("cat")
        assert first_line(sock) == {"ok": True}
        pid = link.master
        (link.folder / link.host.digest).unlink()
        assert output(link, "echo again") == b"again\n"
        assert link.master == pid and alive(pid)
        sock.sendall(b"still here")
        assert sock.recv(100) == b"still here"
        sock.close()

    def test_killed_clients_see_an_end_and_the_next_open_works(self, sshd: Sshd, make_link: MakeLink) -> None:
        link = make_link(sshd)
        sock = link.open("cat")
        assert first_line(sock) == {"ok": True}
        pid = link.master
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        assert rest(sock) == b""
        wait_until(lambda: not alive(pid))  # until then its line of clients may still take one
        assert output(link, "echo again") == b"again\n"
        assert link.master != pid

    def test_killed_at_any_moment_of_its_start(self, sshd: Sshd, make_link: MakeLink) -> None:
        link = make_link(sshd)
        for pause in (0.0, 0.02, 0.1, 0.2, 0.3, 0.4):
            sock = link.open("echo x")
            pid = link._masters[-1]
            time.sleep(pause)
            os.kill(pid, signal.SIGKILL)
            answer = first_line(sock)
            assert answer in ({}, {"ok": True}), answer
            sock.close()
            wait_until(lambda pid=pid: not alive(pid))  # type: ignore[misc]
        assert output(link, "echo again") == b"again\n"

    def test_masters_and_connections_killed_at_random_hang_nobody(self, make_link: MakeLink, tmp_path: Path) -> None:
        ends: dict[str, int] = {"served": 0, "refused": 0, "cut": 0}
        slowest = 0.0
        chance = random.Random(7)
        with one_sshd(tmp_path / "sshd") as server:
            links = [make_link(server, connect_timeout=3, keepalive=3, idle=0.3) for _ in range(4)]
            until = time.monotonic() + 8

            def use(link: SshLink) -> None:
                nonlocal slowest
                while time.monotonic() < until:
                    start = time.monotonic()
                    try:
                        opened = link.open("cat")
                    except SystemUnavailable:  # killed between our connection and our words
                        ends["refused"] += 1
                        continue
                    with opened as sock:
                        answer = first_line(sock)
                        with contextlib.suppress(OSError):
                            sock.sendall(bytes(100_000))
                            sock.shutdown(socket.SHUT_WR)
                        got = len(rest(sock))
                    assert got <= 100_000
                    ends["served" if got == 100_000 else "refused" if "error" in answer else "cut"] += 1
                    slowest = max(slowest, time.monotonic() - start)
                    time.sleep(0.05)

            threads = [threading.Thread(target=use, args=(link,)) for link in links]
            for thread in threads:
                thread.start()
            while time.monotonic() < until:
                time.sleep(chance.random() * 0.6)
                if chance.random() < 0.6:
                    end_master(links[0])
                else:
                    for pid in server.sessions():
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(pid, signal.SIGKILL)
            for thread in threads:
                thread.join(40)
                assert not thread.is_alive()
        assert ends["served"] and ends["cut"], ends
        assert slowest < 10

    def test_a_stopped_master_is_told(self, sshd: Sshd, make_link: MakeLink, monkeypatch: pytest.MonkeyPatch) -> None:
        link = make_link(sshd, connect_timeout=0.5)
        output(link, "true")
        monkeypatch.setattr("jobmill.systems.ssh_link.START_WAIT", 1.0)
        assert link.master is not None
        os.kill(link.master, signal.SIGSTOP)
        start = time.monotonic()
        with pytest.raises(SystemUnavailable, match="SFTP"):
            link.sftp()
        assert time.monotonic() - start < 10

    def test_a_stopped_master_whose_line_is_full_makes_nobody_wait(
        self, sshd: Sshd, make_link: MakeLink, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("jobmill.systems.ssh_link.START_WAIT", 1.0)
        monkeypatch.setattr("jobmill.systems.ssh_master.BACKLOG", 3)  # of the socket, which its starter makes
        link = make_link(sshd)
        output(link, "true")
        assert link.master is not None
        os.kill(link.master, signal.SIGSTOP)
        socks = []
        try:
            with pytest.raises(SystemUnavailable):
                for _ in range(10):
                    start = time.monotonic()
                    socks.append(link.open("true"))
            assert time.monotonic() - start < 3
        finally:
            os.kill(link.master, signal.SIGCONT)
            for sock in socks:
                sock.close()

    def test_a_folder_with_a_long_name(self, sshd: Sshd, make_link: MakeLink) -> None:
        assert output(make_link(sshd, folder="/".join(["long" * 20] * 3)), "echo x") == b"x\n"

    def test_a_folder_that_others_can_enter_is_refused(self, sshd: Sshd, make_link: MakeLink, tmp_path: Path) -> None:
        (tmp_path / "open").mkdir(mode=0o755)
        with pytest.raises(SystemUnavailable, match="chmod 700"):
            make_link(sshd, folder="open").open("true")

    def test_nonsense_from_a_client_hurts_nobody(self, sshd: Sshd, make_link: MakeLink) -> None:
        link = make_link(sshd)
        output(link, "true")
        for words in (
            b"\n",
            b"[]\n",
            b"{}\n",
            b'{"command": 7}\n',
            b"\xff\xfe\n",
            b'{"command":"\\ud800"}\n',
            b"x" * 2_000_000,
        ):
            with link._connect() as sock:
                with contextlib.suppress(OSError):
                    sock.sendall(words)
                assert "error" in first_line(sock), words
        assert output(link, "echo still") == b"still\n"


class TestTrust:
    def test_an_unknown_host_is_refused(self, sshd: Sshd, make_link: MakeLink, tmp_path: Path) -> None:
        (tmp_path / "nobody").write_text("# nobody\n")
        answer = refusal(make_link(sshd, known_hosts=str(tmp_path / "nobody")))
        assert answer["permanent"] is True
        assert "not a known host" in answer["error"] and str(tmp_path / "nobody") in answer["error"]
        assert fingerprint(sshd.folder / "host.pub") in answer["error"]

    def test_a_changed_key_names_file_and_line(self, make_link: MakeLink, tmp_path: Path) -> None:
        with one_sshd(tmp_path / "sshd") as server:
            link = make_link(server)
            output(link, "true")
            server.known_hosts.write_text("# comment\n\n" + server.known_hosts.read_text())
            server.kill()
            server.change_host_key()
            server.start()
            answer = refusal(link)
            assert answer["permanent"] is True
            assert f"{server.known_hosts}:3" in answer["error"] and "ssh-keygen" in answer["error"]
            with pytest.raises(SystemUnavailable, match="has changed"):
                link.sftp()
            server.know()  # mended: at once, not after the pause
            assert output(link, "echo in") == b"in\n"

    def test_hashed_revoked_and_patterns(self, sshd: Sshd, make_link: MakeLink, tmp_path: Path) -> None:
        kind, key = (sshd.folder / "host.pub").read_text().split()[:2]
        name = f"[{sshd.address}]:{sshd.port}"
        hashed = tmp_path / "hashed"
        hashed.write_text(f"{name} {kind} {key}\n")
        run("ssh-keygen", "-q", "-H", "-f", str(hashed))
        assert name not in hashed.read_text()
        assert output(make_link(sshd, known_hosts=str(hashed)), "echo in") == b"in\n"
        pattern = tmp_path / "pattern"
        pattern.write_text(f"other,[127.*]:{sshd.port} {kind} {key}\n")
        assert output(make_link(sshd, known_hosts=str(pattern)), "echo in") == b"in\n"
        denied = tmp_path / "denied"
        denied.write_text(f"*,!{name} {kind} {key}\n")
        assert "not a known host" in refusal(make_link(sshd, known_hosts=str(denied)))["error"]
        revoked = tmp_path / "revoked"
        revoked.write_text(f"{name} {kind} {key}\n@revoked * {kind} {key}\n")
        assert "revoked" in refusal(make_link(sshd, known_hosts=str(revoked)))["error"]

    def test_of_several_host_keys_the_known_one_is_asked_for(self, make_link: MakeLink, tmp_path: Path) -> None:
        make_key(tmp_path / "rsa", "rsa")
        with one_sshd(tmp_path / "sshd", f"HostKey {tmp_path / 'rsa'}") as server:
            kind, key = (tmp_path / "rsa.pub").read_text().split()[:2]
            server.known_hosts.write_text(f"[{server.address}]:{server.port} {kind} {key}\n")
            assert output(make_link(server), "echo in") == b"in\n"

    def test_a_key_that_is_refused_is_not_offered_again_and_again(self, make_link: MakeLink, tmp_path: Path) -> None:
        wrong = make_key(tmp_path / "wrong")
        with one_sshd(tmp_path / "sshd") as server:
            link = make_link(server, keys=str(wrong))
            before = server.attempts
            answers = [refusal(link) for _ in range(20)]
            assert all(answer["permanent"] for answer in answers)
            assert all(f"{wrong} was refused" in answer["error"] for answer in answers)
            assert " s" in answers[-1]["error"] and "tried again in" in answers[-1]["error"]
            assert server.attempts - before == 1
            # the right key in its place: at once
            wrong.write_bytes(server.key.read_bytes())
            wrong.with_name("wrong.pub").unlink()
            assert output(link, "echo in") == b"in\n"

    def test_keys_that_cannot_be_used_are_told(self, sshd: Sshd, make_link: MakeLink, tmp_path: Path) -> None:
        locked = make_key(tmp_path / "locked", passphrase="secret")
        (tmp_path / "text").write_text("no key\n")
        keys = [str(tmp_path / "none"), str(tmp_path / "text"), str(locked)]
        words = refusal(make_link(sshd, keys=keys))["error"]
        assert f"there is no key {tmp_path / 'none'}" in words
        assert f"{tmp_path / 'text'} is no private key" in words
        assert f"ssh-add {locked}" in words

    @pytest.mark.parametrize("kind", ["rsa", "ecdsa", "ed25519"])
    def test_kinds_of_keys(self, sshd: Sshd, make_link: MakeLink, tmp_path: Path, kind: str) -> None:
        key = make_key(tmp_path / "key", kind)
        authorized = sshd.folder / "authorized_keys"
        authorized.write_text(authorized.read_text() + (tmp_path / "key.pub").read_text())
        assert output(make_link(sshd, keys=str(key)), "echo in") == b"in\n"

    def test_an_agent_that_comes_later(
        self, make_link: MakeLink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
        locked = make_key(tmp_path / "locked", passphrase="secret")
        with one_sshd(tmp_path / "sshd") as server:
            (server.folder / "authorized_keys").write_text((tmp_path / "locked.pub").read_text())
            link = make_link(server, keys=str(locked))
            assert "ssh-add" in refusal(link)["error"]
            agent = subprocess.Popen(
                ["ssh-agent", "-D", "-a", str(tmp_path / "agent")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            try:
                wait_until(lambda: (tmp_path / "agent").is_socket())
                monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "agent"))
                (tmp_path / "ask").write_text("#!/bin/sh\necho secret\n")
                (tmp_path / "ask").chmod(0o700)
                monkeypatch.setenv("SSH_ASKPASS", str(tmp_path / "ask"))
                monkeypatch.setenv("SSH_ASKPASS_REQUIRE", "force")
                run("ssh-add", "-q", str(locked))
                assert output(link, "echo in") == b"in\n"  # the running master was told of the agent
            finally:
                agent.kill()
                agent.wait(10)

    def test_an_agent_that_never_answers(
        self, sshd: Sshd, make_link: MakeLink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with socket.socket(socket.AF_UNIX) as mute:
            mute.bind(str(tmp_path / "mute"))
            mute.listen()
            monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "mute"))
            answer = refusal(make_link(sshd, connect_timeout=0.5))
            assert "ssh-agent" in answer["error"] and answer["permanent"] is False


class TestBanners:
    def test_they_do_not_stand_before_our_line(self, make_link: MakeLink, tmp_path: Path) -> None:
        (tmp_path / "banner").write_text("AUTHORIZED USE ONLY\n" * 20)
        with one_sshd(tmp_path / "sshd", f"Banner {tmp_path / 'banner'}") as server:
            (server.home / ".bashrc").write_text("echo welcome to the login node\n")
            said = output(make_link(server), "echo x")
            assert said.endswith(b"x\n") and b"AUTHORIZED" not in said  # who reads frames what a .bashrc prints
            with make_link(server).sftp() as sftp:
                assert sftp.listdir(str(server.home)) == [".bashrc"]


class TestSessions:
    def test_more_than_maxsessions_wait_for_their_turn(self, make_link: MakeLink, tmp_path: Path) -> None:
        with one_sshd(tmp_path / "sshd", "MaxSessions 3") as server:
            link = make_link(server, connect_timeout=8)
            held = [link.open("cat") for _ in range(3)]
            for sock in held:
                assert first_line(sock) == {"ok": True}
            fourth = link.open("echo fourth")
            fourth.settimeout(0.7)
            with pytest.raises(TimeoutError):
                fourth.recv(1)
            held.pop().close()
            assert first_line(fourth) == {"ok": True}
            assert rest(fourth) == b"fourth\n"
            many = [link.open(f"echo {n}") for n in range(20)]
            assert [(first_line(it), rest(it)) for it in many] == [({"ok": True}, b"%d\n" % n) for n in range(20)]
            assert server.logins == 1
            for sock in held:
                sock.close()

    def test_waiting_in_vain_names_the_setting(self, make_link: MakeLink, tmp_path: Path) -> None:
        with one_sshd(tmp_path / "sshd", "MaxSessions 1") as server:
            link = make_link(server, connect_timeout=1)
            held = link.open("cat")
            assert first_line(held) == {"ok": True}
            answer = refusal(link)
            assert "MaxSessions" in answer["error"] and not answer["permanent"]
            held.close()
            assert output(link, "echo x") == b"x\n"

    def test_no_sftp_there(self, make_link: MakeLink, tmp_path: Path) -> None:
        settings = "Subsystem sftp /bin/false"
        with one_sshd(tmp_path / "sshd", settings) as server, pytest.raises(SystemUnavailable, match="SFTP"):
            make_link(server).sftp()


class TestOutage:
    def test_nobody_listens(self, sshd: Sshd, make_link: MakeLink) -> None:
        link = make_link(sshd, port=free_port())
        answers = [refusal(link) for _ in range(5)]
        assert all("refused" in answer["error"] and not answer["permanent"] for answer in answers)
        assert "tried again in" in answers[-1]["error"]

    def test_a_host_that_hangs_up_is_not_stormed(self, sshd: Sshd, make_link: MakeLink) -> None:
        """Five seconds of eager clients: pauses of 1, 2, 4 … seconds, a quarter more or less."""
        seen = 0

        def hang_up(listener: socket.socket) -> None:
            nonlocal seen
            with contextlib.suppress(OSError):
                while True:
                    listener.accept()[0].close()
                    seen += 1

        with socket.create_server(("127.0.0.1", 0)) as listener:
            thread = threading.Thread(target=hang_up, args=(listener,))
            thread.start()
            link = make_link(sshd, port=listener.getsockname()[1])
            until = time.monotonic() + 5
            asked = 0
            while time.monotonic() < until:
                assert "error" in refusal(link)
                asked += 1
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
        assert asked > 50
        assert 2 <= seen <= 4

    def test_a_server_that_says_nothing(self, sshd: Sshd, make_link: MakeLink) -> None:
        with socket.create_server(("127.0.0.1", 0)) as mute:
            start = time.monotonic()
            answer = refusal(make_link(sshd, port=mute.getsockname()[1], connect_timeout=0.5))
            assert time.monotonic() - start < 5
            assert "within 0.5 s" in answer["error"] and not answer["permanent"]

    def test_no_such_name(self, sshd: Sshd, make_link: MakeLink) -> None:
        assert "nowhere.invalid" in refusal(make_link(sshd, host="nowhere.invalid"))["error"]

    def test_killed_and_started_again(self, make_link: MakeLink, tmp_path: Path) -> None:
        with one_sshd(tmp_path / "sshd") as server:
            link = make_link(server)
            sock = link.open("cat")
            assert first_line(sock) == {"ok": True}
            server.kill()
            assert rest(sock, 5) == b""
            assert "refused" in refusal(link)["error"]
            server.start()
            until = time.monotonic() + 10
            while "error" in first_line(again := link.open("echo back")):
                again.close()
                assert time.monotonic() < until
                time.sleep(0.1)
            assert rest(again) == b"back\n"
            assert server.logins == 2

    def test_a_host_that_froze(self, make_link: MakeLink, tmp_path: Path) -> None:
        """Its kernel goes on to acknowledge, so TCP sees nothing."""
        with one_sshd(tmp_path / "sshd") as server:
            link = make_link(server, keepalive=1.5)
            sock = link.open("cat")
            assert first_line(sock) == {"ok": True}
            sftp = link.sftp(timeout=0.5)
            frozen = server.hang()
            try:
                with pytest.raises(TimeoutError):
                    sftp.stat("/")
                start = time.monotonic()
                assert rest(sock, 10) == b""
                assert time.monotonic() - start < 4
            finally:
                for pid in frozen:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGCONT)


class TestWays:
    def test_proxy_command(self, sshd: Sshd, make_link: MakeLink, tmp_path: Path) -> None:
        """A way that is a process: it leaves with the master."""
        relay = tmp_path / "relay.py"
        relay.write_text(
            "import os, socket, sys, threading\n"
            "there = socket.create_connection((sys.argv[1], int(sys.argv[2])))\n"
            "def up():\n"
            "    while data := os.read(0, 65536):\n"
            "        there.sendall(data)\n"
            "    os._exit(0)\n"
            "threading.Thread(target=up).start()\n"
            "while data := there.recv(65536):\n"
            "    while data:\n"
            "        data = data[os.write(1, data):]\n"
            "os._exit(0)\n"
        )
        config = tmp_path / "config"
        config.write_text(
            f"Host bird\n  HostName {sshd.address}\n  Port {sshd.port}\n  IdentityFile {sshd.key}\n"
            f"  UserKnownHostsFile {sshd.known_hosts}\n  ProxyCommand {sys.executable} {relay} %h %p\n"
        )
        host = SshHost.of("bird", {"ssh_config": str(config)}, "systems.bird")
        assert host.proxy_command is not None
        options = {"host": "bird", "port": None, "user": None, "keys": None, "known_hosts": None}
        link = make_link(sshd, ssh_config=str(config), **options)
        assert output(link, "echo through") == b"through\n"
        data = os.urandom(5 << 20)
        with link.sftp() as sftp, sftp.open(str(tmp_path / "there"), "wb") as file:
            file.set_pipelined(True)
            file.write(data)
        assert (tmp_path / "there").read_bytes() == data
        assert run("pgrep", "-f", str(relay), check=False)
        end_master(link)
        wait_until(lambda: not run("pgrep", "-f", str(relay), check=False))

    def test_a_proxy_command_that_fails(self, sshd: Sshd, make_link: MakeLink) -> None:
        answer = refusal(make_link(sshd, proxy_command="exit 1"))
        assert not answer["permanent"]

    def test_the_users_own_control_master(self, sshd: Sshd, make_link: MakeLink, tmp_path: Path) -> None:
        path = tmp_path / "cm"
        link = make_link(sshd, control_path=str(path))
        before = sshd.attempts
        answer = refusal(link)
        assert "ssh -M -S" in answer["error"] and not answer["permanent"]
        with pytest.raises(SystemUnavailable, match="log in once"):
            link.sftp()
        assert sshd.attempts == before
        known = ["-o", f"UserKnownHostsFile={sshd.known_hosts}", "-o", "BatchMode=yes", "-i", str(sshd.key)]
        words = ["ssh", "-F", "none", "-M", "-S", str(path), *known, "-N", "-p", str(sshd.port), sshd.address]
        master = subprocess.Popen(words, stdin=subprocess.DEVNULL)
        try:
            wait_until(path.is_socket)
            logins = sshd.logins
            sock = link.open("echo riding; cat; echo words >&2")
            sock.sendall(b"there and back\n")
            sock.shutdown(socket.SHUT_WR)
            assert first_line(sock) == {"ok": True}
            assert rest(sock) == b"riding\nthere and back\nwords\n"
            assert b"not found" in output(link, "no-such-command-there")
            sftp = link.sftp()
            (tmp_path / "file").write_bytes(b"x" * 1_000_000)
            sftp.put(str(tmp_path / "file"), str(tmp_path / "there"))
            assert (tmp_path / "there").stat().st_size == 1_000_000
            sftp.close()
            assert sshd.logins == logins
            sock = link.open("echo $$; exec sleep 60")
            assert first_line(sock) == {"ok": True}
            pid = int(sock.recv(100))
            sock.close()
            wait_until(lambda: not run("pgrep", "-P", str(os.getpid()), "-x", "ssh", check=False).split()[1:])
            os.kill(pid, signal.SIGKILL)  # it was left running
        finally:
            master.terminate()
            master.wait(10)
        assert "log in once" in refusal(link)["error"]


class TestCables:
    def test_a_pulled_cable_is_noticed_and_mended(self, farm: Farm, make_link: MakeLink) -> None:
        server = farm.host(1)
        link = make_link(server, keepalive=2, connect_timeout=1)
        sock = link.open("cat")
        assert first_line(sock) == {"ok": True}
        farm.cut(1)
        try:
            start = time.monotonic()
            sock.sendall(b"into the void")
            assert rest(sock, 15) == b""
            assert time.monotonic() - start < 5
            answer = refusal(link)
            assert "within 1 s" in answer["error"] and not answer["permanent"]
            assert "tried again in" in refusal(link)["error"]
        finally:
            farm.join(1)
        until = time.monotonic() + 10
        while "error" in first_line(again := link.open("hostname")):
            again.close()
            assert time.monotonic() < until
            time.sleep(0.2)
        assert rest(again) == b"h1\n"

    def test_a_short_cut_changes_nothing_but_the_time(self, farm: Farm, make_link: MakeLink) -> None:
        server = farm.host(2)
        link = make_link(server, keepalive=10)
        sock = link.open("cat")
        assert first_line(sock) == {"ok": True}
        logins = server.logins
        farm.cut(2)
        sock.sendall(b"a while later")
        time.sleep(2)
        farm.join(2)
        sock.settimeout(10)
        assert sock.recv(100) == b"a while later"
        assert server.logins == logins
        sock.close()

    def test_a_cut_in_the_middle_of_much(self, farm: Farm, make_link: MakeLink) -> None:
        """The loop is never stuck in a write: who asks during the cut gets an answer."""
        link = make_link(farm.host(1), keepalive=2, connect_timeout=1)
        sock = link.open("cat > /dev/null")
        assert first_line(sock) == {"ok": True}
        sock.setblocking(False)
        until = time.monotonic() + 1
        farm.slow(1, rate="20mbit")
        try:
            while time.monotonic() < until:
                with contextlib.suppress(BlockingIOError):
                    sock.send(bytes(1 << 16))
                time.sleep(0.001)
            farm.cut(1)
            start = time.monotonic()
            refusal(link)
            assert time.monotonic() - start < 6
        finally:
            farm.fast(1)
            farm.join(1)
        sock.close()

    def test_a_cut_while_much_comes(self, farm: Farm, make_link: MakeLink) -> None:
        """The master outlives it: all its streams end, and it serves the next."""
        link = make_link(farm.host(3), keepalive=2, connect_timeout=1)
        socks = [link.open("cat /dev/zero") for _ in range(5)]
        for sock in socks:
            assert first_line(sock) == {"ok": True}
        pid = link.master
        until = time.monotonic() + 1
        while time.monotonic() < until:
            for sock in socks:
                sock.recv(1 << 16)
        farm.cut(3)
        try:
            threads = [threading.Thread(target=rest, args=(sock, 15)) for sock in socks]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            farm.join(3)
        until = time.monotonic() + 15
        while "error" in first_line(again := link.open("hostname")):
            again.close()
            assert time.monotonic() < until
            time.sleep(0.2)
        assert rest(again) == b"h3\n"
        assert link.master == pid

    def test_small_things_pass_by_large_ones_on_a_slow_line(self, farm: Farm, make_link: MakeLink) -> None:
        server = farm.host(3)
        link = make_link(server, keepalive=5)
        farm.slow(3, rate="10mbit")
        try:
            big, small = link.open("cat > /dev/null"), link.open("cat")
            assert first_line(big) == first_line(small) == {"ok": True}
            big.setblocking(False)
            delays, until = [], time.monotonic() + 6
            while time.monotonic() < until:
                start = time.monotonic()
                with contextlib.suppress(BlockingIOError):
                    while True:
                        big.send(bytes(1 << 16))
                small.sendall(b"x")
                assert small.recv(1) == b"x"
                delays.append(time.monotonic() - start)
            assert sorted(delays)[len(delays) // 2] < 1.0, delays
            big.close()
            small.close()
        finally:
            farm.fast(3)

    def test_through_another_host(self, farm: Farm, make_link: MakeLink, tmp_path: Path) -> None:
        first, second = farm.host(1), farm.host(2)
        known = tmp_path / "known"
        known.write_text(first.known_hosts.read_text() + second.known_hosts.read_text())
        authorized = second.folder / "authorized_keys"
        authorized.write_text(authorized.read_text() + (first.folder / "id.pub").read_text())
        way = {"keys": str(first.key), "known_hosts": str(known), "proxy_jump": f"root@{first.address}"}
        link = make_link(second, keepalive=2, connect_timeout=1, **way)
        sock = link.open('hostname; echo "$SSH_CLIENT"; cat')
        assert first_line(sock) == {"ok": True}
        time.sleep(0.3)
        said = sock.recv(1000).decode().split()
        assert said[:2] == ["h2", first.address]
        farm.cut(2)  # the host behind: the way to the first one is well
        try:
            assert rest(sock, 10) == b""
            answer = refusal(link)
            assert not answer["permanent"], answer
        finally:
            farm.join(2)
        other = make_link(second, **way | {"proxy_jump": f"root@{farm.host(3).address}"})
        assert f"{farm.host(3).address} is not a known host" in refusal(other)["error"]


def rss(link: SshLink) -> int:
    """Return the master's memory in bytes."""
    words = Path(f"/proc/{link.master}/status").read_text()
    return int(words.split("VmRSS:")[1].split()[0]) << 10


def cpu(link: SshLink) -> float:
    """Return the seconds that the master has computed."""
    fields = Path(f"/proc/{link.master}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def descriptors(link: SshLink) -> int:
    """Return how many descriptors the master has open."""
    return len(list(Path(f"/proc/{link.master}/fd").iterdir()))


def fingerprint(public: Path) -> str:
    """Return the fingerprint as ssh-keygen says it."""
    return run("ssh-keygen", "-l", "-f", str(public)).split()[1]
