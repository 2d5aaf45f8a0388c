"""The launches of one spool, by what their run folders, locks and processes say; from any process on that host.

Standard library only, Python 3.6 and later: at the far end of an SSH channel the desk answers by it. So it takes and
gives plain values; `system.py` has the words for them. ``rebooted``: the host may have been started anew since the
launch was made, so that a marker which is not there proves nothing. With a ``census`` it is also looked for the
processes of launches that have no marker: somebody may have removed the folders on a host that is not ours.
"""

import errno
import os
import re

from jobmill.systems import handover, launch_token, process_tree, run_folder, slot_table, switch
from jobmill.systems.step_progress import progress

TYPE_CHECKING = False  # what a type checker takes for true; importing `typing` costs a start several milliseconds
if TYPE_CHECKING:
    from typing import Any

    Look = dict[str, Any]  # the fields of an Observation; `sealed`: it never starts here; `bare`: no marker is here

TOKEN = re.compile(r"[^\s:/]{1,40}:[A-Za-z0-9][A-Za-z0-9._-]{0,63}:[0-9]{1,6}")
KILLED_UNSTARTED = "it was killed before it started"
ADOPT, NOT_STARTED, UNKNOWN, LOST = "adopt", "not_started", "unknown", "lost"  # answers of `settle`


