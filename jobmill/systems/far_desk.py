"""The desk: answers at a far host what its run folders, locks and processes say, a JSON line for a JSON line.

Standard library only, Python 3.6 and later. A request is ``{"n": 1, "verb": "observe", "launches": [[token, age]]}``;
the answer ``{"n": 1, "answer": …}`` or ``{"n": 1, "error": "words"}``, with an ``errno`` where there is one. ``age``:
seconds for which the launch may have been under way; a host that is up for less may have been started anew since.
"""

import base64
import json
import os
import pwd
import select
import signal
import sys
import time

from jobmill.systems import batch_files, command_call, far_files, handover, process_tree, run_folder, streams, switch
from jobmill.systems.spool_launches import SpoolLaunches

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    Launches = list[tuple[str, float]]

PATIENCE = 2.0  # seconds of one question
STAGED = 7 * 86400.0  # seconds for which inputs may wait for their launch
PATH_MOST = 8192  # bytes of a file that holds a path, more than any has: a job may have written it
MARGIN = 60.0  # seconds by which clocks may have drifted, and a boot takes


class Desk:
    """What can be asked; every public method is a verb, its keyword arguments are the request's other keys."""

    def __init__(self, spool: bytes, system: str) -> None:
        self._spool = spool  # bytes, absolute
        self._launches = SpoolLaunches(spool, system)
        self._batch = batch_files.BatchFiles(spool, system)

    def batch(self, name: str, arguments: "dict[str, Any]") -> "Any":
        """Do one thing to the launches of a batch system, whose login node this is."""
        return batch_files.call(self._batch, name, arguments)

    def observe(self, launches: "Launches") -> "list[dict[str, Any]]":
        """Return the fields of an Observation for each launch."""
        census = process_tree.Census()
        return [self._launches.observe(token, _rebooted(age), census) for token, age in launches]

    def exits(self, launches: "Launches") -> "list[str | None]":
        """Return the exit record of each launch as JSON, None where there is none."""
        return [self._launches.exit_record(token) for token, _ in launches]

    def settle(self, launches: "Launches") -> "list[str]":
        """Return for each: adopt, not_started (and now it never starts), unknown, lost."""
        census = process_tree.Census()
        return [self._launches.settle(token, _rebooted(age), census) for token, age in launches]

    def kill(self, launches: "Launches", force: bool) -> "list[bool]":
        """Signal all of each launch, whether it has started or not; True: nothing of it is left and none will start."""
        if len(launches) == 1:
            token, age = launches[0]
            patience = 1.0 if force else 0.05  # seconds
            return [self._launches.kill(token, _rebooted(age), force, patience, process_tree.Census())]
        gone = [False] * len(launches)
        until = time.monotonic() + PATIENCE  # what another user kills takes a process each; the rest has its turn later
        for _ in range(2):  # many share one look at the processes, and one pause
            census = process_tree.Census()
            for i, (token, age) in enumerate(launches):
                if time.monotonic() < until:
                    gone[i] = gone[i] or self._launches.kill(token, _rebooted(age), force, 0.0, census)
            if all(gone):
                break
            time.sleep(0.05)
        return gone

    def read(self, token: str, stream: str, offset: int, limit: int) -> str:
        """Return a part of a file of the run folder in base64."""
        return base64.b64encode(self._launches.read(token, stream, offset, limit)).decode("ascii")

    def left(self, token: str, names: "list[str]", most: int) -> "dict[str, Any]":
        """Return what a launch left: its run folder, its working directory, and those small files of that folder.

        None of it where the run folder is another launch's. ``most``: bytes of a file that comes with the answer.
        """
        folder = self._launches.folder(token)
        run = run_folder.read(folder)
        if run is None or run.token != token:
            return {}
        workdir = folder
        try:
            uid = run.switch[0] if run.switch else None
            with os.fdopen(handover.open_own(folder, b"workdir", uid), "rb") as file:
                home = pwd.getpwuid(uid).pw_dir if uid is not None else None
                path = file.read(PATH_MOST).rstrip(b"\n").decode("utf-8", "surrogateescape")
                workdir = streams.place(folder, path, home)
        except (OSError, KeyError):
            pass  # it ran in its run folder
        return {
            "folder": _text(folder),
            "workdir": _text(workdir),
            "files": far_files.small(folder, names, most, run.switch[0] if run.switch else None),
            "user": run.switch is not None,
        }

    def as_user(self, token: str, name: str, arguments: "dict[str, Any]") -> "Any":
        """Do one thing to a file as the user of a launch; OSError as that user meets it."""
        user = switch.Switch.marked(run_folder.read(self._launches.folder(token)))
        if user is None:
            raise ValueError("the launch runs as nobody else")
        return user.file(name, arguments)

    def stage(self, token: str, workdir: "str | None") -> "list[str | None]":
        """Return the folder in which inputs wait for a launch, and its working directory; None: its run folder."""
        folder = self._launches.folder(token)
        place = None
        if workdir is not None:
            place = _text(os.path.join(folder, os.path.expanduser(run_folder.encode(workdir))))
        return [_text(self._stage(token)), place]

    def tidy(self, launches: "Launches") -> None:
        """Remove inputs that wait for launches which will not come, or did not take them; mark what was fetched."""
        for token, _ in launches:
            run_folder.remove(self._stage(token))
            folder = self._launches.folder(token)
            run = run_folder.read(folder)
            if run is None or run.token != token:
                continue
            mark = os.path.join(folder, os.fsencode(run_folder.FETCHED))
            try:
                os.close(os.open(mark, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))
            except FileExistsError:
                pass  # it was marked before, or its user has put something there: nothing is opened

    def prune(self, older: float) -> int:
        """Remove run folders whose launches ended so many seconds ago, for some time; return how many were removed."""
        count, until = 0, time.monotonic() + PATIENCE
        jobs = os.path.join(self._spool, b"jobs")
        stages = os.path.join(self._spool, b"stage")
        for name in os.listdir(stages):  # inputs of launches that never came: their starter died, or was cut off
            if os.lstat(os.path.join(stages, name)).st_mtime < time.time() - max(older, STAGED):
                run_folder.remove(os.path.join(stages, name))
        for job in os.listdir(jobs):
            try:
                names = os.listdir(os.path.join(jobs, job))
            except OSError:
                continue  # no folder, or not ours: somebody else put it there
            for name in names:
                folder = os.path.join(jobs, job, name)
                if time.monotonic() > until:
                    return count
                if self._ended_before(folder, time.time() - older):
                    run_folder.remove(folder)
                    count += 1
            try:
                os.rmdir(os.path.join(jobs, job))  # as long as another run is there it is not empty
            except OSError:
                pass
        return count

    def _ended_before(self, folder: bytes, moment: float) -> bool:
        try:
            if os.stat(os.path.join(folder, b"run")).st_mtime > moment:
                return False
            run = run_folder.read(folder)
        except FileNotFoundError:  # a batch system took it out of its line, or nobody has it yet
            return self._dropped_before(folder, moment)
        except OSError:
            return False
        return run is not None and run.end is not None

    def _dropped_before(self, folder: bytes, moment: float) -> bool:
        try:
            return os.stat(os.path.join(folder, os.fsencode(run_folder.FETCHED))).st_mtime <= moment
        except OSError:
            return False

    def _stage(self, token: str) -> bytes:
        self._launches.folder(token)  # that it is a token
        return os.path.join(self._spool, b"stage", run_folder.encode(token))

    def facts(self, token: "str | None" = None) -> "dict[str, Any]":
        """Return what `check` shows: free MiB on the spool's disk, cores, load, seconds since boot.

        ``token``: of a launch; have inputs been brought here for it?
        """
        disk = os.statvfs(self._spool)
        return {
            "staged": token is not None and os.path.isdir(self._stage(token)),
            "free": disk.f_bavail * disk.f_frsize >> 20,
            "cores": len(os.sched_getaffinity(0)),
            "load": os.getloadavg()[0],
            "up": _up(),
            "writable": os.access(self._spool, os.W_OK),
        }


