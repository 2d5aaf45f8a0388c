"""The configured systems as the record has to know them: sets, limits, lanes, copies."""

from __future__ import annotations

import json
import logging

from jobmill.config import Config
from jobmill.ledger import capacity
from jobmill.ledger.record import Record
from jobmill.rules.dispatcher import Dispatcher
from jobmill.rules.route import parse_routes
from jobmill.systems import registry
from jobmill.systems.system import ExecutionSystem

logger = logging.getLogger("jobmill")


class Sites:
    """What the configuration says of systems, for the record."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self.sets: dict[str, str] = {}  # system -> its in-queue set
        self._limits: dict[str, int | None] = dict(config.capacities)
        for name, system in config.systems.items():
            kind = registry.system_class(system.kind)
            kind.build(name, system.all_options, config.spool)  # says what is wrong with its options
            self.sets[name] = capacity_set(kind, name)
            for what, limit in kind.limits(system.slots, system.limit, system.options).items():
                self._limits.setdefault(self.sets[name] if what == "queue" else f"{name}.{what}", limit)

    def dispatcher(self) -> Dispatcher:
        """Return the routes of the configuration; raise ConfigError for a rule or system that nobody knows."""
        kinds = self._config.kinds
        return Dispatcher(systems=kinds, routes=parse_routes([it.entry for it in self._config.routes], kinds))

    def apply(self, record: Record) -> None:
        """Write limits (where the file changed its mind), lanes and copies."""
        changed = capacity.apply(record, self._limits)
        lanes = {name: system.lane for name, system in self._config.systems.items()}
        copies = {
            name: json.dumps(
                {"kind": s.kind, "lane": s.lane, "set": self.sets[name], "options": dict(s.options)}
                | {"spool": str(self._config.spool)},
                sort_keys=True,
                default=str,
            )
            for name, s in self._config.systems.items()
        }
        capacity.declare(record, lanes, copies)
        if changed:
            logger.info("applied limits", extra={"sets": ",".join(changed)})


def capacity_set(kind: type[ExecutionSystem], name: str) -> str:
    """Return the in-queue set of a system: what its kind says for the system that bears its name, else <Name>Jobs."""
    if kind.capacity_set and name == kind.kind:
        return kind.capacity_set
    return name[:1].upper() + name[1:] + "Jobs"
