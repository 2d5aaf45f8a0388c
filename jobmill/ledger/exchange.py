"""Scripts that travel together: one packet there, the answers in order, and one write to the server's disk for all.

The server runs them one after the other and answers none before all that they wrote is on its disk. Meanwhile whoever
sent them may do something else. Each is sent once; a reply that is cut says nothing of any of them. A server that does
not know a script (it was restarted) runs the others without it, and it runs last: then they were not `in_order`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from hiredis import pack_command

from jobmill.errors import JobmillError
from jobmill.ledger import script
from jobmill.ledger.connection import told

if TYPE_CHECKING:
    from jobmill.ledger.record import Record

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, kw_only=True)
class Call(Generic[T_co]):
    """One script with its arguments, and what its answer means."""

    name: str
    args: Sequence[Any]
    read: Callable[[Any], T_co]


class Exchange:
    """Calls under way. `answers` is to be called once, whatever happens meanwhile: until then it has a connection."""

    def __init__(self, record: Record, calls: Sequence[Call[Any]]) -> None:
        """Send; raise ServerUnavailable."""
        self._record = record
        self._calls = calls
        self.in_order = True  # known once there are answers
        key = record.keys("Record")
        commands = [("EVALSHA", script.source(call.name)[1], 1, key, *call.args) for call in calls]
        with told(record.url):
            pool: Any = record.client.connection_pool  # redis-py types it in part
            self._connection = pool.get_connection()
            try:
                # in one piece: what arrives by itself is run, and written to the disk, by itself
                self._connection.send_packed_command([b"".join(map(pack_command, commands))])
            except BaseException:
                self._give_up()
                raise

    def answers(self) -> list[Any]:
        """Return the answer of each call, or the error in its place; raise ServerUnavailable where replies are cut."""
        from redis.exceptions import ConnectionError, ResponseError

        replies: list[Any] = []
        with told(self._record.url):
            try:
                for _ in self._calls:
                    try:
                        replies.append(self._connection.read_response())
                    except ConnectionError:
                        raise
                    except ResponseError as error:
                        replies.append(error)
            except BaseException:
                self._give_up()
                raise
        self._record.client.connection_pool.release(self._connection)
        return [self._meaning(call, reply) for call, reply in zip(self._calls, replies, strict=True)]

    def _meaning(self, call: Call[Any], reply: Any) -> Any:
        from redis.exceptions import NoScriptError

        try:
            if isinstance(reply, NoScriptError):  # it ran nothing
                self.in_order = self.in_order and call is self._calls[-1]
                return call.read(self._record.run(call.name, *call.args))
            if isinstance(reply, Exception):
                with told(self._record.url):
                    raise reply
            return call.read(reply)
        except JobmillError as error:
            return error

    def _give_up(self) -> None:
        """A reply that nobody read must not become the next one's."""
        self._connection.disconnect()
        self._record.client.connection_pool.release(self._connection)


def checked(answer: T | JobmillError) -> T:
    """Return an answer; raise the error that stands in its place."""
    if isinstance(answer, JobmillError):
        raise answer
    return answer
