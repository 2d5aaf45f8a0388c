"""Where the DRMAA library of a Grid Engine is, and whether it is used."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jobmill.errors import ConfigError
from jobmill.systems.drmaa_desk import installed

DEBIAN = Path("/usr/lib/gridengine-drmaa/lib/libdrmaa.so.1.0")


def find(name: str, options: Mapping[str, Any], env: Mapping[str, str]) -> str | None:
    """Return the library by the options ``drmaa`` and ``library`` of a system; None: it goes by its commands alone.

    Raises ConfigError where it is wanted (`drmaa: true`) and not here.
    """
    where = f"systems.{name}"
    wanted, given = options.get("drmaa"), options.get("library")
    if wanted not in (None, True, False):
        raise ConfigError(f"{where}.drmaa: {wanted!r} is neither true nor false")
    if given is not None and (not isinstance(given, str) or not given.startswith("/")):
        raise ConfigError(f"{where}.library: {given!r} is no absolute path")
    if wanted is False:
        return None
    if not installed():
        if wanted or given:
            raise ConfigError(f"{where}: DRMAA needs a package; do: {sys.executable} -m pip install 'jobmill[drmaa]'")
        return None
    if given is not None or "DRMAA_LIBRARY_PATH" in env:
        return given or env["DRMAA_LIBRARY_PATH"]
    root = env.get("SGE_ROOT")
    places = [*(sorted(Path(root).glob("lib/*/libdrmaa.so")) if root else []), DEBIAN]
    found = next((str(path) for path in places if path.exists()), None)
    if found is None and wanted:
        raise ConfigError(f"{where}: no libdrmaa at {', '.join(map(str, places))}; say where by library:")
    return found
