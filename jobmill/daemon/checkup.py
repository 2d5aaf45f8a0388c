"""The checks of several systems beside one another: one that hangs (a dead host) keeps no other waiting, nor us."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress

from jobmill.config import Config
from jobmill.daemon.diagnosis import check_system
from jobmill.errors import JobmillError
from jobmill.rules.site import load_site_plugins
from jobmill.systems.registry import system_class
from jobmill.systems.system import Check

DEADLINE = 20.0  # seconds for all that a system has to say of itself
FIX = (
    "find out whether what is behind it can be reached from here: a host that is down, or a firewall that drops "
    "packets, looks like this; or take it out of `systems:`"
)


class Checkup:
    """Begins at once. Each system is looked at in a thread of its own, with an instance of its own."""

    def __init__(self, config: Config, names: Iterable[str], *, deadline: float = DEADLINE) -> None:
        """``deadline``: seconds after which a system that has not answered is told as wrong."""
        self.names = tuple(names)
        self.deadline = deadline
        self._config = config
        self._begun = time.monotonic()
        self._found: dict[str, Sequence[Check]] = {}
        self._news = threading.Condition()
        try:
            load_site_plugins(config.source)  # once, before there are threads
        except JobmillError as error:
            fix = "correct that file, or take it out of the folder; no worker starts with it"
            for name in self.names:
                self._found[name] = [Check(name=f"{name}: plug-ins", ok=False, detail=str(error), fix=fix)]
            return
        for kind in {config.systems[name].kind for name in self.names}:
            with suppress(JobmillError):  # told by its check; imports are not for several threads at once
                system_class(kind)
        for name in self.names:
            # a daemon: a check that never comes back must not keep the command from its end
            threading.Thread(target=self._look, args=(name,), name=f"check {name}", daemon=True).start()

    @property
    def age(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self._begun

    def pending(self) -> tuple[str, ...]:
        """Return the systems that have not answered and still may."""
        with self._news:
            late = self.age >= self.deadline
            return () if late else tuple(name for name in self.names if name not in self._found)

    def wait(self, seconds: float) -> None:
        """Wait until another system has answered, at most so long, and not beyond the deadline."""
        with self._news:
            if any(name not in self._found for name in self.names):
                self._news.wait(max(0.0, min(seconds, self.deadline - self.age)))

    def checks(self, name: str) -> Sequence[Check]:
        """Return what a system said, or that it did not answer in time; only when it is not `pending`."""
        with self._news:
            found = self._found.get(name)
        if found is not None:
            return found
        return [Check(name=f"{name}: answer", ok=False, detail=f"none for {self.deadline:g} s", fix=FIX)]

    def _look(self, name: str) -> None:
        try:
            found = check_system(self._config, name)
        except (Exception, SystemExit) as error:  # whatever a stranger's class does, it is told in one line
            kind = self._config.systems[name].kind
            detail = f"its check failed: {type(error).__name__}: {error}"
            fix = f"a fault of the kind `{kind}`, to be told to its authors (jobmill systems --kinds)"
            found = [Check(name=f"{name}: check", ok=False, detail=detail, fix=fix)]
        with self._news:
            self._found[name] = found
            self._news.notify_all()
