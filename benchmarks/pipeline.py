"""The pipeline without processes: jobs that end at once, through queue, workers and record, in jobs a second.

    python benchmarks/pipeline.py --jobs 10000 --rounds 3 --peers rq,rq_fork,celery,dramatiq [--json]

jobmill runs them on its `fake` system; the peers run a function that returns its argument. Prints a table, and one line
of JSON at the end (``--json``: only this line).
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, it finds its neighbours

from benchmarks import turns
from benchmarks.jobmill_under_test import JobmillThroughput
from benchmarks.peers.task_queues import CeleryQueue, Dramatiq, Rq, RqFork
from benchmarks.throughput import compare

PEERS = {peer.name: peer for peer in (Rq, RqFork, CeleryQueue, Dramatiq)}

# What a user of a fast cluster would write: it takes thousands of submissions, and is asked five times a second.
# Its jobs are over as soon as they are released, and it runs no process for them.
SYSTEMS = "{fake: {kind: fake, limit: 5000, poll_interval: 0.2, seconds: 0}}"
JOB = {"command": ["true"], "env": {"FAKE_SECONDS": "0"}}


def main() -> int:
    """Measure and print; exit with 1 when a contender's results were wrong."""
    parser = turns.parser(__doc__, list(PEERS), jobs=10_000, rounds=3)
    given = parser.parse_args()
    peers = turns.chosen({name: partial(peer, given.spool) for name, peer in PEERS.items()}, given, parser)
    own = JobmillThroughput(given.spool, systems=SYSTEMS, job=JOB)
    return compare(f"{given.jobs} jobs that end at once, two worker processes", [own, *peers], given)


if __name__ == "__main__":
    raise SystemExit(main())
