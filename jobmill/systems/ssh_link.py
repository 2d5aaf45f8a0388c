"""This process's way to one host: commands and SFTP over the connection that all processes of this machine share.

The connection belongs to a process of its own, the master (`ssh_master`), which whoever comes first starts. Where the
user has a ControlMaster of their own (``control_path``), the system's ssh rides on that, and nothing is started.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import socket
import sys
import time
from pathlib import Path
from typing import Any

import paramiko

from jobmill.errors import SystemUnavailable
from jobmill.systems import ssh_ride
from jobmill.systems.ssh_host import SshHost
from jobmill.systems.ssh_master import LISTENER, LOCK, listen

ROOT = str(Path(__file__).resolve().parent.parent.parent)  # what holds the package `jobmill`
START_WAIT = 4.0  # seconds for another process to start the master, or for one that leaves to be gone
PAUSE = 0.01  # seconds between looks at that
ANSWER_MOST = 1 << 16  # bytes of the first line
# what an agent, a ProxyCommand and ~/.ssh/config need; no token of a job that we may be part of
ENVIRONMENT = frozenset(
    {
        *("HOME", "USER", "LOGNAME", "SHELL", "PATH", "PYTHONPATH", "LANG", "LC_ALL", "TZ", "TMPDIR"),
        *("SSH_AUTH_SOCK", "XDG_RUNTIME_DIR", "KRB5CCNAME"),
    }
)


class SshLink:
    """Opens commands and SFTP sessions on one host; for one thread at a time."""

    def __init__(self, host: SshHost, folder: Path) -> None:
        """``folder``: for the master's socket, lock and log; made with mode 0700, and refused when others may write."""
        self.host = host
        self.folder = folder.absolute()
        self._name = host.digest
        self._directory: int | None = None
        self._masters: list[int] = []  # pids of children, to be reaped

    def open(self, command: str) -> socket.socket:
        """Start a command there, without terminal, and return at once a socket that is its stdin and its output.

        The first line that is read is JSON: ``{"ok": true}``, or ``{"error": words, "permanent": bool}`` and an end.
        An end (or ConnectionResetError) without a line: the master died; open again. SHUT_WR ends the command's stdin;
        close() the channel, while the command lives on. Raises SystemUnavailable when no master can be had.
        """
        return self._ask("command", command)

    def sftp(self, timeout: float | None = None) -> paramiko.SFTPClient:
        """Return an SFTP session; blocks until it is there, and raises SystemUnavailable with the words why not.

        Every operation on it raises TimeoutError after ``timeout`` seconds (by default ``keepalive``) without a byte;
        the session is then of no use any more.
        """
        limit = self.host.keepalive if timeout is None else timeout
        sock = self._ask("subsystem", "sftp")
        try:
            self._await(sock)
            return paramiko.SFTPClient(SftpSocket(sock, limit))  # type: ignore[arg-type]  # as it uses a channel
        except (paramiko.SSHException, EOFError, OSError) as error:
            sock.close()
            raise SystemUnavailable(f"{self.host.name}: no SFTP with {self.host.label}: {error}") from error
        except BaseException:
            sock.close()
            raise

    @property
    def master(self) -> int | None:
        """The pid of the master as it wrote it down, None where none has; it may be gone."""
        try:
            return int((self.folder / f"{self._name}.lock").read_text())
        except (OSError, ValueError):
            return None

    def close(self) -> None:
        """Forget the folder; the master goes on for others, and leaves when nobody needs it."""
        if self._directory is not None:
            os.close(self._directory)
            self._directory = None
        self._reap()

    def _ask(self, kind: str, words: str) -> socket.socket:
        if self.host.control_path:
            return ssh_ride.start(self.host, kind, words)
        request = {kind: words, "agent": os.environ.get("SSH_AUTH_SOCK")}
        sock = self._connect()
        try:
            sock.settimeout(START_WAIT)
            sock.sendall(json.dumps(request).encode() + b"\n")
            sock.settimeout(None)
        except OSError as error:  # it left in that moment, or it is stopped
            sock.close()
            raise SystemUnavailable(f"{self.host.name}: the ssh master does not take the request: {error}") from error
        return sock

    def _await(self, sock: socket.socket) -> None:
        """Read the first line, byte by byte because what follows is not ours; raise SystemUnavailable."""
        # a login takes up to three steps a host; the master keeps those deadlines, this one is for a stopped master
        sock.settimeout(self.host.connect_timeout * (4 + 3 * len(self.host.proxy_jump)) + START_WAIT)
        line = b""
        while not line.endswith(b"\n") and len(line) < ANSWER_MOST:
            byte = sock.recv(1)
            if not byte:
                raise SystemUnavailable(f"{self.host.name}: the ssh master ended; its log: {self._log}")
            line += byte
        answer: dict[str, Any] = json.loads(line)
        if not answer.get("ok"):
            # also what is called permanent: somebody mends it, and no job has to fail for a changed host key
            raise SystemUnavailable(f"{self.host.name}: {answer.get('error')}")

    # The master.

    @property
    def _log(self) -> Path:
        return self.folder / f"{self._name}.log"

    def _connect(self) -> socket.socket:
        """Return a connection to the master, started where there is none: whoever gets the lock starts it."""
        self._reap()
        until = time.monotonic() + START_WAIT
        while True:
            directory = self._enter()
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.settimeout(START_WAIT)  # a master that is stopped, and whose line of clients is full
            try:
                sock.connect(f"/proc/self/fd/{directory}/{self._name}")
                return sock
            except (FileNotFoundError, ConnectionRefusedError, ConnectionResetError):
                sock.close()
            except OSError as error:
                sock.close()
                raise SystemUnavailable(f"{self.host.name}: {self.folder / self._name}: {error.strerror}") from error
            if not self._start():
                if time.monotonic() > until:
                    lock = self.folder / f"{self._name}.lock"
                    raise SystemUnavailable(
                        f"{self.host.name}: who holds {lock} starts no ssh master; see who it is: fuser {lock}"
                    )
                time.sleep(PAUSE)

    def _enter(self) -> int:
        """Return a descriptor of the folder, made and private."""
        if self._directory is not None and os.fstat(self._directory).st_nlink:
            return self._directory
        self.close()
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._directory = os.open(self.folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise SystemUnavailable(f"{self.host.name}: cannot use {self.folder}: {error.strerror}") from error
        found = os.fstat(self._directory)
        if found.st_uid != os.geteuid() or found.st_mode & 0o077:
            self.close()
            fix = f"chmod 700 {self.folder}" if found.st_uid == os.geteuid() else "name another folder"
            raise SystemUnavailable(f"{self.host.name}: {self.folder} is not private to this user: {fix}")
        return self._directory

    def _start(self) -> bool:
        """Start the master if the lock is free, with the socket that clients can connect to from now on."""
        try:
            lock = os.open(self.folder / f"{self._name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise SystemUnavailable(f"{self.host.name}: cannot use {self.folder}: {error.strerror}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return False
        with contextlib.ExitStack() as done:
            done.callback(os.close, lock)
            try:
                if (self.folder / f"{self._name}.lock").stat().st_ino != os.fstat(lock).st_ino:
                    return False  # somebody removed it meanwhile: that lock locks nobody out
                listener = done.enter_context(listen(self.folder, self._name))
                self._spawn(listener.fileno(), lock, done)
            except OSError as error:
                words = f"{self.host.name}: cannot start the ssh master in {self.folder}: {error.strerror}"
                raise SystemUnavailable(words) from error
        return True

    def _spawn(self, listener: int, lock: int, done: contextlib.ExitStack) -> None:
        told = {"host": self.host.to_json(), "folder": str(self.folder), "name": self._name}
        reader, writer = os.pipe()
        done.callback(os.close, reader)
        with os.fdopen(writer, "wb") as pipe:
            pipe.write(json.dumps(told).encode())  # a few KB, which a pipe holds
        sources = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in (reader, listener, lock)]
        for fd in sources:
            done.callback(os.close, fd)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        env = {key: value for key, value in os.environ.items() if key in ENVIRONMENT}
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [ROOT, env.get("PYTHONPATH")]))
        pid = os.posix_spawn(
            sys.executable,
            [sys.executable, "-P", "-m", "jobmill.systems.ssh_master"],
            env,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, sources[0], 0),
                (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                (os.POSIX_SPAWN_OPEN, 2, str(self._log), flags, 0o600),
                (os.POSIX_SPAWN_DUP2, sources[1], LISTENER),
                (os.POSIX_SPAWN_DUP2, sources[2], LOCK),
            ],
            setsid=True,
            setsigmask=(),
        )
        self._masters.append(pid)

    def _reap(self) -> None:
        """Take the zombies of masters that we started."""
        for pid in list(self._masters):
            try:
                gone = os.waitpid(pid, os.WNOHANG)[0] != 0
            except ChildProcessError:
                gone = True
            if gone:
                self._masters.remove(pid)


