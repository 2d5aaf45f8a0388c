"""One run: documents by a seed through a real pipeline, until all of them are dealt with; then the account."""

from __future__ import annotations

import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from jobmill.ledger import listing
from jobmill.ledger.membership import missing_roles
from jobmill.ledger.record import Record
from tests.fuzz.account import Account, account
from tests.fuzz.documents import documents
from tests.laws import violations
from tests.pipeline import Pipeline

CONFIG = """\
systems:
  fake: {kind: fake, limit: 20000, poll_interval: 0.2}
  local: {kind: local, slots: 0}
routes:
  - {name: odd, rules: [{name_matches: "align*"}, {user_is: [ann]}], system: [local, fake]}
  - {name: all, system: fake}
capacities: {"User:ann": 50, "fake.cpus": 1000, "fake.memory": 10000000, "fake.gpus": 0}
"""  # nothing that is pushed may ever run a command on this machine
PUSH = 500  # entries of one push
STILL = 90.0  # seconds without any change after which the run is over, done or not


@dataclass(kw_only=True)
class Result:
    """What one run has shown."""

    seed: int
    account: Account
    crashed: list[str] = field(default_factory=list)  # workers that are not the same processes any more
    tracebacks: int = 0
    broken: list[str] = field(default_factory=list)  # laws
    pushed: int = 0
    bytes: int = 0
    seconds: float = 0.0

    @property
    def clean(self) -> bool:
        """True when the claim holds."""
        return not (self.crashed or self.tracebacks or self.broken or self.account.unaccounted)

    def to_dict(self) -> dict[str, Any]:
        """Return the figures."""
        found = self.account
        return {
            "seed": self.seed,
            "documents": found.documents,
            "entries": self.pushed,
            "bytes": self.bytes,
            "accepted": found.accepted,
            "refused": found.refused,
            "same": found.same,
            "crashed": len(self.crashed),
            "tracebacks": self.tracebacks,
            "unaccounted": len(found.unaccounted),
            "broken_laws": len(self.broken),
            "states": dict(sorted(found.states.items())),
            "reasons": len(found.reasons),
            "seconds": round(self.seconds, 1),
            "per_second": round(found.documents / self.seconds) if self.seconds else 0,
        }


def run(seed: int, count: int, tell: Callable[[str], None] = lambda words: None, also: Sequence[bytes] = ()) -> Result:
    """Push ``count`` documents, and ``also``; return what became of them. The pipeline is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as made:
        pipeline = Pipeline(Path(made), config=CONFIG)
        try:
            return _run(pipeline, seed, count, tell, also)
        finally:
            pipeline.stop()


def _run(pipeline: Pipeline, seed: int, count: int, tell: Callable[[str], None], also: Sequence[bytes]) -> Result:
    pipeline.start()
    record = pipeline.client.record
    pipeline.until(lambda: not missing_roles(record))
    began = time.monotonic()
    entries = [*documents(seed, count), *also]
    waiting = iter(entries)
    while some := list(islice(waiting, PUSH)):
        record.call("RPUSH", "Job_Queue", *some)
    settle(pipeline, tell)
    seconds = time.monotonic() - began
    tell("accounts")
    return Result(
        seed=seed,
        account=account(record, entries),
        crashed=crashed(pipeline),
        tracebacks=pipeline.log.read_text(errors="replace").count("Traceback (most recent call last)"),
        broken=lasting(record),
        pushed=len(entries),
        bytes=sum(map(len, entries)),
        seconds=seconds,
    )


def settle(pipeline: Pipeline, tell: Callable[[str], None] = lambda words: None) -> None:
    """Wait until nothing is queued or under way, or nothing changes any more: the account tells which."""
    record = pipeline.client.record
    before: Any = None
    changed = time.monotonic()
    while time.monotonic() - changed < STILL and not crashed(pipeline):
        depths = listing.depths(record)
        queues = {name: size for name, size in depths.queues.items() if name != "Dead_Queue"}
        moving = {name: depths.live[name] for name in ("starting", "running")}
        left = sum(queues.values()) + listing.queued(record) + sum(moving.values()) + listing.entries_under_way(record)
        line = record.client.zcard("Waiting:fake")
        tell(f"{left} under way, {sum(depths.ended.values())} ended, {depths.queues['Dead_Queue']} refused")
        if not left and not line and not record.client.exists("Full:User:ann"):
            return
        now = (json.dumps(queues), moving, depths.ended, depths.queues["Dead_Queue"], left)
        if now != before:
            before, changed = now, time.monotonic()
        time.sleep(0.2)


def lasting(record: Record) -> list[str]:
    """Return what contradicts the laws and goes on to: jobs that are due move while thousands of keys are read."""
    found = violations(record.client)
    return [one for one in violations(record.client) if one in found] if found else []


def crashed(pipeline: Pipeline) -> list[str]:
    """Return the workers that have ended."""
    return [
        f"{role}[{w.pid}] ended with {w.poll()}: {_last_words(pipeline, role)}"
        for role, w in pipeline.workers.items()
        if w.poll() is not None
    ]


def _last_words(pipeline: Pipeline, role: str) -> str:
    lines = [line for line in pipeline.log_tail(2000).splitlines() if f"jobmill-{role}:" in line]
    return lines[-1] if lines else "without a word"


def total(results: Sequence[Result]) -> dict[str, Any]:
    """Return the figures of several runs as one mapping."""
    rows = [result.to_dict() for result in results]
    keys = ("documents", "accepted", "refused", "same", "crashed", "tracebacks", "unaccounted", "broken_laws")
    states = Counter[str]()
    for result in results:
        states.update(result.account.states)
    return {
        **{key: sum(row[key] for row in rows) for key in keys},
        "seeds": [result.seed for result in results],
        "states": dict(sorted(states.items())),
        "seconds": round(sum(result.seconds for result in results), 1),
    }
