"""What a scheduler starts on a node: takes the launch's marker, runs it as the local runner does, writes its record.

Standard library only, Python 3.6 and later. The launch is a line for the runner in the file `launch` of the run folder.
The scheduler may start it as often as it likes (a requeue by hand, an array with holes): the marker has one owner.
"""

import json
import os
import pwd
import signal
import sys
import tempfile
import time

from jobmill.systems import child_wait, notices, process_tree, run_folder, runner, switch

LAUNCH = b"launch"
END = signal.SIGUSR2  # to us alone: kill all of the job
FIRM = 1.0  # seconds for which that is tried at once
# schedulers that warn once, by END, before their KILL: it means TERM, and KILL after the grace
WARNS = frozenset(("gridengine", "drmaa"))
# exit values that a scheduler takes for a wish: start it again, set it aside
WISHES = {"gridengine": (99, 100), "drmaa": (99, 100)}
WATCHED = frozenset(("drmaa",))  # schedulers that cannot hand a signal on: a file WISH in the run folder tells us
HASTENED = b"hastened"  # file in the run folder: the scheduler warned us
WISH, LOOK = b"wish", 1.0  # seconds between two looks for it
RAN_BEFORE = 75  # EX_TEMPFAIL of sysexits.h: this launch was started before, and is not started again
# what tells a job where it is: parallel programs, containers and GPU libraries live by it
PREFIXES = (
    "SLURM SLURMD SBATCH PBS LSB LSF LS SGE JOB PE QUEUE NSLOTS NHOSTS PMI PMIX CUDA GPU ROCR ZE KMP OMP TMPDIR TZ"
)
OURS = frozenset((PREFIXES + " LANG ENVIRONMENT REQUEST").split(" "))
# `sbatch --export=NONE` leaves it, and srun within the job would hand nothing on
NOT_OURS = frozenset(("SLURM_EXPORT_ENV", "SBATCH_EXPORT"))
STANDARD_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def base_environment(given: "dict[str, str]", library: str) -> "dict[str, str]":
    """Return the constant part of a job's environment: clean, with what the scheduler tells; ``given`` goes last."""
    try:
        user = pwd.getpwuid(os.getuid())
        name, home = user.pw_name, user.pw_dir
    except KeyError:
        name, home = str(os.getuid()), os.environ.get("HOME", "/")
    env = {key: value for key, value in os.environ.items() if key.split("_")[0] in OURS and key not in NOT_OURS}
    env.update(HOME=home, USER=name, LOGNAME=name, SHELL="/bin/sh", PATH=os.environ.get("PATH") or STANDARD_PATH)
    env.setdefault("LANG", "C.UTF-8")
    env.setdefault("TMPDIR", "/tmp")
    env["JOBMILL_STEPPER"] = os.path.join(library, "jobmill", "jobs", "stepper.py")
    env["JOBMILL_STEPPER_PYTHON"] = sys.executable
    env.update(given)
    return env


class BatchRunner(runner.Runner):
    """A runner of one launch, which nobody talks to; a TERM is for its job."""

    folder = b""  # its run folder
    hastened = False  # the scheduler warned us

    def begin(self, line: bytes) -> None:
        """Start the launch, or have its end written; nothing else is started."""
        self.watch.whole = True
        self.slots = 1
        self.backlog.append(line)
        self._fill()
        self.eof = True

    def _drain(self, _number: int, _frame: object) -> None:
        """Hand the scheduler's TERM on: to all of the job, wherever it fled to."""
        self._signal(False, 0.0)

    def end(self, _number: int, _frame: object) -> None:
        """Kill all of the job: no scheduler knows what has fled as well as we do."""
        self._signal(True, FIRM)

    def hasten(self, _number: int, _frame: object) -> None:
        """End all of the job by TERM, and after the grace by KILL: the scheduler's own KILL comes soon."""
        self.hastened = True
        try:  # how it ends is not its own doing: whoever reads the record asks on
            os.close(os.open(os.path.join(self.folder, HASTENED), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))
        except OSError:
            pass
        self._signal(False, 0.0)
        signal.setitimer(signal.ITIMER_REAL, max(0.01, self.watch.grace), 1.0)

    def _signal(self, force: bool, patience: float) -> None:
        self.eof = True
        for it in list(self.watch.running.values()) + [it for it, _ in self.watch.lingering.values()]:
            switch.kill(it.switch, it.token, it.folder, it.pid, it.start, it.ended, force, patience, self.watch.spare)


