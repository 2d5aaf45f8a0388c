"""Accounts for every document that was pushed: refused, same as an earlier one, or a job with an end or a reason."""

from __future__ import annotations

import getpass
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from jobmill.errors import JobmillError
from jobmill.jobs.document import load
from jobmill.jobs.spec import JobSpec
from jobmill.jobs.states import ENDED, State
from jobmill.ledger import dead, listing
from jobmill.ledger.explanation import Explainer, ending
from jobmill.ledger.listing import JobRow
from jobmill.ledger.record import Record, batches

LIMIT = 4 << 20  # bytes of an entry, as the configuration has it by default
REST = 30.0  # seconds that a job which became due may take
DRAWN = "-"  # stands for an id that admission drew


@dataclass(kw_only=True)
class Account:
    """What became of the documents."""

    documents: int = 0
    accepted: int = 0
    refused: int = 0
    same: int = 0
    states: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    unaccounted: list[str] = field(default_factory=list)  # a sentence each


def account(record: Record, pushed: Iterable[bytes]) -> Account:
    """Read all of the record and of Dead_Queue, and match it with what was pushed."""
    result = Account()
    buried = Counter[bytes]()
    for entry in dead.entries(record):
        buried[entry.entry] += 1
        result.reasons[_sort(entry.reason)] += 1
        if not entry.reason or entry.queue != "Job_Queue" or "in jobmill itself" in entry.reason:
            result.unaccounted.append(f"refused for {entry.reason!r} from {entry.queue!r}: {entry.entry[:200]!r}")
    rows = _rows(record)
    named, drawn = _canonical(record, rows)
    for raw in pushed:
        for text in _documents(raw):
            result.documents += 1
            _match(result, text, buried, named, drawn)
    for text, count in (+buried).items():
        result.unaccounted.append(f"stands {count} times too often in Dead_Queue: {text[:200]!r}")
    result.unaccounted += [f"a job that nobody pushed: {canonical[:200]}" for canonical in (+drawn).elements()]
    _ends(record, rows, result)
    return result


def _rows(record: Record) -> list[JobRow]:
    ids = listing.find(record, set(State), limit=10**9)
    return [row for some in batches(ids, 1000) for row in listing.jobs(record, some)]


def _canonical(record: Record, rows: list[JobRow]) -> tuple[dict[str, tuple[str, bool]], Counter[str]]:
    """Return every job's spec: by id, and of all of them without their ids."""
    named: dict[str, tuple[str, bool]] = {}
    drawn = Counter[str]()
    for some in batches([row.id for row in rows], 1000):
        for job_id, text in zip(some, listing.specs(record, some), strict=True):
            spec = JobSpec.from_canonical(text)
            named[job_id] = (text, False)
            drawn[spec.model_copy(update={"id": DRAWN}).canonical()] += 1
    return named, drawn


def _documents(raw: bytes) -> list[bytes]:
    """Return the texts that an entry is split into: itself, where it is one or cannot be read."""
    try:
        found = load(raw, limit=LIMIT, together=True)
    except JobmillError:
        return [raw]
    return [document.entry.encode() for document in found] if len(found) > 1 else [raw]


def _match(
    result: Account, text: bytes, buried: Counter[bytes], named: dict[str, tuple[str, bool]], drawn: Counter[str]
) -> None:
    if buried[text]:
        buried[text] -= 1
        result.refused += 1
        return
    try:
        (document,) = load(text, limit=LIMIT)
        spec = JobSpec.parse(document)
    except (JobmillError, ValueError) as error:
        result.unaccounted.append(f"cannot be a job ({error}) and is not in Dead_Queue: {text[:200]!r}")
        return
    given = spec.id
    spec = spec.model_copy(update={"id": given or DRAWN, "user": spec.user or getpass.getuser()})
    canonical = spec.canonical()
    if given is None:
        if not drawn[canonical]:
            result.unaccounted.append(f"neither refused nor in the record: {text[:200]!r}")
            return
        drawn[canonical] -= 1
        # which of several equal ones it is cannot be told, nor does it matter
        result.accepted += 1
        return
    known, met = named.get(given, ("", False))
    if known != canonical:
        result.unaccounted.append(f"{given}: neither refused nor in the record as it was pushed: {text[:200]!r}")
    elif met:
        result.same += 1
    else:
        named[given] = (known, True)
        drawn[spec.model_copy(update={"id": DRAWN}).canonical()] -= 1
        result.accepted += 1


def _ends(record: Record, rows: list[JobRow], result: Account) -> None:
    """Every end has a reason and its evidence, every wait a reason (law 9)."""
    rows = [row if row.ended or may_wait(row) else _rested(record, row) for row in rows]
    reasons = Explainer(record).reasons(rows)
    for row in rows:
        result.states[row.state.value] += 1
        why = reasons[row.id].why
        if row.state in ENDED:
            if not ending(row) or not row.exit.get("evidence"):
                result.unaccounted.append(f"{row.id} ended {row.state} without reason or evidence: {row.exit}")
        elif not why or not may_wait(row):
            result.unaccounted.append(f"{row.id} is still {row.state}: {why!r}")


def _rested(record: Record, row: JobRow) -> JobRow:
    """Return a job again once it has ended or waits: it was put off (a retry, a time to start) and became due."""
    deadline = time.monotonic() + REST
    while not (row.ended or may_wait(row)) and time.monotonic() < deadline:
        time.sleep(0.05)
        (row,) = listing.jobs(record, [row.id])
    return row


def may_wait(row: JobRow) -> bool:
    """Tell whether a job that has not ended is where its own words put it, or a system without slots."""
    if row.state in (State.HELD, State.LATER):
        return True
    return row.state is State.WAITING and (row.facts.get("blocked", "0") != "0" or row.system == "local")


def _sort(reason: str) -> str:
    """Return the kind of a reason: its first line without place and quoted words."""
    words = reason.splitlines()[0].split(": ")
    return " ".join(words[-1 if len(words) < 3 else 2].split()[:5])
