"""Hosts to log in to: real sshds on loopback, and three with a network of their own, whose cables can be pulled.

    with one_sshd(folder) as host:           # any user; 127.0.0.1, a free port, keys of its own
    with three_hosts(folder) as farm:        # root; h1 … h3 in namespaces on a bridge
        farm.cut(1); farm.join(1); farm.slow(2, rate="1mbit")

The bridge lies in the initial namespace and has an address there, so that the tests, and whatever they start, reach
the hosts without being started in a special place; the hosts reach each other and us, nothing else. Names and
networks carry the pid, so that two runs do not meet. Everything is removed at the end, also after a failure.
"""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SSHD = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin") or "/usr/sbin/sshd"
PROGRAMS = {"sshd": "openssh-server", "ssh-keygen": "openssh-client", "ssh-agent": "openssh-client"}
NETWORK_PROGRAMS = {"ip": "iproute2", "tc": "iproute2"}
PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


class Missing(Exception):
    """Something is not on this machine; says how to get it."""


def need(programs: dict[str, str]) -> None:
    """Make sure that the programs are here, installing their packages where that is possible; else raise Missing."""
    missing = _lacking(programs)
    if missing and os.geteuid() == 0 and shutil.which("apt-get"):
        # RUNLEVEL=1: on a machine with an init the package must not start a server of its own
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
        with (Path(tempfile.gettempdir()) / f"jobmill-apt.{os.geteuid()}").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # the tests run in several processes, and apt in one
            missing = _lacking(programs)
            for words in (["update", "-q"], ["install", "-q", "-y", "--no-install-recommends", *missing]):
                if missing:
                    subprocess.run(
                        ["apt-get", *words], env=environment, timeout=600, check=True, stdout=subprocess.DEVNULL
                    )
        missing = _lacking(programs)
    if missing:
        raise Missing(f"not on this machine; as root: apt-get install {' '.join(missing)}")


def _lacking(programs: dict[str, str]) -> list[str]:
    return sorted({package for program, package in programs.items() if shutil.which(program, path=PATH) is None})


def need_namespaces() -> None:
    """Raise Missing where no network namespace can be made."""
    if os.geteuid() != 0:
        raise Missing("network namespaces need root: run the tests as root, in a container for example")
    need(PROGRAMS | NETWORK_PROGRAMS)
    done = subprocess.run(["unshare", "--net", "true"], capture_output=True, text=True, timeout=20, check=False)
    if done.returncode:
        raise Missing(f"no network namespace can be made here ({done.stderr.strip()}): docker run --privileged")


def run(*words: str, check: bool = True) -> str:
    """Run one program to its end; its words when it fails."""
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=30, check=False, env=os.environ | {"PATH": PATH}
    )
    if check and done.returncode:
        raise AssertionError(f"{' '.join(words)}: {done.returncode}: {done.stderr or done.stdout}")
    return done.stdout


def make_key(path: Path, kind: str = "ed25519", passphrase: str = "") -> Path:
    """Make a key pair at ``path``, anew when there is one."""
    for old in (path, path.with_name(path.name + ".pub")):
        old.unlink(missing_ok=True)
    run("ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-C", path.name, "-f", str(path))
    return path


