"""Hosts of their own for RQ workers: a network and a host name each, and a cable that can be pulled.

A bridge stands in a namespace of its own with the server; nothing is connected to the machine's network. Needs root
and iproute2 (``apt-get install iproute2``). Names bear the process's id, so that several may stand side by side.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

NET = "10.83.0"  # inside the namespaces only
PORT = 6379


class Missing(Exception):
    """This machine cannot have namespaces; says what to do."""


class CutNet:
    """Hosts 1..n, and what was started on them."""

    def __init__(self, hosts: int) -> None:
        if os.geteuid() != 0:
            raise Missing("network namespaces are root's: run these tests as root")
        if shutil.which("ip") is None:
            raise Missing("no `ip` on this machine: apt-get install iproute2")
        self.mark = f"jmrq{os.getpid()}"
        self.hosts = range(1, hosts + 1)
        self.server: subprocess.Popen[bytes] | None = None
        try:
            self._up()
        except subprocess.CalledProcessError as error:
            self.down()
            raise Missing(f"namespaces are not allowed here: {error.stderr.decode().strip()}") from None

    @property
    def url(self) -> str:
        """Return the server's address on every host."""
        return f"redis://{NET}.254:{PORT}/0"

    def name(self, host: int) -> str:
        """Return the namespace of a host; 0 is the server's."""
        return f"{self.mark}h{host}"

    def on(self, host: int) -> Sequence[str]:
        """Return the words that, before a command, run it on a host."""
        name = f"host{host}"
        inner = ("unshare", "-u", "sh", "-c", f'hostname {name}; exec "$@"', "sh")
        return ("ip", "netns", "exec", self.name(host), *inner)

    def serve(self, binary: Path, folder: Path) -> str:
        """Start a server there, durable as in production; return its address here, which no cable leads to."""
        socket = folder / "redis.sock"
        words = ["--port", str(PORT), "--bind", f"{NET}.254", "--protected-mode", "no", "--unixsocket", str(socket)]
        words += ["--appendonly", "yes", "--appendfsync", "always", "--save", "", "--dir", str(folder)]
        with (folder / "server.log").open("wb") as log:
            self.server = subprocess.Popen([*self.on(0), str(binary), *words], stdout=log, stderr=log)
        deadline = time.monotonic() + 10
        while not socket.exists():
            if time.monotonic() > deadline or self.server.poll() is not None:
                raise AssertionError((folder / "server.log").read_text())
            time.sleep(0.02)
        return f"unix://{socket}"

    def cut(self, host: int) -> None:
        """Pull the cable of a host."""
        _ip("-n", self.name(0), "link", "set", f"v{host}", "down")

    def join(self, host: int) -> None:
        """Plug it in again."""
        _ip("-n", self.name(0), "link", "set", f"v{host}", "up")

    def down(self) -> None:
        """Kill what runs on the hosts, and remove them."""
        for host in (0, *self.hosts):
            for _ in range(50):
                found = subprocess.run(["ip", "netns", "pids", self.name(host)], capture_output=True, check=False)
                pids = [int(pid) for pid in found.stdout.split()]
                for pid in pids:
                    _kill(pid)
                if not pids:
                    break
                time.sleep(0.05)
            subprocess.run(["ip", "netns", "del", self.name(host)], capture_output=True, check=False)
        if self.server is not None:
            self.server.wait(10)

    def _up(self) -> None:
        hub = self.name(0)
        _ip("netns", "add", hub)
        _ip("-n", hub, "link", "set", "lo", "up")
        _ip("-n", hub, "link", "add", "hub", "type", "bridge")
        _ip("-n", hub, "addr", "add", f"{NET}.254/24", "dev", "hub")
        _ip("-n", hub, "link", "set", "hub", "up")
        for host in self.hosts:
            name = self.name(host)
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
            _ip("-n", hub, "link", "add", f"v{host}", "type", "veth", "peer", "name", "eth0", "netns", name)
            _ip("-n", hub, "link", "set", f"v{host}", "master", "hub", "up")
            _ip("-n", name, "addr", "add", f"{NET}.{host}/24", "dev", "eth0")
            _ip("-n", name, "link", "set", "eth0", "up")


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=10)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
