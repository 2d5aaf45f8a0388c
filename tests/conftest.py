"""Fixtures that many tests share: the three servers, each emptied before a test."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis
from servers import KINDS, Missing, locate

from jobmill.daemon.server import EmbeddedServer

# Files of few tests that take minutes each. Where several processes share the files out they go first: what is left for
# the end keeps one of them busy alone.
LONG = ("test_slurm_hostile", "test_chaos", "test_slurm_ssh", "test_mpi", "test_batch_pipeline", "test_guest")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the long files first, all others as they are."""
    items.sort(key=lambda item: not item.path.stem.startswith(LONG))


@dataclass(frozen=True, kw_only=True)
class Server:
    """A server for one test: empty at its start, with the settings that jobmill needs."""

    kind: str  # valkey, redis7 or redis62
    url: str  # unix:///…
    socket: Path


@pytest.fixture(scope="session")
def running_server() -> Iterator[Callable[[str], Server]]:
    """Give a function that returns the session's server of a kind, started at its first use.

    Durable as in production (every write is synced), but in memory where the machine has /dev/shm: what a test waits
    for is its own work. A server that is missing fails the test in CI, and skips it with the reason elsewhere.
    """
    shared_memory = Path("/dev/shm")
    root = Path(tempfile.mkdtemp(prefix="jobmill-", dir=shared_memory if os.access(shared_memory, os.W_OK) else None))
    started: dict[str, EmbeddedServer] = {}

    def get(kind: str) -> Server:
        if kind not in started:
            try:
                binary = locate(kind)
            except Missing as error:
                if os.environ.get("CI") == "true":
                    pytest.fail(f"CI has to have every server: {error}", pytrace=False)
                pytest.skip(str(error))
            started[kind] = EmbeddedServer(root / kind, binary=binary)
            started[kind].start()
        elif started[kind].poll() is not None:  # a test may have killed it
            started[kind].start()
        server = started[kind]
        with redis.Redis.from_url(server.url) as client:
            client.flushall()
            client.script_flush()
            client.config_set("maxmemory", 0)
        return Server(kind=kind, url=server.url, socket=server.socket)

    yield get
    for server in started.values():
        server.stop()
    shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(params=KINDS)
def server(request: pytest.FixtureRequest, running_server: Callable[[str], Server]) -> Server:
    """An empty server of each kind in turn: the embedded Valkey, Redis 7, Redis 6.2."""
    return running_server(request.param)


@pytest.fixture
def valkey(running_server: Callable[[str], Server]) -> Server:
    """An empty embedded server, for tests that need one and not all."""
    return running_server("valkey")
