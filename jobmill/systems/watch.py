"""Watch launched processes to their end: walltime, true exit status and usage, the end record, the event.

Standard library only, Python 3.6 and later. The runner watches what it spawned, the guard what it inherited.
"""

import json
import os
import time

from jobmill.systems import child_wait, handover, process_tree, run_folder, switch

TYPE_CHECKING = False  # what a type checker takes for true; importing `typing` costs a start several milliseconds
if TYPE_CHECKING:
    from collections.abc import Callable

MESSAGE_MAX = 4096  # bytes of a job's error file that are read
EVENT_MAX = 4096  # PIPE_BUF: a line up to this long is written whole or not at all
FIRM = 0.1  # seconds between looks at a tree that is being killed
LEASH = b"leash"  # in the spool: the time.monotonic() after which nothing that was started from there may run
LEASH_LOOK = 1.0  # seconds between looks at it at most
TERMED, KILLED = 1, 2

_host = json.dumps(run_folder.HOST)


class Running:
    """One launched process."""

    __slots__ = (
        "began",
        "cpus",
        "deadline",
        "ended",
        "fd",
        "folder",
        "phase",
        "pid",
        "slot",
        "start",
        "started",
        "switch",
        "token",
    )

    def __init__(
        self,
        token: str,
        folder: bytes,
        pid: int,
        start: int,
        cpus: int,
        began: float,
        started: float,
        walltime: float,
        fd: "int | None",
        slot: int,
    ) -> None:
        self.token = token
        self.folder = folder  # bytes
        self.pid = pid
        self.start = start  # clock ticks after boot
        self.cpus = cpus  # slots that it occupies
        self.began = began  # time.monotonic()
        self.started = started  # Unix time
        self.deadline = began + walltime if walltime else None  # time.monotonic() of the next step against it
        self.phase = 0
        self.ended: "int | None" = None  # clock ticks after boot when the leader was found dead
        self.fd = fd  # its open run file, or None: opened when the end is written
        self.slot = slot  # its line in the slot table
        self.switch: "switch.Switch | None" = None  # to its user, where that is not ours


