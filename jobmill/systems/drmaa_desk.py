"""What systems ask of a DRMAA library: submit held, release, look, end, and what it said of ends."""

from __future__ import annotations

import json
import re
import time
import urllib.parse
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from jobmill.errors import SystemUnavailable
from jobmill.systems import drmaa_states
from jobmill.systems.batch_row import Phase, Row
from jobmill.systems.command_line import Unanswered
from jobmill.systems.drmaa_child import DrmaaChild, DrmaaError
from jobmill.systems.spool_launches import TOKEN
from jobmill.systems.system import SubmitError, SubmitFailure, Token

FOLDER = "drmaa"  # of the spool
LEFT_OVER = 7 * 86400.0  # seconds after which what is kept of a job that has ended is removed
# the library of Debian's Grid Engine holds an allocator that wants room before Python starts
TUNABLES = "glibc.rtld.optional_static_tls=16384"
GONE = ("InvalidJobException", "InvalidArgumentException")  # the second: it is no id of this scheduler
_SENT_NOTHING = re.compile(r"unable to send message|unable to contact|Connection refused", re.I)
_LIMIT = re.compile(r"only \d+ (?:active )?jobs? (?:are|is) allowed|limit|maximum number", re.I)
_PERMANENT = (
    "DeniedByDrmException",
    "AuthorizationException",
    "ConflictingAttributeValuesException",
    "InvalidArgumentException",
    "InvalidAttributeFormatException",
    "InvalidAttributeValueException",
    "InvalidJobTemplateException",
    "UnsupportedAttributeException",
)
_TRANSIENT = ("TryLaterException", "OutOfMemoryException")


