"""The run folder ``<spool>/jobs/<id>/run.<n>`` and its `run` file: marker, pid and end of one launch.

Standard library only, Python 3.6 and later. The file is read with `cat`; its lines, in this order:

    jobmill 1 <token> host=<name> boot=<id> ns=<pid namespace> guard=<table> time=<Unix time>
    as <JSON [uid, gid, user, words of run_as]>   only where it runs as another user than ours
    pid <pid> <start time, clock ticks after boot>
    over <ticks>                                  only where its walltime ended it: it is sent TERM from now on
    left <ticks> <exit record, JSON>              only where the leader left before the rest of a killed tree
    exit|sealed <ticks> <exit record, JSON> end   sealed: it never started and never will

Creating the file exclusively *is* the right to start the launch, so a launch happens once. It is whole when its last
line ends in ``end``. The first end counts. It is not fsynced: a killed process loses nothing.
"""

import errno
import fcntl
import json
import os
import stat
import time

from jobmill.systems import launch_token, process_tree

RESERVED = frozenset(("run", "stdout", "stderr", "error", "return.json", "spawned", "switch", ".", ".."))
FETCHED = "fetched"  # a file in a run folder at a far host: nobody needs it there any more
MOST = 1 << 22  # bytes of a `run` file: what is longer none of ours wrote
HOST = os.uname()[1]
BOOT = process_tree.boot_id()
NAMESPACE = process_tree.pid_namespace()


class Superseded(Exception):
    """A later life of the job's id has its folder: this launch can not, and must not, start any more."""


class Run:
    """What a `run` file says; every field that it does not say is None."""

    def __init__(self, text: bytes) -> None:
        """Read the file's bytes; a torn last line is left out."""
        self.token: "str | None" = None
        self.host: "str | None" = None
        self.boot: "str | None" = None
        self.namespace: "int | None" = None
        self.guard: "str | None" = None  # the slot table of whoever took the marker
        self.switch: "tuple[int, int, str, list[str]] | None" = None  # uid, gid, user, words of run_as
        self.pid: "int | None" = None
        self.start: "int | None" = None  # clock ticks after boot
        self.over = False  # it ran into its walltime, whatever its end looks like
        self.left: "str | None" = None  # exit record of a leader whose tree was still being killed
        self.end: "str | None" = None  # exit record, JSON text
        self.ended: "int | None" = None  # clock ticks after boot when the end was written
        self.sealed = False  # the launch never started and never will
        for line in text.split(b"\n")[:-1]:
            self._take(line.decode("utf-8", "surrogateescape"))

    def _take(self, line: str) -> None:
        """Take one line; one that cannot be read is passed over: a job can write to its own folder."""
        try:
            self._read(line)
        except (ValueError, IndexError, TypeError):
            pass

    def _read(self, line: str) -> None:
        word, _, rest = line.partition(" ")
        if word == "jobmill" and self.token is None:
            fields = rest.split(" ")
            values = dict(field.partition("=")[::2] for field in fields[2:])
            self.namespace = int(values.get("ns", 0))
            self.token = fields[1]
            self.host, self.boot, self.guard = values.get("host"), values.get("boot"), values.get("guard")
        elif word == "as" and self.switch is None:
            uid, gid, user, words = json.loads(rest)
            self.switch = (int(uid), int(gid), str(user), [str(it) for it in words])
        elif word == "pid" and self.pid is None:
            pid, start = rest.split(" ")
            self.pid, self.start = int(pid), int(start)
        elif word == "over":
            self.over = True
        elif word == "left":
            ticks, _, left = rest.partition(" ")
            self.ended, self.left = int(ticks), left
        elif word in ("exit", "sealed") and self.end is None and rest.endswith(" end"):
            ticks, _, end = rest[:-4].partition(" ")
            self.ended, self.end, self.sealed = int(ticks), end, word == "sealed"


def folder_of(spool: bytes, token: str) -> bytes:
    """Return the run folder of a token; raise ValueError for anything else."""
    _, job, run = launch_token.split(token)
    return b"%s/jobs/%s/run.%d" % (spool, encode(job), run)