class Watch:
    """The processes that one runner or guard waits for."""

    def __init__(
        self, grace: float, emit: "Callable[[bytes], None]", spare: "tuple[int, ...]" = (), spool: "bytes | None" = None
    ) -> None:
        """``grace``: seconds between TERM and KILL at the walltime; ``emit``: takes one event line.

        ``spool``: where a file `LEASH` bounds the life of all that is watched, as long as nobody prolongs it.
        """
        self.grace = grace
        self.emit = emit
        self.spare = spare  # pids that no kill may touch
        self.leash = leash_of(spool)  # descriptor, or None
        # a launch is over as a whole: its end is told when all of it is gone. By a leash nobody could end the rest
        self.whole = self.leash is not None
        self.cut = False  # the leash has ended: it does not begin again
        self.running: "dict[int, Running]" = {}  # pid -> Running
        # token -> (Running, exit record) of a leader that is gone while its tree is still being killed
        self.lingering: "dict[str, tuple[Running, str]]" = {}
        # time.monotonic() of the earliest deadline, perhaps of one that ended since
        self.next_step: "float | None" = None

    def add(self, it: Running) -> None:
        """Watch a process from now on."""
        self.running[it.pid] = it
        self._note(it.deadline)

    def reap(self, stranger: "Callable[[int], bool] | None" = None) -> "list[Running]":
        """Record every child that ended and return its `Running`s; ``stranger(pid)`` decides on the others.

        A stranger is let go when it answers True; False: look again, it is watched now.
        """
        ended: "list[Running]" = []
        while True:
            try:
                found = child_wait.peek()
            except ChildProcessError:
                return ended
            if found is None:
                return ended
            pid, code, status, usage = found
            it = self.running.get(pid)
            if it is None:
                if stranger is None or stranger(pid):
                    child_wait.release(pid)
                continue
            if self._finish(it, code, status, usage):
                ended.append(it)
            del self.running[pid]
            child_wait.release(pid)  # after its record: who dies before this line leaves a zombie to the guard

    def steps(self) -> "list[Running]":
        """Do what walltimes demand now; return the `Running`s whose tree is gone at last."""
        now = time.monotonic()
        ended: "list[Running]" = []
        if self.running and self.held():
            self.cut = True
            for it in self.running.values():
                if it.phase == 0:
                    it.deadline = now
                    self._note(now)
        if self.next_step is None or now < self.next_step:
            return ended
        self.next_step = None
        for it in list(self.running.values()):
            if it.deadline is not None and now >= it.deadline:
                self._press(it)
            self._note(it.deadline)
        for it, record in list(self.lingering.values()):
            if self._press(it):
                del self.lingering[it.token]
                self.write_end(it, record)
                ended.append(it)
            else:
                self._note(time.monotonic() + FIRM)
        return ended

    def linger(self, it: Running, record: str) -> None:
        """Kill what is left of a launch whose leader is gone, then write ``record``."""
        it.phase, it.deadline = KILLED, time.monotonic()
        self.lingering[it.token] = (it, record)
        self._note(it.deadline)

    def timeout(self) -> "float | None":
        """Return the seconds until `steps` has something to do, or None."""
        due = None if self.next_step is None else max(0.0, self.next_step - time.monotonic())
        if self.leash is not None and not self.cut and self.running:
            look = max(0.0, min(self._leash_left(), LEASH_LOOK))
            due = look if due is None else min(due, look)
        return due

    def held(self) -> bool:
        """Tell whether nothing may be started any more: the leash has ended."""
        return self.leash is not None and (self.cut or self._leash_left() <= 0)

    def _leash_left(self) -> float:
        """Return for how many seconds what runs may still run; who prolongs it writes the time over the old one."""
        try:
            return float(os.pread(self.leash or 0, 32, 0)) - time.monotonic()
        except (OSError, ValueError):
            return 0.0

    def write_end(self, it: Running, record: str, word: str = "exit") -> None:
        """Append the end to the run file and send the event; without a disk to write to there is still the event."""
        line = run_folder.end_line(word, record)
        try:
            if it.fd is not None:
                run_folder.write(it.fd, line)
                os.close(it.fd)
            else:
                self._append(it, line)
        except OSError:
            pass
        it.fd = None
        self.emit(end_event(it.token, record))

    def _tell(self, it: Running, line: bytes) -> None:
        """Add a line to the run file for whoever watches after us; without a disk to write to nobody is told."""
        try:
            if it.fd is not None:
                run_folder.write(it.fd, line)
            else:
                self._append(it, line)
        except OSError:
            pass

    def _append(self, it: Running, line: bytes) -> None:
        """Append to the run file by its path, unless the folder is another launch's by now."""
        found = run_folder.read(it.folder)
        if found is not None and found.token == it.token:
            run_folder.append(it.folder, line)

    def _finish(self, it: Running, code: int, status: int, usage: child_wait.Usage) -> bool:
        """Record the end of a leader; return False when its tree has still to be killed."""
        record = exit_record(it, code, status, usage)
        failed = switch.failure(it.folder, it.switch) if it.switch is not None else None
        if failed is not None and not it.phase:
            record = run_folder.never_started("start_failed", *failed)
        if it.phase or self.whole:
            it.ended = process_tree.ticks_now()
            others = switch.left(it.switch, it.token, it.folder, it.pid, it.start, it.ended, self.spare)
            if others:
                self._tell(it, run_folder.end_line("left", record))
                if not it.phase:
                    it.phase, it.deadline = TERMED, time.monotonic() + self.grace
                    switch.kill(it.switch, it.token, it.folder, it.pid, it.start, it.ended, False, 0.0, self.spare)
                self.lingering[it.token] = (it, record)
                self._note(time.monotonic() + FIRM)
                return False
        self.write_end(it, record)
        return True

    def _press(self, it: Running) -> bool:
        """Take the next step against a launch that is over its walltime; return True when nothing of it runs."""
        now = time.monotonic()
        if it.phase == 0:
            # before the TERM: dies the runner after it, the guard must not take what follows for the job's own end
            self._tell(it, run_folder.over_line())
            it.phase, it.deadline = TERMED, now + self.grace
            force = False
        elif it.phase == KILLED or it.deadline is None or now >= it.deadline:
            it.phase, it.deadline = KILLED, now + FIRM
            force = True
        else:  # within the grace: only look
            return not switch.left(it.switch, it.token, it.folder, it.pid, it.start, it.ended, self.spare)
        patience = 0.05 if force else 0.0
        return switch.kill(it.switch, it.token, it.folder, it.pid, it.start, it.ended, force, patience, self.spare)

    def _note(self, when: "float | None") -> None:
        if when is not None and (self.next_step is None or when < self.next_step):
            self.next_step = when


