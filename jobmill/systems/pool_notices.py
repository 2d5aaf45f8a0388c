"""Starts and ends that a pool pushes: a thread waits for them, and a pipe says that there are some."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
from collections import deque
from collections.abc import Sequence
from typing import cast

import redis

from jobmill.errors import SystemUnavailable
from jobmill.systems import launch_token, pool_server
from jobmill.systems.system import End, ExitInfo, Start

log = logging.getLogger(__name__)
BLOCK = 2.0  # seconds that the server lets us wait at most
AGAIN = 1.0  # seconds between attempts to reach it
MANY = 500  # notices that are taken at once


class PoolNotices:
    """One list of one starter. A notice that is lost with its taker is no loss: polls find every end, later."""

    def __init__(self, url: str, key: str) -> None:
        self._url, self._key = url, key
        self._found: deque[Start | End] = deque()
        self._reader, self._writer = os.pipe()
        for fd in (self._reader, self._writer):
            os.set_blocking(fd, False)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True, name="pool-notices")
        self._thread.start()

    def fileno(self) -> int:
        """Return the descriptor that is readable when `receive` has something."""
        return self._reader

    def receive(self) -> Sequence[Start | End]:
        """Return what came since the last call, without blocking."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._reader, 1 << 16)
        found: list[Start | End] = []
        while self._found:
            found.append(self._found.popleft())
        return found

    def close(self) -> None:
        """Wait for nothing more; the thread leaves by itself, within `BLOCK` seconds, and closes the pipe."""
        self._over.set()

    def _serve(self) -> None:
        client: redis.Redis | None = None
        while not self._over.is_set():
            try:
                if client is None:
                    client = pool_server.connect(self._url, BLOCK + 3)
                first = cast("tuple[bytes, bytes] | None", client.blpop([self._key], timeout=BLOCK))
                more = cast("list[bytes] | None", client.lpop(self._key, MANY)) if first else None
                for text in [*([first[1]] if first else []), *(more or [])]:
                    self._take(text)
            except (redis.RedisError, OSError, SystemUnavailable):
                client = None
                self._over.wait(AGAIN)
        os.close(self._writer)
        os.close(self._reader)

    def _take(self, text: bytes) -> None:
        try:
            word, token, *rest = json.loads(text.decode("utf-8", "surrogateescape"))
            launch_token.split(token)
            if word == "start":
                self._found.append(Start(token=token, native_id=str(rest[0]), host=str(rest[1] or "")))
            elif word == "end":
                ExitInfo.from_json(rest[0])
                self._found.append(End(token=token, exit=rest[0]))
        except (ValueError, IndexError, KeyError, TypeError, AttributeError, RecursionError):
            log.warning("the pool told something that is no notice: %r", text[:80])
        with contextlib.suppress(BlockingIOError):  # full: it is readable
            os.write(self._writer, b"x")
