"""The way to an instance: as an entry of an ssh system's ``hosts``, with the one host key that it has to show."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jobmill.systems.ec2_fleet_host import FleetHost
from jobmill.systems.ssh_host import OPTIONS as LOGIN
from jobmill.systems.ssh_host import SshHost
from jobmill.systems.ssh_link import SshLink


class Way:
    """Of one system."""

    def __init__(self, system: str, given: Mapping[str, Any], folder: Path, spool: Path) -> None:
        """``given``: what the file says of each instance as a host; ``folder``: where the known hosts are kept."""
        self._system, self._given, self._folder, self._spool = system, given, folder, spool

    def options(self, host: FleetHost) -> dict[str, Any]:
        """Return the options of an instance; its key is the only one that is known. Raises OSError."""
        known = self._folder / "known_hosts" / host.name
        name = host.address if host.port == 22 else f"[{host.address}]:{host.port}"
        line = f"{name} {host.host_key}\n"
        if not known.exists() or known.read_text() != line:
            known.parent.mkdir(parents=True, exist_ok=True)
            new = known.with_name(f"{known.name}.{os.getpid()}.{time.monotonic_ns()}")
            new.write_text(line)
            new.replace(known)
        given = {key: value for key, value in self._given.items() if key not in ("paths", "keep")}
        return given | {
            "host": host.address,
            "port": host.port,
            "user": host.user,
            "keys": [str(host.key)],
            "known_hosts": [str(known)],
            "slots": host.slots,
        }

    def link(self, host: FleetHost) -> SshLink:
        """Return a link to it. Raises ConfigError, OSError."""
        given = {key: value for key, value in self.options(host).items() if key in LOGIN}
        return SshLink(SshHost.of(host.name, given, f"systems.{self._system}"), self._spool / "ssh")
