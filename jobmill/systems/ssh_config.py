"""The mapping of an `ssh` system in the configuration, into hosts.

    lab:
      kind: ssh
      host: ann@node7              # one host, as `ssh` would take it; or several, each with options of its own
      hosts: {node7: {slots: 8}, node8: {host: ann@10.0.0.8, keys: ~/.ssh/farm}}

What stands beside them holds for every host.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jobmill.errors import ConfigError, nearest
from jobmill.systems import run_as
from jobmill.systems.far_host import FarHost
from jobmill.systems.ssh_host import OPTIONS as LOGIN
from jobmill.systems.ssh_host import SshHost
from jobmill.systems.ssh_link import SshLink

OWN = (
    "slots",
    "python",
    "folder",
    "kill_grace",
    "path",
    "shell",
    "env",
    *run_as.OPTIONS,
)  # of each host, besides those of the login
KEEP = 7 * 86400.0  # seconds for which the run folders of ended launches stay on their host
OF_ALL = ("hosts", "paths", "keep")  # of the system alone
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_PROGRAM = re.compile(r"[A-Za-z0-9_./+~-]{1,200}")  # goes into a login shell's line


def hosts_of(
    system: str, options: Mapping[str, Any], spool: Path
) -> tuple[list[FarHost], dict[str, str], float | None]:
    """Return the hosts, the folders here that are seen elsewhere there, and for how long run folders are kept.

    Raises ConfigError. Connects to nothing.
    """
    where = f"systems.{system}"
    if not NAME.fullmatch(system):
        raise ConfigError(f"{where}: a system's name is letters, digits, `.`, `_` and `-`, at most 64")
    known = sorted({*OWN, *OF_ALL, *LOGIN})
    for key in options:
        if key not in known:
            raise ConfigError(
                f"{where}: unknown option {key!r}{nearest(key, known)}; an ssh system has {', '.join(known)}"
            )
    given = options.get("hosts")
    if (given is None) == (options.get("host") is None):
        raise ConfigError(f"{where}: needs one of `host: user@name` and `hosts: {{name: {{…}}, …}}`")
    shared = {key: value for key, value in options.items() if key not in OF_ALL}
    if given is None:
        most = shared.pop("slots", None)  # of the system, and of its only host
        name = str(options["host"]).rpartition("@")[2]
        hosts = [host(system, name if NAME.fullmatch(name) else "host", {**shared, "slots": most}, where, spool)]
    else:
        shared.pop("slots", None)  # bounds them all together; see `SshSystem.limits`
        names = dict.fromkeys(given) if isinstance(given, list) else given
        if not isinstance(names, Mapping) or not names:
            raise ConfigError(f"{where}.hosts: {given!r} is neither a list of hosts nor a mapping {{name: {{…}}}}")
        hosts = [
            host(
                system, str(name), {**shared, **_mapping(own, f"{where}.hosts.{name}")}, f"{where}.hosts.{name}", spool
            )
            for name, own in names.items()
        ]
    return hosts, paths_of(options, where), keep_of(options, where)


def paths_of(options: Mapping[str, Any], where: str) -> dict[str, str]:
    """Return the folders here that are seen elsewhere there; raise ConfigError."""
    paths = _mapping(options.get("paths"), f"{where}.paths")
    for here, there in paths.items():
        if not all(isinstance(path, str) and path.startswith("/") for path in (here, there)):
            raise ConfigError(f"{where}.paths: {here!r}: {there!r} are not two absolute paths")
    return {here.rstrip("/") or "/": there.rstrip("/") for here, there in paths.items()}


def keep_of(options: Mapping[str, Any], where: str) -> float | None:
    """Return for how many seconds run folders are kept there, None for ever; raise ConfigError."""
    keep = options.get("keep", KEEP)
    if keep is not False and (isinstance(keep, bool) or not isinstance(keep, int | float) or not 600 <= keep < 1e10):
        raise ConfigError(f"{where}.keep: {keep!r} is neither a number of seconds from 600 nor false")
    return None if keep is False else float(keep)


def host(system: str, name: str, options: Mapping[str, Any], where: str, spool: Path) -> FarHost:
    """Return one host; raise ConfigError."""
    if not NAME.fullmatch(name):
        raise ConfigError(
            f"{where}: {name!r} is no name of a host: letters, digits, `.`, `_` and `-`; say its address by `host`"
        )
    known = sorted({*OWN, *LOGIN})
    for key in options:
        if key not in known:
            raise ConfigError(f"{where}: unknown option {key!r}{nearest(key, known)}; a host has {', '.join(known)}")
    slots, grace = options.get("slots"), options.get("kill_grace", 5)
    if slots is not None and (type(slots) is not int or slots < 0):
        raise ConfigError(f"{where}.slots: {slots!r} is not a number of slots; write a whole number from 0")
    if isinstance(grace, bool) or not isinstance(grace, int | float) or not 0 <= grace < 86400:
        raise ConfigError(f"{where}.kill_grace: {grace!r} is not a number of seconds from 0 to 86400")
    texts = {key: options.get(key) for key in ("python", "folder", "path", "shell")}
    for key, value in texts.items():
        if value is not None and (not isinstance(value, str) or not value or not value.isprintable()):
            raise ConfigError(f"{where}.{key}: {value!r} is not a text")
    python = texts["python"] or "python3"
    if not _PROGRAM.fullmatch(python):
        raise ConfigError(
            f"{where}.python: {python!r} is not a plain path to a Python; write python3 or /opt/python/bin/python3"
        )
    env = _mapping(options.get("env"), f"{where}.env")
    if not all(isinstance(key, str) and key and "=" not in key for key in env):
        raise ConfigError(f"{where}.env: write a mapping of names to texts")
    login = SshHost.of(name, _login({key: value for key, value in options.items() if key in LOGIN}, where), where)
    link = SshLink(login, Path(spool) / "ssh")
    return FarHost(
        name,
        link.open,
        link.sftp,
        system=system,
        slots=slots,
        python=python,
        folder=texts["folder"] or ".jobmill",
        kill_grace=float(grace),
        path=texts["path"],
        shell=texts["shell"] or "/bin/sh",
        env={key: str(value) for key, value in env.items()},
        run_as=run_as.RunAs.of(options, where),
    )


def _login(options: dict[str, Any], where: str) -> dict[str, Any]:
    """Take ``user@host`` apart, as `ssh` does."""
    user, sign, address = str(options.get("host") or "").rpartition("@")
    if sign and options.get("user") not in (None, user):
        raise ConfigError(f"{where}: host says user {user!r}, user says {options['user']!r}; say one")
    return {**options, "user": user, "host": address} if sign else options


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if value is None or isinstance(value, Mapping):
        return value or {}
    raise ConfigError(f"{where}: {value!r} is not a mapping of name: value")
