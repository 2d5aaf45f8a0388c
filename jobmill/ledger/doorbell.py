"""A blocking move on a connection of its own that can be waited for beside other things.

Taking is a move (law 2): BLMOVE puts the entry into the private list of the process, and the process acts on the head
of that list. The look at that head travels with the move, so that both are answered at once. Were the reply cut, the
next look at the list finds the truth.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from jobmill.ledger import script
from jobmill.ledger.admission import Batch
from jobmill.ledger.connection import BLOCK, TIMEOUT, told
from jobmill.ledger.exchange import Call
from jobmill.ledger.record import Record


class Doorbell:
    """One list that wakes a process: `arm` sends the move, `fileno` becomes readable, `answer` reads the replies."""

    def __init__(self, record: Record, queue: str, process: str, taking: Callable[[], Call[Batch]]) -> None:
        """``taking``: tells at each look how the process looks at its private list."""
        self.queue = queue
        self._record = record
        self._taking = taking
        self._call = taking()  # that is under way
        self._connection: Any = record.client.connection_pool.make_connection()  # redis-py types it in part
        self._move = ("BLMOVE", record.keys(queue), record.keys.taken(queue, process), "LEFT", "RIGHT", BLOCK)
        self._armed = 0.0

    @property
    def armed(self) -> bool:
        """True while a move is under way."""
        return self._armed > 0

    def arm(self) -> None:
        """Send the move, unless one is under way; raise ServerUnavailable."""
        if not self._armed:
            self._call = self._taking()
            digest, key = script.source(self._call.name)[1], self._record.keys("Record")
            look = ("EVALSHA", digest, 1, key, *self._call.args)
            with told(self._record.url):
                self._connection.connect()
                self._connection.send_packed_command(self._connection.pack_commands((self._move, look)))
            self._armed = time.monotonic()

    def fileno(self) -> int:
        """Return the descriptor of the connection."""
        return int(self._connection._sock.fileno())

    def overdue(self) -> bool:
        """Tell whether the server should have answered long ago: the connection is dead."""
        return self._armed > 0 and time.monotonic() - self._armed > BLOCK + TIMEOUT

    def answer(self) -> Batch | None:
        """Read the replies; return the head of the private list, None where nothing stands there.

        Raise ServerUnavailable when the connection broke, Evicted when this process was declared dead.
        """
        from redis.exceptions import NoScriptError

        try:
            with told(self._record.url):
                self._connection.read_response()
                try:
                    batch = self._call.read(self._connection.read_response())
                except NoScriptError:  # a server that was restarted; it ran nothing
                    batch = self._record.do(self._call)
            return batch if batch.entries or batch.cut else None
        except BaseException:
            self.drop()
            raise
        finally:
            self._armed = 0.0

    def drop(self) -> None:
        """Give the connection up; a move that was under way may still fill the private list, which `take` looks at."""
        self._armed = 0.0
        self._connection.disconnect()
