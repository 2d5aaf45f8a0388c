"""What the launcher starts for each rank of a pilot: a guard, whose runner feeds itself from the line (`pilot_rank`).

Standard library only, Python 3.6 and later. Killed runner: the guard inherits its jobs, records their ends and starts
another. Killed guard: the runner takes nothing more, and waits for what it has started.
"""

import json
import os
import signal
import sys

from jobmill.systems import batch_job, child_wait, guard, pilot_line, run_folder
from jobmill.systems.pilot_line import KILLS, WORK, Line
from jobmill.systems.pilot_room import Room
from jobmill.systems.pilot_watch import PilotWatch

RANKS = ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "MV2_COMM_WORLD_RANK", "SLURM_PROCID")
# of the launcher and the scheduler: a job in a pilot has its slots, not the allocation; an MPI program in it that
# found these would take itself for a rank of ours
NOT_THEIRS = frozenset(
    [
        "OMPI",
        "OPAL",
        "ORTE",
        "PRTE",
        "PMI",
        "PMI2",
        "PMIX",
        "MPI",
        "HYDRA",
        "MV2",
        "SLURM",
        "SLURMD",
        "SBATCH",
        "SRUN",
        "PBS",
        "LSB",
        "LSF",
        "LS",
        "SGE",
        "PE",
        "JOB",
        "QUEUE",
    ]
)


class PilotGuard(guard.Guard):
    """The guard of one rank."""

    def __init__(self, root: str, spool: bytes, system: str, grace: float, place: "tuple[Line, int, int]") -> None:
        guard.Guard.__init__(self, root, spool, system, grace)
        line, self.allocation, self.rank = place
        self.jobs_of = PilotWatch(grace, self.emit, (), line, pilot_line.rank_name(self.allocation, self.rank))
        self.watch = self.jobs_of
        self.watch.whole = True  # what is to be killed is told to the runner alone
        self.deaf = True  # what there is to say stands in the folders

    def words(self) -> "list[str]":
        """Return what starts the runner, up to its arguments."""
        return [sys.executable, "-I", "-S", "-c", guard.BOOTSTRAP.format("pilot_rank"), self.root, "pilot_rank"]

    def more_words(self) -> "list[str]":
        """Return the arguments that a rank's runner has beyond any runner's."""
        return [self.system, str(self.allocation), str(self.rank)]

    def emit(self, line: bytes) -> None:
        """Move on what was seen to have ended before."""
        word, _, rest = line.rstrip(b"\n").partition(b" ")
        token = rest.partition(b" ")[0]
        name = token.decode("utf-8", "surrogateescape")
        if word != b"end" or name in self.jobs_of.unwritten:
            return
        try:
            found = run_folder.read(run_folder.folder_of(self.spool, name))
        except (OSError, ValueError):
            return
        if found is not None and found.token == name and found.end is not None:
            self.jobs_of.over(name)

    def idle(self) -> None:
        """Do what is due by the clock alone."""
        self.jobs_of.write_again()

    def _timeout(self) -> float:
        """Return the seconds until something is due by the clock."""
        return min(guard.Guard._timeout(self), 1.0 if self.jobs_of.unwritten else 3600.0)


def rank_of(environment: "dict[str, str]", line: Line, allocation: int) -> int:
    """Return the number of our rank, and make its folders: as the launcher says it, else the next free one."""
    for name in RANKS:
        if environment.get(name, "").isdigit():
            number = int(environment[name])
            for place in (WORK, KILLS):
                os.makedirs(line.path(place, pilot_line.rank_name(allocation, number)), exist_ok=True)
            return number
    for number in range(10000):
        try:
            os.mkdir(line.path(WORK, pilot_line.rank_name(allocation, number)))
        except FileExistsError:
            continue
        os.makedirs(line.path(KILLS, pilot_line.rank_name(allocation, number)), exist_ok=True)
        return number
    raise OSError("too many ranks")


def main() -> None:
    """Run as ``pilot_guard <spool> <system> <allocation>`` with the library's folder taken off before."""
    spool, system, allocation = sys.argv[2:5]
    line = Line(os.fsencode(spool), system)
    room = Room(line, int(allocation))
    terms = room.json("terms")
    if terms is None or room.has("ended") or room.has("stop"):
        return
    rank = rank_of(dict(os.environ), line, room.number)
    for name in list(os.environ):
        if name.split("_")[0] in NOT_THEIRS:
            del os.environ[name]
    given = dict(terms.get("env") or {}, JOBMILL_ALLOCATION=str(room.number), JOBMILL_RANK=str(rank))
    os.environ["JOBMILL_PILOT_ENV"] = json.dumps(batch_job.base_environment(given, sys.path[0]))
    for name in os.listdir("/proc/self/fd"):  # what the launcher was itself started with may be inheritable
        if int(name) > 2:
            try:
                os.close(int(name))
            except OSError:
                pass  # the listing's own descriptor
    # nothing of the launcher's is kept open: a scheduler would wait for its end
    said = os.open(room.path("ranks.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for source, target in ((nowhere, 0), (said, 1), (said, 2)):
        os.dup2(source, target)
    for fd in (said, nowhere):
        if fd > 2:
            os.close(fd)
    os.chdir("/")
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, signal.SIGTERM})
    child_wait.prctl(child_wait.PR_SET_CHILD_SUBREAPER, 1)
    grace = float(terms["kill_grace"])
    PilotGuard(sys.path[0], line.spool, system, grace, (line, room.number, rank)).serve()
