"""What runs as the user of a job, behind the words of `run_as`: it starts the job, or looks for what is left of it.

Standard library only, Python 3.6 and later. Its text comes on stdin, with what it is to do: the user need not be able
to read our package, sudo(8) closes every other descriptor, and neither its log nor the process list shows a job's
environment. Everything that the job names (working directory, streams, files) is opened here: as its user.
"""

import base64
import errno
import fcntl
import json
import os
import signal
import stat
import time

from jobmill.systems import process_tree, spawn, streams

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Values = dict[str, Any]

READY = b"ready\n"
PIECE = 1 << 20  # bytes that are read at once


def main(values: "Values") -> None:
    """Do what ``values`` say; the end of a start is the job's own."""
    if values["verb"] == "start":
        _start(values)
        return
    answers = {"kill": _kill, "left": _left, "read": _read, "file": _file}
    wrong = _not_switched(values)
    answer: "Values" = {"wrong": wrong}
    if not wrong:
        try:
            answer = {"answer": answers[values["verb"]](values)}
        except OSError as error:
            answer = {"errno": error.errno, "error": error.strerror or str(error)}
    data = json.dumps(answer).encode("ascii")
    while data:
        data = data[os.write(1, data) :]


def _start(values: "Values") -> None:
    """Become the job; what hinders that is written to stderr, which is the run folder's file `switch`."""
    report = fcntl.fcntl(2, fcntl.F_DUPFD_CLOEXEC, 3)
    exit_value = None
    try:
        wrong = _not_switched(values)
        if wrong:
            raise spawn.StartFailed(wrong)
        folder = _bytes(values["folder"])
        _reach(folder, values["user"])
        for name, text in values["files"].items():
            streams.write_file(folder, name, text)
        places = [None if path is None else _bytes(path) for path in values["streams"]]
        opens = streams.opens(folder, *places)
        env = {_bytes(key): _bytes(value) for key, value in values["env"].items()}
        os.umask(values["umask"])
        spawn.become(
            [_bytes(word) for word in values["argv"]],
            env,
            _bytes(values["workdir"]),
            opens,
            lambda: os.write(report, READY),
        )
    except spawn.StartFailed as error:
        words, exit_value = str(error), error.exit_value
    except OSError as error:
        name = error.filename
        where = name.decode("utf-8", "backslashreplace") if isinstance(name, bytes) else name
        words = "%s: %s; as user %s" % (error.strerror, where or "run folder", values["user"])
    except (ValueError, TypeError, AttributeError) as error:
        words = "the launch holds something that no program can be given (%s)" % error
    os.write(report, b"failed " + json.dumps([words, exit_value]).encode("ascii") + b"\n")
    os._exit(125)


def _not_switched(values: "Values") -> "str | None":
    """Return what the words of `run_as` left undone, or None: we are this user, with this user's rights alone."""
    uid, gid = values["uid"], values["gid"]
    command = " ".join(values["prefix"])
    if os.getresuid() != (uid, uid, uid):
        return "run_as (%s) gave uid %d, not %d of user %s" % (command, os.geteuid(), uid, values["user"])
    extra = set(os.getgroups()) | set(os.getresgid())
    extra.difference_update([*os.getgrouplist(values["user"], gid), gid])
    if extra:
        return "run_as (%s) left group %d, which user %s is not in; add --init-groups and --regid {gid}" % (
            command,
            min(extra),
            values["user"],
        )
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith(("CapPrm:", "CapEff:", "CapAmb:")) and int(line.split()[1], 16):
                return "run_as (%s) left capabilities; start the workers without ambient ones" % command
    return None


def _reach(folder: bytes, user: str) -> None:
    """Raise StartFailed where a folder above the run folder is closed to us, and name it."""
    parts = folder.split(b"/")
    for count in range(2, len(parts) + 1):
        path = b"/".join(parts[:count])
        if not os.access(path, os.X_OK):
            where = path.decode("utf-8", "backslashreplace")
            raise spawn.StartFailed(
                "user %s cannot enter %s on the way to the run folder; chmod o+x it, or set another spool (ssh: folder)"
                % (user, where)
            )


def _left(values: "Values") -> bool:
    return bool(process_tree.members(values["token"], values["folder"], *values["leader"]))


def _kill(values: "Values") -> bool:
    """Do as `process_tree.kill` does, but stop nobody first: sudo stops with its child, and only root could wake it."""
    token, folder, leader = values["token"], values["folder"], values["leader"]
    until = time.monotonic() + values["patience"]
    told = set()
    while True:
        found = process_tree.members(token, folder, *leader)
        if not found:
            return True
        for it in found.values():
            if values["force"]:
                process_tree.send(it.pid, it.start, signal.SIGKILL)
            elif (it.pid, it.start) not in told:
                told.add((it.pid, it.start))
                process_tree.send(it.pid, it.start, signal.SIGTERM)
                process_tree.send(it.pid, it.start, signal.SIGCONT)  # a stopped process would never see the TERM
        if time.monotonic() >= until:
            return False
        time.sleep(0.005)


def _read(values: "Values") -> "str | None":
    try:
        fd = os.open(_bytes(values["path"]), os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return None
        return base64.b64encode(os.pread(fd, values["limit"], values["offset"])).decode("ascii")
    finally:
        os.close(fd)


def _file(values: "Values") -> "Any":
    """Do one thing to a file, as staging does it."""
    from jobmill.systems import far_files

    verbs = {name: getattr(far_files, name) for name in far_files.VERBS}
    return dict(verbs, piece=_piece, append=_append)[values["name"]](**values["arguments"])


def _piece(path: str, offset: int) -> str:
    """Return a part of a plain file in base64, "" at its end."""
    fd = os.open(_bytes(path), os.O_RDONLY | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "is no file any more")
        return base64.b64encode(os.pread(fd, PIECE, offset)).decode("ascii")
    finally:
        os.close(fd)


def _append(path: str, data: str, begin: bool) -> None:
    """Add to a file, which is made or emptied to ``begin`` with."""
    flags = os.O_CREAT | os.O_TRUNC if begin else os.O_APPEND
    fd = os.open(_bytes(path), os.O_WRONLY | os.O_NOFOLLOW | flags, 0o600)
    try:
        left = base64.b64decode(data)
        while left:
            left = left[os.write(fd, left) :]
    finally:
        os.close(fd)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