def leash_of(spool: "bytes | None") -> "int | None":
    """Return the descriptor of a spool's leash, or None where there is none."""
    try:
        return None if spool is None else os.open(os.path.join(spool, LEASH), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None


def exit_record(it: Running, code: int, status: int, usage: child_wait.Usage) -> str:
    """Return the exit record of a process as the JSON text of ExitInfo."""
    wall = time.monotonic() - it.began
    if code == child_wait.CLD_EXITED:
        how = '"exit_status":"finished_regularly","exit_value":%d' % status
    else:
        how = '"exit_status":"finished_signal","term_sig":%d' % status
    if it.phase:
        how += ',"reason":"timeout"'
    message = error_message(it.folder, it.switch.uid if it.switch else None) if status or it.phase else None
    if message:
        how += ',"message":' + json.dumps(message)
    used = '"wall":%.4f,"cpu":%.4f,"max_memory":%.1f' % (wall, usage.cpu, usage.memory / 1024.0)
    if usage.blocks_in or usage.blocks_out:
        used += ',"read":%.4f,"written":%.4f' % (usage.blocks_in / 2048.0, usage.blocks_out / 2048.0)  # MiB
    return (
        '{%s,"resource_usage":{%s},"native_id":"%d","host":%s,"evidence":"exit record","started":%.3f,"ended":%.3f}'
        % (
            how,
            used,
            it.pid,
            _host,
            it.started,
            it.started + wall,
        )
    )


def lost_record(it: Running, why: str) -> str:
    """Return the exit record of a process whose end nobody saw."""
    record: "dict[str, object]" = {
        "exit_status": "undetermined",
        "reason": "lost",
        "host": run_folder.HOST,
        "evidence": why,
    }
    if it.pid:
        record["native_id"] = str(it.pid)
    record["ended"] = round(time.time(), 3)
    return json.dumps(record, separators=(",", ":"))


def error_message(folder: bytes, uid: "int | None" = None) -> "str | None":
    """Return what the job wrote to its error file, at most 4 KiB of it, or None; ``uid``: of a user not ours."""
    try:
        fd = handover.open_own(folder, b"error", uid)
    except OSError:
        return None
    try:
        return os.read(fd, MESSAGE_MAX).decode("utf-8", "replace").strip("\0\r\n\t ") or None
    except OSError:
        return None
    finally:
        os.close(fd)


def end_event(token: str, record: str) -> bytes:
    """Return the event line of an end; a message too long for one atomic write is cut there, not in the file."""
    line = run_folder.encode("end %s %s\n" % (token, record))
    if len(line) <= EVENT_MAX:
        return line
    values = json.loads(record)
    text = values.get("message") or ""
    while len(line) > EVENT_MAX:
        text = text[: len(text) * 3 // 4]
        values["message"] = text + " [cut]"
        line = run_folder.encode("end %s %s\n" % (token, json.dumps(values, separators=(",", ":"))))
    return line
