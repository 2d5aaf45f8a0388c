"""Find and signal every process of one launch, wherever it has fled to.

Standard library only, Python 3.6 and later: it also runs at the far end of an SSH channel.
Where the fields of ``/proc/<pid>/stat`` stand: proc_pid_stat(5).
"""

import os
import signal
import time

CLOCK_BOOTTIME = 7  # time.CLOCK_BOOTTIME came with Python 3.7; the number is the kernel's
TICKS = os.sysconf("SC_CLK_TCK")
_pidfd_open, _pidfd_send = getattr(os, "pidfd_open", None), getattr(signal, "pidfd_send_signal", None)
GONE = (b"Z", b"X", b"x")  # a zombie without threads runs nothing and holds nothing but its exit status


class Process:
    """One line of the process table, as read at one moment."""

    __slots__ = ("parent", "pgrp", "pid", "session", "start", "state", "thread")

    def __init__(self, pid: int, state: bytes, parent: int, pgrp: int, session: int, start: int) -> None:
        self.pid = pid
        self.state = state  # R, S, D, T, Z …
        self.thread = pid  # under which /proc tells of it: another number when its first thread ended before others
        self.parent = parent
        self.pgrp = pgrp
        self.session = session
        self.start = start  # clock ticks after boot: with the pid it names one process for ever (of one boot)


class Census:
    """The process table as read once, for questions about many launches; nothing is read before it is needed.

    It proves that nothing of a launch is left only where the launch's first process is older than `began`.
    """

    __slots__ = ("_everyone", "_streams", "_tokens", "began")

    def __init__(self) -> None:
        self.began = ticks_now()  # or later
        self._everyone: "dict[int, Process] | None" = None
        self._tokens: "dict[int, bytes | None]" = {}
        self._streams: "dict[int, list[bytes]]" = {}

    def everyone(self) -> "dict[int, Process]":
        """Return {pid: Process} of all, to be changed by the caller."""
        if self._everyone is None:
            self.began = ticks_now()
            self._everyone = table()
            self._tokens = {pid: token_of(it.thread) for pid, it in self._everyone.items()}
            self._streams = {pid: _streams(it.thread) for pid, it in self._everyone.items()}
        return dict(self._everyone)

    def token(self, pid: int) -> "bytes | None":
        """Return the JOBMILL_TOKEN of one of them."""
        return self._tokens.get(pid)

    def streams_in(self, pid: int, folder: bytes) -> bool:
        """Tell whether a standard stream of one of them is a file in the folder (deleted or not)."""
        return any(path.startswith(folder) for path in self._streams.get(pid, ()))


def boot_id() -> str:
    """Return the text that names this boot of the machine."""
    return _read("/proc/sys/kernel/random/boot_id").decode("ascii", "replace").strip() or "unknown"


def pid_namespace() -> int:
    """Return the number that names the process table that we see: in another container it is another one."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


def ticks_now() -> int:
    """Return the clock ticks since boot, the unit of `Process.start`."""
    return int(time.clock_gettime(CLOCK_BOOTTIME) * TICKS)


def process(pid: int) -> "Process | None":
    """Return the `Process` with this pid, a zombie too, or None."""
    text = _read("/proc/%d/stat" % pid)
    end = text.rfind(b")")  # the command's name before it may hold blanks and parentheses
    if end < 0:
        return None
    field = text[end + 2 :].split(None, 21)
    found = Process(pid, field[0], int(field[1]), int(field[2]), int(field[3]), int(field[19]))
    if found.state in GONE and int(field[17]) > 1:  # of several threads the first one ended: pthread_exit(3), or a kill
        _find_thread(found)
    return found


def alive(pid: int, start: "int | None") -> bool:
    """Tell whether the process with this pid and start time still runs; a zombie does not."""
    found = process(pid)
    return found is not None and found.start == start and found.state not in GONE


def table() -> "dict[int, Process]":
    """Return {pid: Process} of all that run now, zombies left out."""
    found = (process(int(name)) for name in os.listdir("/proc") if name.isdigit())
    return {p.pid: p for p in found if p is not None and p.state not in GONE}


def children(pid: int) -> "list[Process]":
    """Return the `Process`es whose parent is ``pid``, zombies too."""
    found = (process(int(name)) for name in os.listdir("/proc") if name.isdigit())
    return [p for p in found if p is not None and p.parent == pid]


def token_of(pid: int) -> "bytes | None":
    """Return the JOBMILL_TOKEN in a process's environment as bytes, or None."""
    for entry in _read("/proc/%d/environ" % pid).split(b"\0"):
        if entry.startswith(b"JOBMILL_TOKEN="):
            return entry[14:]
    return None


def shows(pid: int, text: "str | bytes") -> bool:
    """Tell whether ``text`` stands in a process's command line."""
    return _bytes(text) in command_line(pid)


def command_line(pid: int) -> bytes:
    """Return a process's words, each with a null byte after it; b"" in the midst of an exec and for a zombie."""
    return _read("/proc/%d/cmdline" % pid)


def switches(pid: int, token: bytes) -> bool:
    """Tell whether a process of root's that we may not look into, such as sudo, runs the job of this token.

    It has the token among its words, and it was started by us: any user may start a setuid program with any words, and
    would hold another's job by them for as long as it asks for a password.
    """
    if os.geteuid() == 0:
        return False  # we see its environment
    try:
        if os.stat("/proc/%d" % pid).st_uid != 0 or token not in command_line(pid).split(b"\0"):
            return False
    except OSError:
        return False
    for line in _read("/proc/%d/status" % pid).split(b"\n"):
        if line.startswith(b"Uid:"):
            return int(line.split()[1]) in (0, os.getuid())  # the real one; 0: it has made itself root altogether
    return False


