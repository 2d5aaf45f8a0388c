"""What an SSH transport reads and writes: a TCP connection, a channel through another host, or a ProxyCommand."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import time
from typing import Any

from jobmill.systems.ssh_host import SshHost

UNSENT_MOST = 128 << 10  # bytes that wait in the kernel: what is sent next is not behind megabytes on a slow line


class Wire:
    """A socket for a `paramiko.Transport` that knows when something was heard, and whether a write would block."""

    def __init__(self, sock: Any, child: subprocess.Popen[bytes] | None = None) -> None:
        """``sock``: a connected socket or a paramiko channel; ``child``: the process at its other end."""
        self._sock = sock
        self._child = child
        self._poll: select.poll | None = None
        if isinstance(sock, socket.socket):
            self._poll = select.poll()
            self._poll.register(sock.fileno(), select.POLLOUT)
        self.heard = time.monotonic()  # seconds

    @property
    def _closed(self) -> bool:  # the transport looks for this name of the socket module
        return bool(self._sock._closed)

    def writable(self) -> bool:
        """Tell whether something can be sent without waiting; also True when sending will fail."""
        if self._closed:
            return True
        return bool(self._poll.poll(0)) if self._poll is not None else bool(self._sock.send_ready())

    def recv(self, size: int) -> bytes:
        """Read as a socket does."""
        data: bytes = self._sock.recv(size)
        self.heard = time.monotonic()
        return data

    def send(self, data: bytes) -> int:
        """Write as a socket does."""
        return int(self._sock.send(data))

    def settimeout(self, seconds: float | None) -> None:
        """Bound what the next calls wait, in seconds."""
        self._sock.settimeout(seconds)

    def getpeername(self) -> Any:
        """Return the address at the other end."""
        return self._sock.getpeername()

    def close(self) -> None:
        """Close it, and end the process behind it."""
        with contextlib.suppress(OSError, EOFError):
            self._sock.close()
        if self._child is not None and self._child.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._child.pid, signal.SIGTERM)
            try:
                self._child.wait(1.0)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._child.pid, signal.SIGKILL)
                with contextlib.suppress(subprocess.TimeoutExpired):  # whoever sleeps in the kernel is not waited for
                    self._child.wait(1.0)


def dial(host: SshHost) -> Wire:
    """Connect by TCP; raises OSError. A cut is then noticed by the kernel after ``keepalive`` seconds at the latest."""
    sock = socket.create_connection((host.address, host.port), timeout=host.connect_timeout)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(host.keepalive * 1000))
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_MOST)
    return Wire(sock)


def spawn_proxy(host: SshHost) -> Wire:
    """Start the ProxyCommand, by a shell because ssh_config(5) says so: it is the user's own text; raises OSError."""
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            child = subprocess.Popen(
                ["/bin/sh", "-c", f"exec {(host.proxy_command or '').removeprefix('exec ')}"],
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError:
            ours.close()
            raise
    return Wire(ours, child)
