"""jobmill-manager"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from jobmill.config import Config
from jobmill.ledger.record import Record
from jobmill.manager.manager import Manager
from jobmill.worker.command import serve


def _make(record: Record, config: Config, lane: str) -> Manager:
    return Manager(record, config)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one manager."""
    return serve("manager", "Validates, routes and admits the jobs of Job_Queue, and grants them.", _make, argv)


if __name__ == "__main__":
    sys.exit(main())
