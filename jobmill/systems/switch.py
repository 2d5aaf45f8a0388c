"""The switch to a job's user: the words of `run_as`, then a Python that reads what it is to do from stdin (`as_user`).

Standard library only, Python 3.6 and later. The words see nothing of the job but its token: no variable of it, no path.
The file `switch` in the run folder is theirs to complain in.
"""

import base64
import errno
import json
import os
import sys
import time

from jobmill.systems import (
    as_user,
    handover,
    identity,
    launch_token,
    process_tree,
    run_folder,
    spawn,
    streams,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from jobmill.systems.identity import Identity

FILE = b"switch"
MOST = 8192  # bytes of complaints that are read
ANSWER_MOST = 64 << 20  # bytes of an answer: its user may have written any number of them
PATH = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ANSWER = 5.0  # seconds for an answer, beside what was allowed for the work itself
PROGRAM = (
    "import json,sys;from types import ModuleType as M;m=sys.modules\n"
    "v=json.loads(open(0,'rb',closefd=False).read().decode())\n"
    "for n in('jobmill','jobmill.systems'):m[n]=M(n);m[n].__path__=[]\n"
    "for n,s in v.pop('modules'):m[n]=M(n);exec(compile(s,n,'exec'),m[n].__dict__)\n"
    "m[n].main(v)"
)
_sources: "dict[str, list[tuple[str, str]]]" = {}


class Switch:
    """As whom one launch runs; what the marker's line ``as`` says, and what is needed to be that user again."""

    def __init__(self, uid: int, gid: int, user: str, prefix: "list[str]") -> None:
        self.uid = uid
        self.gid = gid
        self.user = user
        self.prefix = prefix  # what goes before a command

    @classmethod
    def of(cls, order: "dict[str, Any]") -> "tuple[Switch, Identity]":
        """Return the switch of an order on this host; raise identity.Refused."""
        who = identity.find(order)
        return cls(who.uid, who.gid, who.name, identity.prefix(order["template"], who)), who

    @classmethod
    def marked(cls, run: "run_folder.Run | None") -> "Switch | None":
        """Return what a marker says; None: the launch runs as ourselves."""
        return cls(*run.switch) if run is not None and run.switch is not None else None

    def line(self) -> bytes:
        """Return the marker's line."""
        return run_folder.encode("as %s\n" % json.dumps([self.uid, self.gid, self.user, self.prefix]))

    def start(self, token: str, folder: bytes, values: "dict[str, Any]") -> int:
        """Start the job behind the switch and return the pid of its first process; raise StartFailed, OSError."""
        fd = os.open(os.path.join(folder, FILE), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.close(fd)
        values.update(verb="start", folder=folder.decode("utf-8", "surrogateescape"))
        return self._spawn(token, values, os.path.join(folder, FILE), os.path.join(folder, FILE))

    def ask(self, verb: str, token: str, values: "dict[str, Any]", patience: float = 0.0) -> "Any":
        """Return the answer of `as_user` as that user, None where there is none in time."""
        return self._ask(verb, token, values, patience).get("answer")

    def file(self, name: str, arguments: "dict[str, Any]", patience: float = 10.0) -> "Any":
        """Do one thing to a file as that user; raise OSError as that user meets it, or where nobody can be asked."""
        found = self._ask("file", "-", {"name": name, "arguments": arguments}, patience)
        number = found.get("errno")
        if type(number) is int:
            raise OSError(number, "%s (as user %s)" % (str(found.get("error"))[:200], self.user))
        if "answer" not in found:
            words = str(found.get("wrong") or "")[:500] or "run_as (%s) gives no answer" % " ".join(self.prefix)
            raise OSError(errno.EPERM, words)
        return found["answer"]

    def _ask(self, verb: str, token: str, values: "dict[str, Any]", patience: float) -> "dict[str, Any]":
        answer = _memory()
        try:
            values["verb"] = verb
            try:
                pid = self._spawn("-", dict(values, token=token), b"/proc/self/fd/%d" % answer, b"/dev/null")
            except (OSError, spawn.StartFailed):
                return {}
            until = time.monotonic() + patience + ANSWER
            while not _ended(pid):
                if time.monotonic() > until:
                    return {}
                time.sleep(0.002)
            size = os.fstat(answer).st_size
            if size > ANSWER_MOST:
                return {"wrong": "an answer of %d bytes is more than %d" % (size, ANSWER_MOST)}
            try:
                found = json.loads(os.pread(answer, size, 0).decode("ascii"))
                return found if isinstance(found, dict) else {}
            except (ValueError, RecursionError):
                return {}
        finally:
            os.close(answer)

    def read(self, token: str, path: bytes, offset: int, limit: int) -> bytes:
        """Return a part of a file as that user reads it, b"" where that user cannot, or nobody can be asked."""
        values = {"path": path.decode("utf-8", "surrogateescape"), "offset": offset, "limit": limit}
        try:
            return base64.b64decode(self.ask("read", token, values) or "")[:limit]
        except (ValueError, TypeError):  # its user wrote the answer
            return b""

    def _spawn(self, name: str, values: "dict[str, Any]", out: bytes, errors: bytes) -> int:
        values.update(uid=self.uid, gid=self.gid, user=self.user, prefix=self.prefix, modules=_program(values["verb"]))
        data = json.dumps(values).encode("ascii")
        fd = _memory()
        try:
            run_folder.write(fd, data)
            words = [*self.prefix, python_of_all(), "-I", "-S", "-c", PROGRAM, "jobmill", name]
            env = {b"PATH": PATH, b"LANG": b"C.UTF-8"}
            if name != "-":
                env[b"JOBMILL_TOKEN"] = run_folder.encode(name)
            opens: "list[spawn.Open]" = [
                (0, b"/proc/self/fd/%d" % fd, spawn.READ),
                (1, out, spawn.APPEND),
                (2, errors, spawn.APPEND),
            ]
            return spawn.plain([run_folder.encode(word) for word in words], env, opens)
        finally:
            os.close(fd)


def failure(folder: bytes, switch: Switch) -> "tuple[str, int | None] | None":
    """Return why a job behind a switch never began, and its exit value; None: it began. The file goes with the answer.

    Nothing was said and it has ended: it was killed on the way there, which is told by its signal.
    """
    path = os.path.join(folder, FILE)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        if os.fstat(fd).st_uid != os.geteuid():  # ours was read and removed before, and its user has put one there
            return None
        text = os.read(fd, MOST)
    except OSError:
        return None
    finally:
        os.close(fd)
    head, found, last = text.rpartition(b"failed ")
    if found and (not head or head.endswith(b"\n")):
        try:
            words, value = json.loads(last.decode("ascii"))
            return str(words), value if type(value) is int and 0 <= value < 256 else None  # its user may have said it
        except (ValueError, TypeError):
            pass
    if as_user.READY in text.splitlines(True):
        os.unlink(path)
        return None
    if not text.strip():
        return None
    said = text.decode("utf-8", "replace").strip()
    return "run_as (%s) could not switch to user %s: %s" % (" ".join(switch.prefix), switch.user, said), None


def left(
    switch: "Switch | None",
    token: str,
    folder: bytes,
    leader: "int | None" = None,
    start: "int | None" = None,
    ended: "int | None" = None,
    spare: "tuple[int, ...]" = (),
    census: "process_tree.Census | None" = None,
) -> bool:
    """Tell whether anything of a launch may still run; False is proved, also by its user's own eyes."""
    if process_tree.members(token, folder, leader, start, ended, spare, census):
        return True
    if switch is None or os.geteuid() == 0:
        return False
    values = {"folder": folder.decode("utf-8", "surrogateescape"), "leader": [leader, start, ended]}
    return switch.ask("left", token, values) is not False


def kill(
    switch: "Switch | None",
    token: str,
    folder: bytes,
    leader: "int | None" = None,
    start: "int | None" = None,
    ended: "int | None" = None,
    force: bool = False,
    patience: float = 1.0,
    spare: "tuple[int, ...]" = (),
    census: "process_tree.Census | None" = None,
) -> bool:
    """Do as `process_tree.kill` does; what is another user's, that user kills."""
    if switch is None or os.geteuid() == 0:
        return process_tree.kill(token, folder, leader, start, ended, force, patience, spare, census)
    values: "dict[str, Any]" = {"folder": folder.decode("utf-8", "surrogateescape"), "leader": [leader, start, ended]}
    values.update(force=force, patience=patience)
    until = time.monotonic() + patience + 0.05
    gone = switch.ask("kill", token, values, patience) is True
    while gone and process_tree.members(token, folder, leader, start, ended, spare):  # sudo outlives its child a little
        if time.monotonic() > until:
            return False
        time.sleep(0.005)
    return gone


def _program(verb: str) -> "list[tuple[str, str]]":
    """Return name and text of the modules that `as_user` needs for this, itself last; read once."""
    if verb not in _sources:
        modules = [process_tree, spawn, streams, as_user]
        if verb == "file":
            from jobmill.systems import far_files  # which only few need

            modules[:0] = [launch_token, handover]
            modules[3:3] = [run_folder, far_files]
        _sources[verb] = [(it.__name__, getattr(it.__loader__, "get_source")(it.__name__)) for it in modules]  # noqa: B009
    return _sources[verb]


def python_of_all() -> str:
    """Return a Python that other users can execute: ours, if no folder on its way is closed to them."""
    for path in (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"):
        real = os.path.realpath(path)
        parts = real.split("/")
        ways = ["/".join(parts[:count]) or "/" for count in range(1, len(parts) + 1)]
        if os.path.exists(real) and all(os.stat(way).st_mode & 0o001 for way in ways):
            return real
    return sys.executable


def _memory() -> int:
    """Return a descriptor of a file without a name, which nobody else can open in /proc."""
    make = getattr(os, "memfd_create", None)  # Python 3.8
    if make is not None:
        try:
            fd = int(make("jobmill"))
            os.fchmod(fd, 0o600)
            return fd
        except OSError:
            pass  # a kernel before 3.17
    return os.open("/tmp", os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600)


def _ended(pid: int) -> bool:
    """Tell whether a child of ours has ended; its zombie goes with the answer."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] != 0
    except ChildProcessError:
        return True
