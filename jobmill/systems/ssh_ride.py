"""Rides on the user's own ControlMaster (``control_path``), for sites where a login takes a one-time password.

The system's ssh is run as a client of that socket and of nothing else: it never logs in by itself and never asks.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shlex
import socket
import subprocess
import threading
from typing import Any

from jobmill.systems.ssh_host import SshHost

CHECK_WAIT = 10.0  # seconds for the user's master to answer
TERM_WAIT = 2.0  # seconds for our ssh to leave


def argv(host: SshHost) -> list[str]:
    """Return the words up to the host: a client of the socket, or else a ProxyCommand that fails: never a login."""
    options = ("ControlMaster=no", "BatchMode=yes", "ProxyCommand=false", "ForwardX11=no", "ClearAllForwardings=yes")
    words = ["ssh", "-S", host.control_path or "none", "-T", "-e", "none"]
    for option in options:
        words += ["-o", option]
    return [*words, "-p", str(host.port), "-l", host.user]


def start(host: SshHost, kind: str, words: str) -> socket.socket:
    """Return at once a socket like `SshLink.open`'s; a thread starts ssh at its other end."""
    ours, theirs = socket.socketpair()
    threading.Thread(target=_ride, args=(host, kind, words, theirs), daemon=True).start()
    return ours


def missing(host: SshHost) -> str | None:
    """Return the words for the user when there is no master at the socket, None when it answers."""
    try:
        check = [*argv(host), "-O", "check", "--", host.alias]
        done = subprocess.run(check, stdin=subprocess.DEVNULL, capture_output=True, timeout=CHECK_WAIT, check=False)
    except FileNotFoundError:
        return "there is no ssh on PATH, which control_path needs: apt-get install openssh-client"
    except subprocess.TimeoutExpired:
        return f"the ControlMaster at {host.control_path} does not answer within {CHECK_WAIT:g} s"
    if done.returncode == 0:
        return None
    by_hand = ["ssh", "-M", "-S", str(host.control_path), "-o", "ControlPersist=yes", "-fN"]
    by_hand += ["-p", str(host.port)] if host.port != 22 else []
    said = done.stderr.decode(errors="replace").strip()
    return (
        f"there is no ControlMaster at {host.control_path} ({said}); "
        f"log in once: {shlex.join([*by_hand, '-l', host.user, host.alias])}"
    )


def _ride(host: SshHost, kind: str, words: str, theirs: socket.socket) -> None:
    with theirs:
        wrong = missing(host)
        if wrong is not None:
            _tell(theirs, {"error": wrong, "permanent": False})
            return
        tail = ["--", host.alias, words] if kind == "command" else ["-s", "--", host.alias, words]
        if not _tell(theirs, {"ok": True}):
            return
        # stderr is the command's and ssh's: both belong to what the reader sees
        with contextlib.suppress(OSError):
            fd = theirs.fileno()
            child = subprocess.Popen([*argv(host), *tail], stdin=fd, stdout=fd, stderr=fd, start_new_session=True)
            _attend(child, theirs)


def _attend(child: subprocess.Popen[bytes], theirs: socket.socket) -> None:
    """Wait until ssh has left; when the reader closed, it has to."""
    leaving = os.pidfd_open(child.pid)
    try:
        poll = select.poll()
        poll.register(leaving, select.POLLIN)
        poll.register(theirs.fileno(), 0)  # told only when the other end is closed
        if all(fd != leaving for fd, _ in poll.poll()):
            poll.unregister(theirs.fileno())
            if not poll.poll(TERM_WAIT * 1000):
                child.terminate()
                if not poll.poll(TERM_WAIT * 1000):
                    child.kill()
    finally:
        os.close(leaving)
        child.wait()


def _tell(theirs: socket.socket, words: dict[str, Any]) -> bool:
    try:
        theirs.sendall(json.dumps(words).encode() + b"\n")
    except OSError:
        return False
    return True
