"""The Redis server of a pool of RQ workers: its address, kept out of the record where it holds a secret."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from rq.connections import parse_connection

from jobmill.errors import ConfigError, SystemUnavailable

SCHEMES = ("redis", "rediss", "unix")
TIMEOUT = 5.0  # seconds without an answer after which a connection counts as dead
DEFAULT = "env:JOBMILL_REDIS_URL"  # the pipeline's own server
# How the answer of a server begins that may serve later.
PASSING = ("LOADING", "MASTERDOWN", "BUSY", "MISCONF", "READONLY", "NOREPLICAS", "OOM")

RETRIES = ("retry", "retry_on_error", "retry_on_timeout")  # options that would repeat a command whose reply was cut


def checked(url: object, where: str) -> str:
    """Return a `url` option: a URL without a password, ``env:NAME`` or ``file:/path``; raise ConfigError.

    The configuration is copied into the record, so a password in it is refused, and never shown.
    """
    if url is None:
        return DEFAULT
    if not isinstance(url, str):
        raise ConfigError(f"{where}.url: write a URL, env:NAME or file:/path")
    if url.startswith("env:") and url[4:].isidentifier():
        return url
    if url.startswith("file:/") and not url.startswith("file://"):
        return url
    try:
        parts = urlsplit(url)
        secret = parts.password is not None or "password=" in parts.query.lower()
        good = parts.scheme in SCHEMES and bool(parts.path if parts.scheme == "unix" else parts.hostname)
        _ = parts.port if good and parts.scheme != "unix" else None
    except ValueError:
        secret = good = False
    if secret:
        raise ConfigError(f"{where}.url: holds a password, which the record would keep; write env:NAME or file:/path")
    if not good:
        raise ConfigError(f"{where}.url: write redis://host:6379/0, rediss://, unix:///socket, env:NAME or file:/path")
    return url


def resolved(url: str, environ: Mapping[str, str] = os.environ) -> str:
    """Return the address that an option stands for; raise SystemUnavailable when nothing stands there (yet)."""
    if url.startswith("env:"):
        found = environ.get(url[4:], "")
        if not found:
            fix = "set it, or name the pool's server by `url`"
            raise SystemUnavailable(f"${url[4:]}, which holds the address of the pool's server, is not set; {fix}")
        return found
    if url.startswith("file:"):
        try:
            return Path(url[5:]).read_text().strip()
        except OSError as error:
            words = f"{url[5:]}, which holds the address of the pool's server, cannot be read: {error.strerror}"
            raise SystemUnavailable(words) from None
    return url


def connect(url: str, timeout: float = TIMEOUT) -> redis.Redis:
    """Return a lazy client that sends every command once: whoever calls decides what a cut reply means."""
    ours = {"socket_timeout": timeout, "retry": Retry(NoBackoff(), 0), "decode_responses": False}
    try:
        pool = redis.ConnectionPool.from_url(resolved(url))
        # What the address says after its question mark is the library's: it must not undo what we rely on.
        options = {k: v for k, v in pool.connection_kwargs.items() if k not in RETRIES} | ours
        if "path" not in options:
            options["socket_connect_timeout"] = timeout
        pool.connection_kwargs = options
        pool.make_connection()  # connects to nothing; finds an option that there is not
        return redis.Redis.from_pool(pool)
    except (ValueError, TypeError):  # it may quote the address, and that the password
        raise SystemUnavailable(
            "the address of the pool's server cannot be parsed, or has an option that nobody knows; write "
            "redis://host:6379/0"
        ) from None


def like(client: redis.Redis, timeout: float) -> redis.Redis:
    """Return a client of the same server with connections and deadlines of its own: what an RQ worker has given us."""
    _, connection_class, found = parse_connection(client)
    options = {k: v for k, v in found.items() if k not in RETRIES}
    options |= {"socket_timeout": timeout, "retry": Retry(NoBackoff(), 0), "decode_responses": False}
    if "path" not in options:
        options["socket_connect_timeout"] = timeout
    return redis.Redis(connection_pool=redis.ConnectionPool(connection_class=connection_class, **options))


@contextmanager
def told(name: str) -> Iterator[None]:
    """Turn the library's errors into SystemUnavailable: what the server refuses for good, its admin has to mend."""
    try:
        yield
    except (redis.AuthenticationError, redis.exceptions.NoPermissionError) as error:
        raise SystemUnavailable(f"{name}: the pool's server refuses this user: {error}") from None
    except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
        words = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SystemUnavailable(f"{name}: the pool's server does not answer: {words}") from None
    except redis.ResponseError as error:
        if str(error).startswith(PASSING) or isinstance(error, redis.exceptions.OutOfMemoryError):
            raise SystemUnavailable(f"{name}: the pool's server cannot serve now: {error}") from None
        raise SystemUnavailable(f"{name}: the pool's server refused a command: {error}") from None
