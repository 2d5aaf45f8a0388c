"""The job classes: entry points of the group `jobmill.jobs`, named by the word that follows `ClassType:`."""

from __future__ import annotations

from typing import Any

from jobmill.errors import ConfigError
from jobmill.jobs.job import Job
from jobmill.systems.plugins import Plugins


def _checked(name: str, found: Any) -> type[Job]:
    if not (isinstance(found, type) and issubclass(found, Job)):
        raise ConfigError(f"ClassType '{name}': {found!r} is not a subclass of Job")
    if found.class_type != name:
        raise ConfigError(f"ClassType '{name}': {found.__name__}.class_type must be '{name}' too")
    if not found.kinds:
        raise ConfigError(f"ClassType '{name}': {found.__name__}.kinds names no kind of system to run on")
    return found


_classes: Plugins[type[Job]] = Plugins("jobmill.jobs", "ClassType", _checked)
_by_kind: dict[str, type[Job]] = {}


def job_class(class_type: str) -> type[Job]:
    """Return the class of a ClassType; raise UnknownName with the known ones and the nearest."""
    return _classes.get(class_type)


def class_for(class_type: str | None, kind: str) -> type[Job]:
    """Return the class for a job on a system of this kind: the named one, else the kind's usual one, else plain Job.

    Plain `Job` serves the systems of strangers, so that a new system needs no class of its own. A class whose package
    lacks something is passed over here (only who names it needs it). Raises UnknownName for an unknown ClassType.
    """
    if class_type is not None:
        return _classes.get(class_type)
    found = _by_kind.get(kind)
    if found is None:
        found = _by_kind[kind] = next((cls for cls in _loadable() if kind in cls.usual_on), Job)
    return found


def known_classes() -> tuple[str, ...]:
    """Return every ClassType, sorted; loads none of them."""
    return _classes.known()


def _loadable() -> list[type[Job]]:
    classes = []
    for name in _classes.known():
        try:
            classes.append(_classes.get(name))
        except ConfigError:
            continue
    return classes
