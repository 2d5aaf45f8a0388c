"""Reading the record: one job, many jobs, depths. Changes nothing; no SCAN, no KEYS."""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any

from jobmill.jobs.identifier import drawn_at
from jobmill.jobs.states import ENDED, POLLED, State
from jobmill.ledger.keys import lane_suffix
from jobmill.ledger.pages import PAGE, pages
from jobmill.ledger.record import Record, text

_TIMES = ("submitted", "granted", "started", "ended")


@dataclass(frozen=True, kw_only=True)
class JobRow:
    """One job as the record has it."""

    id: str
    state: State
    run: int
    fence: int
    system: str
    user: str
    name: str = ""
    times: dict[str, float] = field(default_factory=dict)  # submitted, granted, started, ended: Unix time, seconds
    exit: dict[str, Any] = field(default_factory=dict)  # the exit information of the last run
    wish: dict[str, Any] = field(default_factory=dict)  # a cancel that stands: who, why, time
    facts: dict[str, str] = field(default_factory=dict)  # all else: needs, holds, full, handle, native, progress …

    @property
    def ended(self) -> bool:
        """True when the job will not change by itself any more."""
        return self.state in ENDED


def asking(record: Record, job_id: str) -> tuple[Any, ...]:
    """Return the command whose answer `row` reads."""
    return ("HGETALL", record.keys.job(job_id))


def row(job_id: str, answer: Any) -> JobRow | None:
    """Return the record of a job, or None where there is none."""
    raw = answer if isinstance(answer, dict) else dict(zip(answer[::2], answer[1::2], strict=True))
    facts = {text(k): text(v) for k, v in raw.items() if v}  # an end empties what it need not remove
    if "state" not in facts:
        return None
    state, end = State(facts.pop("state")), _object(facts.pop("exit", ""))
    times = {n: float(facts.pop(n)) / 1000 for n in _TIMES if n in facts}
    # whole seconds, and only where the id does not tell them: every byte counts where a million jobs wait
    moment = float(facts.pop("since")) if "since" in facts else drawn_at(job_id)
    if moment is not None:
        times["submitted"] = moment
    began = end.get("started")
    if state in ENDED and "started" not in times and isinstance(began, int | float):
        times["started"] = float(began)  # the end overtook the news of the start: the job's host saw it
    return JobRow(
        id=job_id,
        state=state,
        run=int(facts.pop("run", 1)),
        fence=int(facts.pop("fence", 0)),
        system=facts.pop("system", ""),
        user=facts.pop("user", ""),
        name=facts.pop("name", ""),
        times={n: times[n] for n in _TIMES if n in times},
        exit=end,
        wish=_object(facts.pop("wish", "")),
        facts=facts,
    )


def _object(line: str) -> dict[str, Any]:
    try:
        value = json.loads(line) if line else {}
    except ValueError:
        value = {"message": line}
    return value if isinstance(value, dict) else {"message": str(value)}


def jobs(record: Record, job_ids: Sequence[str]) -> list[JobRow]:
    """Return the records of these jobs, in order, without those that nobody knows."""
    answers = record.read([asking(record, i) for i in job_ids])
    rows = (row(i, a) for i, a in zip(job_ids, answers, strict=True))
    return [r for r in rows if r is not None]


def states(record: Record, job_ids: Sequence[str]) -> list[str]:
    """Return the states of these jobs, in order; '' for one that nobody knows."""
    return told_states(record.read(asking_states(record, job_ids)))


def asking_states(record: Record, job_ids: Sequence[str]) -> list[tuple[Any, ...]]:
    """Return the commands whose answers `told_states` reads."""
    return [("HGET", record.keys.job(i), "state") for i in job_ids]


def told_states(answers: Sequence[Any]) -> list[str]:
    """Return states as `states` does."""
    return [text(a) if a else "" for a in answers]


def spec(record: Record, job_id: str) -> str:
    """Return the canonical text of a job's spec (one line of JSON), or an empty string."""
    found = record.call("GET", record.keys.spec(job_id))
    return text(found) if found else ""


def specs(record: Record, job_ids: Sequence[str]) -> list[str]:
    """Return the canonical texts of these jobs' specs, in order."""
    return [text(a) if a else "" for a in record.read([("GET", record.keys.spec(i)) for i in job_ids])]