class SftpSocket:
    """A socket as paramiko's SFTP uses a channel: a plain one it would wait for without end, and cannot name."""

    def __init__(self, sock: socket.socket, timeout: float) -> None:
        """``timeout``: seconds for each piece sent or received."""
        self._sock = sock
        self._sock.settimeout(timeout)

    def send(self, data: bytes) -> int:
        """Send a part; raise TimeoutError, after which the stream is broken."""
        try:
            return self._sock.send(data)
        except TimeoutError:
            raise self._given_up() from None

    def recv(self, size: int) -> bytes:
        """Receive a part, b"" at the end; raise TimeoutError, after which the stream is broken."""
        try:
            return self._sock.recv(size)
        except TimeoutError:
            raise self._given_up() from None

    def _given_up(self) -> TimeoutError:
        seconds = self._sock.gettimeout()
        self._sock.close()
        return TimeoutError(f"no byte of the SFTP session within {seconds:g} s")

    def recv_ready(self) -> bool:
        """Tell whether something can be received without waiting."""
        poll = select.poll()
        poll.register(self._sock.fileno(), select.POLLIN)
        return bool(poll.poll(0))

    @property
    def closed(self) -> bool:
        """True after `close`, or after a time-out."""
        return self._sock.fileno() < 0

    def settimeout(self, seconds: float) -> None:
        """Set the limit of the next operations."""
        self._sock.settimeout(seconds)

    def gettimeout(self) -> float | None:
        """Return that limit, in seconds."""
        return self._sock.gettimeout()

    def get_name(self) -> str:
        """Return the name for log lines."""
        return "sftp"

    def close(self) -> None:
        """End the session."""
        self._sock.close()
