"""The keys of a job document: other words for the same thing, and ``--set``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from jobmill.errors import SpecError
from jobmill.jobs.document import value_of

Path = tuple[str | int, ...]

RESOURCES = ("cpus", "memory", "walltime", "gpus", "nodes", "tasks")
_RESOURCES = frozenset(RESOURCES)
OTHER_WORDS = {  # what the field's other tools call it -> our key
    "cwd": "workdir",
    "directory": "workdir",
    "class_type": "ClassType",
    "native_specification": "native",
    "partition": "queue",
    "cores": "cpus",
    "ncpus": "cpus",
    "mem": "memory",
    "time": "walltime",
    "time_limit": "walltime",
}
LATER = ("notify", "array", "stages", "jobs", "qos", "max_pending")  # not yet
MEANT = {  # what users try first, too far from our key to be found by its letters
    **dict.fromkeys(("cmd", "script", "run", "exec", "executable", "args", "arguments"), "command"),
    **dict.fromkeys(("environment", "variables"), "env"),
    **dict.fromkeys(("after_jobs", "dependencies", "dependency", "needs"), "depends_on"),
    **dict.fromkeys(("class", "type"), "ClassType"),
    **dict.fromkeys(("label", "labels"), "tags"),
    **dict.fromkeys(("module", "module_load"), "modules"),
    **dict.fromkeys(("retries", "max_retries"), "retry"),
    **dict.fromkeys(("host", "cluster"), "system"),
    **dict.fromkeys(("ram", "vmem"), "memory"),
    **dict.fromkeys(("timeout", "duration"), "walltime"),
    "threads": "cpus",
}
_PLACES: dict[str, Path] = {
    **{word: ("resources", word) for word in RESOURCES},
    **{word: ("resources", key) if key in RESOURCES else (key,) for word, key in OTHER_WORDS.items()},
}
_IN_RESOURCES = {word: key for word, key in OTHER_WORDS.items() if key in RESOURCES}
# our own words that no other word stands for, and that need no second look
_PLAIN = frozenset(("id", "name", "command", "system", "env", "inherit_env", "stdin", "stdout", "stderr", "account"))
_PLAIN |= {"user", "project", "tags", "priority", "inputs", "outputs", "retry", "depends_on", "after", "params", "hold"}
_PLAIN |= {"submit_dir", "modules"}


class Arranged:
    """A document's values under their canonical keys, and what stood in the way."""

    def __init__(self, raw: Mapping[Any, Any]) -> None:
        self.values: dict[str, Any] = {}
        self.written: dict[Path, Path] = {}  # canonical path -> the path in the document, where they differ
        self.problems: list[tuple[Path, str]] = []
        values = self.values
        resources: Any = None
        lifted = False
        for key, value in raw.items():
            if key in _PLAIN:  # most keys mean what they say
                if value is not None:
                    values[key] = value
            elif key in _PLACES:
                place = _PLACES[key]
                lifted = lifted or len(place) == 2
                self._move(place, (key,), value)
            elif key == "resources":
                resources = value
            elif key in LATER:
                self.problems.append(((key,), "is not supported in this version of jobmill; take it out"))
            elif value is not None:
                if key in values:
                    self._twice((key,), (key,))
                values[key] = value
        if resources is not None:
            if (
                type(resources) is dict
                and not lifted
                and resources.keys() <= _RESOURCES
                and None not in resources.values()
            ):
                values["resources"] = resources
            elif isinstance(resources, Mapping):
                for key, value in resources.items():
                    self._move(("resources", _IN_RESOURCES.get(key, key)), ("resources", key), value)
            elif lifted:
                self.problems.append((("resources",), "must be a mapping such as {cpus: 4, memory: 8G}"))
            else:
                values["resources"] = resources  # the model itself, or what it refuses
        steps = values.get("steps")
        if isinstance(steps, (list, tuple)):
            values["steps"] = [
                {"name": f"step-{number}", **step} if isinstance(step, Mapping) else step
                for number, step in enumerate(steps, 1)
            ]

    def _move(self, place: Path, given: Path, value: Any) -> None:
        """Put a value under its canonical key; a null counts as not given."""
        if value is None:
            return
        home = self.values if len(place) == 1 else self.values.setdefault("resources", {})
        if place[-1] in home:
            self._twice(place, given)
        home[str(place[-1])] = value
        if place != given:
            self.written[place] = given

    def _twice(self, place: Path, given: Path) -> None:
        first, second = (".".join(map(str, path)) for path in (self.written.get(place, place), given))
        self.problems.append((given, f"is said twice, as {first} and as {second}; keep one"))

    def path(self, place: Path) -> Path:
        """Return the path in the document for a canonical path."""
        for length in range(len(place), 0, -1):
            if given := self.written.get(place[:length]):
                return given + place[length:]
        return place


def place_of(path: Path) -> Path:
    """Return the canonical path for a path as a user writes it."""
    if path and path[0] in _PLACES:
        return _PLACES[str(path[0])] + path[1:]
    if len(path) > 1 and path[0] == "resources":
        return ("resources", _IN_RESOURCES.get(str(path[1]), path[1]), *path[2:])
    return path


def apply_settings(document: Mapping[str, Any], settings: Iterable[str]) -> dict[str, Any]:
    """Return a copy of a raw job mapping with each ``key.path=value`` set; raise SpecError for one that cannot be.

    Values are read as YAML (``env`` values stay the text that they are). An empty value takes the key out. Other
    spellings of the same key (``cores`` for ``resources.cpus``) give way. A number in a path is a place in a list.
    """
    result = dict(document)
    for setting in settings:
        key, equals, text = setting.partition("=")
        path: Path = tuple(
            int(word) if word.isdecimal() and number else word for number, word in enumerate(key.split("."))
        )
        if not equals or not all(str(word) for word in path) or key != key.strip():
            raise SpecError(f"--set {setting}: must be key=value, such as resources.cpus=4 or env.NAME=text")
        value: Any = text if path[0] == "env" and len(path) == 2 else value_of(text, where=f"--set {setting}")
        place = place_of(path)
        for known in [(word,) for word in result] + [("resources", word) for word in _mapping(result.get("resources"))]:
            if known != path and place_of(known) == place:
                result = _put(result, known, None, setting)
        result = _put(result, path, value, setting)
    return result


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _put(holder: Any, path: Path, value: Any, setting: str) -> Any:
    """Return a copy of ``holder`` with ``value`` at ``path``; None takes the key out."""
    step, rest = path[0], path[1:]
    if isinstance(holder, (list, tuple)):
        if not isinstance(step, int) or not 0 <= step < len(holder):
            raise SpecError(f"--set {setting}: {step!r} is no place in a list of {len(holder)}; count from 0")
        items = list(holder)
        items[step] = _put(items[step], rest, value, setting) if rest else value
        return items
    if holder is not None and not isinstance(holder, Mapping):
        raise SpecError(f"--set {setting}: there is no key {str(step)!r} in a single value")
    mapping = dict(holder or {})
    if rest:
        mapping[str(step)] = _put(mapping.get(str(step)), rest, value, setting)
    elif value is None:
        mapping.pop(str(step), None)
    else:
        mapping[str(step)] = value
    return mapping