def encode(text: str) -> bytes:
    """Return text as bytes, undecodable bytes restored; never by the locale, which may be C."""
    return text.encode("utf-8", "surrogateescape")


def header(token: str, guard: str) -> bytes:
    """Return the first line of a `run` file."""
    values = (token, HOST, BOOT, NAMESPACE, guard, time.time())
    return encode("jobmill 1 %s host=%s boot=%s ns=%d guard=%s time=%.3f\n" % values)


def read(folder: bytes) -> "Run | None":
    """Return the `Run` of a folder, None when there is no `run` file; raise OSError when it cannot be read.

    A job may have put a pipe, a device or a file without end in its place: nothing is waited for, nor read whole.
    """
    path = os.path.join(folder, b"run")
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_size > MOST:
            raise OSError(errno.EINVAL, "is no marker: its job has put something else in its place", path)
        parts: "list[bytes]" = []
        while True:
            part = os.read(fd, 65536)
            if not part:
                return Run(b"".join(parts))
            parts.append(part)
    finally:
        os.close(fd)


def enter(spool: bytes, token: str) -> bytes:
    """Make and return the run folder of a launch, in a job's folder that belongs to its life.

    What another life of the id, or another record, left there is moved aside first, whole, and never read. Raises
    Superseded where a later life has the folder, and OSError.
    """
    folder = folder_of(spool, token)
    job = os.path.dirname(folder)
    try:
        open_way = os.stat(os.path.dirname(job)).st_mode & 0o007 == 0o001  # others pass here: see handover.open_way
        os.mkdir(job, 0o700 if open_way else 0o777)
    except FileExistsError:  # a later run, another life, or somebody wrote there before
        if _stranger(job, token) is not None:
            _move_aside(spool, job, token)
    except FileNotFoundError:
        os.makedirs(job, exist_ok=True)
    try:
        os.mkdir(folder)
    except FileExistsError:
        pass
    except FileNotFoundError:
        os.makedirs(folder, exist_ok=True)
    return folder


def take(folder: bytes, text: bytes = b"") -> int:
    """Create the marker, exclusively and whole with this text; return a descriptor that appends to it.

    FileExistsError: somebody was first. Nobody ever sees a marker that does not say whose it is, whoever is killed
    when: the text is written beside it, and a link, which never replaces, gives it its name. Nothing that is there is
    opened: a folder whose marker was taken before may be its user's, who can put a link or a pipe under any name.
    """
    path, own = os.path.join(folder, b"run"), os.path.join(folder, b"run.%d.%d" % (os.getpid(), NAMESPACE))
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND
    try:
        fd = os.open(own, flags, 0o644)
    except FileExistsError:
        if os.path.lexists(path):
            raise
        os.unlink(own)  # of one with our number who was killed here; as long as there is no marker the folder is ours
        fd = os.open(own, flags, 0o644)
    try:
        write(fd, text)
        os.link(own, path)
        return fd
    except OSError as error:
        os.close(fd)
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
            raise
    finally:
        try:
            os.unlink(own)
        except OSError:
            pass  # the marker may be taken by now: what is left beside it must not say otherwise
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND, 0o644)  # a file system without links
    try:
        write(fd, text)
    except OSError:
        os.close(fd)
        raise
    return fd


def receive(folder: bytes, staged: bytes) -> None:
    """Move what was staged for a launch into its run folder, whose marker was taken; OSError where it cannot be.

    Nothing that is there gives way. Whoever dies meanwhile leaves a launch that is sealed: the next one is staged anew.
    """
    for name in os.listdir(staged):
        there = os.path.join(folder, name)
        if os.path.lexists(there):
            raise OSError(errno.EEXIST, "an input would replace what the run itself writes; say to: or workdir:", there)
        os.rename(os.path.join(staged, name), there)
    try:
        os.rmdir(staged)
    except OSError:
        pass  # removed later, with all that is left over


def reopen(folder: bytes) -> int:
    """Return a descriptor that appends to an existing `run` file."""
    path = os.path.join(folder, b"run")
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK)  # a pipe in its place is not waited for


def write(fd: int, data: bytes) -> None:
    """Append bytes whole; raise OSError when the disk is full."""
    while data:
        data = data[os.write(fd, data) :]


