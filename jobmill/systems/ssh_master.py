"""The process that holds this machine's one connection to a host, and lends channels on it to all who ask.

It is started by whoever asks first (`ssh_link`), with the listening socket, which is also where the others ask, and
with the lock, which it holds as long as it lives. It leaves when nobody needs it, or when its folder is gone. What it
is told comes by stdin: one line of JSON with the host, the folder and the socket's name. No secret is in it.

A client writes one line of JSON, ``{"command": "…"}`` or ``{"subsystem": "sftp"}``, then its bytes; it reads
``{"ok": true}`` or ``{"error": "…", "permanent": …}``, then the command's. The socket's end is the command's, or the
connection's.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import resource
import select
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import paramiko

from jobmill.systems.ssh_gate import Gate, Opening
from jobmill.systems.ssh_host import SshHost
from jobmill.systems.ssh_relay import Relay, hang_up

LISTENER, LOCK = 3, 4  # descriptors that it is started with
REQUEST_MOST = 1 << 20  # bytes
REQUEST_WAIT = 10.0  # seconds for a client to say what it wants
CHECK = 1.0  # seconds between looks at the folder
BACKLOG = 512
LOG_MOST = 1 << 20  # bytes, after which the log begins anew


class Master:
    """The loop: clients, the gate that opens their channels, the relay that serves them."""

    def __init__(self, host: SshHost, folder: Path, name: str, listener: socket.socket, lock: int) -> None:
        self._host = host
        self._folder = folder
        self._name = name
        self._lock = lock
        self._epoll = select.epoll()
        self._eventfd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._eventfd, select.EPOLLIN)
        self._posted: deque[Callable[[], None]] = deque()
        self._gate = Gate(host, self._post, _log)
        self._relay = Relay(self._epoll, self._wake)
        self._gate.count_sessions(lambda: len(self._relay))
        self._newcomers: dict[int, tuple[socket.socket, bytearray, float]] = {}
        self._asking: dict[int, Opening] = {}
        self._needed = time.monotonic()  # when somebody last needed us
        self._listen(listener)

    def serve(self) -> None:
        """Serve until nobody needs it."""
        due, wait = 0.0, 0.0
        while True:
            ready = self._epoll.poll(wait)
            for fd, events in ready:
                self._event(fd, events)
            while self._posted:
                self._posted.popleft()()
            before = len(self._relay)
            waits = [self._relay.turn(), self._gate.step()]
            if len(self._relay) < before:
                self._gate.freed()
            now = time.monotonic()
            if ready or self._relay or self._gate.busy or self._newcomers:
                self._needed = now
            if now >= due:
                due = now + CHECK
                if not self._in_place():
                    break
            if now - self._needed >= self._host.idle and self._leave():
                break
            waits += [due - now, self._needed + self._host.idle - now]
            wait = max(0.0, min(it for it in waits if it is not None))
        self._relay.close()
        self._gate.close()

    def _wake(self) -> None:
        os.eventfd_write(self._eventfd, 1)

    def _post(self, call: Callable[[], None]) -> None:
        self._posted.append(call)
        self._wake()

    def _event(self, fd: int, events: int) -> None:
        if fd == self._eventfd:
            os.eventfd_read(fd)
        elif fd == self._listener.fileno():
            self._accept()
        elif fd in self._newcomers:
            self._read(fd)
        elif fd in self._asking:  # only registered for its hang-up
            it = self._asking.pop(fd)
            self._epoll.unregister(fd)
            it.done = True
            it.client.close()
        else:
            before = len(self._relay)
            self._relay.event(fd, events)
            if len(self._relay) < before:
                self._gate.freed()

    # Clients.

    def _listen(self, listener: socket.socket) -> None:
        listener.setblocking(False)
        self._listener = listener
        self._inode = self._look()
        self._epoll.register(listener.fileno(), select.EPOLLIN)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
                    time.sleep(0.05)  # they wait in line; the loop would come back at once
                return
            credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            if struct.unpack("3i", credentials)[1] not in (0, os.geteuid()):
                client.close()
                continue
            client.setblocking(False)
            self._newcomers[client.fileno()] = (client, bytearray(), time.monotonic() + REQUEST_WAIT)
            self._epoll.register(client.fileno(), select.EPOLLIN)

    def _read(self, fd: int) -> None:
        client, buffer, _ = self._newcomers[fd]
        try:
            data = client.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        buffer += data
        line, end, rest = bytes(buffer).partition(b"\n")
        if data and not end and len(buffer) < REQUEST_MOST:
            return
        del self._newcomers[fd]
        self._epoll.unregister(fd)
        try:
            request: dict[str, Any] = json.loads(line) if end else {}
            kind = "command" if "command" in request else "subsystem"
            words = request[kind]
            if not isinstance(words, str):
                raise TypeError
        except (ValueError, TypeError, KeyError):
            self._tell(client, {"error": "the master did not understand the request", "permanent": True})
            client.close()
            return
        agent = request.get("agent")
        if isinstance(agent, str) and Path(agent).is_socket():
            self._gate.agent = agent
        it = Opening(client=client, kind=kind, words=words, outward=rest, answer=self._opened, refuse=self._refused)
        self._asking[fd] = it
        self._epoll.register(fd, 0)
        self._gate.ask(it)

    def _opened(self, it: Opening, channel: paramiko.Channel) -> None:
        self._let_go(it)
        login = self._gate.login
        if login is None or not self._tell(it.client, {"ok": True}):
            it.client.close()
            hang_up(channel)
            return
        self._relay.add(it.client, channel, it.outward, login.wire.writable)

    def _refused(self, it: Opening, words: str, permanent: bool) -> None:
        self._let_go(it)
        self._tell(it.client, {"error": words, "permanent": permanent})
        with contextlib.suppress(OSError):  # read what it wrote: it has to see the words and an end, not a reset
            it.client.shutdown(socket.SHUT_RDWR)
            while it.client.recv(1 << 16):
                pass
        it.client.close()

    def _let_go(self, it: Opening) -> None:
        fd = it.client.fileno()
        if self._asking.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    @staticmethod
    def _tell(client: socket.socket, words: dict[str, Any]) -> bool:
        try:
            client.send(json.dumps(words).encode() + b"\n")  # the first bytes in an empty buffer: they fit
        except OSError:
            return False
        return True

    # Coming and going.

    def _look(self) -> int | None:
        try:
            return (self._folder / self._name).stat().st_ino
        except OSError:
            return None

    def _in_place(self) -> bool:
        """Tell whether clients can find us; a socket that somebody removed is made again, under our lock."""
        now = time.monotonic()
        for fd, (client, _, until) in list(self._newcomers.items()):
            if until < now:
                del self._newcomers[fd]
                self._epoll.unregister(fd)
                client.close()
        if self._inode is not None and self._look() == self._inode:
            return True
        try:
            if (self._folder / f"{self._name}.lock").stat().st_ino != os.fstat(self._lock).st_ino:
                return bool(self._relay)  # somebody else has a lock of that name: we serve whom we have
            self._bind()
        except OSError:
            return self._folder.is_dir() and bool(self._relay)
        return True

    def _bind(self) -> None:
        """Make the socket anew; those who wait at the old one are served first."""
        old = self._listener
        self._accept()
        self._epoll.unregister(old.fileno())
        self._listen(listen(self._folder, self._name))
        old.close()

    def _leave(self) -> bool:
        """Close the door; False: somebody came in at that moment, so we stay and open it again.

        Who comes after `shutdown` is refused and starts another master, once our lock is gone with us.
        """
        with contextlib.suppress(OSError):
            (self._folder / self._name).unlink()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._accept()
        if not self._newcomers:
            return True
        self._epoll.unregister(self._listener.fileno())
        self._listener.close()
        self._needed = time.monotonic()
        self._listen(listen(self._folder, self._name))
        return False


def listen(folder: Path, name: str) -> socket.socket:
    """Return a socket that listens at ``folder/name``, instead of one that nobody serves; the lock has to be held.

    The folder's path may be long: the kernel's 108 bytes are enough for that of its descriptor.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    directory = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=directory)
        listener.bind(f"/proc/self/fd/{directory}/{name}")
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    finally:
        os.close(directory)
    return listener


