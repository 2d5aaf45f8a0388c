"""The record: one pipeline's connection, keys and scripts; every other file here speaks through it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from jobmill.ledger import script
from jobmill.ledger.connection import connect, told
from jobmill.ledger.exchange import Call, Exchange
from jobmill.ledger.keys import Keys

if TYPE_CHECKING:
    from redis import Redis

T = TypeVar("T")

BATCH = 250  # ids that one script takes at most


class Record:
    """One pipeline in one Redis server. Raises TransientError and PermanentError of `jobmill.errors`, nothing else."""

    def __init__(self, url: str, *, prefix: str = "", client: Redis | None = None) -> None:
        self.url = url
        self.keys = Keys(prefix)
        self.client = client if client is not None else connect(url)

    def run(self, name: str, *args: Any) -> Any:
        """Run one script with these arguments."""
        with told(self.url):
            return script.evaluate(self.client, name, self.keys("Record"), list(args))

    def do(self, call: Call[T]) -> T:
        """Run one call."""
        return call.read(self.run(call.name, *call.args))

    def send(self, calls: Sequence[Call[Any]]) -> Exchange:
        """Send calls together; their answers are to be asked for."""
        return Exchange(self, calls)

    def call(self, *command: Any) -> Any:
        """Run one plain command."""
        with told(self.url):
            return self.client.execute_command(*command)  # type: ignore[no-untyped-call]

    def read(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Run commands that change nothing in one round trip and return their answers."""
        if not commands:
            return []
        with told(self.url):
            pipe = self.client.pipeline(transaction=False)
            for command in commands:
                pipe.execute_command(*command)  # type: ignore[no-untyped-call]
            return list(pipe.execute())

    def members(self, key: str) -> Iterator[str]:
        """Go through the members of a set, a page a round trip."""
        cursor = "0"
        while True:
            cursor, page = self.call("SSCAN", key, cursor, "COUNT", BATCH)
            yield from map(text, page)
            if int(cursor) == 0:
                return

    def ping(self) -> None:
        """Return when the server answers; raise ServerUnavailable when it does not."""
        self.call("PING")

    def identity(self) -> str:
        """Return the id of this record, made once by the first process or client that needs it."""
        made = self.call("GET", self.keys("Record"))
        return text(made) if made else ""

    def close(self) -> None:
        """Drop the connections."""
        self.client.close()


def text(value: Any) -> str:
    """Return a reply as text; what is not UTF-8 is kept by surrogates."""
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)


def batches(items: Sequence[Any], size: int = BATCH) -> list[Sequence[Any]]:
    """Cut a sequence into pieces that one script may take."""
    return [items[i : i + size] for i in range(0, len(items), size)]
