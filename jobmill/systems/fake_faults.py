"""The faults of the fake system: what goes wrong, how often, and the file by which any process changes it."""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from jobmill.errors import ConfigError, nearest


@dataclass(frozen=True, kw_only=True)
class Faults:
    """Nothing goes wrong by default. Probabilities are numbers from 0 to 1."""

    seed: int = 0  # the same seed and the same calls of a process: the same faults
    delay: float = 0.0  # seconds that every verb takes
    down: bool = False  # every verb raises SystemUnavailable
    refuse: float = 0.0  # probability that a submission is refused, TRANSIENT
    limit: int | None = None  # submissions that the cluster has at once; what is more is refused, LIMIT
    unclear: float = 0.0  # probability that a submission is accepted and told as UNCLEAR
    duplicate: float = 0.0  # probability that a submission is accepted twice, and one handle told
    empty: float = 0.0  # probability that a query (status, survey, settle, inventory) answers as if it knew nothing
    wrong: float = 0.0  # probability that an observation is wrong
    late: float = 0.0  # seconds after an end at which its exit record appears


NAMES = tuple(f.name for f in fields(Faults))
CHANCES = ("refuse", "unclear", "duplicate", "empty", "wrong")


def checked(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the faults that ``values`` name; raise ConfigError, which begins with ``where``, for what cannot be."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if name not in NAMES:
            raise ConfigError(f"{where}: unknown fault {name!r}{nearest(name, NAMES)}; known: {', '.join(NAMES)}")
        if name == "down":
            right, wanted = isinstance(value, bool), "true or false"
        elif name in CHANCES:
            right, wanted = number and 0 <= value <= 1, "a probability from 0 to 1"
        elif name in ("seed", "limit"):
            right, wanted = type(value) is int and value >= 0, "a whole number from 0"
            right = right or (name == "limit" and value is None)
        else:
            right, wanted = number and 0 <= value < 86400, "seconds from 0 to 86400"
        if not right:
            raise ConfigError(f"{where}.{name}: {value!r} is not {wanted}")
        found[name] = value
    return found


class FaultFile:
    """The faults of one cluster: a small JSON file, replaced whole, read again when it is another."""

    def __init__(self, file: Path, given: Mapping[str, Any]) -> None:
        """``given``: the faults as long as the file does not say otherwise."""
        self._file = file
        self._given = dict(given)
        self._seen: tuple[int, int] | None = None
        self._faults = Faults(**self._given)
        self._calls: Counter[str] = Counter()

    def read(self) -> Faults:
        """Return the faults in force."""
        try:
            found = self._file.stat()
            seen = (found.st_mtime_ns, found.st_ino)
        except FileNotFoundError:
            seen = None
        if seen != self._seen:
            self._faults = Faults(**(self._given | self._said()))
            self._seen = seen
            self._calls.clear()
        return self._faults

    def change(self, **changes: Any) -> Faults:
        """Change some faults for every process that uses this cluster; return all that are in force now."""
        said = self._said() | checked(changes, "faults")
        self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = self._file.with_name(f"{self._file.name}.{os.getpid()}")
        new.write_text(json.dumps(said))
        new.replace(self._file)
        return self.read()

    def draw(self, verb: str) -> random.Random:
        """Return the random numbers of one call: by seed, verb, and how many calls this process made before."""
        self._calls[verb] += 1
        return random.Random(f"{self._faults.seed} {verb} {self._calls[verb]}")

    def told(self) -> str:
        """Return the faults in force as words, empty where there are none."""
        plain = asdict(Faults(seed=self.read().seed))
        return ", ".join(f"{name} {value}" for name, value in asdict(self._faults).items() if value != plain[name])

    def _said(self) -> dict[str, Any]:
        try:
            values = json.loads(self._file.read_bytes())
            return checked(values, str(self._file)) if isinstance(values, dict) else {}
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise ConfigError(f"{self._file}: is no JSON mapping of faults: {error}; remove it") from error
