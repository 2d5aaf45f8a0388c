"""The run folders of one batch system, on a file system that its nodes share with us."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from jobmill.errors import SystemUnavailable
from jobmill.systems import batch_files, batch_script, far_words, run_folder
from jobmill.systems.batch_files import BatchFiles
from jobmill.systems.batch_options import BatchOptions
from jobmill.systems.spool_launches import SpoolLaunches
from jobmill.systems.spool_stage import SpoolStage
from jobmill.systems.system import Check, ExitInfo, Progress, Settled, Submission, Token


class BatchSpool:
    """What a launch is by its files. A word that is told as who took a marker is ``<kind>:<scheduler's id>``."""

    def __init__(self, spool: Path, name: str, options: BatchOptions) -> None:
        self.options = options
        self._path = Path(spool).absolute()
        self._launches = SpoolLaunches(os.fsencode(self._path), name)
        self._files = BatchFiles(os.fsencode(self._path), name)
        self._stage = SpoolStage(self._path, name)

    @property
    def path(self) -> Path:
        """The folder, as the nodes see it; behind SSH it is known once a launch was written."""
        return self._path

    def open(self, record: str) -> None:
        """Say of which record the launches are that are asked for."""

    def _do(self, about: Token | None, verb: str, /, **values: Any) -> Any:
        """Do a verb of `BatchFiles` where the folders are; ``about``: one of the launches that it is about."""
        try:
            return batch_files.call(self._files, verb, values)
        except OSError as error:
            raise self._unusable(error) from error

    def _unusable(self, error: OSError) -> SystemUnavailable:
        return SystemUnavailable(f"cannot use the spool {self._path}: {error.strerror}")

    # Launching.

    def write(self, it: Submission, *, kind: str, variable: str, redirect: bool) -> tuple[str, str] | str:
        """Write a launch; return its run folder, and the text of the script that starts it.

        Or who took its marker, where it has ended already: it is the same launch again.
        ``variable``: in which the scheduler tells the job its own id; ``redirect``: the script itself sends what it and
        our program say into `native.log`. Raises run_folder.Superseded and SystemUnavailable.
        """
        found = self._do(
            it.token,
            "write",
            token=it.token,
            launch=batch_script.launch(it, self.options.job_env),
            start=[self.options.python, kind, variable, f"{self.options.kill_grace:g}"],
            library=self._library(),
            redirect=redirect,
        )
        if "superseded" in found:
            raise run_folder.Superseded(found["superseded"])
        if "over" in found:
            return str(found["over"])
        return str(found["folder"]), str(found["script"])

    def _library(self) -> str | None:
        """Return where the nodes find our library, None: where the code is that writes the launch."""
        try:
            return str(batch_script.library(self._path))
        except OSError as error:
            raise self._unusable(error) from error

    def bring(self, it: Submission, progress: Progress) -> Submission:
        """Copy the inputs to where the launch takes them from, or into the given workdir."""
        return self._stage.bring(it, progress)

    def forget(self, tokens: Sequence[Token]) -> None:
        """Remove what was brought for launches and not taken, and their notices."""
        self._do(None, "forget", tokens=list(tokens), mark=False)
        for token in tokens:
            self._stage.drop(token)

    def tidy(self) -> None:
        """Remove what was brought and taken by nobody for long."""
        self._stage.tidy()
        self._do(None, "tidy")

    # Looking.

    def missing(self) -> str | None:
        """Tell in words why nothing is seen of any launch: moved, or not mounted. What is not seen is not absent."""
        if (self._path / "jobs").is_dir():
            return None
        return f"the spool {self._path} has no folder `jobs`: is it mounted?"

    def notices(self) -> Mapping[Token, str]:
        """Return what launches tell of themselves: words of `notices`."""
        found: Mapping[Token, str] = self._do(None, "notices")
        return found

    def records(self, tokens: Collection[Token]) -> Mapping[Token, ExitInfo]:
        """Return the exit records that exist. A job can write to its folder: what is none is told in its place."""
        if not tokens:
            return {}
        found = self._do(next(iter(tokens)), "records", tokens=list(tokens))
        return {token: ExitInfo.from_json(far_words.record(found[token])) for token in tokens if token in found}

    def hastened(self, tokens: Collection[Token]) -> Collection[Token]:
        """Return those whose end the scheduler hastened: it warned our program on the node."""
        if not tokens:
            return ()
        found: Mapping[Token, str] = self._do(next(iter(tokens)), "hastened", tokens=list(tokens))
        return found.keys()

    def progress(self, tokens: Collection[Token]) -> Mapping[Token, str]:
        """Return at which step launches are that run."""
        if not tokens:
            return {}
        found: Mapping[Token, str] = self._do(next(iter(tokens)), "progress", tokens=list(tokens))
        return {token: found[token] for token in tokens if token in found}

    def began(self, token: Token) -> bool:
        """Tell whether it may have taken its marker: also where we do not even see what we wrote ourselves."""
        return bool(self._do(token, "began", token=token))

    def said(self, token: Token) -> str | None:
        """Return the last words of the scheduler and of our program on the node."""
        found = self._do(token, "said", token=token)
        return None if found is None else str(found)

    def read(self, token: Token, stream: str, offset: int, limit: int) -> bytes:
        """Return a part of a file in a run folder."""
        return self._launches.read(token, stream, offset, limit)

    # Ending.

    def settle(self, token: Token) -> str | Settled:
        """Seal a launch that nobody knows of; return who took its marker where somebody has."""
        try:
            word, taker = self._do(token, "settle", token=token)
        except SystemUnavailable:
            return Settled.UNKNOWN
        return str(taker) if word == batch_files.TAKEN else Settled(word)

    def wish(self, token: Token, word: str) -> None:
        """Tell our program on the node to end its job by ``TERM`` or ``KILL``. Raises SystemUnavailable."""
        self._do(token, "wish", token=token, word=word)

    def bury(self, token: Token, taker: str, words: str) -> bool:
        """Make sure that a launch that its scheduler could not start never starts; False where it began after all.

        Raises SystemUnavailable.
        """
        return bool(self._do(token, "bury", token=token, taker=taker, words=words))

    def gone(self, token: Token) -> bool:
        """Tell whether a launch that no scheduler knows will never run: it has ended, or its marker is ours now."""
        return bool(self._do(token, "gone", token=token))

    def fetch(self, token: Token, folder: Path, globs: Sequence[str], progress: Progress) -> Sequence[str]:
        """Bring home what a launch left; only where files are not shared."""
        raise NotImplementedError("its files are shared with us")

    def check(self) -> Sequence[Check]:
        """Try to write to it."""
        try:
            batch_script.library(self._path)
            (self._path / "jobs").mkdir(exist_ok=True)
        except OSError as error:
            fix = "make it writable for this user, and set `spool` to a file system that the nodes share"
            return [Check(name="spool", ok=False, detail=f"{self._path}: {error.strerror}", fix=fix)]
        return [Check(name="spool", ok=True, detail=f"{self._path} is writable; the nodes have to see it as well")]

    def close(self) -> None:
        """Hang up where it is behind SSH."""