def _text(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")


def _up() -> float:
    """Return the seconds since boot."""
    return time.clock_gettime(process_tree.CLOCK_BOOTTIME)


def _rebooted(age: float) -> bool:
    return _up() < age + MARGIN


def main() -> None:
    """Run as ``far_desk <spool> <system>`` until the input ends."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    desk = Desk(os.fsencode(sys.argv[2]), sys.argv[3])
    verbs = {name: getattr(desk, name) for name in dir(desk) if not name.startswith("_")}
    for module in (far_files, command_call):
        verbs.update((name, getattr(module, name)) for name in module.VERBS)
    for line in _requests(float(os.environ.get("JOBMILL_SILENCE", 0)) or None):
        answer: "dict[str, Any]" = {"n": None}
        try:
            values = json.loads(line.decode("utf-8"))
            answer["n"], verb = values.pop("n"), values.pop("verb")
            answer["answer"] = verbs[verb](**values)
        except OSError as error:
            answer["error"] = error.strerror or str(error)
            answer["errno"] = error.errno
        except Exception as error:  # a request that is wrong must not take the others' answers along
            answer["error"] = "%s: %s" % (type(error).__name__, error)
        data = json.dumps(answer).encode("ascii") + b"\n"
        try:
            while data:
                data = data[os.write(1, data) :]
        except OSError:
            return


def _requests(silence: "float | None") -> "Iterator[bytes]":
    """Yield lines until the input ends, or nothing comes for so many seconds."""
    rest = b""
    while select.select([0], [], [], silence)[0]:
        data = os.read(0, 1 << 16)
        if not data:
            return
        lines = (rest + data).split(b"\n")
        rest = lines.pop()
        for line in lines:
            yield line
