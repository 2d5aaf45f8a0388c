"""The runner: takes each launch's marker, spawns it when a slot is free, waits for it and writes its record.

Standard library only, Python 3.6 and later; one thread. Commands come on stdin, events go to stdout, a line each:

    sync <epoch>                          what came before was for an earlier runner: forget it
    env <JSON object>                     the constant part of every job's environment
    slots <n>                             how many slots may be taken (live)
    launch <token> <cpus> <JSON array>    [argv, workdir, env, stdin, stdout, stderr, files, walltime, staged, order]
    withdraw <JSON array of tokens>       take them out of line
    seal <JSON array of tokens>           the same, and take their markers: another runner may have them in line

    ready <epoch> <pid>      start <token> <pid>      end <token> <exit record>      void <token> <exit record>
    out <token>              taken <token>            unwatched <token>        bad <message>
    (and from the guard) restarted <epoch>

``staged``: left out, or the folder whose content is moved into the run folder before the start. ``order``: left out, or
as whom it runs (`identity`). ``taken``: another has
the marker and has told neither a pid nor an end: the launch is to be settled. ``unwatched``: it runs, and its end is
told by another, perhaps to nobody. Paths of a launch that are not absolute are relative to its run folder, ``~`` is the
home folder on this host.

End of input: the line of waiting launches is dropped (nothing of them was marked), what runs is waited for. So it is
when nothing was heard for $JOBMILL_SILENCE seconds: the other end of a network is gone, and nobody told us.
"""

import collections
import errno
import fcntl
import json
import os
import select
import signal
import sys
import time

from jobmill.systems import (
    child_wait,
    handover,
    identity,
    launch_token,
    process_tree,
    run_folder,
    slot_table,
    spawn,
    streams,
    switch,
    watch,
)

TYPE_CHECKING = False  # what a type checker takes for true; importing `typing` costs a start several milliseconds
if TYPE_CHECKING:
    from typing import Any

    from jobmill.systems.identity import Identity, Order

    Launch = list[Any]

FOREIGN_EVERY = 0.25  # seconds between looks at the slots that earlier guards' launches still hold
BUSY_AGAIN = 0.01  # seconds until a lock that another holds is tried again
AT_ONCE = 32  # launches before the next look at ends and commands
PIPE_BUF = 4096
BUSY, WINDOW = 100, 0.1  # so many events within so many seconds, more than jobs one by one make: they are gathered,
HOLD = 0.005  # for so many seconds at most: each write wakes the starter


