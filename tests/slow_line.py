"""A line to a host that is slow: a relay with a delay each way and a rate, for kernels without netem."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def slow_line(address: str, port: int, *, delay: float, rate: float) -> Iterator[int]:
    """Give a port of 127.0.0.1 that leads to ``address:port``; ``delay`` in seconds each way, ``rate`` in bytes/s."""
    loop = asyncio.new_event_loop()
    ready: list[int] = []
    begun = threading.Event()

    async def one_way(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def deliver() -> None:
            while True:
                due, data = await line.get()
                await asyncio.sleep(max(0.0, due - loop.time()))
                if not data:
                    writer.close()
                    return
                writer.write(data)
                await writer.drain()

        delivery = asyncio.create_task(deliver())
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(4096):
                await asyncio.sleep(len(data) / rate)
                line.put_nowait((loop.time() + delay, data))
        line.put_nowait((loop.time() + delay, b""))
        with contextlib.suppress(ConnectionError):
            await delivery

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(address, port)
        try:
            await asyncio.gather(one_way(reader, back), one_way(there, writer))
        finally:
            for one in (writer, back):
                one.transport.abort()

    async def main() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        ready.append(server.sockets[0].getsockname()[1])
        begun.set()
        with contextlib.suppress(asyncio.CancelledError):
            await server.serve_forever()

    task = loop.create_task(main())

    def work() -> None:
        loop.run_until_complete(task)
        others = asyncio.all_tasks(loop)
        for other in others:
            other.cancel()
        loop.run_until_complete(asyncio.gather(*others, return_exceptions=True))
        loop.run_until_complete(asyncio.sleep(0))  # the aborted connections close
        loop.close()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    begun.wait(10)
    try:
        yield ready[0]
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join(10)
