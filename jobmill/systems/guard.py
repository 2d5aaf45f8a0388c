"""The guard: waits for the runner, and when it dies inherits its jobs, records their true ends and starts another.

Standard library only, Python 3.6 and later. Being a child subreaper (prctl(2)), it becomes the parent of everything
that the runner started, so exit status and usage survive the runner. It reads no commands and shares the pipes.
Started as ``python -I -S -c BOOTSTRAP <root> guard <spool> <system> <grace>``, stdin commands, stdout events.
"""

import os
import signal
import sys
import time

from jobmill.systems import child_wait, process_tree, run_folder, slot_table, switch, watch

BOOTSTRAP = "import sys; sys.path.insert(0, sys.argv.pop(1)); from jobmill.systems.{0} import main; main()"
YOUNG = 1.0  # seconds; a runner that fails by itself before this age is started again after a pause
PAUSE_MAX = 5.0  # seconds
SEEN_BY = 2.0  # seconds that a child which may be an unrecorded job gets to reach its exec


class Guard:
    """One guard process."""

    def __init__(self, root: str, spool: bytes, system: str, grace: float) -> None:
        self.root = root  # where the package is: a folder or a zip
        self.spool = spool  # bytes, absolute
        self.system = system  # its name in the configuration
        self.grace = grace
        self.watch = watch.Watch(grace, self.emit, (), spool)
        self.out: "list[bytes]" = []  # events that a full pipe did not take
        self.deaf = False
        self.epoch = -1
        self.runner: "int | None" = None  # pid
        self.born = 0.0  # time.monotonic() of the runner's start
        self.pause = 0.0  # seconds to wait before the next start
        self.again: "float | None" = None  # time.monotonic() of the next start
        self.table = ("", -1)  # name and descriptor of the runner's slot table
        self.finished = False  # the runner left by itself: the input has ended and its jobs too
        self.old: "list[tuple[str, int]]" = []  # tables of dead runners whose jobs still run

    def serve(self) -> None:
        """Wait until the runner has left by itself and its heirs are gone."""
        self.start_runner()
        while True:
            self.watch.reap(self._stranger)
            self.watch.steps()
            if self.again is not None and time.monotonic() >= self.again:
                self.start_runner()
            self.idle()
            busy = self.watch.running or self.watch.lingering
            if not busy and self.old:
                self._drop_old()
            self.flush()
            if self.finished and not busy and (self.deaf or not self.out):
                self.old.append(self.table)
                self._drop_old()
                return
            signal.sigtimedwait({signal.SIGCHLD, signal.SIGTERM}, self._timeout())

    def _stranger(self, pid: int) -> bool:
        """Decide on a dead child that nobody watches; return True to let it go.

        With the runner's death its children become ours in one step of the kernel: before any of them is let go,
        the dead runner's jobs are told from what jobs left behind.
        """
        if self.runner is None:
            return True
        try:
            dead = os.waitid(os.P_PID, self.runner, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return True
        if dead is None:
            return True
        runner, self.runner = self.runner, None
        self.finished = dead.si_code == os.CLD_EXITED and dead.si_status == 0
        if not self.finished:
            self.inherit(runner)
            self.again = time.monotonic() + self.pause
            failed = dead.si_code == os.CLD_EXITED and time.monotonic() - self.born < YOUNG
            self.pause = min(PAUSE_MAX, self.pause * 2 + 0.02) if failed else 0.0  # killed: another one at once
        return pid not in self.watch.running

    def start_runner(self) -> None:
        """Start a runner with a slot table of its own; after the first one, say so."""
        self.again = None
        self.epoch += 1
        name = "%s/%s.%d.%d.%d.table" % (self.system, run_folder.HOST, os.getpid(), int(time.time()), self.epoch)
        self.table = (name, slot_table.create(self.spool, name.encode()))
        if self.epoch:
            self.emit(b"restarted %d\n" % self.epoch)
        guard = os.getpid()
        arguments = [*self.words(), os.fsdecode(self.spool), name]
        arguments += [str(self.table[1]), str(self.epoch), repr(self.grace), str(guard), *self.more_words()]
        pid = os.fork()
        if pid == 0:
            try:
                os.set_inheritable(self.table[1], True)
                os.execv(sys.executable, arguments)
            finally:
                os._exit(127)
        self.runner, self.born = pid, time.monotonic()
        self.watch.spare = (pid,)

    def words(self) -> "list[str]":
        """Return what starts the runner, up to its arguments."""
        return [sys.executable, "-I", "-S", "-c", BOOTSTRAP.format("runner"), self.root, "runner"]

    def more_words(self) -> "list[str]":
        """Return the arguments that the runner has beyond any runner's."""
        return []

    def idle(self) -> None:
        """Do what is due by the clock alone; called at each turn."""

    def inherit(self, runner: int) -> None:
        """Take over what the dead runner had started, and end what it provably had not."""
        name, fd = self.table
        self.old.append(self.table)
        known, unclear = {runner}, []
        for entry in slot_table.entries(fd):
            folder = run_folder.folder_of(self.spool, entry.token)
            try:
                run = run_folder.read(folder)
            except OSError:
                run = None
            if run is not None and not entry.pid and run.guard not in (None, name):
                continue  # another was first at its marker
            if run is not None and run.token not in (None, entry.token):
                run = None  # another launch's folder by now
                if not entry.pid:
                    continue
            pid = entry.pid or (run.pid if run is not None else None) or 0
            known.add(pid)
            if run is None and not pid:
                continue  # its marker is gone or was never taken: the starter sends it again
            if run is not None and run.end is not None:
                self.emit(watch.end_event(entry.token, run.end))  # said twice at worst
            elif pid:
                it = self._running(entry, folder, pid, entry.start or (run.start if run else 0) or 0)
                it.switch = switch.Switch.marked(run)
                self._adopt(it, run)
            else:
                unclear.append((entry, folder, run))
        for entry, folder, run in unclear:  # one at most; who is left over among our children decides
            it = self._running(entry, folder, 0, 0)
            it.switch = switch.Switch.marked(run)
            if run is not None and run.token is None:  # died between the marker and its first line
                run_folder.append(folder, run_folder.header(entry.token, name))
            found = self._identify(entry.token, folder, known, name)
            if found is None:
                record = run_folder.never_started("not_started", "the runner was killed before it started this job")
                self.watch.write_end(it, record, "sealed")
                continue
            if isinstance(found, process_tree.Process):
                it.pid, it.start = found.pid, found.start
                run_folder.append(folder, run_folder.pid_line(it.pid, it.start))
            self._adopt(it, run)

    def _running(self, entry: slot_table.Entry, folder: bytes, pid: int, start: int) -> watch.Running:
        """Return what a line of the slot table says as something to watch."""
        times = (entry.began, entry.started, entry.walltime)
        return watch.Running(entry.token, folder, pid, start, entry.cpus, *times, None, entry.slot)

    def _adopt(self, it: watch.Running, run: "run_folder.Run | None") -> None:
        """Watch one launch without an end, or write the end that it must have."""
        found = process_tree.process(it.pid) if it.pid else None
        if found is not None and found.parent == os.getpid() and found.start == it.start:
            if run is not None and run.over:  # the dead runner had begun to end it
                it.phase, it.deadline = watch.TERMED, time.monotonic() + self.grace
            self.watch.add(it)
        elif run is not None and run.left is not None:
            it.ended = run.ended
            self.watch.linger(it, run.left)
        else:
            self.watch.write_end(it, watch.lost_record(it, "runner killed, process gone before its status was seen"))

    def _identify(
        self, token: str, folder: bytes, known: "set[int]", table: str
    ) -> "process_tree.Process | bool | None":
        """Return the child that a dead runner spawned and could not record; None: there is none; False: undecidable."""
        until = time.monotonic() + SEEN_BY
        want = run_folder.encode(token)
        while True:
            undecided, dead = False, []
            for child in process_tree.children(os.getpid()):
                if child.pid in known or child.pid in self.watch.running:
                    continue
                if child.state in process_tree.GONE:
                    if child.session == child.pid:
                        dead.append(child)
                    continue
                seen = process_tree.token_of(child.thread)
                if child.session == child.pid and (seen == want or process_tree.switches(child.pid, want)):
                    return child
                if seen is None:  # perhaps between fork and exec, in the midst of it, or dead since we looked
                    words = process_tree.command_line(child.thread)
                    undecided = undecided or not words or table.encode() in words
            entered = run_folder.was_entered(folder)
            if not undecided or time.monotonic() >= until:
                break
            time.sleep(0.002)
        if not entered:
            return None if not undecided else False
        # It was spawned, and every child of the runner is ours: with one zombie left over, that is it.
        return dead[0] if len(dead) == 1 else False

    def emit(self, line: bytes) -> None:
        """Put one event line in line for the pipe."""
        if not self.deaf:
            self.out.append(line)

    def flush(self) -> None:
        """Write events, each line in one atomic write."""
        while self.out:
            try:
                os.write(1, self.out[0])
            except BlockingIOError:
                return
            except OSError:
                self.deaf = True
                self.out = []
                return
            del self.out[0]

    def _timeout(self) -> float:
        """Return the seconds until something is due by the clock; sigtimedwait knows no for ever."""
        due = [3600.0]
        step = self.watch.timeout()
        if step is not None:
            due.append(step)
        if self.again is not None:
            due.append(max(0.0, self.again - time.monotonic()))
        if self.out:
            due.append(0.02)
        return min(due)

    def _drop_old(self) -> None:
        """Remove the tables whose launches have all ended."""
        for name, fd in self.old:
            try:
                os.unlink(os.path.join(self.spool, slot_table.FOLDER, name.encode()))
            except OSError:
                pass  # whoever counts slots next removes it
            os.close(fd)
        self.old = []


def main() -> None:
    """Run as ``guard <spool> <system> <grace>`` with the package's root taken off the arguments before."""
    spool, system, grace = sys.argv[2:5]
    for name in os.listdir("/proc/self/fd"):  # what the starter was itself started with may be inheritable
        if int(name) > 2:
            try:
                os.close(int(name))
            except OSError:
                pass  # the listing's own descriptor
    os.chdir("/")
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, signal.SIGTERM})
    child_wait.prctl(child_wait.PR_SET_CHILD_SUBREAPER, 1)
    os.set_blocking(1, False)
    Guard(sys.path[0], os.fsencode(spool), system, float(grace)).serve()