def run(spool: bytes, token: str, native: str, library: str, grace: float, system: str) -> int:
    """Run one launch to its end; return the exit code for the scheduler, which is the job's where it has one."""
    folder = run_folder.folder_of(spool, token)
    board = notices.Notices(spool, system)
    killed = _oom_kills()
    with open(os.path.join(folder, LAUNCH), "rb") as file:
        given, line = file.read().split(b"\n")[:2]
    child_wait.prctl(child_wait.PR_SET_CHILD_SUBREAPER, 1)
    with tempfile.TemporaryFile() as table, open(os.devnull, "r+b") as nowhere:
        os.dup2(nowhere.fileno(), 0)
        it = BatchRunner(spool, native.encode(), table.fileno(), 0, grace)
        it.watch.spare = _ancestors()
        it.folder = folder
        it.base = {
            run_folder.encode(key): run_folder.encode(value)
            for key, value in base_environment(json.loads(given.decode("utf-8")), library).items()
        }
        said = os.dup(1)
        os.dup2(nowhere.fileno(), 1)  # the runner's events: nobody reads them
        os.chdir("/")
        signal.signal(signal.SIGTERM, it._drain)
        signal.signal(END, it.hasten if native.partition(":")[0] in WARNS else it.end)
        signal.signal(signal.SIGALRM, it.end)
        if native.partition(":")[0] in WATCHED:
            import threading  # which no other start waits for

            threading.Thread(target=_watch, args=(os.path.join(folder, WISH),), daemon=True).start()
        signal.signal(signal.SIGUSR1, lambda _number, _frame: None)  # "it is going to be suspended"
        it.begin(line)
        if _ours(run_folder.read(folder), token, native) is not None:
            board.put(token, notices.STARTED)
        it.serve()
        os.dup2(said, 1)
    found = _ours(run_folder.read(folder), token, native)
    code = _code(found, folder)
    if found is not None:
        board.put(token, notices.ENDED if code or it.hastened or _oom_kills() > killed else notices.DONE)
    return code


def _watch(path: bytes) -> None:
    """Signal ourselves what the file says, TERM or KILL, each once."""
    last = b""
    while last != b"KILL":
        time.sleep(LOOK)
        try:
            with open(path, "rb") as file:
                word = file.read(5)
        except OSError:
            continue
        if word != last and word in (b"TERM", b"KILL"):
            last = word
            os.kill(os.getpid(), signal.SIGTERM if word == b"TERM" else signal.SIGALRM)


def _ours(found: "run_folder.Run | None", token: str, native: str) -> "run_folder.Run | None":
    return found if found is not None and found.token == token and found.guard == native else None


def _code(found: "run_folder.Run | None", folder: bytes) -> int:
    """Return what the record says, for the scheduler's own books."""
    if found is None:
        text = "jobmill: this launch was started before, or is not to be started: %s\n"
        sys.stderr.write(text % folder.decode("utf-8", "replace"))
        return RAN_BEFORE
    end = json.loads(found.end) if found.end else {}
    if end.get("term_sig"):
        return 128 + int(end["term_sig"])
    value = end.get("exit_value")
    wishes = WISHES.get((found.guard or "").partition(":")[0], ())
    return 1 if value is None or end.get("reason") or value in wishes else int(value)


def _ancestors() -> "tuple[int, ...]":
    """Return who started us: the scheduler's own program, and a script in between, whose log is in the run folder."""
    found = []
    it = process_tree.process(os.getppid())
    while it is not None and it.pid > 1:
        found.append(it.pid)
        it = process_tree.process(it.parent)
    return tuple(found)


def _oom_kills() -> int:
    """Return how many processes the kernel has killed for memory in our cgroup (its v1 or v2), 0 where none tells."""
    try:
        with open("/proc/self/cgroup") as file:
            lines = [line.rstrip("\n").split(":", 2) for line in file]
    except OSError:
        return 0
    for _, controllers, path in lines:
        for place in ("/sys/fs/cgroup/memory%s/memory.oom_control", "/sys/fs/cgroup%s/memory.events"):
            if controllers not in ("", "memory"):
                continue
            try:
                with open(place % path) as file:
                    words = dict(line.split() for line in file)
                return int(words.get("oom_kill", 0))
            except (OSError, ValueError):
                continue
    return 0


def main() -> None:
    """Run as ``batch_job <spool> <token> <scheduler> <variables with the job's id> <library> <grace> <system>``.

    Of several variables, with commas between them, the first one that says something counts.
    """
    spool, token, scheduler, variable, library, grace, system = sys.argv[1:8]
    known = [os.environ[name] for name in variable.split(",") if os.environ.get(name)]
    native = "%s:%s" % (scheduler, known[0] if known else "?")
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    started = time.time()
    try:
        sys.exit(run(os.fsencode(spool), token, native, library, float(grace), system))
    except (OSError, ValueError) as error:
        where = "%s on %s" % (process_tree.boot_id(), run_folder.HOST)
        sys.stderr.write("jobmill: %s: %s (%s, %.0f)\n" % (token, error, where, started))
        sys.exit(RAN_BEFORE)
