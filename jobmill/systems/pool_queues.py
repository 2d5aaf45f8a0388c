"""The queues of a pool, by what a job on each may take: a job goes to the smallest into which it fits."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobmill.errors import ConfigError, nearest

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
_MEMORY = re.compile(r"(\d{1,9})\s*([MGT]?)(?:i?B)?", re.ASCII | re.IGNORECASE)
_UNIT = {"": 1, "M": 1, "G": 1 << 10, "T": 1 << 20}
KEYS = ("cpus", "memory", "gpus")


@dataclass(frozen=True, kw_only=True)
class PoolQueue:
    """One RQ queue; None: without a bound."""

    name: str
    cpus: int | None = None
    memory: int | None = None  # MiB
    gpus: int | None = None

    def lacks(self, *, cpus: int, memory: int | None, gpus: int) -> bool:
        """Tell whether a job asks for more than this queue gives."""
        pairs = ((cpus, self.cpus), (memory or 0, self.memory), (gpus, self.gpus))
        return any(bound is not None and asked > bound for asked, bound in pairs)

    def words(self) -> str:
        """Return the queue for a message."""
        bounds = [f"{k} {v}" for k, v in (("cpus", self.cpus), ("memory", self.memory), ("gpus", self.gpus)) if v]
        return f"{self.name} ({', '.join(bounds)})" if bounds else self.name


class PoolQueues:
    """All queues of one pool, smallest first."""

    def __init__(self, queues: Sequence[PoolQueue]) -> None:
        def size(queue: PoolQueue) -> tuple[float, float, float]:
            gpus, cpus, memory = (float("inf") if v is None else v for v in (queue.gpus, queue.cpus, queue.memory))
            return gpus, cpus, memory

        self.queues = tuple(sorted(queues, key=size))

    @classmethod
    def read(cls, given: Any, where: str) -> PoolQueues:
        """Read the option: a list of names, or names with bounds; left out: `default`, which takes every job.

        Where a queue has any bound, it has one CPU and no GPU if it does not say otherwise. Raises ConfigError.
        """
        if given is None:
            return cls([PoolQueue(name="default")])
        if isinstance(given, list):
            given = {name: None for name in given if isinstance(name, str)} if _names(given) else given
        if not isinstance(given, Mapping) or not given:
            raise ConfigError(f"{where}: write a list of RQ queues, or a mapping such as {{default: {{cpus: 1}}}}")
        return cls([_queue(name, bounds, f"{where}.{name}") for name, bounds in given.items()])

    def choose(self, wanted: str | None, *, cpus: int, memory: int | None, gpus: int) -> PoolQueue | str:
        """Return the queue that a job names, or else the smallest into which it fits; or why there is none."""
        asked = f"cpus {cpus}" + (f", memory {memory}M" if memory else "") + (f", gpus {gpus}" if gpus else "")
        listed = ", ".join(queue.words() for queue in self.queues)
        if wanted is not None:
            found = next((queue for queue in self.queues if queue.name == wanted), None)
            if found is None:
                hint = nearest(wanted, [queue.name for queue in self.queues])
                return f"there is no queue {wanted!r}{hint}; queues of this pool: {listed}"
            if found.lacks(cpus=cpus, memory=memory, gpus=gpus):
                return f"queue {wanted!r} does not give what the job asks for ({asked}); queues of this pool: {listed}"
            return found
        for queue in self.queues:
            if not queue.lacks(cpus=cpus, memory=memory, gpus=gpus):
                return queue
        return f"no queue gives what the job asks for ({asked}); queues of this pool: {listed}"


def _names(given: list[Any]) -> bool:
    return all(isinstance(name, str) for name in given)


def _queue(name: Any, bounds: Any, where: str) -> PoolQueue:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(f"{where}: {name!r} cannot be a queue's name: letters, digits, `.`, `_`, `-`, at most 64")
    if not bounds:
        return PoolQueue(name=name)
    if not isinstance(bounds, Mapping):
        raise ConfigError(f"{where}: write what a job may take there: {{cpus: 8, memory: 64G, gpus: 1}}")
    for key in bounds:
        if key not in KEYS:
            raise ConfigError(f"{where}: unknown key {key!r}{nearest(str(key), KEYS)}; a queue has {', '.join(KEYS)}")
    counts = {"cpus": 1, "gpus": 0} | {key: bounds[key] for key in ("cpus", "gpus") if key in bounds}
    for key, value in counts.items():
        if type(value) is not int or value < 0:
            raise ConfigError(f"{where}.{key}: {value!r} is not a whole number from 0")
    return PoolQueue(name=name, memory=_memory(bounds.get("memory"), f"{where}.memory"), **counts)


def _memory(value: Any, where: str) -> int | None:
    """Return MiB: a bare number is MiB, G and T are GiB and TiB."""
    if value is None:
        return None
    found = _MEMORY.fullmatch(str(value).strip()) if type(value) in (int, str) else None
    if found is None:
        raise ConfigError(f"{where}: {value!r} is no amount of memory; write 512M, 64G or a number of MiB")
    return int(found[1]) * _UNIT[found[2].upper()]


def amount(value: Any, where: str) -> int:
    """Return the MiB that an option says; raise ConfigError."""
    found = _memory(value, where)
    if found is None:
        raise ConfigError(f"{where}: write an amount such as 64M")
    return found
