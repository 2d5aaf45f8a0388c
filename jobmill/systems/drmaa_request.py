"""What a job asks of a scheduler that is known by its DRMAA library alone: words that the site gives for each."""

from __future__ import annotations

import math
import re
import shlex
import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jobmill.errors import ConfigError, nearest
from jobmill.systems.system import Submission

FIELDS = ("cpus", "memory", "walltime", "gpus", "nodes", "tasks", "queue", "account")
ONE = ("cpus", "nodes", "tasks")  # of which every job has one
OPTIONAL = ("walltime",)  # kept by our own program in any case
_WORD = re.compile(r"[A-Za-z0-9_.@:+=,/-]+", re.ASCII)  # a queue or an account that comes through as one word


@dataclass(frozen=True, kw_only=True)
class DrmaaRequest:
    """Native words by what they are for, as ``{"memory": "-l h_vmem={memory}M"}``."""

    texts: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, name: str, given: Any) -> DrmaaRequest:
        """Read the option ``resources``; raise ConfigError."""
        where = f"systems.{name}.resources"
        if given is None:
            return cls()
        if not isinstance(given, Mapping):
            raise ConfigError(f'{where}: write a mapping, as {{memory: "-l h_vmem={{memory}}M"}}')
        for key, text in given.items():
            if key not in FIELDS:
                raise ConfigError(f"{where}: unknown {key!r}{nearest(str(key), FIELDS)}; known: {', '.join(FIELDS)}")
            try:
                names = {part[1] for part in string.Formatter().parse(text) if part[1] is not None}
                shlex.split(text)
            except (TypeError, ValueError) as error:
                raise ConfigError(f"{where}.{key}: {text!r}: {error}") from None
            if not names <= set(FIELDS):
                raise ConfigError(f"{where}.{key}: it may have {{{'}, {'.join(FIELDS)}}}, not {sorted(names)}")
        return cls(texts=dict(given))

    def words(self, it: Submission) -> list[str]:
        """Return the native words of a job; raise ValueError, with the fix, for what the site gives no words for."""
        values = {
            "cpus": max(1, it.cpus),
            "memory": it.memory or 0,  # MiB
            "walltime": math.ceil((it.walltime or 0) / 60) * 60,  # seconds, whole minutes
            "gpus": it.gpus,
            "nodes": it.nodes or 1,
            "tasks": it.tasks or 1,
            "queue": it.queue or "",
            "account": it.account or "",
        }
        words: list[str] = []
        for key in FIELDS:
            if not values[key] or (key in ONE and values[key] == 1):
                continue
            if key not in self.texts:
                if key in OPTIONAL:
                    continue
                raise ValueError(
                    f"it asks for {key}, and this system has no words for that: set resources: {{{key}: …}} with "
                    f"{{{key}}} in it, or write the scheduler's own words as the job's native"
                )
            if isinstance(values[key], str) and not _WORD.fullmatch(str(values[key])):
                raise ValueError(f"{key} {values[key]!r} is no name")
            words += shlex.split(self.texts[key].format(**values))
        return words
