"""A scheduler's commands on a login node behind SSH: started there by the desk, without a shell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jobmill.errors import SystemUnavailable
from jobmill.systems import far_words
from jobmill.systems.command_line import CommandLine, Unanswered
from jobmill.systems.far_login import FarLogin

DEADLINE = 4.5  # seconds for a command there
WAY = 1.0  # seconds more for its answer to come here: both together are less than a worker may be silent


class FarCommandLine(CommandLine):
    """The commands of one scheduler on another machine: no word of a login's banner or profile comes in between."""

    def __init__(self, login: FarLogin, env: Mapping[str, str], *, path: str | None = None) -> None:
        super().__init__(env, path=path, deadline=DEADLINE)
        self._login = login
        self._user = ""

    @property
    def user(self) -> str:
        """The name by which the scheduler knows who logs in. Raises SystemUnavailable."""
        if not self._user:
            try:
                found = far_words.text_or_none(self._login.ask("user"))
            except (OSError, ValueError) as error:
                raise SystemUnavailable(f"{self._login.host.name}: it cannot say who logs in: {error}") from error
            if not found or found.startswith("-") or not found.isprintable():
                raise SystemUnavailable(f"{self._login.host.name}: it says that {str(found)[:80]!r} logs in")
            self._user = found
        return self._user

    def _environment(self, env: Mapping[str, str], path: str | None) -> dict[str, str]:
        """Return what is given: the rest is the login's there."""
        return dict(env)

    def _run(self, words: Sequence[str], given: str, seconds: float) -> Mapping[str, Any]:
        """Run one command there, once at most: whoever lost the answer does not know whether it has had its effect."""
        desk = self._login.desk()
        arguments = {"words": list(words), "env": self.env, "path": self.path, "given": given, "deadline": seconds}
        try:
            desk.put("call", once=True, **arguments)
            return far_words.command(desk.wait(seconds + WAY))
        except (SystemUnavailable, OSError, ValueError) as error:
            if not desk.sent:
                raise
            raise Unanswered(f"{words[0]} on {self._login.host.name}: {error}") from error
