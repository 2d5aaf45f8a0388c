"""The actor that dramatiq's workers and client share; the server's socket is in BENCHMARK_SOCKET."""

from __future__ import annotations

import os

import dramatiq  # type: ignore[import-not-found]
from dramatiq.brokers.redis import RedisBroker  # type: ignore[import-not-found]
from dramatiq.results import Results  # type: ignore[import-not-found]
from dramatiq.results.backends import RedisBackend  # type: ignore[import-not-found]

_SERVER = f"unix://{os.environ['BENCHMARK_SOCKET']}"
KEEP = 86_400_000  # milliseconds for which results are kept

backend = RedisBackend(url=f"{_SERVER}?db=1")
broker = RedisBroker(url=f"{_SERVER}?db=0")
broker.add_middleware(Results(backend=backend, store_results=True, result_ttl=KEEP))
dramatiq.set_broker(broker)


@dramatiq.actor  # type: ignore[untyped-decorator]
def noop(number: int) -> int:
    """Return the number."""
    return number
