"""The configuration: one YAML file, checked whole, into plain frozen data.

Searched, first found: the path given, ``$JOBMILL_CONFIG``, ``./jobmill.yaml``, ``~/.config/jobmill/jobmill.yaml`` (or
below ``$XDG_CONFIG_HOME``), ``/etc/jobmill/jobmill.yaml``; none of them: everything by default, on this machine.

Kinds of systems and their options, and rules and their parameters, are only stored: their registries know them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobmill.errors import ConfigError
from jobmill.ledger.secret import mask

MAX_FILE = 1 << 20  # bytes of a configuration file
BEYOND_SLOTS = 64  # jobs granted to a system beyond its slots, at most (design, section 6)
SCHEMES = ("redis", "rediss", "unix", "sentinel")


@dataclass(frozen=True, kw_only=True)
class RedisConfig:
    """Where the Redis server is. Its repr and `shown` never hold the password."""

    url: str | None = field(default=None, repr=False)  # None: the embedded server
    prefix: str = ""  # before every key; "{jm}:" for Redis Cluster

    @property
    def shown(self) -> str:
        """The URL without its secrets, for people and logs."""
        return mask(self.url) if self.url else "embedded server"

    def __repr__(self) -> str:
        return f"RedisConfig(url={self.shown!r}, prefix={self.prefix!r})"


@dataclass(frozen=True, kw_only=True)
class SystemConfig:
    """One execution system by name."""

    name: str
    kind: str  # the entry point's name: local, ssh, slurm …
    slots: int | None = None  # jobs that run at once, where jobmill keeps that limit; local: the CPUs of this machine
    limit: int = 100  # jobs in its queue at once (its capacity set)
    lane: str = ""  # which machines may serve it; empty: the plain key names
    options: Mapping[str, Any] = field(default_factory=dict)  # what its kind reads

    @property
    def all_options(self) -> dict[str, Any]:
        """What the kind is built from: its options, and the slots where they were given."""
        return dict(self.options) | ({} if self.slots is None else {"slots": self.slots})


@dataclass(frozen=True, kw_only=True)
class RouteConfig:
    """Jobs that pass all rules go to the systems, the first one preferred."""

    name: str
    rules: tuple[str | Mapping[str, Any], ...] = ()  # "name" or {name: parameters}
    systems: tuple[str, ...] = ()
    run_as: Mapping[str, Any] = field(default_factory=dict)  # as whom they run: run_as and what belongs to it

    @property
    def entry(self) -> dict[str, Any]:
        """It as the rules read it."""
        return {"name": self.name, "rules": list(self.rules), "system": list(self.systems), **self.run_as}


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What bounds the pipeline itself."""

    document: int = 4 << 20  # bytes of one entry
    max_waiting: int = 1_000_000  # admitted jobs above which nothing more is taken from Job_Queue
    lease: float = 10.0  # seconds after which a silent process is declared dead, and its launches are investigated
    keep_ended: float = 7 * 86400.0  # seconds for which ended jobs stay in the record


@dataclass(frozen=True, kw_only=True)
class LogConfig:
    """What is logged, and how."""

    level: str = "info"  # debug, info, warning, error
    json: bool = False  # a JSON line for each change of state instead of a readable one


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that a process of jobmill is told; read once at its start."""

    redis: RedisConfig
    state: Path  # folder of the embedded server, logs and pid files
    spool: Path  # folder that holds the run folders
    systems: Mapping[str, SystemConfig]
    routes: tuple[RouteConfig, ...] = ()
    capacities: Mapping[str, int] = field(default_factory=dict)  # set -> most jobs in it; 0 closes it
    limits: Limits = field(default_factory=Limits)
    log: LogConfig = field(default_factory=LogConfig)
    source: Path | None = None  # the file; None: defaults only
    digest: str = ""  # 12 hex digits of what workers must agree on; not the server, folders, log

    @property
    def kinds(self) -> dict[str, str]:
        """System -> its kind."""
        return {name: system.kind for name, system in self.systems.items()}

    def to_yaml(self) -> str:
        """Return the configuration in force as a file that `load` reads, with passwords masked."""
        from jobmill.config_file import written

        return written(self)


def load(path: Path | None = None, *, environ: Mapping[str, str] = os.environ) -> Config:
    """Return the configuration; raise ConfigError that lists every problem as ``file:line: key: what; what to do``."""
    from jobmill.config_file import build  # only now: a class of this file is all that most importers need

    return build(find(path, environ), environ)


def find(path: Path | None, environ: Mapping[str, str]) -> Path | None:
    """Return the configuration file to read, or None; raise ConfigError when one that was named is not there."""
    for given, by in ((path, ""), (environ.get("JOBMILL_CONFIG"), " (named by $JOBMILL_CONFIG)")):
        if given:
            chosen = Path(given)
            if not chosen.is_file():
                raise ConfigError(f"{chosen}: there is no such configuration file{by}; name an existing one or none")
            return chosen
    home = environ.get("XDG_CONFIG_HOME") or str(home_of(environ) / ".config")
    places = (Path("jobmill.yaml"), Path(home) / "jobmill" / "jobmill.yaml", Path("/etc/jobmill/jobmill.yaml"))
    return next((place.absolute() for place in places if place.is_file()), None)


def home_of(environ: Mapping[str, str]) -> Path:
    """Return the home folder that ``environ`` names, else the account's."""
    return Path(environ["HOME"]) if environ.get("HOME") else Path("~").expanduser()


def url_problem(url: str) -> str | None:
    """Return what is wrong with a server's URL, or None; shows nothing of it but its scheme.

    A URL that cannot be parsed cannot be masked either: ``redis://:password`` has it where the port belongs.
    """
    from urllib.parse import urlsplit  # slow to import, and most commands find no URL

    try:
        parts = urlsplit(url)
        if parts.scheme in ("redis", "rediss"):
            _ = parts.port
    except ValueError:
        return "has a host or port that cannot be; write redis://:password@host:6379/0, odd characters as %40"
    if parts.scheme not in SCHEMES:
        scheme = url.partition("://")[0] if "://" in url else ""
        begins = f" (it begins with {scheme[:20]!r})" if scheme.isalnum() else ""
        return f"must begin with {', '.join(f'{known}://' for known in SCHEMES)}{begins}"
    if parts.scheme == "unix":
        return None if parts.path else "names no socket; write unix:///path/to/socket"
    return None if parts.hostname else f"names no host; write {parts.scheme}://host:6379"
