"""The options that all batch systems share."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jobmill.errors import ConfigError, nearest
from jobmill.systems import native_words
from jobmill.systems.container_template import ContainerTemplate

# of the connection to a login node, as the `ssh` kind has them (`ssh_host.OPTIONS`, which needs paramiko)
LOGIN = (
    *("host", "port", "user", "keys", "known_hosts", "ssh_config", "proxy_jump", "proxy_command"),
    *("control_path", "connect_timeout", "keepalive", "idle", "folder"),
)
BEHIND = (*LOGIN, "paths", "keep")  # make sense with `host` alone
NUMBERS = {"kill_grace": 0.0, "poll_interval": 0.1, "poll_interval_max": 0.1, "queries_per_minute": 1.0, "late": 0.0}
KEYS = ("env", "path", "job_env", "python", *NUMBERS, "confirm", "native", "container", "slots")


@dataclass(frozen=True, kw_only=True)
class BatchOptions:
    """What the configuration says of one batch system."""

    env: Mapping[str, str] = field(default_factory=dict)  # what the scheduler's commands need to find their cluster
    path: str | None = None  # where its commands are; None: our own PATH
    job_env: Mapping[str, str] = field(default_factory=dict)  # for every job
    python: str = "/usr/bin/python3"  # on the nodes, 3.6 or newer
    kill_grace: float = 5.0  # seconds between TERM and KILL at the walltime
    poll_interval: float = 5.0  # seconds between two polls, at first and after news
    poll_interval_max: float = 180.0  # seconds to which that grows without news
    queries_per_minute: float = 12.0  # that all our processes together put to the scheduler, but for orders
    confirm: bool = False  # the scheduler has to say so, too, before a job is done
    late: float = 120.0  # seconds for which the file system may show an exit record late
    native: tuple[str, ...] = ()  # words for every submit command
    container: ContainerTemplate | None = None
    login: Mapping[str, Any] | None = None  # options of the connection to a login node; None: commands are run here
    paths: Mapping[str, str] = field(default_factory=dict)  # folders here -> where their files are seen there
    keep: float | None = None  # seconds for which run folders stay there after their end; None: for ever

    @classmethod
    def parse(cls, name: str, kind: str, options: Mapping[str, Any], more: Sequence[str] = ()) -> BatchOptions:
        """Read the mapping of a system; raise ConfigError for an unknown option or a value that cannot be."""
        where = f"systems.{name}"
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
            raise ConfigError(f"{where}: a system's name is letters, digits, `.`, `_` and `-`, at most 64")
        known = (*(key for key in KEYS if key != "slots"), *more, *BEHIND)
        for key in options:
            if key == "slots":
                raise ConfigError(f"{where}.slots: the scheduler decides what runs at once; limit: bounds what is sent")
            if key not in known:
                raise ConfigError(f"{where}: unknown option {key!r}{nearest(key, known)}; known: {', '.join(known)}")
        values: dict[str, Any] = {}
        for key in ("env", "job_env"):
            values[key] = _texts(options.get(key), f"{where}.{key}")
        for key, least in NUMBERS.items():
            if options.get(key) is not None:
                values[key] = _number(options[key], f"{where}.{key}", least)
        if values.get("poll_interval", cls.poll_interval) > values.get("poll_interval_max", cls.poll_interval_max):
            values.setdefault("poll_interval_max", values.get("poll_interval"))
            if values["poll_interval_max"] < values.get("poll_interval", cls.poll_interval):
                raise ConfigError(f"{where}.poll_interval_max is less than poll_interval")
        if (confirm := options.get("confirm")) is not None:
            if not isinstance(confirm, bool):
                raise ConfigError(f"{where}.confirm: {confirm!r} is neither true nor false")
            values["confirm"] = confirm
        for key in ("path", "python"):
            if options.get(key) is not None:
                values[key] = _text(options[key], f"{where}.{key}")
        if (words := options.get("native")) is not None:
            if not isinstance(words, list | tuple) or not all(isinstance(it, str) and it for it in words):
                raise ConfigError(f"{where}.native: write a list of words, as [--exclusive]")
            if (wrong := native_words.forbidden(kind, words)) is not None:
                raise ConfigError(f"{where}.native: {wrong}")
            values["native"] = tuple(words)
        if options.get("container") is not None:
            values["container"] = ContainerTemplate.of(where, options["container"])
        return cls(**values, **_behind(where, options))


def _behind(where: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Read what there is to say of a login node behind SSH; nothing where the commands are run here."""
    if options.get("host") is None:
        alone = next((key for key in BEHIND if options.get(key) is not None), None)
        if alone is not None:
            raise ConfigError(f"{where}.{alone}: is for a login node behind SSH; name that by host:, or leave this out")
        return {}
    if options.get("container") is not None:
        raise ConfigError(f"{where}.container: is not for a login node behind SSH; write the container into `command`")
    try:
        from jobmill.systems import ssh_config
    except ImportError as error:
        words = f"{where}.host: needs {error.name}, which is not installed here"
        raise ConfigError(f"{words}; do: {sys.executable} -m pip install 'jobmill[ssh]'") from error
    login = {key: options[key] for key in LOGIN if options.get(key) is not None}
    login["python"] = options.get("python") or BatchOptions.python
    return {"login": login, "paths": ssh_config.paths_of(options, where), "keep": ssh_config.keep_of(options, where)}


def _texts(value: Any, where: str) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(
        isinstance(k, str) and isinstance(v, str) and k and "=" not in k and "\0" not in k + v for k, v in value.items()
    ):
        raise ConfigError(f"{where}: write a mapping of names to texts")
    return dict(value)


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value or not value.isprintable():
        raise ConfigError(f"{where}: {value!r} is no text")
    return value


def _number(value: Any, where: str, least: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < 1e7:
        raise ConfigError(f"{where}: {value!r} is not a number from {least:g}")
    return float(value)
