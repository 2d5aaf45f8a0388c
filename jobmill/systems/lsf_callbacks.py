"""The option `callbacks` of `lsf`: jobs beside each launch that call a command when it has started, and when it ended.

The launch is submitted first, and its tasks wait for it by LSF's own dependency conditions: `started(id)` is true once
it runs or has ended, `ended(id)` once it has (https://www.ibm.com/docs/en/spectrum-lsf/10.1.0?topic=scheduling-dependency-conditions).
Not the other way round, with a launch that waits for the task before it: a callback that hangs would hold the job up,
and would tell of a start before there was one. All are submitted held.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobmill.errors import ConfigError
from jobmill.systems import launch_token
from jobmill.systems.batch_row import Phase, Row
from jobmill.systems.system import Submission, Token

CONDITIONS = {"start": "started", "end": "ended"}
MINUTES = 60  # that a callback may take
BEGAN = (Phase.QUEUED, Phase.RUNNING, Phase.LEAVING, Phase.UNREACHABLE, Phase.UNKNOWN)
_JOB, _CALLBACK = "jobmill.systems.batch_job import", "jobmill.systems.batch_callback import"


@dataclass(frozen=True)
class LsfCallbacks:
    """Which commands are called."""

    commands: Mapping[str, tuple[str, ...]]  # role (start, end) -> argv

    @classmethod
    def parse(cls, where: str, value: Any) -> LsfCallbacks | None:
        """Read the option; raise ConfigError for what it cannot be."""
        if value is None:
            return None
        form = f"{where}.callbacks: write a mapping with start and end, each a list of words, as end: [/opt/done, lab]"
        if not isinstance(value, Mapping) or not value or not set(value) <= set(CONDITIONS):
            raise ConfigError(form)
        for words in value.values():
            if not isinstance(words, list | tuple) or not words:
                raise ConfigError(form)
            if not all(isinstance(word, str) and word and "\0" not in word for word in words):
                raise ConfigError(form)
        return cls({role: tuple(value[role]) for role in CONDITIONS if role in value})

    def words(self, it: Submission, role: str, native: str) -> list[str]:
        """Return the words for bsub; the description has the token and the role."""
        words = ["bsub", "-H", "-rn", "-w", f"{CONDITIONS[role]}({native})", "-n", "1", "-W", str(MINUTES)]
        words += ["-J", f"{launch_token.split(it.token)[1]}.{role}", "-Jd", f"{it.token}/{role}", "-o", "/dev/null"]
        words += ["-q", it.queue] if it.queue else []
        return [*words, *(["-P", it.account] if it.account else [])]

    def script(self, script: str, role: str, native: str) -> str:
        """Return a launch's script as that of its callback, which is started as the launch is."""
        if script.count(_JOB) != 1:
            raise ValueError("the script of a launch is another one than callbacks know")
        # not into the run folder: whose standard streams lie there is taken for a process of the launch
        lines = [line for line in script.rstrip().split("\n") if not line.startswith("exec >>")]
        more = shlex.join([role, native, *self.commands[role]])
        return "\n".join(lines).replace(_JOB, _CALLBACK) + f" {more}\n"

    def tasks(self, rows: Mapping[str, Row], tokens: Sequence[Token]) -> dict[Token, list[Row]]:
        """Return the tasks of launches, those that ended included."""
        found: dict[Token, list[Row]] = {token: [] for token in tokens}
        for row in rows.values():
            token, slash, _ = row.token.partition("/")
            if slash and token in found:
                found[token].append(row)
        return found

    def torn(self, rows: Mapping[str, Row], tokens: Sequence[Token]) -> dict[Token, list[str]]:
        """Return the ids of what is there of launches that were not accepted whole: one of the jobs is missing.

        A launch that ran, or runs, or was released is none: that is done with whole ones alone.
        """
        launches: dict[Token, Row] = {}
        for row in sorted(rows.values(), key=lambda row: not row.phase.ended):  # what lives comes last
            launches[row.token] = row
        ran = {row.token for row in rows.values() if row.started is not None or row.phase in BEGAN}
        found = {}
        for token, tasks in self.tasks(rows, tokens).items():
            own, held = launches.get(token), [row for row in tasks if row.phase is Phase.HELD]
            live = [row for row in tasks if not row.phase.ended]
            if own is None:  # LSF has forgotten it, or never took it: what was released is not ours to take back
                torn = bool(held)
            else:
                there = tasks if own.phase.ended else live
                torn = {row.token.partition("/")[2] for row in there} != set(self.commands)
            if torn and token not in ran:
                both = [own, *live] if own is not None else held
                found[token] = [row.native for row in both if not row.phase.ended]
        return found
