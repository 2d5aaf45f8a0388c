"""One command as it was typed, and its reply as the server gave it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jobmill.ledger.connection import told
from jobmill.ledger.record import Record


def ask(record: Record, words: Sequence[str | bytes]) -> Any:
    """Send a command and return the plain reply: bytes, int, None or (nested) lists of these.

    Not through the library's callbacks, which make a different thing of each command's reply. Raises PermanentError
    for what the server refuses.
    """
    with told(record.url):
        connection = record.client.connection_pool.get_connection()
        try:
            connection.send_command(*words)  # type: ignore[no-untyped-call]  # redis-py types it in part
            reply = connection.read_response()
        finally:
            record.client.connection_pool.release(connection)
    if isinstance(reply, Exception):
        with told(record.url):
            raise reply
    return reply
