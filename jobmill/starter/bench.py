"""The systems of one lane, as one starter owns them."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Mapping, Sequence

from jobmill.config import Config
from jobmill.errors import PermanentError, SystemUnavailable
from jobmill.ledger import capacity
from jobmill.ledger.record import Record
from jobmill.systems import registry
from jobmill.systems.system import ExecutionSystem

logger = logging.getLogger("jobmill")


class Bench:
    """Builds the systems, leads them or stands by, and follows their live limits."""

    def __init__(self, record: Record, config: Config, lane: str) -> None:
        self._record = record
        self.spool = config.spool
        self._config = config
        self.lane = lane
        self.systems: dict[str, ExecutionSystem] = {
            name: self.build(name) for name, s in config.systems.items() if s.lane == lane
        }
        if not self.systems:
            lanes = ", ".join(sorted({repr(s.lane) for s in config.systems.values()}))
            raise PermanentError(f"no system is configured for lane {lane!r}; the configuration has lanes {lanes}")
        self.leads = False
        self._slots: dict[str, int] = {}

    def build(self, name: str) -> ExecutionSystem:
        """Return an instance of one of the systems; another one for each thread."""
        system = self._config.systems[name]
        return registry.system_class(system.kind).build(name, system.all_options, self.spool)

    def enter(self) -> None:
        """Claim the systems that belong to one host; raise PermanentError where another host has them."""
        here = socket.gethostname()
        for name, system in self.systems.items():
            if not system.one_host:
                continue
            host = capacity.claim_host(self._record, name, here)
            if host != here:
                raise PermanentError(
                    f"system {name!r} belongs to host {host}, this is {here}. Start this worker there, or give this "
                    f"host a system of its own: systems: {{{name}-{here}: {{kind: {system.kind}, lane: {here}}}}} and "
                    f"jobmill-starter --lane {here}"
                )
        self.tick(capacity.limits(self._record))

    def tick(self, limits: Mapping[str, int]) -> None:
        """Lead as soon as nobody else does; hand changed running limits on."""
        led = all(system.lead() for system in self.systems.values())
        if led != self.leads:
            logger.info("leads" if led else "stands by: another starter leads", extra={"lane": self.lane or "-"})
        self.leads = led
        for name, system in self.systems.items():
            slots = limits.get(f"{name}.slots")
            if slots is not None and self._slots.get(name) != slots:
                with contextlib.suppress(SystemUnavailable):  # again at the next tick
                    system.set_slots(slots)
                    self._slots[name] = slots

    def filenos(self) -> Sequence[int]:
        """Return the descriptors of systems that push; none while another starter leads."""
        found: list[int] = []
        for system in self.systems.values() if self.leads else ():
            with contextlib.suppress(SystemUnavailable):  # `submit` says why
                fd = system.fileno()
                found += [] if fd is None else [fd]
        return found

    def close(self) -> None:
        """Take nothing more; what runs goes on."""
        for system in self.systems.values():
            system.close()
