"""The login node of a cluster behind SSH, as a batch system uses it: one desk, for files and for commands.

Every record has a spool of its own there. A process mostly has to do with one: what is asked of no launch in particular
goes over its desk as well, since hosts open few channels.
"""

from __future__ import annotations

from typing import Any

from jobmill.systems import launch_token
from jobmill.systems.desk import DEADLINE, LATE, Desk
from jobmill.systems.far_host import FarHost
from jobmill.systems.system import Token


class FarLogin:
    """Asks one host. Not shared between threads."""

    def __init__(self, host: FarHost) -> None:
        self.host = host
        self.record = ""  # of the launches that were asked for last

    def open(self, record: str) -> None:
        """Ask for launches of this record from now on."""
        if not self.record and record:
            self.host.desk("").close()
        self.record = record

    def desk(self, token: Token | None = None) -> Desk:
        """Return the desk for the record of a launch; None: the one that was used last."""
        if token is not None:
            self.open(launch_token.record_and_arrival(launch_token.life_of(token))[0])
        return self.host.desk(self.record)

    def ask(self, verb: str, *, token: Token | None = None, deadline: float = DEADLINE, **values: Any) -> Any:
        """Ask one question that may be repeated; a host that was late is waited for only shortly.

        Raises SystemUnavailable, and OSError as the host met it.
        """
        desk = self.desk(token)
        return desk.file(verb, deadline=min(LATE, deadline) if desk.late else deadline, **values)

    def close(self) -> None:
        """Hang up."""
        self.host.close()
