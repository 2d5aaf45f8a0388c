"""The system under test: what its author gives and declares, and the jobs that the tests give it."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest

from jobmill.errors import nearest
from jobmill.systems.system import ExecutionSystem, Handle, Submission, Token
from jobmill.testing.launches import Launches

PROMISES: Mapping[str, str] = {  # what a system may be unable to keep, if its author says why
    "absent": "tell when its endpoint does not answer (there is no endpoint that could be absent)",
    "commands": "run commands",
    "fled": "kill processes that left the session of their job",
    "live_logs": "show what a job writes while it runs",
    "redirects": "take stdin, stdout and stderr by path",
}
# $1 shared folder, $2 token, $3 tenths of a second, $4 exit value. Ends early when the test is over.
BODY = (
    'echo "$2" >> "$1/starts"; n=0;'
    ' while [ $n -lt "$3" ] && [ ! -e "$1/stop" ]; do sleep 0.1; n=$((n + 1)); done; exit "$4"'
)
LONG = 60.0  # seconds: longer than any test looks, and a bound for what a broken system leaves behind


class Subject:
    """What to give: `make`. What to declare where it is not so: all the rest."""

    pytestmark = pytest.mark.timeout(300)  # seconds; every wait of the tests has its own, shorter bound

    cannot: ClassVar[Mapping[str, str]] = {}  # promise (PROMISES) -> why this system cannot keep it
    options: ClassVar[Mapping[str, Any]] = {}  # what a right configuration has, where `build` needs some
    holds: ClassVar[bool | None] = None  # submit holds until release; None: where handles are handed out
    signals: ClassVar[Literal["signal", "128+n"]] = "signal"  # how a record tells that a signal ended the program
    walltime: ClassVar[Literal["enforced", "by_poll", "refused"]] = "enforced"  # by_poll: `overdue` asks for a kill
    keeps_slots: ClassVar[bool] = False  # `set_slots` bounds what runs
    patience: ClassVar[float] = 20.0  # seconds within which whatever has to come, comes
    quiet: ClassVar[float] = 0.6  # seconds without it after which something is taken not to come
    many: ClassVar[int] = 200  # launches in one call

    spool: Path
    shared: Path

    def make(self, spool: Path) -> ExecutionSystem:
        """Return a new instance, each time for the same place; ``spool`` is the folder of the run folders."""
        raise NotImplementedError(f"{type(self).__name__} needs make(self, spool), which returns the system")

    def make_absent(self, spool: Path) -> ExecutionSystem:
        """Return an instance whose endpoint does not answer."""
        raise NotImplementedError(
            f"{type(self).__name__} needs make_absent(self, spool), which returns a system whose endpoint does not "
            "answer; or cannot = {'absent': 'why there is nothing that could be absent'}"
        )

    def share(self, folder: Path) -> Path:
        """Return an empty folder that the jobs see, and may write to, under the same path as the tests."""
        shared = folder / "shared"
        shared.mkdir()
        return shared

    def pretend(self, *, seconds: float, exit: int) -> Mapping[str, str]:
        """Return the env of a job that lasts and ends so, where commands are not run."""
        return {}

    def starts(self, submission: Submission) -> int:
        """Return how often a `body` job was started: the lines that it wrote into the shared folder."""
        return self.written("starts").split().count(submission.token.encode())

    # What the tests use.

    @pytest.fixture(autouse=True)
    def _subject(self, tmp_path: Path) -> Iterator[None]:
        self._check_declarations()
        self.spool = tmp_path / "spool"
        self.spool.mkdir()
        self.shared = self.share(tmp_path)
        self.record = f"c{uuid.uuid4().hex[:10]}"
        self._numbers = itertools.count(1)
        self._open: list[Launches] = []
        yield
        (self.shared / "stop").touch()
        for launches in self._open:
            launches.clear_up()

    def begin(self, *, lead: bool = True) -> Launches:
        """Make the system; with ``lead`` as its starter, else as any other process has it."""
        launches = Launches(self.make(self.spool), patience=self.patience)
        self._open.append(launches)
        if lead:
            assert launches.system.lead(), "nobody else leads, so lead() has to be True"
        return launches

    def need(self, promise: str) -> None:
        """Skip a test of a promise that cannot be kept, with the reason that the author declared."""
        if promise in self.cannot:
            pytest.skip(f"{type(self).__name__} declares that it cannot {PROMISES[promise]}: {self.cannot[promise]}")

    def names(self, system: ExecutionSystem, answer: object, handle: Handle, token: Token) -> bool:
        """Tell whether an answer is a handle of this launch: the same one, or as `handle_for` lets it be told."""
        alike = system.launches_at_once and isinstance(answer, str) and answer.endswith(token)
        return answer == handle or alike

    def held(self, system: ExecutionSystem) -> bool:
        """Tell whether a submission waits for `release`."""
        return not system.launches_at_once if self.holds is None else self.holds

    def written(self, name: str) -> bytes:
        """Return what a job wrote into a file of the shared folder, b"" when there is none."""
        try:
            return (self.shared / name).read_bytes()
        except FileNotFoundError:
            return b""

    def token(self, name: str, run: int = 1, record: str | None = None) -> Token:
        """Return a new token."""
        return f"{record or self.record}.{next(self._numbers)}:{name}:{run}"

    def job(self, *argv: str, record: str | None = None, **fields: Any) -> Submission:
        """Return a submission of its own."""
        name = f"j{next(self._numbers)}"
        return Submission(token=self.token(name, record=record), job_id=name, run=1, argv=argv, name=name, **fields)

    def sh(self, text: str, *words: str, **fields: Any) -> Submission:
        """Return a submission of a shell command; ``words`` are its $1, $2 …"""
        return self.job("/bin/sh", "-c", text, "sh", *words, **fields)

    def body(self, *, seconds: float = 0.0, exit: int = 0, **fields: Any) -> Submission:
        """Return a submission that counts its starts, lasts so long and ends with this exit value."""
        name = f"j{next(self._numbers)}"
        token = self.token(name, record=fields.pop("record", None))
        argv = ("/bin/sh", "-c", BODY, "sh", str(self.shared), token, str(round(seconds * 10)), str(exit))
        env = dict(self.pretend(seconds=seconds, exit=exit))
        return Submission(token=token, job_id=name, run=1, argv=argv, env=env, name=name, **fields)

    def _check_declarations(self) -> None:
        for promise, why in self.cannot.items():
            where = f"{type(self).__name__}.cannot"
            assert promise in PROMISES, f"{where}: no promise {promise!r}{nearest(promise, PROMISES)}; {list(PROMISES)}"
            assert why.strip(), f"{where}[{promise!r}] has to say why"
