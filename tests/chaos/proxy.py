"""A network between workers and server that can be broken: replies cut, one direction dead, everything late.

One listening socket for each worker, so that faults hit one and not the others. What is held back is delivered when
the hole closes, as TCP does it: a command may be executed long after its sender gave up.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

REQUESTS, REPLIES = "requests", "replies"


class Link:
    """The way of one worker to the server."""

    def __init__(self, name: str, url: str) -> None:
        self.name = name
        self.url = url
        self.cut = 0  # so many replies to come are swallowed, and their connections closed
        self.torn = False  # … after half of the reply
        self.swallowed = 0  # replies that were cut so far
        self.delayed = 0  # pieces that were held back so far
        self.held: Counter[str] = Counter()  # directions in which nothing passes now, and how many want it so
        self.writers: set[asyncio.StreamWriter] = set()


class Proxy:
    """All links, served by one thread."""

    def __init__(self, target: Path, folder: Path) -> None:
        self._target, self._folder = target, folder
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self.links: dict[str, Link] = {}

    def open(self, name: str) -> Link:
        """Open the way of one worker."""
        socket = self._folder / f"{name}.sock"
        link = Link(name, f"unix://{socket}")

        async def begin() -> None:
            await asyncio.start_unix_server(lambda r, w: self._serve(link, r, w), str(socket))

        asyncio.run_coroutine_threadsafe(begin(), self._loop).result(5)
        self.links[name] = link
        return link

    def cut(self, link: Link, replies: int, *, torn: bool = False) -> None:
        """Swallow the next replies: what was asked is done, and who asked never hears of it."""
        self._now(lambda: (setattr(link, "cut", replies), setattr(link, "torn", torn)))

    def uncut(self, link: Link) -> None:
        """Let all replies pass whole again."""
        self._now(lambda: setattr(link, "cut", 0))

    def hold(self, link: Link, direction: str) -> None:
        """Let nothing pass in one direction."""
        self._now(lambda: link.held.update([direction]))

    def heal(self, link: Link, direction: str) -> None:
        """Let it pass again, what was held back first; not as long as another hole is there."""
        self._now(lambda: link.held.subtract([direction]))

    def reset(self, link: Link) -> None:
        """Close every connection of a link at once."""
        self._now(lambda: [writer.close() for writer in link.writers])

    def close(self) -> None:
        """Close everything and end the thread."""

        def end() -> None:
            for task in asyncio.all_tasks(self._loop):
                task.cancel()
            self._loop.call_later(0.05, self._loop.stop)

        self._loop.call_soon_threadsafe(end)
        self._thread.join(5)
        self._loop.close()

    def _now(self, act: Callable[[], object]) -> None:
        done = threading.Event()
        self._loop.call_soon_threadsafe(lambda: (act(), done.set()))
        done.wait(5)

    async def _serve(self, link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            server_reader, server_writer = await asyncio.open_unix_connection(str(self._target))
        except OSError:  # the server is down: the worker sees its connection end
            writer.close()
            return
        link.writers |= {writer, server_writer}
        pumps = (
            asyncio.ensure_future(self._pump(link, REQUESTS, reader, server_writer)),
            asyncio.ensure_future(self._pump(link, REPLIES, server_reader, writer)),
        )
        try:
            await asyncio.wait(pumps)
        except asyncio.CancelledError:
            for pump in pumps:
                pump.cancel()
            await asyncio.wait(pumps)
        finally:
            for one in (writer, server_writer):
                link.writers.discard(one)
                one.close()

    async def _pump(
        self, link: Link, direction: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        with contextlib.suppress(OSError, asyncio.CancelledError):
            while data := await reader.read(1 << 16):
                link.delayed += link.held[direction] > 0
                while link.held[direction] > 0:
                    await asyncio.sleep(0.02)
                if direction == REPLIES and link.cut > 0:
                    link.cut -= 1
                    link.swallowed += 1
                    if link.torn:
                        writer.write(data[: len(data) // 2])
                    break
                writer.write(data)
                await writer.drain()
        writer.close()
