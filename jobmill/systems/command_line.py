"""Runs a scheduler's commands: each with a deadline, a small environment, and its own words kept verbatim."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jobmill.errors import SystemUnavailable

DEADLINE = 6.0  # seconds: less than the silence after which a worker counts as dead
LATE, SHY = 1.0, 15.0  # seconds that a command may take for so many seconds after one that gave no answer
WORDS = 2000  # characters of an answer that are told
# what a command needs of ours; a job's environment must not depend on who started the worker
KEPT = ("HOME", "USER", "LOGNAME", "LANG", "TZ", "TMPDIR")


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
        self.env = {key: os.environ[key] for key in KEPT if key in os.environ}
        self.env["PATH"] = path or os.environ.get("PATH") or os.defpath
        self.env.update(env)
        self.deadline = deadline
        self.queries = 0  # how often it was asked
        self._late = 0.0  # time.monotonic() until which the others are not waited for as long

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
        program = shutil.which(words[0], path=self.env["PATH"])
        if program is None:
            raise SystemUnavailable(f"there is no program {words[0]!r} in {self.env['PATH']}; say where by `path`")
        try:
            done = subprocess.run(
                [program, *words[1:]],
                env=self.env,
                input=(given or "").encode("utf-8", "surrogateescape"),
                capture_output=True,
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            self._late = time.monotonic() + SHY
            raise Unanswered(f"{words[0]} gave no answer within {seconds:g} s") from None
        except OSError as error:
            raise SystemUnavailable(f"{program} cannot be started: {error.strerror}") from error
        if done.returncode < 0:
            raise Unanswered(f"{words[0]} was killed by signal {-done.returncode}")
        out, err = done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")
        return Answer(done.returncode, out, err)