class Runner:
    """One runner process."""

    def __init__(self, spool: bytes, table: bytes, table_fd: int, epoch: int, grace: float) -> None:
        self.spool = spool  # bytes, absolute
        self.table = table  # the slot table's name
        self.table_fd = table_fd
        self.epoch = epoch
        self.watch = watch.Watch(grace, self.emit, (os.getppid(),), spool)
        self.slots = 0
        self.used = 0  # slots that our launches take
        self.foreign = 0  # slots that launches of other guards take
        self.foreign_due: "float | None" = (
            0.0  # time.monotonic() of the next look at them; None: there are none and none can come
        )
        self.fill_due = 0.0  # time.monotonic() before which nothing is started beside others; 0: at any time
        self.free: "list[int]" = []  # numbers of free lines in the slot table
        self.lines = 0  # lines of the slot table in use so far
        self.backlog: "collections.deque[bytes]" = collections.deque()
        self.base: "dict[bytes, bytes]" = {}
        self.out: "collections.deque[bytes]" = collections.deque()  # event lines that wait for the pipe
        self.busy = self.pressing = False  # many events lately; one in `out` is more than a start
        self.window = self.flushed = 0.0  # time.monotonic() when the window began, and of the last write
        self.held = 0.0  # until when (time.monotonic()) those in `out` wait for more
        self.emitted = 0  # events within the window
        self.deaf = False  # nobody reads our events any more
        self.synced = False
        self.eof = False
        self.silence = float(os.environ.get("JOBMILL_SILENCE", 0))  # seconds; 0: the input ends with whoever writes it
        self.heard = time.monotonic()
        self.rest = b""  # an unfinished command line
        self.jobs = os.path.join(spool, b"jobs")

    def serve(self) -> None:
        """Serve until the input has ended and everything that was started has too."""
        wake_reader, wake_writer = os.pipe()
        for fd in (0, 1, wake_reader, wake_writer):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(wake_writer)
        signal.signal(signal.SIGCHLD, _nothing)
        signal.signal(signal.SIGTERM, self._drain)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        poll = select.poll()
        poll.register(wake_reader, select.POLLIN)
        poll.register(0, select.POLLIN)
        listening, asking = True, False
        self.emit(b"ready %d %d\n" % (self.epoch, os.getpid()))
        while True:
            for it in self.watch.reap() + self.watch.steps():
                self.used -= it.cpus
                self.free.append(it.slot)
            if self.silence and not self.eof and time.monotonic() - self.heard > self.silence:
                self._drain(0, None)
            if self.silence:
                more = self._fill_beside_others()
            else:
                self._look_at_others()
                more = self._fill()
            self._flush()
            if self.eof:
                if listening:
                    poll.unregister(0)
                    listening = False
                if not self.watch.running and not self.watch.lingering and (self.deaf or not self.out):
                    return
            blocked = bool(self.out) and not self.held  # the pipe is full
            if asking != blocked:
                asking = blocked
                poll.register(1, select.POLLOUT) if asking else poll.unregister(1)
            for fd, _event in poll.poll(0 if more else self._timeout()):
                if fd == wake_reader:
                    _read(wake_reader)
                elif fd == 0:
                    self._listen()

    def emit(self, line: bytes) -> None:
        """Put one event line (at most PIPE_BUF bytes) in line for the pipe."""
        if not self.deaf:
            self.out.append(line)
            self.emitted += 1
            self.pressing = self.pressing or not line.startswith(b"start ")

    def _drain(self, _number: int, _frame: object) -> None:
        """Our guard died or somebody wants us gone: start nothing more."""
        self.eof = True
        self.backlog.clear()

    def _timeout(self) -> "int | None":
        """Return the milliseconds until something is due by the clock, or None."""
        due = self.watch.timeout()
        if self.silence and not self.eof:
            left = max(0.0, self.heard + self.silence - time.monotonic())
            due = left if due is None else min(due, left)
        if self.held:
            left = max(0.0, self.held - time.monotonic())
            due = left if due is None else min(due, left)
        if self.backlog and self.fill_due:
            left = max(0.0, self.fill_due - time.monotonic())
            due = left if due is None else min(due, left)
        if self.backlog and self.foreign_due is not None:
            look = max(0.0, self.foreign_due - time.monotonic())
            due = look if due is None else min(due, look)
        return None if due is None else int(due * 1000) + 1

    def _flush(self) -> None:
        """Write waiting events, many in one write, every line whole.

        While there are many, every `HOLD` seconds. A start alone waits as long for the end of a short job, too.
        """
        now = time.monotonic()
        if now - self.window > WINDOW:
            self.busy = self.emitted >= BUSY and now - self.window < 3 * WINDOW
            self.window, self.emitted = now, 0
        since = self.flushed if self.busy else 0.0 if self.pressing else self.held - HOLD if self.held else now
        self.held = since + HOLD if self.out and now < since + HOLD and not self.eof else 0.0
        if self.held:
            return
        if self.out:
            self.flushed, self.pressing = now, False
        while self.out:
            batch, size = [], 0
            for line in self.out:
                if size + len(line) > PIPE_BUF:
                    break
                batch.append(line)
                size += len(line)
            try:
                os.write(1, b"".join(batch))
            except BlockingIOError:
                self.pressing = True
                return
            except OSError:  # the starter is gone; the records are in the folders
                self.deaf = True
                self.out.clear()
                return
            for _ in batch:
                self.out.popleft()

    def _listen(self) -> None:
        """Read commands."""
        data = _read(0)
        if data is None:
            return
        self.heard = time.monotonic()
        if data == b"":
            self.eof = True
            self.backlog.clear()
            return
        if self.eof:
            return
        lines = (self.rest + data).split(b"\n")
        self.rest = lines.pop()
        for line in lines:
            word, _, rest = line.partition(b" ")
            if not self.synced:  # the tail of what was meant for a runner that is dead
                self.synced = word == b"sync" and rest == b"%d" % self.epoch
            elif word == b"launch":
                self.backlog.append(rest)
            elif word:
                try:
                    self._obey(word, rest)
                except (ValueError, TypeError, AttributeError) as error:
                    self.emit(b"bad %s\n" % run_folder.encode("%r: %s" % (line[:80], error)).replace(b"\n", b" ")[:500])

    def _obey(self, word: bytes, rest: bytes) -> None:
        """Carry out one command other than a launch."""
        if word == b"slots":
            self.slots = int(rest)
        elif word == b"env":
            values = json.loads(rest.decode("utf-8"))
            self.base = {run_folder.encode(k): run_folder.encode(v) for k, v in values.items()}
        elif word == b"withdraw":
            gone = {run_folder.encode(token) for token in json.loads(rest.decode("utf-8"))}
            kept: "collections.deque[bytes]" = collections.deque()
            for line in self.backlog:
                token = line.partition(b" ")[0]
                if token in gone:
                    self.emit(b"out %s\n" % token)
                else:
                    kept.append(line)
            self.backlog = kept
        elif word == b"seal":
            for name in json.loads(rest.decode("utf-8")):
                token = run_folder.encode(name)
                self.backlog = collections.deque(it for it in self.backlog if it.partition(b" ")[0] != token)
                self._seal(name)
        elif word != b"sync":
            raise ValueError("no such command")

    def _seal(self, token: str) -> None:
        """Take the marker of a launch for good, or tell what became of it."""
        try:
            record = run_folder.seal(self.spool, token, self.table.decode(), "not_started", "taken out of line")
            self.emit(_void(token, record))
        except FileExistsError:
            self._tell_taken(token, run_folder.folder_of(self.spool, token))
        except run_folder.Superseded as error:
            self.emit(_void(token, run_folder.never_started("superseded", str(error))))
        except OSError:
            self.emit(b"taken %s\n" % run_folder.encode(token))  # a full disk: nobody can tell; it is settled later

    def _look_at_others(self) -> None:
        """Count the slots that launches of other guards hold, as long as there are any."""
        if self.foreign_due is None or not self.backlog or time.monotonic() < self.foreign_due:
            return
        try:
            self.foreign, tables = slot_table.occupied(self.spool, self.table)
        except OSError:
            tables = 1
        self.foreign_due = time.monotonic() + FOREIGN_EVERY if tables else None

    def _fill_beside_others(self) -> bool:
        """Start what fits where starters of other machines may have a guard of this system, too.

        Who starts something looks at the slots of all the others, one runner at a time.
        """
        self.foreign_due = None  # that look is made here
        if not self.backlog or self.slots <= 0 or (self.used and self.used >= self.slots):
            self.fill_due = 0.0  # the next command, or an end, comes here again
            return False
        if time.monotonic() < self.fill_due:
            return False
        fd = None
        try:
            name = os.path.join(self.spool, slot_table.FOLDER, os.path.dirname(self.table), b"starts.lock")
            fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.foreign = slot_table.occupied(self.spool, self.table)[0]
        except BlockingIOError:
            if fd is not None:
                os.close(fd)
            self.fill_due = time.monotonic() + BUSY_AGAIN
            return False
        except OSError:
            pass  # a full disk, or one without locks: what was seen last counts
        try:
            more = self._fill()
        finally:
            if fd is not None:
                os.close(fd)
        self.fill_due = time.monotonic() + FOREIGN_EVERY if self.foreign and not more else 0.0
        return more

    def _fill(self) -> bool:
        """Start what fits, first come first served; return True when more may fit at once."""
        for _ in range(AT_ONCE):
            if not self.backlog or self.slots <= 0 or self.watch.held():
                return False
            line = self.backlog[0]
            try:
                name, weight, rest = line.split(b" ", 2)
                token, cpus = name.decode("utf-8"), max(1, int(weight))
                launch_token.split(token)
                launch = json.loads(rest.decode("utf-8"))
                launch[7] = float(launch[7] or 0)
            except (ValueError, TypeError, IndexError) as error:
                self.backlog.popleft()
                self.emit(b"bad %s\n" % run_folder.encode("%r: %s" % (line[:80], error)).replace(b"\n", b" ")[:500])
                continue
            taken = self.used + self.foreign
            if taken and taken + cpus > self.slots:  # one that asks for more than there is starts when all is free
                return False
            self.backlog.popleft()
            self._launch(token, cpus, launch)
        return bool(self.backlog)

    def _launch(self, token: str, cpus: int, launch: "Launch") -> None:
        """Take the marker, then spawn; whatever goes wrong ends the launch with its reason."""
        folder = run_folder.folder_of(self.spool, token)
        slot = self.free.pop() if self.free else self._new_line()
        walltime = launch[7]
        it = watch.Running(token, folder, 0, 0, cpus, time.monotonic(), time.time(), walltime, None, slot)
        try:  # the line comes first: the guard, which reads these lines, then knows of every marker that we took
            slot_table.write(self.table_fd, slot, token, 0, 0, cpus, it.began, it.started, walltime)
            it.fd = self._take(token)
        except OSError as error:
            message = "cannot make the run folder %s: %s; free or repair the spool" % (
                folder.decode("utf-8", "replace"),
                error.strerror or error,
            )
            # not the job's fault, and no marker was taken: whoever sent it may send it again later
            self.emit(watch.end_event(token, run_folder.never_started("no_spool", message)))
        except run_folder.Superseded as error:
            self.emit(_void(token, run_folder.never_started("superseded", str(error))))
        if it.fd is None:
            slot_table.clear(self.table_fd, slot)
            self.free.append(slot)
            return
        fd, who = it.fd, None
        try:
            if len(launch) > 9 and launch[9]:
                who = self._hand_over(it, launch[9])
        except (identity.Refused, OSError, ValueError, TypeError, KeyError) as error:
            words = str(error) if isinstance(error, identity.Refused) else _words(error)
            self.watch.write_end(it, run_folder.never_started("submit_failed", words))
            self.free.append(slot)
            return
        try:
            if len(launch) > 8 and launch[8]:
                staged = run_folder.encode(launch[8])
                if who is not None:
                    handover.give(staged, who.uid, who.gid)
                run_folder.receive(folder, staged)
        except (OSError, ValueError, TypeError) as error:
            self.watch.write_end(it, run_folder.never_started("stage_failed", _words(error)))
            self.free.append(slot)
            return
        try:
            it.pid = self._spawn(it, launch, who)
        except (spawn.StartFailed, OSError, ValueError, TypeError, AttributeError) as error:
            message = _words(error)
            record = run_folder.never_started("start_failed", message, getattr(error, "exit_value", None))
            self.watch.write_end(it, record)
            self.free.append(slot)
            return
        found = process_tree.process(it.pid)  # a child of ours: a zombie at worst
        it.start = found.start if found else 0
        try:
            run_folder.write(fd, run_folder.pid_line(it.pid, it.start))
        except OSError:
            pass  # the disk is full: the slot table, which does not grow, knows it too
        slot_table.write(self.table_fd, slot, token, it.pid, it.start, cpus, it.began, it.started, walltime)
        if fd > 512:  # leave descriptors for many slots; the file is opened again at the end
            os.close(fd)
            it.fd = None
        self.used += cpus
        self.watch.add(it)
        self.emit(b"start %s %d\n" % (run_folder.encode(token), it.pid))

    def _hand_over(self, it: watch.Running, order: "Order") -> "Identity":
        """Give the run folder to the launch's user, whom the marker names from now on."""
        found, who = switch.Switch.of(order)
        handover.open_way(self.spool)
        handover.open_library(os.fsencode(sys.path[0]), self.spool)
        assert it.fd is not None
        run_folder.write(it.fd, found.line())
        it.switch = found
        handover.hand_over(it.folder, who.uid)
        return who

    def _new_line(self) -> int:
        self.lines += 1
        return self.lines - 1

    def _take(self, token: str) -> "int | None":
        """Return the marker's descriptor, or None when this launch has had its turn already."""
        folder = run_folder.enter(self.spool, token)
        try:
            return run_folder.take(folder, run_folder.header(token, self.table.decode()))
        except FileExistsError:
            self._tell_taken(token, folder)
        return None

    def _tell_taken(self, token: str, folder: bytes) -> None:
        """Tell what became of a launch whose marker another has."""
        name = run_folder.encode(token)
        found = run_folder.read(folder)
        if found is None or found.token != token:  # somebody died at the very first line, or is there
            self.emit(b"taken %s\n" % name)
        elif found.sealed and found.end is not None:
            self.emit(_void(token, found.end))
        elif found.end is not None:
            self.emit(watch.end_event(token, found.end))
        elif found.pid is not None:
            self.emit(b"start %s %d\n" % (name, found.pid))
            self.emit(b"unwatched %s\n" % name)
        else:
            self.emit(b"taken %s\n" % name)

    def _spawn(self, it: watch.Running, launch: "Launch", who: "Identity | None") -> int:
        """Write the launch's files and start it; return the pid."""
        token, folder, cpus = it.token, it.folder, it.cpus
        argv, workdir, extra, stdin, stdout, stderr, files = launch[:7]
        encode = run_folder.encode
        for name in files or ():
            if "/" in name or name in run_folder.RESERVED:
                raise spawn.StartFailed("%r cannot be the name of a file in the run folder" % name)
        home = who.home if who is not None else None
        workdir = folder if workdir is None else streams.place(folder, workdir, home)
        given = [streams.place(folder, path, home) if path else None for path in (stdin, stdout, stderr)]
        _, job, run = launch_token.split(token)
        env = dict(self.base)
        if who is not None:
            env[b"USER"] = env[b"LOGNAME"] = encode(who.name)
            env[b"HOME"] = encode(who.home)
        env[b"JOBMILL_JOB_ID"] = encode(job)
        env[b"JOBMILL_RUN"] = b"%d" % run
        env[b"JOBMILL_CPUS"] = b"%d" % cpus
        env[b"JOBMILL_WORKDIR"] = workdir
        env[b"JOBMILL_RUN_FOLDER"] = folder
        env[b"JOBMILL_ERROR_FILE"] = folder + b"/error"
        env[b"JOBMILL_RETURN_FILE"] = folder + b"/return.json"
        if extra:
            for key, value in extra.items():
                env[encode(key)] = encode(value)
        env[b"JOBMILL_TOKEN"] = encode(token)
        if it.switch is not None:
            return it.switch.start(token, folder, _values(argv, env, workdir, given, files))
        for name, text in (files or {}).items():
            streams.write_file(folder, name, text)
        opens: "list[spawn.Open]" = [
            (0, b"/dev/null", spawn.READ),
            (1, folder + b"/stdout", spawn.APPEND),
            (2, folder + b"/stderr", spawn.APPEND),
        ]
        if stdin or stdout or stderr:
            opens = streams.opens(folder, *given)
        try:
            return spawn.start([encode(word) for word in argv], env, workdir, opens)
        finally:
            os.chdir("/")


