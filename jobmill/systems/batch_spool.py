"""The run folders of one batch system, on a file system that its nodes share with us."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path

from jobmill.errors import SystemUnavailable
from jobmill.systems import batch_script, far_words, run_folder
from jobmill.systems.batch_options import BatchOptions
from jobmill.systems.notices import Notices
from jobmill.systems.spool_launches import TOKEN, SpoolLaunches
from jobmill.systems.spool_stage import SpoolStage
from jobmill.systems.step_progress import progress
from jobmill.systems.system import Check, ExitInfo, Progress, Settled, Submission, Token

SAID = 65536  # bytes of a node's own words that are read


class BatchSpool:
    """What a launch is by its files. A word that is told as who took a marker is ``<kind>:<scheduler's id>``."""

    def __init__(self, spool: Path, name: str, options: BatchOptions) -> None:
        self.path = Path(spool).absolute()
        self._options = options
        self._launches = SpoolLaunches(os.fsencode(self.path), name)
        self._stage = SpoolStage(self.path, name)
        self._name = name
        self._notices = Notices(os.fsencode(self.path), name)

    # Launching.

    def over(self, token: Token) -> str | None:
        """Return who took the marker of a launch that has ended already. Raises SystemUnavailable."""
        try:
            run = run_folder.read(self._launches.folder(token))
        except OSError as error:
            raise self._unusable(error) from error
        return run.guard if run is not None and run.token == token and run.end is not None else None

    def write(self, it: Submission, *, kind: str, variable: str, redirect: bool) -> tuple[str, str]:
        """Write a launch; return its run folder, and the script that starts it (`batch_script.write`).

        Raises run_folder.Superseded and SystemUnavailable.
        """
        try:
            return batch_script.write(
                it,
                self.path,
                system=self._name,
                scheduler=kind,
                variable=variable,
                python=self._options.python,
                grace=self._options.kill_grace,
                env=self._options.job_env,
                redirect=redirect,
            )
        except run_folder.Superseded:
            raise
        except OSError as error:
            raise self._unusable(error) from error

    def _unusable(self, error: OSError) -> SystemUnavailable:
        return SystemUnavailable(f"cannot use the spool {self.path}: {error.strerror}")

    def bring(self, it: Submission, progress: Progress) -> Submission:
        """Copy the inputs to where the launch takes them from, or into the given workdir."""
        return self._stage.bring(it, progress)

    def forget(self, tokens: Collection[Token]) -> None:
        """Remove what was brought for launches and not taken, and their notices."""
        self._notices.drop(tokens)
        for token in tokens:
            self._stage.drop(token)

    def tidy(self) -> None:
        """Remove what was brought and taken by nobody for long."""
        self._stage.tidy()
        self._notices.tidy()

    # Looking.

    def missing(self) -> str | None:
        """Tell in words why nothing is seen of any launch: moved, or not mounted. What is not seen is not absent."""
        if (self.path / "jobs").is_dir():
            return None
        return f"the spool {self.path} has no folder `jobs`: is it mounted?"

    def notices(self) -> Mapping[Token, str]:
        """Return what launches tell of themselves: words of `notices`."""
        return self._notices.look()

    def records(self, tokens: Collection[Token]) -> Mapping[Token, ExitInfo]:
        """Return the exit records that exist. A job can write to its folder: what is none is told in its place."""
        found = {}
        for token in tokens:
            text = self._launches.exit_record(token)
            if text is not None:
                found[token] = ExitInfo.from_json(far_words.record(text))
        return found

    def progress(self, tokens: Collection[Token]) -> Mapping[Token, str]:
        """Return at which step launches are that run."""
        found = {}
        for token in tokens:
            if TOKEN.fullmatch(token) and (steps := progress(os.fsdecode(self._launches.folder(token)))):
                found[token] = steps
        return found

    def began(self, token: Token) -> bool:
        """Tell whether it may have taken its marker: also where we do not even see what we wrote ourselves."""
        folder = self._launches.folder(token)
        try:
            return run_folder.read(folder) is not None or not os.path.lexists(folder + b"/launch")
        except OSError:
            return True

    def said(self, token: Token) -> str | None:
        """Return the last words of the scheduler and of our program on the node."""
        with suppress(OSError, ValueError):
            text = self._launches.read(token, "native.log", 0, SAID).decode("utf-8", "replace")
            return text.strip()[-1000:] or None
        return None

    def read(self, token: Token, stream: str, offset: int, limit: int) -> bytes:
        """Return a part of a file in a run folder."""
        return self._launches.read(token, stream, offset, limit)

    # Ending.

    def settle(self, token: Token) -> str | Settled:
        """Seal a launch that nobody knows of; return who took its marker where somebody has."""
        try:
            run = run_folder.read(self._launches.folder(token))
            if run is None:
                words = "its starter died before it started"
                run_folder.seal(os.fsencode(self.path), token, "-", "not_started", words)
                return Settled.NOT_STARTED
        except FileExistsError:
            run = run_folder.read(self._launches.folder(token))
        except (OSError, ValueError, run_folder.Superseded):
            return Settled.UNKNOWN
        if run is None or run.token != token:
            return Settled.UNKNOWN
        return Settled.NOT_STARTED if run.sealed else run.guard or Settled.UNKNOWN

    def gone(self, token: Token) -> bool:
        """Tell whether a launch that no scheduler knows will never run: it has ended, or its marker is ours now."""
        with suppress(OSError, ValueError, run_folder.Superseded):
            if self._launches.exit_record(token) is None:
                run_folder.seal(os.fsencode(self.path), token, "-", "not_started", "it was killed before it started")
            return True
        return False

    def check(self) -> Check:
        """Try to write to it."""
        try:
            batch_script.library(self.path)
            (self.path / "jobs").mkdir(exist_ok=True)
        except OSError as error:
            fix = "make it writable for this user, and set `spool` to a file system that the nodes share"
            return Check(name="spool", ok=False, detail=f"{self.path}: {error.strerror}", fix=fix)
        return Check(name="spool", ok=True, detail=f"{self.path} is writable; the nodes have to see it as well")