@dataclass(kw_only=True)
class Sshd:
    """One server: its folder, its address, its process."""

    folder: Path
    address: str
    port: int
    inside: tuple[str, ...] = ()  # words before the server's own: the namespace where it lives
    settings: tuple[str, ...] = ()  # lines of sshd_config that come before ours
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    looks: int = 0  # connections that only asked whether it answers

    @property
    def key(self) -> Path:
        """The private key that lets in."""
        return self.folder / "id"

    @property
    def home(self) -> Path:
        """What commands have as HOME; sftp starts in the user's real one."""
        return self.folder / "home"

    @property
    def known_hosts(self) -> Path:
        """A file that knows this host."""
        return self.folder / "known_hosts"

    @property
    def user(self) -> str:
        """Who logs in: whoever runs the tests."""
        return getpass.getuser()

    @property
    def log(self) -> str:
        """What the server has logged."""
        path = self.folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def logins(self) -> int:
        """How many logins it has accepted."""
        return self.log.count("Accepted publickey")

    @property
    def attempts(self) -> int:
        """How many connections it has seen, without those of `start`."""
        return self.log.count("Connection from") - self.looks

    def options(self, **more: Any) -> dict[str, Any]:
        """Return the options of a system for this host."""
        said = {"host": self.address, "port": self.port, "user": self.user, "ssh_config": "none"}
        return said | {"keys": str(self.key), "known_hosts": str(self.known_hosts)} | more

    def know(self) -> None:
        """Write the known_hosts line for the present host key."""
        name = self.address if self.port == 22 else f"[{self.address}]:{self.port}"
        kind, key = (self.folder / "host.pub").read_text().split()[:2]
        self.known_hosts.write_text(f"{name} {kind} {key}\n")

    def change_host_key(self) -> None:
        """Give it another host key, which nobody knows; from its next start on."""
        make_key(self.folder / "host")

    def start(self) -> Sshd:
        """Start it and wait until it answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)
        self.home.mkdir(exist_ok=True)
        if not (self.folder / "host").exists():
            make_key(self.folder / "host")
            self.know()
        if not self.key.exists():
            make_key(self.key)
            shutil.copyfile(self.folder / "id.pub", self.folder / "authorized_keys")
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # the server's privilege separation wants it
        ours = [
            f"Port {self.port}",
            f"ListenAddress {self.address}",
            f"HostKey {self.folder / 'host'}",
            "PidFile none",
            f"AuthorizedKeysFile {self.folder / 'authorized_keys'}",
            "StrictModes no",
            "UsePAM no",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "PermitRootLogin prohibit-password",
            "PermitUserEnvironment yes",
            "Subsystem sftp internal-sftp",
            "MaxStartups 100",
            "MaxSessions 100",
            "PrintMotd no",
            "LogLevel VERBOSE",
            # a home of its own: the .bashrc of whoever runs the tests is none of theirs. One line: sshd reads one
            "SetEnv " + " ".join(f"{k}={v}" for k, v in ({"HOME": str(self.home)} | self.environment).items()),
        ]
        # the first line of a keyword counts, but for HostKey, which adds, and Subsystem, which must not be there twice
        taken = {line.split()[0] for line in self.settings} - {"HostKey"}
        lines = [*self.settings, *(line for line in ours if line.split()[0] not in taken)]
        config = self.folder / "sshd_config"
        config.write_text("\n".join(lines) + "\n")
        run(SSHD, "-t", "-f", str(config))
        self.process = subprocess.Popen(
            [*self.inside, SSHD, "-D", "-f", str(config), "-E", str(self.folder / "log")],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={"PATH": PATH, "LANG": "C.UTF-8"},
        )
        until = time.monotonic() + 10
        while time.monotonic() < until:
            with contextlib.suppress(OSError):
                socket.create_connection((self.address, self.port), timeout=1).close()
                self.looks += 1
                while self.attempts < 0 and time.monotonic() < until:  # until it has logged this one
                    time.sleep(0.01)
                return self
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        raise AssertionError(f"sshd does not answer at {self.address}:{self.port}: {self.log}")

    def sessions(self) -> list[int]:
        """Return the pids of the processes that serve connections: its children and theirs that are sshd."""
        assert self.process is not None
        found, new = [], [self.process.pid]
        while new:
            new = [pid for parent in new for pid in _children(parent) if _name(pid).startswith("sshd")]
            found += new
        return found

    def kill(self, *, connections: bool = True) -> None:
        """Kill it at once; with ``connections`` also all that are open."""
        assert self.process is not None
        # stopped first, so that it does not go on serving while its children are counted
        self.process.send_signal(signal.SIGSTOP)
        for pid in self.sessions() if connections else []:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.kill()
        self.process.wait(10)

    def hang(self, pids: list[int] | None = None) -> list[int]:
        """Stop the processes that serve connections: the kernel acknowledges, nobody answers; return them."""
        found = self.sessions() if pids is None else pids
        for pid in found:
            os.kill(pid, signal.SIGSTOP)
        return found

    def stop(self) -> None:
        """Stop it and what it started."""
        if self.process is not None and self.process.poll() is None:
            self.kill()


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(it) for it in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def _name(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def free_port(address: str = "127.0.0.1") -> int:
    """Return a port that nobody listens at."""
    with socket.socket() as sock:
        sock.bind((address, 0))
        return int(sock.getsockname()[1])


@contextlib.contextmanager
def one_sshd(folder: Path, *settings: str, address: str = "127.0.0.1", port: int | None = None) -> Iterator[Sshd]:
    """A server on loopback for any user; ``settings``: lines of sshd_config before its own."""
    need(PROGRAMS)
    server = Sshd(folder=folder, address=address, port=port or free_port(address), settings=settings)
    try:
        yield server.start()
    finally:
        server.stop()


class Farm:
    """Hosts in namespaces of their own, on a bridge; numbered from 1."""

    def __init__(self, folder: Path, count: int = 3) -> None:
        self._pid = os.getpid()
        self._folder = folder
        self._count = count
        self._bridge = f"jmb{self._pid}"
        taken = run("ip", "-4", "-o", "addr")
        # 10.64.0.0/10 by the pid, away from what is there
        third = next(
            n for i in range(200) if f"10.{64 + (n := (self._pid + i) % 64)}.{(self._pid // 64) % 250}." not in taken
        )
        self._net = f"10.{64 + third}.{(self._pid // 64) % 250}"
        self.hosts: list[Sshd] = []

    def host(self, n: int) -> Sshd:
        """Return host ``n``."""
        return self.hosts[n - 1]

    def up(self) -> None:
        """Make bridge, namespaces and servers."""
        run("ip", "link", "add", self._bridge, "type", "bridge")
        run("ip", "addr", "add", f"{self._net}.254/24", "dev", self._bridge)
        run("ip", "link", "set", self._bridge, "up")
        for n in range(1, self._count + 1):
            space = self._space(n)
            run("ip", "netns", "add", space)
            run("ip", "-n", space, "link", "set", "lo", "up")
            run("ip", "link", "add", self._cable(n), "type", "veth", "peer", "name", "eth0", "netns", space)
            run("ip", "link", "set", self._cable(n), "master", self._bridge, "up")
            run("ip", "-n", space, "addr", "add", f"{self._net}.{n}/24", "dev", "eth0")
            run("ip", "-n", space, "link", "set", "eth0", "up")
            # a UTS namespace as well, so that each has a name of its own
            inside = ("ip", "netns", "exec", space, "unshare", "--uts", "sh", "-c", f'hostname h{n}; exec "$@"', "sh")
            folder = self._folder / f"h{n}"
            host = Sshd(folder=folder, address=f"{self._net}.{n}", port=22, inside=inside)
            self.hosts.append(host)
            host.start()

    def down(self) -> None:
        """Remove everything, also what is only half there."""
        for host in self.hosts:
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                host.stop()
        for n in range(1, self._count + 1):
            until = time.monotonic() + 5
            while time.monotonic() < until:
                pids = run("ip", "netns", "pids", self._space(n), check=False).split()
                if not pids:
                    break
                for pid in pids:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(pid), signal.SIGKILL)
                time.sleep(0.05)
            run("ip", "netns", "del", self._space(n), check=False)
            run("ip", "link", "del", self._cable(n), check=False)
        run("ip", "link", "del", self._bridge, check=False)

    def cut(self, n: int) -> None:
        """Pull the cable of host ``n``: no byte passes, nobody is told."""
        run("ip", "link", "set", self._cable(n), "nomaster")

    def join(self, n: int) -> None:
        """Plug it in again."""
        run("ip", "link", "set", self._cable(n), "master", self._bridge)

    def slow(self, n: int, *, rate: str, delay: str | None = None) -> None:
        """Let ``rate`` ("10mbit") pass to and from host ``n``, ``delay`` ("50ms") later each way.

        Raises Missing for a delay where the kernel has no netem; a rate alone it can keep without.
        """
        netem = ["netem", "delay", delay or "0ms", "rate", rate]
        for shape in (netem, ["tbf", "rate", rate, "burst", "32kb", "latency", "200ms"]):
            try:
                run("tc", "qdisc", "replace", "dev", self._cable(n), "root", *shape)
                run("ip", "netns", "exec", self._space(n), "tc", "qdisc", "replace", "dev", "eth0", "root", *shape)
                return
            except AssertionError as error:
                if "qdisc kind is unknown" not in str(error) or shape is not netem:
                    raise
                if delay:
                    raise Missing("this kernel has no netem, which delays packets: modprobe sch_netem") from error

    def fast(self, n: int) -> None:
        """End `slow`."""
        run("tc", "qdisc", "del", "dev", self._cable(n), "root", check=False)
        run("ip", "netns", "exec", self._space(n), "tc", "qdisc", "del", "dev", "eth0", "root", check=False)

    def _space(self, n: int) -> str:
        return f"jm{self._pid}h{n}"

    def _cable(self, n: int) -> str:
        return f"jm{self._pid}v{n}"


@contextlib.contextmanager
def three_hosts(folder: Path, count: int = 3) -> Iterator[Farm]:
    """Hosts with cables, for root; raises Missing where that cannot be."""
    need_namespaces()
    farm = Farm(folder, count)
    try:
        farm.up()
        yield farm
    finally:
        farm.down()