def runs(record: Record, job_id: str) -> list[dict[str, Any]]:
    """Return the earlier runs of a job, oldest first."""
    return [_object(text(line)) for line in record.call("LRANGE", record.keys.runs(job_id), 0, -1)]


def last(record: Record) -> str:
    """Return the id of the job that was admitted last, or an empty string."""
    found = record.call("GET", record.keys("Last"))
    return text(found) if found else ""


def lanes(record: Record) -> list[str]:
    """Return the lanes that the record knows, the empty one first."""
    named = {text(v) for v in record.call("HVALS", record.keys("Lanes"))}
    return sorted(named | {""})


def find(record: Record, wanted: Iterable[State], limit: int = 1000) -> list[str]:
    """Return up to ``limit`` ids in these states: live ones from the end of the pipeline, then ended, newest first."""
    found: dict[str, None] = {}
    for page in walk(record, wanted, size=min(PAGE, limit)):
        found.update(dict.fromkeys(page))
        if len(found) >= limit:
            break
    return list(found)[:limit]


def walk(record: Record, wanted: Iterable[State], *, user: str = "", size: int = PAGE) -> Iterator[list[str]]:
    """Yield the ids in these states in the order of `find`, a page a time; what is not taken is not read.

    A job that moves on meanwhile may come twice. ``user``: the lines of other users are passed over; jobs of theirs
    that stand elsewhere come all the same.
    """
    want = frozenset(wanted)
    for page in _places(record, want, user, size):
        ids = list(dict.fromkeys(page))
        yield [i for i, s in zip(ids, states(record, ids), strict=True) if s in want]


def _places(record: Record, want: frozenset[State], user: str, size: int) -> Iterator[list[str]]:
    """Yield the ids that stand where jobs in these states stand."""
    keys, suffixes = record.keys, [lane_suffix(lane) for lane in lanes(record)]
    if want & POLLED:
        for suffix in suffixes:
            yield from _members(record, keys("Running_Queue" + suffix), size)
    if State.STARTING in want:
        for suffix in suffixes:
            yield from _members(record, keys("Starting_Queue" + suffix), size)
    if State.GRANTED in want:
        yield from _granted(record, suffixes, size)
    if State.WAITING in want:
        for key in _lines(record, user):
            yield from _members(record, key, size)
    if State.LATER in want:
        yield from _members(record, keys("Later"), size)
    for state in [State.HELD, *sorted(ENDED)]:
        if state in want:
            for page in pages(record, keys.ended(state), newest=True, size=size):
                yield [member for member, _ in page]


def _members(record: Record, key: str, size: int) -> Iterator[list[str]]:
    for page in pages(record, key, size=size):
        yield [member for member, _ in page]


def _granted(record: Record, suffixes: Sequence[str], size: int) -> Iterator[list[str]]:
    keys = record.keys
    queues = [keys("Granted_Queue" + s) for s in suffixes]
    takers = [text(p) for p in record.call("ZRANGE", keys("Processes"), 0, -1)]
    queues += [keys.taken("Granted_Queue" + s, p) for s in suffixes for p in takers if p.startswith("starter")]
    for queue in queues:
        entries, last = record.call("LRANGE", queue, 0, size - 1), -1
        yield [json.loads(entry)["id"] for entry in entries]
        while len(entries) == size:  # what comes after them from the end: taking at the head moves nothing there
            entries = record.call("LRANGE", queue, last - size + 1, last)
            yield [json.loads(entry)["id"] for entry in entries]
            last -= size


def _lines(record: Record, user: str = "") -> list[str]:
    """Return the keys of all that waits; with ``user`` without other users' lines."""
    keys = record.keys
    found = []
    for system in record.call("HKEYS", keys("Systems")):
        ranks = keys("Waiting:" + text(system))
        names = [user] if user else [text(name) for name in record.call("ZRANGE", ranks, 0, -1)]
        found += [f"{ranks}:{name}" for name in names]
    found += [keys("Full:" + name) for name in record.members(keys("Full"))]
    return [*found, keys("Blocked")]