class SpoolLaunches:
    """Looks at launches, settles and kills them. Needs no guard, and asks nobody."""

    def __init__(self, spool: bytes, system: str) -> None:
        self._spool = spool  # bytes, absolute
        self._name = system

    def folder(self, token: str) -> bytes:
        """Return the run folder of a token; raise ValueError when it is none."""
        if not TOKEN.fullmatch(token):
            raise ValueError("%r is not a token <life>:<job id>:<run>" % token)
        return run_folder.folder_of(self._spool, token)

    def _guarded(self, run: run_folder.Run) -> bool:
        """Tell whether the guard or runner that took this marker may still write to it."""
        return run.boot == run_folder.BOOT and slot_table.locked(self._spool, run.guard)

    def observe(self, token: str, rebooted: bool, census: "process_tree.Census | None" = None) -> "Look":
        """Tell from marker, pid, start time, boot id and locks how a launch is; ``census``: shared with others."""
        try:
            folder = self.folder(token)
            run = _own(run_folder.read(folder), token)
        except (OSError, ValueError) as error:
            return {"state": "unknown", "reason": str(error)}
        if run is None:
            if not os.path.isdir(self._spool + b"/jobs"):  # moved, or not mounted: what is not seen is not absent
                return {"state": "unknown", "reason": "the spool %s has no folder `jobs`" % os.fsdecode(self._spool)}
            if census is not None and process_tree.members(token, folder, census=census):
                look: Look = {"state": "running", "alive": True, "orphan": True, "host": run_folder.HOST}
                look["reason"], look["bare"] = "its run folder was removed", True
                return look
            return {"state": "absent", "reason": "rebooted since" if rebooted else "no marker"}
        if run.end is not None:
            return {"state": "ended", "host": run.host, "sealed": run.sealed}
        guarded = self._guarded(run)
        if run.boot != run_folder.BOOT:
            return {"state": "absent", "reason": "rebooted since", "host": run.host}
        if run.namespace != run_folder.NAMESPACE:
            if guarded:
                return {"state": "running", "host": run.host, "alive": True, "reason": "in another container"}
            return {"state": "absent", "host": run.host, "reason": "its container's guard is gone"}
        if run.pid is not None and process_tree.alive(run.pid, run.start):
            return {
                "state": "running",
                "native_state": "running",
                "host": run.host,
                "alive": True,
                "progress": progress(os.fsdecode(folder), run.switch[0] if run.switch else None),
                "orphan": not guarded,
                "overdue": not guarded and slot_table.overdue(self._spool, run.guard, token),
            }
        if guarded:  # about to be spawned, or about to be recorded
            state = "submitted" if run.pid is None else "running"
            return {"state": state, "host": run.host, "alive": run.pid is not None}
        again = run_folder.read(folder)  # its last words may have come between the two looks
        if again is not None and again.end is not None:
            return {"state": "ended", "host": run.host}
        if switch.left(switch.Switch.marked(run), token, folder, run.pid, run.start, run.ended, census=census):
            late = slot_table.overdue(self._spool, run.guard, token)
            look = {"state": "running", "host": run.host, "alive": True, "orphan": True, "overdue": late}
            look["reason"] = "its first process is gone"
            return look
        if run.left is not None:
            return {"state": "ended", "host": run.host}
        return {"state": "absent", "host": run.host, "reason": "process gone, no end recorded"}

    def exit_record(self, token: str) -> "str | None":
        """Return the record (ExitInfo as JSON) of a launch that ended, or None; a lost one has none."""
        try:
            run = _own(run_folder.read(self.folder(token)), token)
        except (OSError, ValueError):
            return None
        if run is None:
            return None
        if run.end is None and run.left is not None and not self._guarded(run):
            return run.left  # the leader's end is known, and nobody is there to add to it
        return run.end

    def settle(self, token: str, rebooted: bool, census: "process_tree.Census | None" = None) -> str:
        """Adopt a launch that has started; take the marker of one that has not, so that it never starts."""
        try:
            folder = self.folder(token)
            found = _own(run_folder.read(folder), token)
            if found is None:
                if census is not None and process_tree.members(token, folder, census=census):
                    return ADOPT  # its run folder was removed
                if rebooted:
                    return LOST
                try:
                    run_folder.seal(self._spool, token, "-", "not_started", "its starter died before it started")
                    return NOT_STARTED
                except FileExistsError:
                    found = _own(run_folder.read(folder), token)
            if found is None:
                return UNKNOWN
            return self._settle_marked(token, rebooted, folder, found)
        except (OSError, ValueError, run_folder.Superseded):  # superseded: whoever asks knows an old record
            return UNKNOWN

    def _settle_marked(self, token: str, rebooted: bool, folder: bytes, run: run_folder.Run) -> str:
        if run.sealed:
            return NOT_STARTED
        if run.end is not None or run.pid is not None:
            return ADOPT
        if run.token is None:  # whoever took it died, or is, at its first line: before any spawn
            if rebooted:
                return LOST  # a power cut: more may have stood there, and what ran nobody knows
            if self._any_guard():
                return UNKNOWN
        elif run.boot != run_folder.BOOT:
            return LOST
        elif self._guarded(run):
            return UNKNOWN
        elif switch.left(switch.Switch.marked(run), token, folder):
            return ADOPT
        elif run_folder.was_entered(folder):
            return LOST  # its child came as far as opening its output; what it did after that nobody saw
        again = run_folder.read(folder)
        if again is not None and (again.end is not None or again.pid is not None):
            return self._settle_marked(token, rebooted, folder, again)
        line = b"" if run.token else run_folder.header(token, "-")
        record = run_folder.never_started("not_started", "runner and guard were killed before it started")
        run_folder.append(folder, line + run_folder.end_line("sealed", record))
        return NOT_STARTED

    def _any_guard(self) -> bool:
        """Tell whether any guard of this system lives on this host."""
        folder = os.path.join(self._spool, slot_table.FOLDER, run_folder.encode(self._name))
        names = [os.fsdecode(name) for name in os.listdir(folder)] if os.path.isdir(folder) else []
        tables = ["%s/%s" % (self._name, name) for name in names if name.endswith(".table")]
        return any(slot_table.locked(self._spool, table) for table in tables)

    def read(self, token: str, stream: str, offset: int, limit: int) -> bytes:
        """Return a part of a file in the run folder, b"" when it is not there (yet)."""
        if "/" in stream or "\0" in stream or stream in ("", ".", ".."):
            raise ValueError("%r is not the name of a file in the run folder" % stream)
        folder = self.folder(token)
        marked = run_folder.read(folder)
        if marked is not None and _own(marked, token) is None:
            return b""  # another life's words
        name, user = os.fsencode(stream), switch.Switch.marked(marked)
        try:
            # the marker is ours; all else there is its user's, who may have put a link in its place
            fd = handover.open_own(folder, name, user.uid if user is not None and name != b"run" else None)
        except (FileNotFoundError, NotADirectoryError):
            return b""
        except OSError as error:
            if user is None or error.errno != errno.ELOOP:
                raise
            return user.read(token, folder + b"/" + name, offset, limit)
        try:
            return os.pread(fd, limit, offset)
        finally:
            os.close(fd)

    def kill(
        self, token: str, rebooted: bool, force: bool, patience: float, census: "process_tree.Census | None" = None
    ) -> bool:
        """Signal every process of a launch, wherever it fled; True: none is left and none will start."""
        try:
            folder = self.folder(token)
            run = _own(run_folder.read(folder), token)
            if run is None:
                if not rebooted:
                    run_folder.seal(self._spool, token, "-", "not_started", KILLED_UNSTARTED)
                return census is None or process_tree.kill(token, folder, force=force, patience=patience, census=census)
            if run.sealed or run.boot != run_folder.BOOT:
                return True
            if run.namespace != run_folder.NAMESPACE:
                return run.end is not None or not self._guarded(run)
            if census is not None and (run.start is None or run.start >= census.began):
                census = None  # its processes may be younger than that
            user = switch.Switch.marked(run)
            gone = switch.kill(user, token, folder, run.pid, run.start, run.ended, force, patience, census=census)
            return gone and (run.pid is not None or run.end is not None or not self._guarded(run))
        except run_folder.Superseded:  # the folder is a later life's; what this one left running bears its token
            life, job, number = launch_token.split(token)
            old = run_folder.aside(self._spool, life, job) + b"/run.%d" % number
            return process_tree.kill(token, old, force=force, patience=patience)
        except (OSError, ValueError):
            return False


def _own(run: "run_folder.Run | None", token: str) -> "run_folder.Run | None":
    """Return the run unless it is another life's, or record's; a marker without its first line counts as ours."""
    return run if run is not None and run.token in (None, token) else None