def append(folder: bytes, data: bytes) -> None:
    """Append bytes to an existing `run` file."""
    fd = reopen(folder)
    try:
        write(fd, data)
    finally:
        os.close(fd)


def end_line(word: str, record: str) -> bytes:
    """Return the line that ends a `run` file (``exit``, ``sealed``), or the one that comes before it (``left``)."""
    return encode("%s %d %s%s\n" % (word, process_tree.ticks_now(), record, "" if word == "left" else " end"))


def pid_line(pid: int, start: int) -> bytes:
    """Return the line that tells who runs."""
    return b"pid %d %d\n" % (pid, start)


def over_line() -> bytes:
    """Return the line that tells that the walltime is over."""
    return b"over %d\n" % process_tree.ticks_now()


def seal(spool: bytes, token: str, guard: str, reason: str, message: str) -> str:
    """Take the marker for good, so that the launch can never start; FileExistsError: somebody was first.

    Raises Superseded as `enter` does.
    """
    folder = enter(spool, token)
    record = never_started(reason, message)
    os.close(take(folder, header(token, guard) + end_line("sealed", record)))
    return record


def remove(folder: bytes) -> None:
    """Remove a folder with all that is in it, as far as that goes; how deep it is was up to a job, or its user."""
    import shutil  # which the runner's start does not wait for
    import subprocess

    try:
        shutil.rmtree(folder, ignore_errors=True)
    except RecursionError:
        subprocess.call(["rm", "-rf", "--", folder], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def never_started(reason: str, message: str, exit_value: "int | None" = None) -> str:
    """Return the exit record of a launch that did not come to run."""
    record: "dict[str, object]" = {"exit_status": "aborted_before_running"}
    if exit_value is not None:
        record["exit_value"] = exit_value
    record.update(reason=reason, host=HOST, evidence="exit record", message=message, ended=round(time.time(), 3))
    return json.dumps(record, separators=(",", ":"))


def was_entered(folder: bytes) -> bool:
    """Tell whether a spawned child got as far as opening its output: one of these is made by the child alone."""
    for name in (b"stdout", b"stderr", b"spawned"):
        path = os.path.join(folder, name)
        if os.path.lexists(path) and not os.path.islink(path):
            return True
    return False


def aside(spool: bytes, life: str, job: str, number: int = 1) -> bytes:
    """Return where a job's folder stands once a later life of its id, or another record, needed its place."""
    return b"%s/jobs/%s.%s.%d" % (spool, encode(job), encode(life.replace("/", "_")), number)


def _stranger(job: bytes, token: str) -> "str | None":
    """Return the life that a job's folder belongs to where it is not the token's; None: it is ours, or nobody's.

    Raises Superseded where it is a later one.
    """
    life, _, run = launch_token.split(token)
    own = b"run.%d" % run
    try:
        names = os.listdir(job)
    except FileNotFoundError:
        return None
    for name in sorted(names, key=lambda name: name != own):  # this very launch may have been here before
        found = read(os.path.join(job, name)) if name.startswith(b"run.") else None
        if found is None or found.token is None:
            continue
        try:
            other = launch_token.life_of(found.token)
        except ValueError:
            other = "other"  # not ours, whoever wrote it
        if other == life:
            return None
        if launch_token.earlier(life, other):
            raise Superseded("job %s.%d came after %s" % (other, run, token))
        if name == own or not launch_token.unnumbered(other, life):  # else perhaps an earlier run of this very job
            return other
    return None


def _move_aside(spool: bytes, job: bytes, token: str) -> None:
    """Move a job's whole folder out of the way, unless somebody has done so.

    One at a time, and with a look of its own: who moved by what he saw before another had moved, and had taken the
    marker anew, would move that one.
    """
    fd = os.open(os.path.join(spool, b"aside.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OSError(errno.EAGAIN, "another process moves an earlier job's folder aside") from None
        found = _stranger(job, token)
        if found is None:
            return
        for number in range(1, 10000):
            there = aside(spool, found, launch_token.split(token)[1], number)
            if not os.path.lexists(there):
                os.rename(job, there)
                return
        raise OSError(errno.EEXIST, "too many folders beside it; remove old ones")
    finally:
        os.close(fd)
