"""The kinds of execution system: entry points of the group `jobmill.systems`, and `@register` in a site's own file.

# setup.cfg of any package                        # plugins/systems/mine.py of the site
[options.entry_points]                            from jobmill.systems.registry import register
jobmill.systems =
    mine = my_package.mine:MySystem               @register
                                                  class MySystem(ExecutionSystem): kind = "mine" …
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from jobmill.errors import ConfigError
from jobmill.systems.plugins import Plugins, load_files
from jobmill.systems.system import ExecutionSystem

System = TypeVar("System", bound=type[ExecutionSystem])


def _checked(name: str, found: Any) -> type[ExecutionSystem]:
    if not (isinstance(found, type) and issubclass(found, ExecutionSystem)):
        raise ConfigError(f"kind of system '{name}': {found!r} is not a subclass of ExecutionSystem")
    missing = ", ".join(sorted(found.__abstractmethods__))
    if missing:
        raise ConfigError(f"kind of system '{name}': {found.__name__} lacks the verbs {missing}")
    if getattr(found, "kind", None) != name:
        raise ConfigError(f"kind of system '{name}': {found.__name__}.kind must be '{name}' too")
    return found


_kinds: Plugins[type[ExecutionSystem]] = Plugins("jobmill.systems", "kind of system", _checked)


def register(system: System) -> System:
    """Class decorator: make ``system.kind`` known in this process; raise ConfigError when it is taken or incomplete."""
    kind = getattr(system, "kind", None)
    if not isinstance(kind, str) or not kind:
        raise ConfigError(f'{system.__name__} needs `kind = "…"`, the word that the configuration uses for it')
    _kinds.add(kind, _checked(kind, system))
    return system


def system_class(kind: str) -> type[ExecutionSystem]:
    """Return the class of a kind; raise UnknownName (with the known ones) or ConfigError (with the pip line)."""
    return _kinds.get(kind)


def known_kinds() -> tuple[str, ...]:
    """Return the names of all kinds, sorted; loads none of them."""
    return _kinds.known()


def kind_origin(kind: str) -> tuple[str, str]:
    """Return (package or file, "module:Class") of a known kind; does not load it."""
    return _kinds.origin(kind)


def load_site_systems(folder: Path) -> tuple[Path, ...]:
    """Import the files of the site's ``plugins/systems`` folder, so that they register; return them."""
    return load_files(folder)
