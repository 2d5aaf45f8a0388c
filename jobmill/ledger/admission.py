"""Queues to private lists, and from there into the record: take, split, admit, grant."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from jobmill.ledger.exchange import Call
from jobmill.ledger.membership import Membership
from jobmill.ledger.record import Record, text


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The head of a private list. ``turn`` makes what is done with it happen once, also when a reply is cut."""

    queue: str
    turn: int
    entries: Sequence[bytes]
    oversize: dict[int, int] = field(default_factory=dict)  # position -> bytes of an entry too large to be read
    cut: bool = False  # more could have been taken, but they are large: look again at once

    def parted(self, count: int) -> tuple[Batch, Batch]:
        """Return the first ``count`` entries, and the rest as what will be the head once these are dealt with."""
        first = {n: size for n, size in self.oversize.items() if n < count}
        rest = {n - count: size for n, size in self.oversize.items() if n >= count}
        return (
            replace(self, entries=self.entries[:count], oversize=first),
            replace(self, entries=self.entries[count:], oversize=rest, turn=self.turn + 1),
        )


@dataclass(kw_only=True, slots=True)  # not frozen: that triples the time to make one
class Entry:
    """One job to be admitted."""

    job_id: str
    spec: str  # canonical text, one line of JSON
    system: str
    user: str
    needs: str = ""  # the sets and amounts that it takes: "LocalJobs User:ann local.cpus=4"; "": only the system's set
    name: str = ""
    priority: int = 0
    place: str = "waiting"  # waiting | held | later
    due: float = 0.0  # Unix time of `later`, seconds
    depends_on: Sequence[str] = ()
    after: str = "ok"  # ok | any | failed
    tags: Sequence[str] = ()
    notify: Sequence[str] = ()

    def values(self) -> list[str | int]:
        """Return the twelve values that the script reads."""
        extras = ""
        if self.tags or self.notify or self.after != "ok":
            extras = _extras(tuple(self.tags), tuple(self.notify), self.after if self.depends_on else "ok")
        return [
            "job",
            self.job_id,
            self.spec,
            self.system,
            self.user,
            self.name,
            self.priority,
            self.needs,
            self.place,
            int(self.due * 1000),
            " ".join(self.depends_on),
            extras,
        ]


@functools.lru_cache(256)  # many jobs have the same
def _extras(tags: tuple[str, ...], notify: tuple[str, ...], after: str) -> str:
    known = {"tags": " ".join(tags), "notify": " ".join(notify), "after": "" if after == "ok" else after}
    given = {name: value for name, value in known.items() if value}
    return json.dumps(given) if given else ""


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """One entry that cannot become a job: it goes to Dead_Queue, whole, with its reason."""

    reason: str
    queue: str = "Job_Queue"
    job_id: str = ""

    def values(self, now: float) -> list[str | int]:
        """Return the twelve values that the script reads."""
        header = {"reason": self.reason, "queue": self.queue, "time": round(now, 3)}
        if self.job_id:
            header["id"] = self.job_id
        return ["dead", json.dumps(header), self.job_id, *[""] * 9]


def taking(
    member: Membership, queue: str, count: int, largest: int = 1 << 30, most: int = 1 << 30, skip: int = 0
) -> Call[Batch]:
    """Return the call of `take`; ``skip``: entries at the head that this process has read already."""

    def read(answer: Sequence[bytes]) -> Batch:
        turn, cut, over, *entries = answer
        numbers = [int(number) for number in over.split()]
        oversize = dict(zip(numbers[::2], numbers[1::2], strict=True))
        return Batch(queue=queue, turn=int(turn), entries=entries, oversize=oversize, cut=bool(cut))

    return Call(name="take", args=(member.name, queue, count, largest, most, skip), read=read)


def take(member: Membership, queue: str, count: int, largest: int = 1 << 30, most: int = 1 << 30) -> Batch:
    """Move up to ``count`` entries into the private list and return its head; raise Evicted.

    ``largest``: bytes above which an entry is told by its size only; ``most``: bytes after which the answer ends.
    """
    return member.record.do(taking(member, queue, count, largest, most))


def split(member: Membership, batch: Batch, documents: Sequence[str]) -> None:
    """Replace the head of the private list by its documents; raise Evicted."""
    member.record.run("split", member.name, batch.queue, batch.turn, *documents)


def admitting(member: Membership, batch: Batch, entries: Sequence[Entry | Refusal], now: float) -> Call[list[str]]:
    """Return the call of `admit`."""
    values: list[str | int] = [member.name, batch.queue, batch.turn]
    for entry in entries:
        values += entry.values() if isinstance(entry, Entry) else entry.values(now)
    return Call(name="admit", args=values, read=lambda words: list(map(text, words)))


def admit(member: Membership, batch: Batch, entries: Sequence[Entry | Refusal], now: float) -> list[str]:
    """Admit the head of the private list; return a word an entry: admitted, same, cancelled, not_run or dead."""
    return member.record.do(admitting(member, batch, entries, now))


@dataclass(frozen=True, kw_only=True)
class Grants:
    """What one call of `grant` did."""

    jobs: int  # granted
    users: int  # who still have jobs in line
    cut: bool = False  # it ended for the size of the specs: the next call may grant more


def granting(system: str, capacity_set: str, count: int) -> Call[Grants]:
    """Return the call of `grant`."""

    def read(answer: Sequence[int]) -> Grants:
        jobs, _, users, cut = answer
        return Grants(jobs=jobs, users=users, cut=bool(cut))

    return Call(name="grant", args=(system, capacity_set, count), read=read)


def grant(record: Record, system: str, capacity_set: str, count: int) -> Grants:
    """Grant up to ``count`` jobs of a system, and about 16 MB of their specs."""
    return record.do(granting(system, capacity_set, count))
