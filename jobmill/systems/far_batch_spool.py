"""The run folders of one batch system, on a login node behind SSH that shares them with the nodes, and not with us."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jobmill.errors import SystemUnavailable
from jobmill.systems import far_stage, far_words, notices
from jobmill.systems.batch_files import TAKEN
from jobmill.systems.batch_options import BatchOptions
from jobmill.systems.batch_spool import BatchSpool
from jobmill.systems.desk import DEADLINE
from jobmill.systems.far_check import check_login
from jobmill.systems.far_login import FarLogin
from jobmill.systems.far_place import FarPlace
from jobmill.systems.far_places import PRUNE
from jobmill.systems.spool_launches import NOT_STARTED, UNKNOWN
from jobmill.systems.system import Check, Progress, Submission, Token

PATIENCE = 20.0  # seconds for a part of a log, and for `check`
WRITE = 3.0  # seconds to write one launch: with its submit command it is less than a worker may be silent
FIRST = 5.0  # seconds for that where the connection has to be made


class FarBatchSpool(BatchSpool):
    """Asks the desk there, one request for a question."""

    def __init__(self, login: FarLogin, name: str, options: BatchOptions) -> None:
        self.options = options
        self._login = login
        self._prune_at = 0.0

    @property
    def path(self) -> Path:
        """The folder there, of the record that was asked for last."""
        facts = self._login.desk().facts
        if not facts:
            raise SystemUnavailable(f"{self._login.host.name}: it has not said yet where our folder is")
        return Path(facts["spool"])

    def _do(self, about: Token | None, verb: str, /, **values: Any) -> Any:
        deadline = DEADLINE
        if verb == "write":
            deadline = WRITE if self._login.desk(about).ready else FIRST
        found = self._ask(about, "batch", deadline=deadline, name=verb, arguments=values)
        try:
            return _MEANING[verb](found)
        except ValueError as error:
            raise SystemUnavailable(f"{self._login.host.name}: its desk answers nonsense: {error}") from error

    def _ask(self, token: Token | None, verb: str, *, deadline: float = DEADLINE, **values: Any) -> Any:
        try:
            return self._login.ask(verb, token=token, deadline=deadline, **values)
        except OSError as error:
            words = f"cannot use our folder there: {error.strerror or error}"
            raise SystemUnavailable(f"{self._login.host.name}: {words}") from error

    def open(self, record: str) -> None:
        """Say of which record the launches are that are asked for."""
        self._login.open(record)

    # Launching.

    def _library(self) -> str | None:
        return None  # ours was sent there when the desk was opened

    def bring(self, it: Submission, progress: Progress) -> Submission:
        """Bring the inputs there."""
        desk = self._login.desk(it.token)
        place = FarPlace(desk, self._login.host.sftp)
        try:
            return far_stage.bring(desk, place, it, progress)
        finally:
            place.close()
            desk.close()  # the host allows for few channels

    def fetch(self, token: Token, folder: Path, globs: Sequence[str], progress: Progress) -> Sequence[str]:
        """Bring home what a launch left there."""
        desk = self._login.desk(token)
        place = FarPlace(desk, self._login.host.sftp)
        try:
            return far_stage.fetch(desk, place, token, folder, globs, progress)
        except SystemUnavailable:
            desk.close()  # it may be the host's last channel that others of us wait for
            raise
        finally:
            if place.busy:
                desk.close()  # for many small files alone it is kept: it is a process there
            place.close()

    def forget(self, tokens: Sequence[Token]) -> None:
        """Remove what was brought for launches that need it no more, and now and then what ended long ago."""
        if not tokens:
            return
        self._do(tokens[0], "forget", tokens=list(tokens), mark=True)
        self._ask(tokens[0], "tidy", launches=[(token, 0) for token in tokens])
        if self.options.keep is not None and time.monotonic() >= self._prune_at:
            self._prune_at = time.monotonic() + PRUNE
            self._do(tokens[0], "tidy")
            self._ask(tokens[0], "prune", older=self.options.keep)

    def tidy(self) -> None:
        """Nothing yet: `forget` does it now and then, once it is known of which record."""

    # Looking.

    def missing(self) -> str | None:
        """Nothing to tell: the desk does not begin where it cannot use our folder."""
        return None

    def notices(self) -> Mapping[Token, str]:
        """Return what launches of the record tell of themselves; nothing before it is known."""
        return super().notices() if self._login.record else {}

    def read(self, token: Token, stream: str, offset: int, limit: int) -> bytes:
        """Return a part of a file in a run folder there, b"" when it is not there (yet)."""
        if "/" in stream or "\0" in stream or stream in ("", ".", ".."):
            raise ValueError(f"{stream!r} is not the name of a file in the run folder")
        return self._login.desk(token).read(token, stream, offset, limit, deadline=PATIENCE)

    def check(self) -> Sequence[Check]:
        """Connect, and look at the Python and the disk there."""
        try:
            answer: Any = far_words.load(self._login.ask("facts", deadline=PATIENCE))
        except SystemUnavailable as error:
            answer = error
        except (OSError, ValueError) as error:
            answer = SystemUnavailable(f"{self._login.host.name}: {error}")
        return check_login(self._login.host.name, self._login.desk().facts, answer)

    def close(self) -> None:
        """Hang up."""
        self._login.close()


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{str(value)[:80]!r} is neither yes nor no")
    return value


def _written(value: Any) -> dict[str, str]:
    found = far_words.texts(value)
    if not ("over" in found or "superseded" in found or {"folder", "script"} <= found.keys()):
        raise ValueError(f"{str(value)[:80]!r} is no answer to a launch that was to be written")
    return found


def _notices(value: Any) -> dict[str, str]:
    return {token: word for token, word in far_words.texts(value).items() if word in notices.WORDS}


def _settled(value: Any) -> list[str]:
    word, taker = far_words.words(value, 2)
    if word not in (NOT_STARTED, UNKNOWN, TAKEN):
        raise ValueError(f"{word[:80]!r} is no answer to what became of a launch")
    return [word, taker]


_MEANING: Mapping[str, Callable[[Any], Any]] = {
    "write": _written,
    "records": far_words.texts,
    "progress": far_words.texts,
    "began": _flag,
    "said": far_words.text_or_none,
    "notices": _notices,
    "settle": _settled,
    "gone": _flag,
    "forget": lambda _: None,
    "tidy": lambda _: None,
    "hastened": far_words.texts,
    "bury": _flag,
    "wish": lambda _: None,
}