def _void(token: str, record: str) -> bytes:
    """Return the event that tells of a launch that never starts."""
    return watch.end_event(token, record).replace(b"end", b"void", 1)


def _values(
    argv: "list[str]",
    env: "dict[bytes, bytes]",
    workdir: bytes,
    given: "list[bytes | None]",
    files: "dict[str, str] | None",
) -> "dict[str, Any]":
    """Return what starts a job as its user, as JSON can hold it."""

    def text(data: bytes) -> str:
        return data.decode("utf-8", "surrogateescape")

    mask = os.umask(0o077)
    os.umask(mask)
    return {
        "argv": argv,
        "env": {text(key): text(value) for key, value in env.items()},
        "workdir": text(workdir),
        "streams": [None if path is None else text(path) for path in given],
        "files": files or {},
        "umask": mask,
    }


def _words(error: Exception) -> str:
    """Return for a user why a launch could not start."""
    if isinstance(error, spawn.StartFailed):
        return str(error)
    if isinstance(error, OSError):
        name = error.filename
        where = name.decode("utf-8", "backslashreplace") if isinstance(name, bytes) else name
        return "%s: %s; free or repair the spool" % (error.strerror, where or "run folder")
    return "the launch holds something that no program can be given (%s)" % error


def _read(fd: int) -> "bytes | None":
    """Return what a non-blocking descriptor has, b"" at its end, None when it has nothing now."""
    try:
        return os.read(fd, 1 << 16)
    except BlockingIOError:
        return None
    except OSError as error:
        if error.errno == errno.EINTR:
            return None
        return b""


def _nothing(_number: int, _frame: object) -> None:
    """Let the wake-up descriptor tell."""


def main() -> None:
    """Run as ``runner <spool> <table> <table descriptor> <epoch> <grace> <guard's pid>``."""
    spool, table, fd, epoch, grace, guard = sys.argv[2:8]
    fcntl.fcntl(int(fd), fcntl.F_SETFD, fcntl.FD_CLOEXEC)
    os.chdir("/")
    runner = Runner(os.fsencode(spool), table.encode(), int(fd), int(epoch), float(grace))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, runner._drain)
    child_wait.prctl(child_wait.PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(guard):
        runner.eof = True
    runner.serve()
