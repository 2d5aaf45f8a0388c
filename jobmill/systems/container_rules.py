"""What a site lets the containers of its jobs be: the options of a container system, checked."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from jobmill.errors import ConfigError, nearest
from jobmill.systems.container_volume import VolumePolicy

_WORD = re.compile(r"(?!-)[^\s,\x00-\x20\x7f]{1,256}")


@dataclass(frozen=True, kw_only=True)
class ContainerRules:
    """One field per option."""

    engine: str = "docker"  # the program: docker, podman, or an absolute path of one
    host: str | None = None  # its address, as in DOCKER_HOST; None: the engine's own default
    image: str | None = None  # for jobs that name none
    network: tuple[str, ...] = ("none",)  # the first is the usual one, a job may ask for the others
    volumes: VolumePolicy = field(default_factory=VolumePolicy)  # what jobs may mount
    user: str | None = None  # who the jobs are: uid or uid:gid; None: the worker's user
    gpus: bool = False  # jobs may ask for GPUs
    init: bool = True  # a first process that hands signals on and reaps
    runtime: str | None = None
    pids: int = 4096  # processes and threads of one job
    poll_interval: float = 1.0  # seconds between surveys
    keep: float = 60.0  # seconds for which an ended container stays after its end was taken down
    env: Mapping[str, str] = field(default_factory=dict)  # for every job

    @classmethod
    def parse(cls, where: str, options: Mapping[str, Any]) -> ContainerRules:
        """Read the options; raise ConfigError, which begins with ``where``, for what is unknown or cannot be."""
        known = tuple(cls.__dataclass_fields__)
        values: dict[str, Any] = {}
        for key, value in options.items():
            if key not in known:
                raise ConfigError(
                    f"{where}: unknown option {key!r}{nearest(key, known)}; a docker system knows {', '.join(known)}"
                )
            if value is None:
                continue
            try:
                values[key] = _CHECKS[key](value)
            except ValueError as bad:
                raise ConfigError(f"{where}.{key}: {bad}") from None
        rules = cls(**values)
        if rules.user and os.getuid() and rules.user.partition(":")[0] != str(os.getuid()):
            raise ConfigError(f"{where}.user: only root can give its run folders to another user; leave it out")
        return rules


def _word(value: Any) -> str:
    if not isinstance(value, str) or _WORD.fullmatch(value) is None:
        raise ValueError(f"{value!r} must be one word, without blanks and without a leading '-'")
    return value


def _user(value: Any) -> str:
    text = str(value) if type(value) is int else value
    if not isinstance(text, str) or re.fullmatch(r"\d{1,10}(:\d{1,10})?", text, re.ASCII) is None:
        raise ValueError(f"{value!r} must be numbers, uid or uid:gid")
    return text


def _words(value: Any) -> tuple[str, ...]:
    words = value if isinstance(value, (list, tuple)) else (value,)
    if not words:
        raise ValueError("must name at least one")
    return tuple(map(_word, words))


def _volumes(value: Any) -> VolumePolicy:
    entries = value if isinstance(value, (list, tuple)) else (value,)
    if not all(isinstance(entry, str) for entry in entries):
        raise ValueError("must be a list of host paths and names of volumes")
    return VolumePolicy.parse(entries)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{value!r} must be true or false")
    return value


def _number(least: float, most: float) -> Callable[[Any], float]:
    def check(value: Any) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value <= most:
            raise ValueError(f"{value!r} must be a number from {least:g} to {most:g}")
        return value

    return check


def _env(value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping) or not all(isinstance(k, str) and k and "=" not in k for k in value):
        raise ValueError("must be a mapping of names to texts")
    return {name: str(text) for name, text in value.items()}


_CHECKS: Mapping[str, Callable[[Any], Any]] = {
    "engine": _word,
    "host": _word,
    "image": _word,
    "network": _words,
    "volumes": _volumes,
    "user": _user,
    "gpus": _flag,
    "init": _flag,
    "runtime": _word,
    "pids": lambda value: int(_number(1, 4_194_304)(value)),
    "poll_interval": _number(0, 3600),
    "keep": _number(0, 7 * 86400),
    "env": _env,
}
