"""What an ended job weighs in the server: its hash as the embedded server keeps it, and as a server's defaults do."""

from __future__ import annotations

import statistics

from jobmill.jobs.states import State
from jobmill.ledger.record import Record, text

SAMPLE = 100  # jobs
USUAL = 64  # bytes: the longest value of a compact hash by default


def ended_bytes(record: Record) -> dict[str, float]:
    """Return medians of MEMORY USAGE in bytes, of jobs that are done: ``compact`` and ``default``."""
    option = "hash-max-listpack-value"
    kept = record.call("CONFIG", "GET", option)
    limit = text(next(iter(kept.values())) if isinstance(kept, dict) else kept[1])
    ids = [text(i) for i in record.call("ZRANGE", record.keys.ended(State.DONE), 0, SAMPLE - 1)]
    compact, default = [], []
    try:
        record.call("CONFIG", "SET", option, USUAL)
        for job_id in ids:
            key, copy = record.keys.job(job_id), "copy" + record.keys.job(job_id)[3:]  # as long a name
            row = record.call("HGETALL", key)
            pairs = row.items() if isinstance(row, dict) else zip(row[::2], row[1::2], strict=True)
            record.call("HSET", copy, *[value for pair in pairs for value in pair])
            compact.append(record.call("MEMORY", "USAGE", key))
            default.append(record.call("MEMORY", "USAGE", copy))
            record.call("DEL", copy)
    finally:
        record.call("CONFIG", "SET", option, limit)
    return {"compact": statistics.median(compact), "default": statistics.median(default)}
