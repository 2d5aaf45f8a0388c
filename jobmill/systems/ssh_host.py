"""One host behind SSH, as the configuration and ``~/.ssh/config`` describe it: plain data, which holds no secret."""

from __future__ import annotations

import dataclasses
import getpass
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobmill.errors import ConfigError
from jobmill.systems.ssh_options import Lookup, duration, number, paths, text

OPTIONS = frozenset(
    {
        *("host", "port", "user", "keys", "known_hosts", "ssh_config", "proxy_jump", "proxy_command"),
        *("control_path", "connect_timeout", "keepalive", "idle"),
    }
)
DEFAULT_KEYS = ("~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa")
DEFAULT_KNOWN_HOSTS = ("~/.ssh/known_hosts", "~/.ssh/known_hosts2", "/etc/ssh/ssh_known_hosts")
PROTOCOL = 1  # of the words between a process and the master; another one is another master
JUMPS_MAX = 8  # longer chains are a loop in ~/.ssh/config


@dataclass(frozen=True, kw_only=True)
class SshHost:
    """Where to connect, as whom, with which keys, over what."""

    name: str  # in the configuration
    alias: str  # as the user wrote it: what `ssh` finds in its own configuration
    address: str
    port: int
    user: str
    keys: tuple[str, ...] = ()  # private key files; a certificate is found beside its key
    agent: bool = True  # all the keys of the agent may be tried; False: only those of `keys`
    key_name: str | None = None  # the name in known_hosts when it is not the address (HostKeyAlias)
    known_hosts: tuple[str, ...] = ()
    proxy_jump: tuple[SshHost, ...] = ()  # hosts on the way, the nearest first
    proxy_command: str | None = None  # run by /bin/sh, as ssh does; its stdin and stdout are the connection
    control_path: str | None = None  # socket of the user's own ControlMaster, which is then used and nothing else
    connect_timeout: float = 15.0  # seconds for each step: TCP, banner, keys, login, a channel
    keepalive: float = 30.0  # seconds of silence after which the connection is given up
    idle: float = 300.0  # seconds without clients after which the connection is closed

    @classmethod
    def of(cls, name: str, options: Mapping[str, Any], where: str) -> SshHost:
        """Take the options named in `OPTIONS`, completed from ``~/.ssh/config``; raise ConfigError.

        ``where`` is the place in the configuration (``systems.bird``), for the words of errors.
        """
        alias = text(options, "host", where) or name
        lookup = Lookup.of(options.get("ssh_config"), where)
        found = cls._found(name, alias, lookup, where, user=text(options, "user", where))
        changes: dict[str, Any] = {}
        if options.get("port") is not None:
            changes["port"] = number(options, "port", where, least=1, most=65535)
        if options.get("keys") is not None:
            changes["keys"] = paths(options, "keys", where)
            changes["agent"] = False
        if options.get("known_hosts") is not None:
            changes["known_hosts"] = paths(options, "known_hosts", where)
        if options.get("proxy_jump") is not None and options.get("proxy_command") is not None:
            raise ConfigError(f"{where}: proxy_jump and proxy_command exclude each other; name one")
        for key in ("connect_timeout", "keepalive", "idle"):
            if options.get(key) is not None:
                changes[key] = duration(options, key, where)
        found = dataclasses.replace(found, **changes)
        jump = text(options, "proxy_jump", where)
        if jump is not None:
            found = dataclasses.replace(found, proxy_jump=(), proxy_command=None)
            found = dataclasses.replace(found, proxy_jump=cls._jumps(found, jump, lookup, f"{where}.proxy_jump"))
        command = text(options, "proxy_command", where)
        if command is not None:
            command = None if command == "none" else _expand(command, found)
            found = dataclasses.replace(found, proxy_jump=(), proxy_command=command)
        # each host on the way is held to the same known hosts and patience; keys of its own come from ~/.ssh/config
        way = tuple(
            dataclasses.replace(
                it,
                keys=found.keys if not found.agent else it.keys,
                agent=found.agent,
                known_hosts=found.known_hosts if options.get("known_hosts") is not None else it.known_hosts,
                connect_timeout=found.connect_timeout,
                keepalive=found.keepalive,
            )
            for it in found.proxy_jump
        )
        return dataclasses.replace(found, proxy_jump=way, control_path=text(options, "control_path", where))

    @classmethod
    def _found(
        cls, name: str, alias: str, lookup: Lookup, where: str, *, user: str | None = None, depth: int = 0
    ) -> SshHost:
        """Return what ``~/.ssh/config`` and the defaults say of a host."""
        if depth > JUMPS_MAX:
            raise ConfigError(f"{where}: ProxyJump in {lookup.name} goes in circles at {alias!r}")
        if not alias or alias.startswith("-") or any(c.isspace() or c < " " for c in alias):
            raise ConfigError(f"{where}: {alias!r} is not the name of a host")
        said = lookup.host(alias, where)
        files = tuple(str(Path(it).expanduser()) for it in said.get("identityfile", ()))
        if not files:
            files = tuple(str(path) for it in DEFAULT_KEYS if (path := Path(it).expanduser()).exists())
        known = said.get("userknownhostsfile", "").split() + said.get("globalknownhostsfile", "").split()
        host = cls(
            name=name,
            alias=alias,
            address=said.get("hostname", alias),
            port=number(said, "port", f"{lookup.name}: Host {alias}", least=1, most=65535) if "port" in said else 22,
            user=user or said.get("user") or getpass.getuser(),
            keys=files,
            agent=said.get("identitiesonly", "no").lower() != "yes",
            key_name=said.get("hostkeyalias"),
            known_hosts=tuple(str(Path(it.strip('"')).expanduser()) for it in known or DEFAULT_KNOWN_HOSTS),
            proxy_command=said.get("proxycommand"),
        )
        if host.proxy_command is None and said.get("proxyjump", "none").lower() != "none":
            way = cls._jumps(host, said["proxyjump"], lookup, f"{where}: ProxyJump of {alias}", depth)
            host = dataclasses.replace(host, proxy_jump=way)
        return host

    @classmethod
    def _jumps(cls, host: SshHost, words: str, lookup: Lookup, where: str, depth: int = 0) -> tuple[SshHost, ...]:
        """Read ``[user@]host[:port],…``; the first one may have a way of its own."""
        if words.lower() == "none":
            return ()
        way: list[SshHost] = []
        for word in words.split(","):
            user, _, rest = word.strip().removeprefix("ssh://").rpartition("@")
            address, colon, port = rest.rpartition(":")
            if not colon or (":" in address and not address.endswith("]")):  # no port, or a bare IPv6 address
                address, port = rest, ""
            found = cls._found(host.name, address.strip("[]"), lookup, where, user=user or None, depth=depth + 1)
            if port:
                value = number({"port": port}, "port", where, least=1, most=65535)
                found = dataclasses.replace(found, port=value)
            way += found.proxy_jump if not way else ()
            way.append(
                dataclasses.replace(found, proxy_jump=(), proxy_command=found.proxy_command if not way else None)
            )
        return tuple(way)

    @property
    def way(self) -> tuple[SshHost, ...]:
        """All hosts where a login takes place, the nearest first and this one last."""
        return (*self.proxy_jump, self)

    @property
    def label(self) -> str:
        """The host in words: ``user@address:port``."""
        address = f"[{self.address}]" if ":" in self.address else self.address
        return f"{self.user}@{address}" + (f":{self.port}" if self.port != 22 else "")

    @property
    def known_as(self) -> str:
        """The host's name in known_hosts: ``host``, or ``[host]:port`` where the port is not 22."""
        if self.key_name:
            return self.key_name
        return self.address if self.port == 22 else f"[{self.address}]:{self.port}"

    @property
    def digest(self) -> str:
        """A short name of all this but our name for it: hosts that differ in anything else do not share a master."""
        nameless = dataclasses.replace(
            self, name="", proxy_jump=tuple(dataclasses.replace(it, name="") for it in self.proxy_jump)
        )
        return hashlib.sha256(f"{PROTOCOL} {nameless.to_json()}".encode()).hexdigest()[:16]

    def to_json(self) -> str:
        """Return the text that `from_json` reads."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, words: str | bytes) -> SshHost:
        """Read `to_json` text; raise ValueError or TypeError when it is none."""
        return cls._from_dict(json.loads(words))

    @classmethod
    def _from_dict(cls, values: dict[str, Any]) -> SshHost:
        values["proxy_jump"] = tuple(cls._from_dict(it) for it in values["proxy_jump"])
        for key in ("keys", "known_hosts"):
            values[key] = tuple(values[key])
        return cls(**values)


def _expand(command: str, host: SshHost) -> str:
    """Fill in the tokens of a ProxyCommand as ssh_config(5) has them."""
    values = {"%%": "%", "%h": host.address, "%n": host.alias, "%p": str(host.port), "%r": host.user}
    return re.sub("%[%hnpr]", lambda found: values[found[0]], command)
