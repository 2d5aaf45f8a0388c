"""The run folder of a launch in a container: who may start it, how it ended, and what it wrote.

Its `run` file is the one of `run_folder`, without a pid: ``sent <ticks> <signal>`` and ``over <ticks>`` say what we did
to it, ``link <name> <JSON path>`` where the spec put a stream. It is written by us alone, but lies where the job can
write: the end counts that the engine tells first.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType

from jobmill.systems import process_tree, run_folder
from jobmill.systems.system import ExitInfo, Token

GLANCE = 0.1  # seconds for which the right may be held by who only looks
MESSAGE = 4096  # bytes of a job's error file that are told
LAST_WORDS = 2048  # bytes of stderr in which an init's complaint is looked for


class ContainerFolder:
    """One launch's folder in the spool."""

    def __init__(self, spool: Path, token: Token) -> None:
        self.token = token
        self._spool = os.fsencode(spool)
        self._path = run_folder.folder_of(self._spool, token)
        self.path = Path(os.fsdecode(self._path))

    def enter(
        self,
        files: Mapping[str, str] = MappingProxyType({}),
        *,
        links: Mapping[str, str] = MappingProxyType({}),  # name -> the file elsewhere
        folder: str | None = None,  # the working directory, where it lies in the run folder
        staged: str | None = None,  # the folder whose content is moved in
        owner: tuple[int, int] | None = None,  # whose it is to be, where that is not us
    ) -> bool:
        """Make the folder and what it holds before the start; False: the launch is over, it must not be made again.

        Raises run_folder.Superseded, and OSError.
        """
        run_folder.enter(self._spool, self.token)
        with suppress(FileExistsError):
            os.close(run_folder.take(self._path, run_folder.header(self.token, "-")))
        run = self.run()
        if run is None or run.end is not None:
            return False
        if staged is not None:
            self._receive(staged, owner)
        for name, text in files.items():
            new = self.path / f".{name}.new"
            new.write_text(text, encoding="utf-8")
            self._give(new, owner)
            new.replace(self.path / name)
        known = self.links()
        for name, place in links.items():
            if name not in known:  # the first counts: later the job may have put a link of its own in the way
                real = os.path.join(os.path.realpath(os.path.dirname(place)), os.path.basename(place))  # noqa: PTH118,PTH119,PTH120
                run_folder.append(self._path, b"link %s %s\n" % (name.encode(), json.dumps(real).encode()))
            with suppress(FileExistsError):
                (self.path / name).symlink_to(place)
        if folder is not None:  # else the engine makes it, as root
            Path(folder).mkdir(parents=True, exist_ok=True)
            self._give(Path(folder), owner)
        self._give(self.path, owner)
        return True

    def _receive(self, staged: str, owner: tuple[int, int] | None) -> None:
        """Move in what was staged; nothing to do where an earlier try has done so."""
        if owner is not None and os.getuid() == 0:
            for folder, folders, files in os.walk(staged):
                for name in (*folders, *files):
                    self._give(Path(folder, name), owner)
        with suppress(FileNotFoundError):
            run_folder.receive(self._path, os.fsencode(staged))

    def _give(self, path: Path, owner: tuple[int, int] | None) -> None:
        if owner is not None and os.getuid() == 0:
            os.chown(path, *owner, follow_symlinks=False)

    def run(self) -> run_folder.Run | None:
        """Return what the `run` file says, None where there is none or it is another life's."""
        run = run_folder.read(self._path)
        return run if run is not None and run.token == self.token else None

    def links(self) -> dict[str, str]:
        """Return by name where streams go that the spec put elsewhere: by the `run` file, which no job can write."""
        found: dict[str, str] = {}
        with suppress(OSError, ValueError):
            for line in (self.path / "run").read_text("utf-8", "surrogateescape").splitlines():
                word, _, rest = line.partition(" ")
                if word == "link":
                    name, _, place = rest.partition(" ")
                    found.setdefault(name, str(json.loads(place)))
        return found

    def exit(self) -> ExitInfo | None:
        """Return the end that was taken down."""
        try:
            run = self.run()
            return ExitInfo.from_json(run.end) if run is not None and run.end is not None else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def end(self, info: ExitInfo, *, started: bool = True) -> None:
        """Take an end down, durably; the first one counts. Raises OSError."""
        fd = run_folder.reopen(self._path)
        try:
            run_folder.write(fd, run_folder.end_line("exit" if started else "sealed", info.to_json()))
            os.fsync(fd)
        finally:
            os.close(fd)

    def sent(self, signal_name: str, *, overdue: bool) -> None:
        """Note a signal before it is sent. Raises OSError."""
        over = run_folder.over_line() if overdue else b""
        run_folder.append(self._path, over + b"sent %d %s\n" % (process_tree.ticks_now(), signal_name.encode()))

    def was_sent(self) -> bool:
        """Tell whether we sent a signal."""
        with suppress(OSError):
            return b"\nsent " in (self.path / "run").read_bytes()
        return False

    @contextmanager
    def starting(self) -> Iterator[int | None]:
        """Hold the right to start or to remove the container; give a descriptor that holds it, None: another does.

        Whoever inherits the descriptor holds it, too: a start goes on when the one who asked for it dies.
        """
        try:
            fd = os.open(self._path + b"/run", os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            yield None
            return
        try:
            yield fd if _locked(fd, fcntl.LOCK_EX, GLANCE) else None
        finally:
            os.close(fd)

    def is_starting(self) -> bool:
        """Tell whether somebody has the right to start it in hand: to ask its engine would wait for the start."""
        try:
            fd = os.open(self._path + b"/run", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            return not _locked(fd, fcntl.LOCK_SH, 0.0)
        finally:
            os.close(fd)

    def message(self) -> str:
        """Return what the job left in its error file."""
        return self.read("error", 0, MESSAGE, follow=False).decode("utf-8", "replace").strip("\0\r\n\t ")

    def last_words(self) -> str:
        """Return the end of its stderr."""
        return self.read("stderr", -LAST_WORDS, LAST_WORDS, follow=False).decode("utf-8", "replace")

    def read(self, name: str, offset: int, limit: int, *, follow: bool) -> bytes:
        """Return a part of a file, b"" where there is none. ``follow``: to where the spec put a stream.

        An offset below 0 counts from the end. The job may have put anything there: what is no file is empty, and a link
        of its own, which for us may lead to what it cannot see, is, too.
        """
        if "/" in name or "\0" in name or name in ("", ".", ".."):
            raise ValueError(f"{name!r} is not the name of a file in the run folder")
        place = self.links().get(name) if follow else None
        try:
            fd = os.open(place or self.path / name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        except OSError:
            return b""
        try:
            if place and str(Path(f"/proc/self/fd/{fd}").readlink()) != place:  # a folder above it became a link
                return b""
            return os.pread(fd, limit, offset if offset >= 0 else max(0, os.fstat(fd).st_size + offset))
        except OSError:
            return b""
        finally:
            os.close(fd)


def _locked(fd: int, how: int, patience: float) -> bool:
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(fd, how | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.005)
        else:
            return True
