"""The run folders of one batch system, by what stands in them; on the host that sees them, which may be a login node.

Standard library only, Python 3.6 and later: behind SSH the desk answers by it. So it takes and gives plain values. What
cannot be said here without seeing the folders raises OSError.
"""

import errno
import os
import shlex

from jobmill.systems import run_folder
from jobmill.systems.notices import Notices
from jobmill.systems.spool_launches import NOT_STARTED, TOKEN, UNKNOWN, SpoolLaunches
from jobmill.systems.step_progress import progress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MORE = ("hastened", "bury", "wish")  # what only some schedulers need
VERBS = ("write", "records", "progress", "began", "said", "notices", "settle", "gone", "forget", "tidy", *MORE)
SUSPENDS = ("gridengine", "drmaa")  # schedulers that announce it by SIGUSR1, perhaps before our program listens
SAID = 65536  # bytes of a node's own words that are read
LIBRARY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # that this code is of
IN_THE_WAY = (errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ELOOP)  # of one launch alone
TAKEN = "taken"  # an answer of `settle`: somebody has the marker
_START = "import sys; sys.path.insert(0, sys.argv[5]); from jobmill.systems.batch_job import main; main()"


class BatchFiles:
    """What can be asked; every public method is a verb."""

    def __init__(self, spool: bytes, system: str) -> None:
        self._spool = spool  # bytes, absolute
        self._launches = SpoolLaunches(spool, system)
        self._system = system  # its name in the configuration
        self._notices = Notices(spool, system)

    # Launching.

    def write(
        self, token: str, launch: str, start: "list[str]", library: "str | None", redirect: bool
    ) -> "dict[str, str]":
        """Write a launch into its run folder; return that `folder`, and the text of the `script` that starts it.

        ``launch``: the file of that name; ``start``: the nodes' Python, scheduler, variable with the job's id, grace;
        ``library``: where the nodes see our library, None: where this code is. {"over": who took its marker} for one
        that has ended already, {"superseded": words} for one whose place a later life of its id has, or where an
        earlier run has put something in its place.
        """
        try:
            return self._write(token, launch, start, library, redirect)
        except OSError as error:
            folder, place = self._launches.folder(token), error.filename or b""
            place = place if isinstance(place, bytes) else run_folder.encode(place)
            own = os.path.lexists(folder) and (place + b"/").startswith(folder + b"/")
            if error.errno not in IN_THE_WAY or not own:  # of the spool, and so of all launches
                raise
            return {
                "superseded": "something is in the way in its run folder: %s: %s" % (error.strerror, error.filename)
            }

    def _write(
        self, token: str, launch: str, start: "list[str]", library: "str | None", redirect: bool
    ) -> "dict[str, str]":
        run = run_folder.read(self._launches.folder(token))
        if run is not None and run.token == token and run.end is not None:
            return {"over": run.guard or ""}
        try:
            folder = _text(run_folder.enter(self._spool, token))
        except run_folder.Superseded as error:
            return {"superseded": str(error)}
        _put("%s/launch" % folder, launch, 0o600)
        self._notices.make()
        python, scheduler, variable, grace = start
        words = [python, "-I", "-S", "-c", _START, _text(self._spool), token, scheduler, variable]
        words += [library or LIBRARY, grace, self._system]
        log = "exec >>%s 2>&1\n" % shlex.quote("%s/native.log" % folder) if redirect else ""
        command = " ".join(shlex.quote(word) for word in words)
        deaf = "trap '' USR1\n" if scheduler in SUSPENDS else ""
        script = "#!/bin/sh\n# jobmill %s\n%s%sexec %s\n" % (token, deaf, log, command)
        _put("%s/script" % folder, script, 0o755)  # Torque starts it as the shell of its job
        return {"folder": folder, "script": script}

    # Looking.

    def records(self, tokens: "list[str]") -> "dict[str, str]":
        """Return the exit records that exist, as JSON text."""
        found = {token: self._launches.exit_record(token) for token in tokens}
        return {token: text for token, text in found.items() if text is not None}

    def progress(self, tokens: "list[str]") -> "dict[str, str]":
        """Return at which step launches are that run."""
        found = {}
        for token in tokens:
            steps = progress(os.fsdecode(self._launches.folder(token))) if TOKEN.fullmatch(token) else None
            if steps:
                found[token] = steps
        return found

    def began(self, token: str) -> bool:
        """Tell whether it may have taken its marker: also where we do not even see what we wrote ourselves."""
        folder = self._launches.folder(token)
        try:
            return run_folder.read(folder) is not None or not os.path.lexists(folder + b"/launch")
        except OSError:
            return True

    def said(self, token: str) -> "str | None":
        """Return the last words of the scheduler and of our program on the node."""
        try:
            text = self._launches.read(token, "native.log", 0, SAID).decode("utf-8", "replace")
        except (OSError, ValueError):
            return None
        return text.strip()[-1000:] or None

    def notices(self) -> "dict[str, str]":
        """Return what launches tell of themselves: words of `notices`."""
        return self._notices.look()

    # Ending.

    def hastened(self, tokens: "list[str]") -> "dict[str, str]":
        """Return, each with a word, those whose end the scheduler hastened: it warned our program on the node."""
        return {token: "hastened" for token in tokens if os.path.lexists(self._launches.folder(token) + b"/hastened")}

    def bury(self, token: str, taker: str, words: str) -> bool:
        """Make sure that a launch that its scheduler could not start never starts; False where it began after all."""
        try:
            run_folder.seal(self._spool, token, taker, "start_failed", words)
        except (FileExistsError, run_folder.Superseded):
            return False
        return True

    def wish(self, token: str, word: str) -> None:
        """Tell our program on the node to end its job by ``TERM`` or ``KILL``, where the folder is still there."""
        folder = self._launches.folder(token)
        if os.path.isdir(folder):
            try:
                _put("%s/wish" % _text(folder), word, 0o644)
            except (IsADirectoryError, PermissionError):
                pass  # its job keeps us from it: the scheduler ends it by force

    def settle(self, token: str) -> "list[str]":
        """Seal a launch that nobody knows of; return a word, and who took its marker where somebody has."""
        try:
            run = run_folder.read(self._launches.folder(token))
            if run is None:
                words = "its starter died before it started"
                run_folder.seal(self._spool, token, "-", "not_started", words)
                return [NOT_STARTED, ""]
        except FileExistsError:
            run = run_folder.read(self._launches.folder(token))
        except (OSError, ValueError, run_folder.Superseded):
            return [UNKNOWN, ""]
        if run is None or run.token != token:
            return [UNKNOWN, ""]
        if run.sealed:
            return [NOT_STARTED, ""]
        return [TAKEN, run.guard] if run.guard else [UNKNOWN, ""]

    def gone(self, token: str) -> bool:
        """Tell whether a launch that no scheduler knows will never run: it has ended, or its marker is ours now."""
        try:
            if self._launches.exit_record(token) is None:
                run_folder.seal(self._spool, token, "-", "not_started", "it was killed before it started")
        except (OSError, ValueError, run_folder.Superseded):
            return False
        return True

    def forget(self, tokens: "list[str]", mark: bool) -> None:
        """Remove the notices of launches; ``mark`` the folders of those that never took their marker for `prune`."""
        self._notices.drop(tokens)
        for token in tokens if mark else ():
            folder = self._launches.folder(token)
            try:
                started = run_folder.read(folder) is not None
            except OSError:
                continue  # its job has spoiled it: the others are forgotten all the same
            if not started and os.path.lexists(folder + b"/launch"):
                path = os.path.join(folder, os.fsencode(run_folder.FETCHED))
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o644))

    def tidy(self) -> None:
        """Remove notices that nobody took for long."""
        self._notices.tidy()


def _text(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")


def _put(path: str, text: str, mode: int) -> None:
    """Write a file whole: who submits the same launch again finds the old one or the new one."""
    place = run_folder.encode(path)
    own = place + (".%s" % os.urandom(6).hex()).encode()
    fd = os.open(own, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        try:
            run_folder.write(fd, run_folder.encode(text))
        finally:
            os.close(fd)
        os.rename(own, place)
    except OSError:
        try:
            os.unlink(own)
        except OSError:
            pass
        raise


def call(files: BatchFiles, verb: str, values: "dict[str, Any]") -> "Any":
    """Do one verb; raise ValueError for what is none."""
    if verb not in VERBS:
        raise ValueError("%r is not a verb of batch launches" % verb)
    return getattr(files, verb)(**values)