def members(
    token: "str | bytes",
    folder: "str | bytes",
    leader: "int | None" = None,
    start: "int | None" = None,
    ended: "int | None" = None,
    spare: "tuple[int, ...]" = (),
    census: "Census | None" = None,
) -> "dict[int, Process]":
    """Return {pid: Process} of all that belong to a launch and still run.

    They carry its token, or stand in its leader's session or process group, or have a standard stream in its run
    folder, or descend from one of these. ``ended``: clock ticks at which the leader's end was recorded. A session
    whose leader is gone counts only when one of its processes is older than that: its number may be reused.
    ``spare``: pids that are never members (guard and runner). ``census``: where all were looked at together.
    """
    token, folder = _bytes(token), _bytes(folder) + b"/"
    everyone = table() if census is None else census.everyone()
    for pid in (0, 1, os.getpid(), *spare):  # never init nor ourselves
        everyone.pop(pid, None)
    found = {}
    tokens = {}
    for pid, it in everyone.items():
        tokens[pid] = token_of(it.thread) if census is None else census.token(pid)
        if (
            tokens[pid] == token
            or (pid == leader and it.start == start)
            or (_streams_in(it.thread, folder) if census is None else census.streams_in(pid, folder))
            or (tokens[pid] is None and it.session == pid and switches(pid, token))
        ):
            found[pid] = it
    if leader is not None and leader > 1:
        group = {
            pid: it
            for pid, it in everyone.items()
            if leader in (it.session, it.pgrp) and tokens[pid] in (None, token) and it.start >= (start or 0)
        }
        head = process(leader)
        if head is not None:
            ours = head.start == start
        else:
            ours = ended is not None and any(it.start <= ended for it in group.values())
        if ours:
            found.update(group)
    _add_descendants(found, everyone)
    return found


def kill(
    token: "str | bytes",
    folder: "str | bytes",
    leader: "int | None" = None,
    start: "int | None" = None,
    ended: "int | None" = None,
    force: bool = False,
    patience: float = 1.0,
    spare: "tuple[int, ...]" = (),
    census: "Census | None" = None,
) -> bool:
    """Send TERM (with ``force``: KILL) to all of a launch; return True when nothing of it runs any more.

    Safe against forks in between: KILL first stops what it finds until a look finds no new one; TERM looks again
    for newcomers. Waits at most ``patience`` seconds for the effect. ``census``: what its first look sees.
    """
    until = time.monotonic() + patience
    told = set()
    while True:
        found = members(token, folder, leader, start, ended, spare, census)
        census = None
        if not found:
            return True
        fresh = [it for it in found.values() if (it.pid, it.start) not in told]
        for it in fresh:
            told.add((it.pid, it.start))
            send(it.pid, it.start, signal.SIGSTOP if force else signal.SIGTERM)
            if not force:
                send(it.pid, it.start, signal.SIGCONT)  # a stopped process would never see the TERM
        if force and not fresh:
            for it in found.values():
                send(it.pid, it.start, signal.SIGKILL)
        if time.monotonic() >= until:
            if force:  # out of patience with a family that grows faster than we look: at least take what we know
                for it in found.values():
                    send(it.pid, it.start, signal.SIGKILL)
            return False
        if not fresh:
            time.sleep(0.005)


def send(pid: int, start: int, number: int) -> bool:
    """Signal exactly the process with this pid and start time; return False when it is gone or not ours to signal."""
    if pid <= 1 or pid == os.getpid():
        return False
    try:
        if _pidfd_open is None or _pidfd_send is None:  # before Python 3.9: a look and a signal, microseconds apart
            if not alive(pid, start):
                return False
            os.kill(pid, number)
            return True
        handle = _pidfd_open(pid)
        try:
            if not alive(pid, start):
                return False
            _pidfd_send(handle, number)
            return True
        finally:
            os.close(handle)
    except OSError:
        return False


def _add_descendants(found: "dict[int, Process]", everyone: "dict[int, Process]") -> None:
    """Add to ``found`` whoever descends from it."""
    below: "dict[int, list[Process]]" = {}
    for it in everyone.values():
        below.setdefault(it.parent, []).append(it)
    line = list(found)
    while line:
        for it in below.get(line.pop(), ()):
            if it.pid not in found:
                found[it.pid] = it
                line.append(it.pid)


def _find_thread(found: Process) -> None:
    """Give a process whose first thread has ended the state and the number of one that goes on, if any does."""
    try:
        threads = sorted(int(name) for name in os.listdir("/proc/%d/task" % found.pid))
    except OSError:
        return
    for thread in threads:
        text = _read("/proc/%d/task/%d/stat" % (found.pid, thread))
        state = text[text.rfind(b")") + 2 :][:1]
        if state and state not in GONE:
            found.state, found.thread = state, thread
            return


def _streams_in(pid: int, folder: bytes) -> bool:
    """Tell whether stdin, stdout or stderr of a process is a file in the folder (deleted or not)."""
    return any(path.startswith(folder) for path in _streams(pid))


def _streams(pid: int) -> "list[bytes]":
    """Return what stdin, stdout and stderr of a process are."""
    found = []
    for number in (0, 1, 2):
        try:
            found.append(os.readlink(b"/proc/%d/fd/%d" % (pid, number)))
        except OSError:
            continue
    return found


def _read(path: str) -> bytes:
    """Return a small /proc file's bytes, b"" when the process is gone or not ours to read."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError:
        return b""
    try:
        parts = []
        while True:
            part = os.read(fd, 65536)
            parts.append(part)
            if not part:
                return b"".join(parts)
    except OSError:
        return b""
    finally:
        os.close(fd)


def _bytes(text: "str | bytes") -> bytes:
    """Return text as the bytes that the kernel has."""
    return text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")
