# ruff: noqa: PTH108, PTH123, UP031
"""What the instrumented copy calls at every point; in the copy it is `jobmill/_points.py`.

Standard library only, Python 3.6 and later: guard and runner import it too. The control file, mapped by every process
of the copy, holds one double a role (seconds that its clock is off), one more a role (how often a clock that is off was
read), then one byte for each role and point:

    0   nobody of this role has passed here        1   somebody has        2   armed: look into the folder `armed`

So a pass costs one comparison unless it is the first or something is armed there.
"""

import fcntl
import mmap
import os
import signal
import struct
import threading
import time

FOLDER = "@FOLDER@"  # baked in when the copy is made
COUNT = int("@COUNT@" if "@COUNT@".isdigit() else 0)  # points

ROLES = ("manager", "starter", "fetcher", "janitor", "guard", "runner", "client")
UNSEEN, SEEN, ARMED = 0, 1, 2
HEAD = 16 * len(ROLES)  # bytes before the points


def _role() -> str:
    """Return the role of this process by its command line; whatever is none of the pipeline's is a client."""
    with open("/proc/self/cmdline", "rb") as file:
        words = file.read().split(b"\0")
    for role in ROLES:
        name = role.encode()
        for word in words:
            if word == b"jobmill.scripts." + name or word.endswith((b"/jobmill-" + name, b"/scripts/" + name + b".py")):
                return role
            if word.endswith(b"from jobmill.systems." + name + b" import main; main()"):
                return role
    return "client"


class _Acting:
    """The role in which this process acts: the janitor is one within a fetcher, a guard's fork is a runner to be."""

    def __init__(self, role: str) -> None:
        with open(FOLDER + "/control", "r+b") as file:
            self.map = memoryview(mmap.mmap(file.fileno(), 0))
        self.thread = 0  # the one thread that acts as another role; 0: none does
        self.take(role)
        self.own = role

    def take(self, role: str) -> None:
        """Act as this role from now on."""
        global _seen
        self.role = role
        self.number = ROLES.index(role)
        _seen = self.row(role)

    def row(self, role: str) -> memoryview:
        """Return the bytes of a role."""
        start = HEAD + ROLES.index(role) * COUNT
        return self.map[start : start + COUNT]

    def mine(self) -> str:
        """Return the role of this thread: while the janitor acts, the fetcher's carriers are still the fetcher."""
        return self.role if self.thread in (0, threading.get_ident()) else self.own


_seen = memoryview(b"")


def point(number, value=None):  # type: ignore[no-untyped-def]  # any value, handed through
    """Pass a point with the value of the call before it."""
    if _seen[number] != SEEN:
        _look(number)
    return value


def clock() -> float:
    """Return time.time() as this role's clock shows it."""
    off = float(struct.unpack_from("d", _acting.map, 8 * _acting.number)[0])
    if off:
        place = 8 * (len(ROLES) + _acting.number)
        struct.pack_into("d", _acting.map, place, struct.unpack_from("d", _acting.map, place)[0] + 1)
    return time.time() + off


def acting(role, function):  # type: ignore[no-untyped-def]
    """Return a function that acts as a role of its own."""

    def acts(*args, **more):  # type: ignore[no-untyped-def]
        before = _acting.role
        _acting.thread = threading.get_ident()
        _acting.take(role)
        try:
            return function(*args, **more)
        finally:
            _acting.take(before)
            _acting.thread = 0

    return acts


def _look(number: int) -> None:
    """Note a first pass; die or stop where that is asked for, and nobody else was first."""
    mine = _acting.mine()
    seen = _acting.row(mine)
    if seen[number] != ARMED:
        seen[number] = SEEN
        return
    action = ""
    lock = os.open(FOLDER + "/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for role in (mine, "any"):
            action = action or _claim("%s/armed/%s.%d" % (FOLDER, role, number), number, mine)
    finally:
        os.close(lock)
    if action:
        os.kill(os.getpid(), signal.SIGSTOP if action == "STOP" else signal.SIGKILL)


def _claim(order: str, number: int, role: str) -> str:
    """Count this pass towards an order ``<action> <passes to go>``; return the action when it was the last one."""
    try:
        with open(order) as file:
            action, left = file.read().split()
    except (OSError, ValueError):
        return ""
    if int(left) > 1:
        with open(order, "w") as file:
            file.write("%s %d" % (action, int(left) - 1))
        return ""
    os.unlink(order)
    _acting.row(role)[number] = SEEN
    with open(FOLDER + "/fired", "a") as file:
        file.write("%d %s %d %s\n" % (os.getpid(), role, number, action))
    return action


def _forked() -> None:
    if _acting.role == "guard":
        _acting.take("runner")
        _acting.own = "runner"


if COUNT:
    _acting = _Acting(_role())
    if hasattr(os, "register_at_fork"):  # Python 3.7
        os.register_at_fork(after_in_child=_forked)
    point(0)  # the start of a process
