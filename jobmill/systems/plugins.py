"""Things found by name: declared as entry points by any installed package, or registered by a file of the site."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Callable, Iterable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Generic, TypeVar

from jobmill.errors import ConfigError, JobmillError, UnknownName, nearest

Thing = TypeVar("Thing")


class Plugins(Generic[Thing]):
    """One entry-point group and what the site's own files add to it. Nothing is imported before it is asked for."""

    def __init__(self, group: str, noun: str, check: Callable[[str, Any], Thing]) -> None:
        """``check`` gets a name and what was loaded for it; it returns the thing or raises ConfigError."""
        self.group = group  # "jobmill.systems"
        self.noun = noun  # how messages call one of them: "kind of system"
        self._check = check
        self._registered: dict[str, Thing] = {}
        self._loaded: dict[str, Thing] = {}
        self._declared: dict[str, list[EntryPoint]] | None = None

    def known(self) -> tuple[str, ...]:
        """Return every name, sorted, without loading any."""
        return tuple(sorted({*self._registered, *self._entry_points()}))

    def get(self, name: str) -> Thing:
        """Return the thing of this name.

        Raises UnknownName with the known ones and the nearest, ConfigError when what is installed cannot be loaded.
        """
        found = self._registered.get(name) or self._loaded.get(name)
        if found is None:
            declared = self._entry_points().get(name)
            if not declared:
                known = self.known()
                listed = f"known: {', '.join(known)}" if known else f"none is installed ({self.group})"
                raise UnknownName(f"unknown {self.noun} '{name}'{nearest(name, known)}; {listed}")
            found = self._loaded[name] = self._check(name, self._load(name, declared))
        return found

    def origin(self, name: str) -> tuple[str, str]:
        """Return (package, "module:attribute") of a known name without loading it; several are listed with commas."""
        points = self._entry_points().get(name)
        if not points:
            thing = self._registered[name]
            module, words = getattr(thing, "__module__", ""), getattr(thing, "__qualname__", repr(thing))
            file = getattr(sys.modules.get(module), "__file__", None)
            return str(file or module), f"{module}:{words}"
        owners = dict.fromkeys(_owner(point) for point in points)
        return ", ".join(owners), ", ".join(dict.fromkeys(f"{point.module}:{point.attr}" for point in points))

    def add(self, name: str, thing: Thing) -> None:
        """Register a thing of the site's own; raise ConfigError when the name is taken by another."""
        if name in self._entry_points() or self._registered.get(name, thing) is not thing:
            raise ConfigError(f"{self.noun} '{name}' exists already; give yours another name")
        self._registered[name] = thing

    def _entry_points(self) -> dict[str, list[EntryPoint]]:
        if self._declared is None:
            found: dict[str, list[EntryPoint]] = {}
            for point in entry_points(group=self.group):
                found.setdefault(point.name, []).append(point)
            self._declared = found  # only when it is whole: another thread may be looking
        return self._declared

    def _load(self, name: str, declared: Iterable[EntryPoint]) -> Any:
        points = {f"{point.module}:{point.attr}": point for point in declared}  # without `[extras]`
        if len(points) > 1:
            owners = " and ".join(sorted(f"{_owner(point)} ({value})" for value, point in points.items()))
            raise ConfigError(f"{self.noun} '{name}' is declared twice, by {owners}; uninstall one of them")
        value, point = next(iter(points.items()))
        where = f"{self.noun} '{name}' ({_owner(point)}: {value})"
        try:
            return point.load()
        except ModuleNotFoundError as error:
            missing = (error.name or "").partition(".")[0]
            if not missing or missing == point.module.partition(".")[0]:
                raise ConfigError(f"{where} cannot be loaded: {error}; install it again") from error
            wanted = f"'{_owner(point)}[{','.join(point.extras)}]'" if point.extras else missing
            raise ConfigError(
                f"{where} needs the package '{missing}', which is not installed; "
                f"do: {sys.executable} -m pip install {wanted}"
            ) from error
        except JobmillError:
            raise
        except Exception as error:  # whatever a stranger's module does at import is its fault, told in one line
            raise ConfigError(f"{where} cannot be loaded: {type(error).__name__}: {error}") from error


def _owner(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "an unnamed package"


def load_files(folder: Path) -> tuple[Path, ...]:
    """Import every ``*.py`` of a site's plug-in folder once, so that its decorators register; return the files.

    Files whose names begin with ``_`` are left to be imported by the others, none is imported a second time. Raises
    ConfigError, which names file and line, for one that fails.
    """
    files = tuple(file for file in sorted(folder.glob("*.py")) if not file.name.startswith("_"))
    for file in files:
        place = hashlib.sha1(str(file.resolve()).encode(), usedforsecurity=False).hexdigest()[:8]
        module_name = f"jobmill_site_{place}_{file.stem}"
        if module_name in sys.modules:
            continue
        spec = importlib.util.spec_from_file_location(module_name, file)
        if spec is None or spec.loader is None:
            raise ConfigError(f"{file}: is no Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            del sys.modules[module_name]
            raise ConfigError(f"{file}{_line_in(file, error)}: {type(error).__name__}: {error}") from error
    return files


def _line_in(file: Path, error: BaseException) -> str:
    """Return ``:<line>`` of the deepest place in ``file`` that the error went through."""
    if isinstance(error, SyntaxError) and error.lineno:
        return f":{error.lineno}"
    line, trace = "", error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(file):
            line = f":{trace.tb_lineno}"
        trace = trace.tb_next
    return line
