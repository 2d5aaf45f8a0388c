"""Where the embedded server of a state folder answers, and whether it does."""

from __future__ import annotations

import hashlib
import os
import socket
from pathlib import Path

SOCKET_PATH_LIMIT = 103  # bytes without the final NUL: macOS allows 103, Linux 107 (unix(7), sun_path)


def socket_path(folder: Path) -> Path:
    """Return the path of the folder's socket: in the folder, or under the system's temporary directory if too long.

    The name depends on the folder only, not on TMPDIR, so that every process finds the same one.
    """
    inside = folder.resolve() / "redis.sock"
    if len(os.fsencode(inside)) <= SOCKET_PATH_LIMIT:
        return inside
    name = hashlib.sha256(os.fsencode(inside)).hexdigest()[:16]
    root = Path("/tmp")
    if not os.access(root, os.W_OK):
        from tempfile import gettempdir

        root = Path(gettempdir())
    return root / f"jobmill-{os.getuid()}-{name}" / "redis.sock"


def address(folder: Path) -> str:
    """Return the URL at which the server of this folder answers when it runs."""
    return f"unix://{socket_path(folder)}"


def is_running(folder: Path) -> bool:
    """Tell whether a server of this folder runs and answers now (one that still loads its data answers False)."""
    return ask(socket_path(folder), b"PING\r\n").startswith(b"+PONG")


def ask(path: Path, command: bytes, timeout: float = 1.0) -> bytes:
    """Return the first part of the server's answer to an inline command, empty when there is none in time (seconds)."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        try:
            connection.connect(str(path))
            connection.sendall(command)
            return connection.recv(4096)
        except OSError:
            return b""
