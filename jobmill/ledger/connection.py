"""The data-plane connection: no silent retry of a command, short blocks, deadlines, errors in our own words.

redis-py retries commands by default: a push twice, a popped item lost, a script twice, silently, when a reply is cut
(measured; design, section 5). Here every command is sent once; whoever called decides what a cut reply means.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from jobmill.errors import Evicted, JobmillError, PermanentError, ServerFull, ServerUnavailable, UsageError
from jobmill.ledger import redis_library
from jobmill.ledger.secret import mask

if TYPE_CHECKING:
    from redis import Redis

BLOCK = 2.0  # seconds that a blocking command waits in the server at most
TIMEOUT = 5.0  # seconds without an answer after which a connection counts as dead
# How the answer of a server begins that may serve later: it loads, fails over (which ends a BLMOVE), lacks replicas.
PASSING = ("LOADING", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "BUSY", "MISCONF", "UNBLOCKED", "NOREPLICAS")


def connect(url: str, *, timeout: float = TIMEOUT) -> Redis:
    """Return a lazy client for ``redis://``, ``rediss://``, ``unix://`` or ``sentinel://host:port/service``."""
    redis_library.load()
    from redis.backoff import NoBackoff
    from redis.client import Redis
    from redis.retry import Retry

    options: dict[str, Any] = {
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "retry": Retry(NoBackoff(), 0),
        "health_check_interval": 0,
        "protocol": 2,
        **_introduction(),
    }
    scheme = urlsplit(url).scheme
    if scheme == "sentinel":
        from redis.sentinel import Sentinel

        parts = urlsplit(url)
        place = (parts.hostname or "localhost", parts.port or 26379)
        if parts.password:
            options["password"] = parts.password
        watch = Sentinel([place], **options)  # type: ignore[no-untyped-call]  # redis-py types it in part
        master: Redis = watch.master_for(parts.path.strip("/") or "mymaster", **options)  # type: ignore[no-untyped-call]
        return master
    if scheme not in ("redis", "rediss", "unix"):
        raise UsageError(
            f"Redis address {mask(url)!r}: unknown scheme {scheme!r}; use redis://, rediss://, unix:// or sentinel://"
        )
    try:
        return Redis.from_url(url, **options)
    except ValueError as error:
        raise UsageError(f"Redis address {mask(url)!r}: {error}") from None


def _introduction() -> dict[str, Any]:
    """Return options by which CLIENT LIST names jobmill, without the library's version: finding it takes 7 ms."""
    try:
        from redis.driver_info import DriverInfo
    except ImportError:  # before redis-py 7.2
        return {"lib_version": None}
    return {"driver_info": DriverInfo(name="redis-py(jobmill)", lib_version=None)}


@contextmanager
def told(url: str = "") -> Iterator[None]:
    """Turn the library's errors into ours: ServerUnavailable, ServerFull, Evicted, PermanentError."""
    from redis import exceptions

    where = f" at {mask(url)}" if url else ""
    try:
        yield
    except (exceptions.AuthenticationError, exceptions.NoPermissionError) as error:
        raise PermanentError(f"the Redis server{where} refuses this user: {error}") from None
    except exceptions.OutOfMemoryError as error:
        raise _full(where, error) from None
    except exceptions.BusyLoadingError:
        raise ServerUnavailable(f"the Redis server{where} is still loading its data; try again shortly") from None
    except (exceptions.ConnectionError, exceptions.TimeoutError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ServerUnavailable(f"no Redis server answers{where}: {reason}") from None
    except exceptions.ReadOnlyError as error:
        raise ServerUnavailable(f"the Redis server{where} is a replica: {error}") from None
    except exceptions.ResponseError as error:
        raise _response(where, error) from None


def _full(where: str, error: Exception) -> ServerFull:
    return ServerFull(
        f"the Redis server{where} is full (maxmemory, noeviction): {error}; "
        "raise maxmemory, or end and prune jobs (`jobmill doctor`)"
    )


def _response(where: str, error: Exception) -> JobmillError:
    text = str(error)
    if "EVICTED" in text:
        return Evicted(text)
    if "OOM" in text:
        return _full(where, error)
    if text.startswith(PASSING) or "READONLY" in text:
        return ServerUnavailable(f"the Redis server{where} cannot serve now: {text}")
    return PermanentError(f"the Redis server{where} refused a command: {text}")
