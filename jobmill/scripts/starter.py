"""jobmill-starter"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from jobmill.config import Config
from jobmill.ledger.record import Record
from jobmill.starter.starter import Starter
from jobmill.worker.command import serve


def _make(record: Record, config: Config, lane: str) -> Starter:
    return Starter(record, config, lane=lane)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one starter."""
    return serve("starter", "Launches the granted jobs of a lane on its systems.", _make, argv)


if __name__ == "__main__":
    sys.exit(main())
