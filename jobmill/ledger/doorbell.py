"""A blocking move on a connection of its own that can be waited for beside other things.

Taking is a move (law 2): BLMOVE puts the entry into the private list of the process, and the process acts on the head
of that list. So the reply only rings: whether it carried an entry or was cut, `take` finds the truth.
"""

from __future__ import annotations

import time
from typing import Any

from jobmill.ledger.connection import BLOCK, TIMEOUT, told
from jobmill.ledger.record import Record


class Doorbell:
    """One list that wakes a process: `arm` sends the move, `fileno` becomes readable, `answer` reads the reply."""

    def __init__(self, record: Record, queue: str, process: str) -> None:
        self.queue = queue
        self._record = record
        self._command = (
            "BLMOVE",
            record.keys(queue),
            record.keys.taken(queue, process),
            "LEFT",
            "RIGHT",
            BLOCK,
        )
        self._connection: Any = record.client.connection_pool.make_connection()  # redis-py types it in part
        self._armed = 0.0

    @property
    def armed(self) -> bool:
        """True while a move is under way."""
        return self._armed > 0

    def arm(self) -> None:
        """Send the move, unless one is under way; raise ServerUnavailable."""
        if not self._armed:
            with told(self._record.url):
                self._connection.connect()
                self._connection.send_command(*self._command)
            self._armed = time.monotonic()

    def fileno(self) -> int:
        """Return the descriptor of the connection."""
        return int(self._connection._sock.fileno())

    def overdue(self) -> bool:
        """Tell whether the server should have answered long ago: the connection is dead."""
        return self._armed > 0 and time.monotonic() - self._armed > BLOCK + TIMEOUT

    def answer(self) -> bool:
        """Read the reply; True when an entry was moved. Raise ServerUnavailable when the connection broke."""
        try:
            with told(self._record.url):
                return self._connection.read_response() is not None
        except BaseException:
            self.drop()
            raise
        finally:
            self._armed = 0.0

    def drop(self) -> None:
        """Give the connection up; a move that was under way may still fill the private list, which `take` looks at."""
        self._armed = 0.0
        self._connection.disconnect()
