"""Jobs a second on this machine: N times /bin/true on two slots, jobmill and its peers in turn.

    python benchmarks/local_throughput.py --jobs 10000 --rounds 5 --peers xargs,hyperqueue [--json]

Prints a table, and one line of JSON at the end (``--json``: only this line).
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, it finds its neighbours

from benchmarks import turns
from benchmarks.jobmill_under_test import JobmillThroughput
from benchmarks.peers import PEERS
from benchmarks.throughput import compare


def main() -> int:
    """Measure and print; exit with 1 when a contender's results were wrong."""
    parser = turns.parser(__doc__, list(PEERS), jobs=10_000, rounds=5)
    given = parser.parse_args()
    peers = turns.chosen(PEERS, given, parser)
    return compare(f"{given.jobs} x /bin/true on two slots", [JobmillThroughput(given.spool), *peers], given)


if __name__ == "__main__":
    raise SystemExit(main())
