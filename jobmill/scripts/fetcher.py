"""jobmill-fetcher"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from jobmill.config import Config
from jobmill.fetcher.fetcher import Fetcher
from jobmill.ledger.record import Record
from jobmill.worker.command import serve


def _make(record: Record, config: Config, lane: str) -> Fetcher:
    return Fetcher(record, config, lane=lane)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one fetcher."""
    return serve("fetcher", "Polls what runs in a lane, collects results, frees capacity.", _make, argv)


if __name__ == "__main__":
    sys.exit(main())