def ended(record: Record, wanted: Iterable[State], *, tag: str = "", size: int = PAGE) -> Iterator[list[str]]:
    """Yield the jobs that ended in these states (with ``tag``: in any, with this tag), newest first, a page a time."""
    keys = record.keys
    indexes = [keys("Jobs:by-tag:" + tag)] if tag else [keys.ended(state) for state in sorted(set(wanted) & ENDED)]
    each = [chain.from_iterable(pages(record, key, newest=True, size=size)) for key in indexes]
    merged = heapq.merge(*each, key=lambda one: -one[1])
    while page := [member for member, _ in islice(merged, size)]:
        yield page


@dataclass(frozen=True, kw_only=True)
class Depths:
    """How much stands where."""

    queues: dict[str, int]  # Job_Queue, Granted_Queue, Exit_Queue, Result_Queue, Dead_Queue (and their lanes)
    live: dict[str, int]  # waiting, blocked, later, held, granted, starting, running
    ended: dict[str, int]  # by end state


def depths(record: Record) -> Depths:
    """Count the queues and the jobs by state, in two round trips."""
    keys = record.keys
    suffixes = [lane_suffix(lane) for lane in lanes(record)]
    lists = ["Job_Queue", "Result_Queue", "Dead_Queue"]
    lists += [name + s for s in suffixes for name in ("Granted_Queue", "Exit_Queue")]
    zsets = {"blocked": [keys("Blocked")], "later": [keys("Later")], "held": [keys.ended("held")]}
    zsets["starting"] = [keys("Starting_Queue" + s) for s in suffixes]
    zsets["running"] = [keys("Running_Queue" + s) for s in suffixes]
    zsets["waiting"] = [k for k in _lines(record) if k != keys("Blocked")]
    zsets |= {state: [keys.ended(state)] for state in sorted(ENDED)}
    commands: list[tuple[Any, ...]] = [("LLEN", keys(n)) for n in lists]
    commands += [("ZCARD", k) for ks in zsets.values() for k in ks]
    answers = iter(record.read(commands))
    queues = {n: int(next(answers)) for n in lists}
    counts = {name: sum(int(next(answers)) for _ in ks) for name, ks in zsets.items()}
    live = {n: counts[n] for n in ("waiting", "blocked", "later", "held", "starting", "running")}
    return Depths(queues=queues, live=live, ended={s: counts[s] for s in sorted(ENDED)})


def waiting(record: Record) -> int:
    """Count the jobs that wait (in line, for a full set, for others)."""
    return sum(int(n) for n in record.read([("ZCARD", key) for key in _lines(record)]))


def memory(record: Record) -> tuple[int, int]:
    """Return the server's used memory and its maxmemory (0: none), in bytes."""
    facts = record.call("INFO", "memory")
    if not isinstance(facts, dict):
        facts = dict(line.split(":", 1) for line in text(facts).splitlines() if ":" in line)
    return int(facts.get("used_memory", 0)), int(facts.get("maxmemory", 0))


def entries_under_way(record: Record) -> bool:
    """Tell whether any granted entry stands in a queue, or in somebody's private list and is not begun."""
    keys = record.keys
    queues = ["Granted_Queue" + lane_suffix(lane) for lane in lanes(record)]
    if any(record.read([("LLEN", keys(q)) for q in queues])):
        return True
    takers = [p for p in map(text, record.call("ZRANGE", keys("Processes"), 0, -1)) if p.startswith("starter")]
    pairs = [(q, p) for q in queues for p in takers]
    begun = record.read([("HGET", keys("Process:" + p), f"begun:{q}") for q, p in pairs])  # before: it only grows less
    stand = record.read([("LLEN", keys.taken(q, p)) for q, p in pairs])
    return any(int(number) > int(some or 0) for number, some in zip(stand, begun, strict=True))


def queued(record: Record) -> int:
    """Count the entries that stand in Job_Queue or in a manager's private list."""
    keys = record.keys
    takers = [text(p) for p in record.call("ZRANGE", keys("Processes"), 0, -1)]
    lists = [keys("Job_Queue"), *(keys.taken("Job_Queue", p) for p in takers if p.startswith("manager"))]
    return sum(int(n) for n in record.read([("LLEN", name) for name in lists]))
