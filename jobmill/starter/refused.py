"""Launches that must not run: the record refused their commit. They are killed until their absence is proved."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from jobmill.errors import SystemUnavailable
from jobmill.systems.system import ExecutionSystem, Handle
from jobmill.worker.endpoints import Endpoints


class Refused:
    """Kept in memory only: what a starter that dies leaves behind is found by the sweep of strays."""

    def __init__(self, endpoints: Endpoints) -> None:
        self._endpoints = endpoints
        self._left: dict[str, tuple[ExecutionSystem, list[Handle]]] = {}

    def add(self, system: ExecutionSystem, handles: Sequence[Handle]) -> None:
        """Kill these, now and at every `kill` until nothing of them exists."""
        if handles:
            _, left = self._left.setdefault(system.name, (system, []))
            left += handles
            self.kill()

    def kill(self) -> None:
        """Kill again what was not proved to be gone."""
        for system, handles in list(self._left.values()):
            with contextlib.suppress(SystemUnavailable), self._endpoints.asked(system.name):
                gone = system.kill(handles, force=True)
                handles[:] = [handle for handle in handles if not gone.get(handle, False)]
            if not handles:
                del self._left[system.name]
