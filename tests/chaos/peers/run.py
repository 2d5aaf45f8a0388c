"""One run of a peer: jobs and faults by a seed, until it is at rest; then the verdict."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.checker import Findings, Told
from tests.chaos.faults.fault import Fault
from tests.chaos.nemesis import Nemesis
from tests.chaos.peers.contract import NotAcknowledged, Peer
from tests.chaos.peers.plans import Job, jobs
from tests.chaos.peers.verdict import crowded, judge, repeated, unseen

LONGEST = 1300.0  # seconds to rest after the last fault, whatever the peer's own timers say
LOOK = 1.0  # seconds between looks at a peer that comes to rest
KINDS = ("lost", "doubled", "over_capacity", "untrue")  # what a peer is judged by


@dataclass(kw_only=True)
class Result:
    """What one run has shown."""

    peer: str
    version: str
    seed: int
    jobs: int
    acknowledged: int = 0
    faults: Mapping[str, int] = field(default_factory=dict)
    findings: Findings = field(default_factory=Findings)
    unseen: Sequence[str] = ()  # jobs told as not known, whose body had ended with 0
    repeated: Sequence[str] = ()  # jobs that were run again after a good end
    crowded: Sequence[str] = ()  # starts beyond the slots
    words: Mapping[str, int] = field(default_factory=dict)
    missed: int = 0  # faults that found nothing to hit; others took their place
    broken: Sequence[str] = ()  # faults that could not be injected: a fault of this program
    seconds: float = 0.0
    at_rest: bool = True  # false: it still changed after all that time

    def to_dict(self, examples: int = 5) -> dict[str, Any]:
        """Return the figures, and so many examples of each kind of finding."""
        sentences = self.findings.sentences()
        return {
            "peer": self.peer,
            "version": self.version,
            "seed": self.seed,
            "jobs": self.jobs,
            "acknowledged": self.acknowledged,
            "faults": dict(sorted(self.faults.items())),
            **{kind: len(sentences[kind]) for kind in KINDS},
            "told_lost": self.findings.told_lost,
            "unseen": len(self.unseen),
            "repeated": len(self.repeated),
            "crowded": len(self.crowded),
            "runs": self.findings.runs,
            "states": dict(sorted(self.findings.states.items())),
            "seconds": round(self.seconds, 1),
            "at_rest": self.at_rest,
            "words": dict(self.words),
            "examples": {kind: sentences[kind][:examples] for kind in KINDS if sentences[kind]},
            "missed": self.missed,
            "broken": list(self.broken),
        }


def run(
    peer: Peer,
    *,
    count: int,
    faults: Sequence[Fault],
    injections: int,
    patience: float | None,
    tell: Callable[[str], None],
) -> Result:
    """Break a peer for a while and judge what came of it. ``patience``: seconds of rest; None: what its timers need."""
    began = time.monotonic()
    work = jobs(peer.seed, count, peer.retries, peer.scale)
    nemesis = Nemesis(peer, faults, count=injections, seed=peer.seed)  # type: ignore[arg-type]
    users = Users(peer, work, injections * peer.pace)
    users.start()
    nemesis.start()
    while nemesis.busy or users.busy:
        time.sleep(0.2)
        peer.recover()
        tell(f"{len(users.acknowledged)}/{count} submitted, {sum(nemesis.injected.values())}/{injections} faults")
    told, at_rest = _until_rest(peer, [job.plan.job_id for job in work], patience, tell)
    lines = peer.evidence.lines()
    plans = [job.plan for job in work]
    return Result(
        peer=peer.name,
        version=peer.version,
        seed=peer.seed,
        jobs=count,
        acknowledged=len(users.acknowledged),
        faults=+(nemesis.injected - Counter(words.partition(":")[0] for words in nemesis.failed)),
        findings=judge(plans, users.acknowledged, lines, told, peer.slots, says_lost=peer.says_lost),
        unseen=list(unseen(plans, lines, told)),
        repeated=repeated(plans, lines),
        crowded=crowded(lines, peer.slots),
        words=peer.words(),
        missed=nemesis.missed,
        broken=nemesis.failed,
        seconds=time.monotonic() - began,
        at_rest=at_rest,
    )


class Users:
    """Submit everything, spread over the time of the faults; what was not answered is said again."""

    def __init__(self, peer: Peer, work: Sequence[Job], spread: float) -> None:
        self.acknowledged: set[str] = set()
        self._peer, self._work, self._spread = peer, work, spread
        self._thread = threading.Thread(target=self._serve, name="users", daemon=True)

    @property
    def busy(self) -> bool:
        """Tell whether something is still to be submitted."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def _serve(self) -> None:
        began, next_job = time.monotonic(), 0
        while next_job < len(self._work):
            due = len(self._work) * (time.monotonic() - began) / self._spread if self._spread else len(self._work)
            if next_job > due:
                time.sleep(0.05)
                continue
            batch = self._work[next_job : next_job + 5]
            try:
                self._peer.submit(batch)
            except NotAcknowledged:
                time.sleep(0.3)
                continue
            self.acknowledged.update(job.plan.job_id for job in batch)
            next_job += len(batch)


def _until_rest(
    peer: Peer, ids: Sequence[str], patience: float | None, tell: Callable[[str], None]
) -> tuple[Mapping[str, Told], bool]:
    """Wait until nothing has changed for long enough; return what is told then, and whether it came to rest."""
    told: Mapping[str, Told] = {}
    began = since = time.monotonic()
    before: object = None
    while time.monotonic() - began < LONGEST:
        time.sleep(LOOK)
        peer.recover()
        try:
            told = peer.told(ids)
            needed = peer.patience() if patience is None else patience
        except NotAcknowledged:
            continue
        now = (told, peer.evidence.file.stat().st_size)
        if now != before or needed == math.inf:
            before, since = now, time.monotonic()
        still = time.monotonic() - since
        tell(f"nothing has changed for {still:.0f} of {needed:.0f} s")
        if still >= needed:
            return told, True
    return told, False
