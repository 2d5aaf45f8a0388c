"""The launches of one spool, by what their run folders, locks and processes say; from any process on this host."""

from __future__ import annotations

import os
import re
from pathlib import Path

from jobmill.systems import launch_token, process_tree, run_folder, slot_table
from jobmill.systems.step_progress import progress
from jobmill.systems.system import ExitInfo, Handle, NativeState, Observation, Settled, Token

TOKEN = re.compile(r"[^\s:/]{1,40}:[A-Za-z0-9][A-Za-z0-9._-]{0,63}:[0-9]{1,6}")
KILLED_UNSTARTED = "it was killed before it started"


class SpoolLaunches:
    """Looks at launches, settles and kills them. Needs no guard, and asks nobody."""

    def __init__(self, spool: Path, system: str) -> None:
        self._folder = os.fsencode(spool)
        self._name = system

    def parts(self, handle: Handle) -> tuple[str, Token, bytes]:
        """Return boot id, token and run folder of a handle; raise ValueError when it is none of ours."""
        boot, _, token = handle.partition("/")
        if not TOKEN.fullmatch(token):
            raise ValueError(f"{handle!r} is not a handle of a local system")
        return boot, token, run_folder.folder_of(self._folder, token)

    def _guarded(self, run: run_folder.Run) -> bool:
        """Tell whether the guard or runner that took this marker may still write to it."""
        return run.boot == run_folder.BOOT and slot_table.locked(self._folder, run.guard)

    def observe(self, handle: Handle) -> Observation:
        """Tell from marker, pid, start time, boot id and locks how a launch is."""
        try:
            boot, token, folder = self.parts(handle)
            run = _own(run_folder.read(folder), token)
        except (OSError, ValueError) as error:
            return Observation(state=NativeState.UNKNOWN, reason=str(error))
        if run is None:
            reason = "rebooted since" if boot != run_folder.BOOT else "no marker"
            return Observation(state=NativeState.ABSENT, reason=reason)
        if run.end is not None:
            return Observation(state=NativeState.ENDED, host=run.host)
        guarded = self._guarded(run)
        if run.boot != run_folder.BOOT:
            return Observation(state=NativeState.ABSENT, reason="rebooted since", host=run.host)
        if run.namespace != run_folder.NAMESPACE:
            if guarded:
                return Observation(state=NativeState.RUNNING, host=run.host, alive=True, reason="in another container")
            return Observation(state=NativeState.ABSENT, host=run.host, reason="its container's guard is gone")
        if run.pid is not None and process_tree.alive(run.pid, run.start):
            steps = progress(os.fsdecode(folder))
            return Observation(
                state=NativeState.RUNNING,
                native_state="running",
                host=run.host,
                alive=True,
                progress=steps,
                orphan=not guarded,
                overdue=not guarded and slot_table.overdue(self._folder, run.guard, token),
            )
        if guarded:  # about to be spawned, or about to be recorded
            state = NativeState.SUBMITTED if run.pid is None else NativeState.RUNNING
            return Observation(state=state, host=run.host, alive=run.pid is not None)
        again = run_folder.read(folder)  # its last words may have come between the two looks
        if again is not None and again.end is not None:
            return Observation(state=NativeState.ENDED, host=run.host)
        if process_tree.members(token, folder, run.pid, run.start, run.ended):
            late = slot_table.overdue(self._folder, run.guard, token)
            reason = "its first process is gone"
            return Observation(
                state=NativeState.RUNNING, host=run.host, alive=True, reason=reason, orphan=True, overdue=late
            )
        if run.left is not None:
            return Observation(state=NativeState.ENDED, host=run.host)
        return Observation(state=NativeState.ABSENT, host=run.host, reason="process gone, no end recorded")

    def exit_info(self, handle: Handle) -> ExitInfo | None:
        """Return the record of a launch that ended, or None; a lost one has none."""
        try:
            _, token, folder = self.parts(handle)
            run = _own(run_folder.read(folder), token)
        except (OSError, ValueError):
            return None
        if run is None:
            return None
        text = run.end
        if text is None and run.left is not None and not self._guarded(run):
            text = run.left  # the leader's end is known, and nobody is there to add to it
        return None if text is None else ExitInfo.from_json(text)

    def settle(self, handle: Handle) -> Handle | Settled:
        """Adopt a launch that has started; take the marker of one that has not, so that it never starts."""
        try:
            boot, token, folder = self.parts(handle)
            found = _own(run_folder.read(folder), token)
            if found is None:
                if boot != run_folder.BOOT:
                    return Settled.LOST
                try:
                    run_folder.seal(self._folder, token, "-", "not_started", "its starter died before it started")
                    return Settled.NOT_STARTED
                except FileExistsError:
                    found = _own(run_folder.read(folder), token)
            if found is None:
                return Settled.UNKNOWN
            return self._settle_marked(handle, token, folder, found)
        except (OSError, ValueError, run_folder.Superseded):  # superseded: whoever asks knows an old record
            return Settled.UNKNOWN

    def _settle_marked(self, handle: Handle, token: Token, folder: bytes, run: run_folder.Run) -> Handle | Settled:
        if run.sealed:
            return Settled.NOT_STARTED
        if run.end is not None or run.pid is not None:
            return handle
        if run.token is None:  # whoever took it died, or is, at its first line: before any spawn
            if handle.partition("/")[0] != run_folder.BOOT:
                return Settled.LOST  # a power cut: more may have stood there, and what ran nobody knows
            if self._any_guard():
                return Settled.UNKNOWN
        elif run.boot != run_folder.BOOT:
            return Settled.LOST
        elif self._guarded(run):
            return Settled.UNKNOWN
        elif process_tree.members(token, folder):
            return handle
        elif run_folder.was_entered(folder):
            return Settled.LOST  # its child came as far as opening its output; what it did after that nobody saw
        again = run_folder.read(folder)
        if again is not None and (again.end is not None or again.pid is not None):
            return self._settle_marked(handle, token, folder, again)
        line = b"" if run.token else run_folder.header(token, "-")
        record = run_folder.never_started("not_started", "runner and guard were killed before it started")
        run_folder.append(folder, line + run_folder.end_line("sealed", record))
        return Settled.NOT_STARTED

    def _any_guard(self) -> bool:
        """Tell whether any guard of this system lives on this host."""
        folder = Path(os.fsdecode(self._folder)) / "guards" / self._name
        names = [path.name for path in folder.glob("*.table")] if folder.is_dir() else []
        return any(slot_table.locked(self._folder, f"{self._name}/{name}") for name in names)

    def read(self, handle: Handle, stream: str, offset: int, limit: int) -> bytes:
        """Return a part of a file in the run folder, b"" when it is not there (yet)."""
        if "/" in stream or "\0" in stream or stream in ("", ".", ".."):
            raise ValueError(f"{stream!r} is not the name of a file in the run folder")
        _, token, folder = self.parts(handle)
        marked = run_folder.read(folder)
        if marked is not None and _own(marked, token) is None:
            return b""  # another life's words
        try:
            fd = os.open(folder + b"/" + os.fsencode(stream), os.O_RDONLY | os.O_NONBLOCK)
        except (FileNotFoundError, NotADirectoryError):
            return b""
        try:
            return os.pread(fd, limit, offset)
        finally:
            os.close(fd)

    def kill(self, handle: Handle, *, force: bool, patience: float) -> bool:
        """Signal every process of a launch, wherever it fled; True: none is left and none will start."""
        try:
            boot, token, folder = self.parts(handle)
            run = _own(run_folder.read(folder), token)
            if run is None:
                if boot == run_folder.BOOT:
                    run_folder.seal(self._folder, token, "-", "not_started", KILLED_UNSTARTED)
                return True
            if run.sealed or run.boot != run_folder.BOOT:
                return True
            if run.namespace != run_folder.NAMESPACE:
                return run.end is not None or not self._guarded(run)
            gone = process_tree.kill(token, folder, run.pid, run.start, run.ended, force, patience)
            return gone and (run.pid is not None or run.end is not None or not self._guarded(run))
        except run_folder.Superseded:  # the folder is a later life's; what this one left running bears its token
            life, job, number = launch_token.split(token)
            old = run_folder.aside(self._folder, life, job) + b"/run.%d" % number
            return process_tree.kill(token, old, force=force, patience=patience)
        except (OSError, ValueError):
            return False


def _own(run: run_folder.Run | None, token: Token) -> run_folder.Run | None:
    """Return the run unless it is another life's, or record's; a marker without its first line counts as ours."""
    return run if run is not None and run.token in (None, token) else None
