"""Runs a scheduler's commands: each with a deadline, a small environment, and its own words kept verbatim."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobmill.errors import SystemUnavailable
from jobmill.systems import command_call

DEADLINE = 6.0  # seconds: less than the silence after which a worker counts as dead
LATE, SHY = 1.0, 15.0  # seconds that a command may take for so many seconds after one that gave no answer
WORDS = 2000  # characters of an answer that are told


class Unanswered(SystemUnavailable):
    """The deadline passed, or the command was killed: what was asked for may have happened."""


@dataclass(frozen=True)
class Answer:
    """What one command printed, and how it ended."""

    code: int
    out: str
    err: str

    @property
    def words(self) -> str:
        """The scheduler's own words for what went wrong."""
        return (self.err.strip() or self.out.strip())[:WORDS] or f"exit {self.code}"


class CommandLine:
    """The commands of one scheduler on this machine."""

    def __init__(self, env: Mapping[str, str], *, path: str | None = None, deadline: float = DEADLINE) -> None:
        """``env``: what the commands need to find their cluster (SLURM_CONF, SGE_ROOT); ``path``: where they are."""
        self.env = self._environment(env, path)
        self.path = path
        self.deadline = deadline
        self.queries = 0  # how often it was asked
        self._late = 0.0  # time.monotonic() until which the others are not waited for as long

    @property
    def user(self) -> str:
        """The name by which the scheduler knows who runs these commands. Raises SystemUnavailable."""
        return command_call.user()

    def ask(self, words: Sequence[str]) -> Answer:
        """Put a query, which counts as one; raise as `call` does."""
        self.queries += 1
        return self.call(words)

    def call(self, words: Sequence[str], *, given: str | None = None, deadline: float | None = None) -> Answer:
        """Run one command; ``given``: its stdin.

        Raises SystemUnavailable when certainly nothing happened (there is no such program), Unanswered where that is
        not certain.
        """
        seconds = deadline or self.deadline
        if time.monotonic() < self._late:
            seconds = min(LATE, seconds)
        found = self._run(words, given or "", seconds)
        if "missing" in found:
            raise SystemUnavailable(f"there is no program {words[0]!r} in {found['missing']}; say where by `path`")
        if "refused" in found:
            raise SystemUnavailable(str(found["refused"]))
        if "code" not in found:
            self._late = time.monotonic() + SHY
            raise Unanswered(f"{words[0]} gave no answer within {seconds:g} s")
        if found["code"] < 0:
            raise Unanswered(f"{words[0]} was killed by signal {-found['code']}")
        return Answer(found["code"], found["out"], found["err"])

    def _environment(self, env: Mapping[str, str], path: str | None) -> dict[str, str]:
        """Return the whole environment of each command, as far as it is known here."""
        return command_call.environment(dict(env), path)

    def _run(self, words: Sequence[str], given: str, seconds: float) -> Mapping[str, Any]:
        """Run one command where they are run; return what `command_call.call` does."""
        return command_call.call(list(words), self.env, self.path, given, seconds)
