"""The options of an `rq` system."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jobmill.errors import ConfigError, nearest
from jobmill.systems import pool_server
from jobmill.systems.pool_lease import margin
from jobmill.systems.pool_queues import PoolQueues, amount

NAMES = ("url", "queues", "lease", "kill_grace", "keep", "shared", "path", "shell", "env", "poll_interval")


@dataclass(frozen=True, kw_only=True)
class PoolOptions:
    """What a configuration says of one pool; checked."""

    url: str  # as written: a reference where it holds a secret
    queues: PoolQueues
    lease: float = 60.0  # seconds after which a launch that is not heard of is over
    kill_grace: float = 5.0  # seconds between TERM and KILL
    keep: int = 64 << 20  # bytes of one launch that are brought through the pool's server, each way
    shared: bool = False  # the spool stands at the same path on every worker's host
    path: str | None = None  # PATH of the jobs; None: the worker host's own
    shell: str = "/bin/sh"
    env: Mapping[str, str] = field(default_factory=dict)
    poll_interval: float = 2.0  # seconds

    @classmethod
    def read(cls, name: str, options: Mapping[str, Any]) -> PoolOptions:
        """Read the system's mapping; raise ConfigError for an unknown option or a value that cannot be."""
        where = f"systems.{name}"
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
            raise ConfigError(f"{where}: a system's name is letters, digits, `.`, `_` and `-`, at most 64")
        for key in options:
            if key not in (*NAMES, "slots"):
                raise ConfigError(
                    f"{where}: unknown option {key!r}{nearest(key, NAMES)}; an rq system knows {', '.join(NAMES)}"
                )
        if options.get("slots") is not None:
            raise ConfigError(f"{where}.slots: the number of `rq worker`s is the number of slots; take it out")
        numbers = {"lease": 60.0, "kill_grace": 5.0, "poll_interval": 2.0}
        for key in numbers:
            value = options.get(key, numbers[key])
            if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 86400:
                raise ConfigError(f"{where}.{key}: {value!r} is not a number of seconds from 0 to 86400")
            numbers[key] = float(value)
        least = margin(numbers["kill_grace"]) + 2
        if numbers["lease"] < least:
            raise ConfigError(f"{where}.lease: must be {least:g} seconds or more with this kill_grace")
        shared = options.get("shared", False)
        if not isinstance(shared, bool):
            raise ConfigError(f"{where}.shared: {shared!r} is neither true nor false")
        for key in ("path", "shell"):
            if options.get(key) is not None and not isinstance(options[key], str):
                raise ConfigError(f"{where}.{key}: {options[key]!r} is not a text")
        env = options.get("env") or {}
        if not isinstance(env, Mapping) or not all(isinstance(k, str) and k and "=" not in k for k in env):
            raise ConfigError(f"{where}.env: write a mapping of names to texts")
        return cls(
            url=pool_server.checked(options.get("url"), where),
            queues=PoolQueues.read(options.get("queues"), f"{where}.queues"),
            keep=amount(options.get("keep", 64), f"{where}.keep") << 20,
            shared=shared,
            path=options.get("path"),
            shell=options.get("shell") or "/bin/sh",
            env={k: str(v) for k, v in env.items()},
            **numbers,
        )
