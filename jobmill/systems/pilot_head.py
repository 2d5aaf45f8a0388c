"""What an allocation of a pilot begins with: starts the ranks by the launcher, waits for them, notes the end.

Standard library only, Python 3.6 and later. A TERM is for the ranks: the allocation is being taken away.
"""

import fcntl
import json
import os
import signal
import sys
import time

from jobmill.systems import child_wait, pilot_line, pilot_room
from jobmill.systems.pilot_line import Line
from jobmill.systems.pilot_room import BEAT, SILENT, Room

LOCK = "head"  # flocked as long as we live: who sees it free on this host knows that we do not
START = "import sys; sys.path.insert(0, sys.argv.pop(1)); from jobmill.systems.pilot_guard import main; main()"


def words(terms: "dict[str, object]", library: str, spool: str, system: str, number: int) -> "list[str]":
    """Return the command that starts all ranks."""
    launcher = terms["launcher"]
    assert isinstance(launcher, list)
    python = str(terms["python"])
    ours = [python, "-I", "-S", "-c", START, library, "pilot_guard", spool, system, str(number)]
    return [str(word) for word in launcher] + ours


def wait_for_ranks(room: Room) -> None:
    """Wait until no rank gives a sign of life: the launcher may be dead while they finish what runs."""
    last, since = "", time.monotonic()
    while True:
        ranks = {number: it for number, it in room.ranks().items() if it.get("state") != pilot_room.LEFT}
        if not ranks:
            return
        seen, now = repr(sorted((number, it.get("beat")) for number, it in ranks.items())), time.monotonic()
        if seen != last:
            last, since = seen, now
        elif now - since > SILENT:
            return
        time.sleep(BEAT / 4)


def locked(fd: int) -> bool:
    """Take the lock; False: another has it. Who only looks at it has it for an instant."""
    for _ in range(50):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError:
            time.sleep(0.02)
    return False


def main() -> None:
    """Run as ``pilot_head <spool> <system> <allocation> <library> <variable with the scheduler's id>``."""
    spool, system, number, library, variable = sys.argv[1:6]
    line = Line(os.fsencode(spool), system)
    room = Room(line, int(number))
    os.chdir("/")
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    lock = os.open(room.path(LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    if not locked(lock):
        sys.exit("jobmill: allocation %s has begun before" % number)
    terms = room.json("terms")
    if terms is None or room.has("ended") or room.has("began"):
        sys.exit("jobmill: allocation %s is over, or has begun before" % number)
    room.put("began", repr(time.time()))
    if variable and os.environ.get(variable):
        pilot_line.put_first(room.path("told"), os.environ[variable].encode("utf-8"))
    taken = []

    def stop(number: int, _frame: object) -> None:
        taken.append(number)
        try:
            room.put("taken", "TERM")
        except OSError:
            pass

    signal.signal(signal.SIGTERM, stop)
    command = words(terms, library, spool, system, room.number)
    child = os.fork()
    if child == 0:
        try:
            os.setpgid(0, 0)
            child_wait.prctl(child_wait.PR_SET_PDEATHSIG, signal.SIGTERM)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            nowhere = os.open(os.devnull, os.O_RDONLY)
            os.dup2(nowhere, 0)
            os.execvp(command[0], command)
        except OSError as error:
            sys.stderr.write("jobmill: cannot start %s: %s\n" % (command[0], error.strerror))
            sys.stderr.flush()
        finally:
            os._exit(127)
    _pid, status = os.waitpid(child, 0)
    wait_for_ranks(room)
    code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)
    quiet = code == 0 or (all(it.get("state") == pilot_room.LEFT for it in room.ranks().values()) and room.ranks())
    if not taken:
        room.end(by="head", phase="completed" if quiet else "failed", state="%s exited with %d" % (command[0], code))
    elif not variable:  # else the scheduler knows why it took it away
        room.end(by="head", phase="cancelled", state="its first process was sent a TERM")
    sys.stderr.write(json.dumps({"allocation": room.number, "launcher": code}) + "\n")
    sys.exit(code)