class DrmaaDesk:
    """One session of a library, and what is known of the jobs that were submitted by any."""

    def __init__(
        self, spool: Path, system: str, env: Mapping[str, str], *, library: str | None = None, contact: str = ""
    ) -> None:
        """``env``: the child's environment; ``library``: path of the libdrmaa, None: as the environment has it."""
        self.folder = Path(spool) / FOLDER / system
        given = {"GLIBC_TUNABLES": TUNABLES, **env}
        self.child = DrmaaChild(self.folder, given | ({"DRMAA_LIBRARY_PATH": library} if library else {}), contact)

    @property
    def live(self) -> bool:
        """True where a session is under way in this process: none has to be begun for what is asked next."""
        return self.child.live

    def about(self) -> Mapping[str, str]:
        """Return what the library says of itself, by `version`, `system`, `library` and `contact`."""
        found: Mapping[str, str] = self.child.call("about")
        return found

    def run(self, template: Mapping[str, Any], token: Token) -> str | SubmitError:
        """Submit a job by the attributes of its template; return its id, or why the library refuses it."""
        try:
            (native,) = self.child.call("run", template=_held(template), token=token)
        except DrmaaError as error:
            return _refusal(error)
        except Unanswered as error:
            return SubmitError(failure=SubmitFailure.UNCLEAR, message=str(error))
        return str(native)

    def bulk(self, template: Mapping[str, Any], token: Token, first: int, last: int, step: int = 1) -> list[str]:
        """Submit one template many times, with an index of its own each; return the ids. Raises DrmaaError."""
        found: list[str] = self.child.call(
            "bulk", template=_held(template), token=token, first=first, last=last, step=step
        )
        return found

    def control(self, ids: Sequence[str], action: str) -> Mapping[str, str]:
        """Have jobs `hold`, `release`, `suspend`, `resume` or `terminate`; return the error of each that has one.

        Raises SystemUnavailable where the scheduler is out of reach.
        """
        if not ids:
            return {}
        told: Mapping[str, str] = self.child.call("control", ids=list(ids), action=action)
        wrong = {id_: words for id_, words in told.items() if words}
        for words in wrong.values():
            if words.startswith("DrmCommunicationException"):
                raise SystemUnavailable(words)
        return wrong

    def states(self, ids: Sequence[str]) -> Mapping[str, Row]:
        """Return the rows of jobs that the library knows, each with the token that was written down for it.

        Raises SystemUnavailable rather than telling a part.
        """
        rows: dict[str, Row] = {}
        asked = [id_ for id_ in ids if id_]
        try:
            told: Mapping[str, tuple[str | None, str]] = self.child.call("states", ids=asked) if asked else {}
        except DrmaaError as error:
            raise SystemUnavailable(str(error)) from error
        for id_, (word, wrong) in told.items():
            if word is not None:
                phase = drmaa_states.STATES.get(word, Phase.UNKNOWN)
                rows[id_] = Row(native=id_, token=self.token_of(id_), phase=phase, state=word)
            elif not wrong.startswith(GONE):
                raise SystemUnavailable(wrong)
        return rows

    def ids(self) -> list[str]:
        """Return the ids of all jobs that were submitted here and not forgotten. Raises SystemUnavailable."""
        try:
            return [urllib.parse.unquote(path.stem) for path in self.folder.glob("*.job")]
        except OSError as error:
            raise SystemUnavailable(f"cannot use the spool {self.folder}: {error.strerror}") from error

    def token_of(self, native: str) -> Token:
        """Return the token of a job that was submitted here, "" for another."""
        with suppress(OSError):
            return self._file(native, "job").read_text(encoding="utf-8")
        return ""

    def end(self, native: str) -> Row | None:
        """Return what the library said of the end of a job, to whichever session."""
        try:
            return drmaa_states.end_of(json.loads(self._file(native, "end").read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def ends(self, natives: Sequence[str], tokens: Sequence[Token]) -> list[Row]:
        """Return the ends that are known, by id or by token."""
        ids = [*natives, *(id_ for id_ in (self.ids() if tokens else ()) if self.token_of(id_) in tokens)]
        return [row for id_ in ids if (row := self.end(id_)) is not None]

    def forget(self, natives: Sequence[str]) -> None:
        """Drop what is kept of jobs whose ends are recorded."""
        for native in natives:
            for kind in ("job", "end"):
                with suppress(OSError):
                    self._file(native, kind).unlink(missing_ok=True)

    def tidy(self, ended: Callable[[Collection[Token]], Collection[Token]]) -> None:
        """Drop what is kept of jobs of long ago that have ``ended``, by their own records: who was to do it died."""
        old: dict[str, Token] = {}
        for native in self.ids():
            with suppress(OSError):
                if time.time() - self._file(native, "job").stat().st_mtime > LEFT_OVER:
                    old[native] = self.token_of(native)
        over = ended([token for token in old.values() if TOKEN.fullmatch(token)])
        self.forget([native for native, token in old.items() if token in over])

    def close(self) -> None:
        """Leave the session."""
        self.child.close()

    def _file(self, native: str, kind: str) -> Path:
        return self.folder / f"{urllib.parse.quote(native, safe='')}.{kind}"


def installed() -> bool:
    """Tell whether the package drmaa is installed; its import would load the library."""
    return find_spec("drmaa") is not None


def specification(words: Sequence[str]) -> str | None:
    """Return words as one native specification; None where a word would not come through as it is."""
    if any(not word or re.search(r"[\s'\"\\]", word) for word in words):
        return None
    return " ".join(words)


def _held(template: Mapping[str, Any]) -> dict[str, Any]:
    return {**template, "jobSubmissionState": "drmaa_hold"}


def _refusal(error: DrmaaError) -> SubmitError:
    if _SENT_NOTHING.search(str(error)):
        raise SystemUnavailable(str(error))
    if error.kind in (*_PERMANENT, *_TRANSIENT) and _LIMIT.search(str(error)):
        failure = SubmitFailure.LIMIT
    elif error.kind in _PERMANENT:
        failure = SubmitFailure.PERMANENT
    else:
        failure = SubmitFailure.TRANSIENT if error.kind in _TRANSIENT else SubmitFailure.UNCLEAR
    return SubmitError(failure=failure, message=str(error))