def _log(words: str) -> None:
    if os.fstat(2).st_size > LOG_MOST:
        os.ftruncate(2, 0)
    print(time.strftime("%Y-%m-%dT%H:%M:%S"), os.getpid(), words, file=sys.stderr, flush=True)


def main() -> None:
    """Take over what the starter left in descriptors 0, 3 and 4, and serve."""
    told = json.loads(sys.stdin.buffer.read())
    os.set_inheritable(LISTENER, False)
    os.set_inheritable(LOCK, False)
    os.chdir("/")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    host = SshHost.from_json(told["host"])
    os.ftruncate(LOCK, 0)
    os.write(LOCK, f"{os.getpid()}\n".encode())  # for people, and for `SshLink.master`
    with contextlib.suppress(ImportError):
        from setproctitle import setproctitle

        setproctitle(f"jobmill-ssh {host.name} {host.label}")
    logging.getLogger("paramiko").setLevel(logging.CRITICAL)  # its errors come to us, and are told in our words
    listener = socket.socket(fileno=LISTENER)
    try:
        Master(host, Path(told["folder"]), told["name"], listener, LOCK).serve()
    except Exception as error:  # clients see an end, and the next one starts another master
        _log(f"left: {type(error).__name__}: {error}")
        logging.getLogger(__name__).critical("the ssh master failed", exc_info=True)
    os._exit(0)  # threads that the library or an agent keeps do not keep us


if __name__ == "__main__":
    main()
