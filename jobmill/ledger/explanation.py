"""Why a job is where it is: every wait has a reason that can be read, every end a reason and its evidence."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jobmill.jobs.states import ENDED, POLLED, State
from jobmill.ledger import capacity, endpoint, listing, membership, polls
from jobmill.ledger.capacity import Usage
from jobmill.ledger.listing import JobRow
from jobmill.ledger.membership import living
from jobmill.ledger.record import Record, text

MESSAGE = 500  # characters of a job's own message that a line bears; `jobmill show` has all of it


@dataclass(frozen=True, kw_only=True)
class Reason:
    """One answer to "why?"."""

    why: str  # one line
    fix: str = ""  # what to type, where there is something to do


class Explainer:
    """One look at what jobs wait for; the look is shared by all the jobs that are asked about."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self.now = membership.server_time(record)
        self.alive = [p for p in membership.processes(record) if living(p, self.now)]
        self.systems: Mapping[str, Mapping[str, str]] = {
            name: json.loads(copy) for name, copy in capacity.systems(record).items()
        }
        self.usage: dict[str, Usage] = {
            u.name: u for u in capacity.usage(record, [s["set"] for s in self.systems.values() if s.get("set")])
        }
        self.limits = capacity.limits(record)
        self.outages = endpoint.outages(record)
        self.polls = polls.due(record)

    def missing(self, role: str) -> Reason | None:
        """Return a reason when no process of a role is alive."""
        if any(p.role == role for p in self.alive):
            return None
        return Reason(why=f"no {role} is alive", fix="start the pipeline: jobmill up")

    def queued(self) -> Reason:
        """Return why something still stands in Job_Queue."""
        depth = int(self._record.call("LLEN", self._record.keys("Job_Queue")))
        return self.missing("manager") or Reason(why=f"in Job_Queue, {depth} to be admitted")

    def reasons(self, rows: Sequence[JobRow]) -> dict[str, Reason]:
        """Return the reason of each job."""
        due = [r.id for r in rows if r.state is State.LATER]
        keys = self._record.keys
        moments = self._record.read([("ZSCORE", keys("Later"), i) for i in due])
        later = {i: float(m) / 1000 for i, m in zip(due, moments, strict=True) if m is not None}
        return {row.id: self._reason(row, later) for row in rows}

    def reason(self, row: JobRow) -> Reason:
        """Return the reason of one job, with its place in line."""
        found = self.reasons([row])[row.id]
        if row.state is State.WAITING and not row.facts.get("full") and not _blocked(row):
            rank = self._record.call("ZRANK", self._record.keys(f"Waiting:{row.system}:{row.user}"), row.id)
            if rank is not None:
                return Reason(why=f"{found.why}; {int(rank)} of {row.user}'s own jobs go before it", fix=found.fix)
        if row.state in POLLED and not self._outage(row) and (due := self.polls.get(row.system)) is not None:
            soon = f"in {_span(due - self.now)}" if due > self.now else "now"
            return Reason(why=f"{found.why}; {row.system} is asked next {soon}", fix=found.fix)
        return found

    def _reason(self, row: JobRow, later: Mapping[str, float]) -> Reason:
        state = row.state
        if state in ENDED:
            return Reason(why=ending(row))
        wished = ""
        if row.wish:
            wished = f"; {row.wish.get('who', 'somebody')} wishes it cancelled"
            wished += f" ({row.wish['why']})" if row.wish.get("why") else ""
        if state is State.HELD:
            return Reason(why="held", fix=f"jobmill release {row.id}")
        if state is State.LATER:
            wait = later.get(row.id, self.now) - self.now
            why = row.facts.get("why", "start_after")
            if wait <= 0:
                return self.missing("fetcher") or Reason(why=f"{why}; due now")
            return Reason(why=f"{why}; due in {_span(wait)}")
        if state is State.WAITING:
            return self._waiting(row)
        if state is State.GRANTED:
            return self.missing("starter") or self._outage(row) or Reason(why=f"next on {row.system}")
        gone = self.missing("fetcher")
        out = self._outage(row)
        if state is State.UNKNOWN:
            why = row.facts.get("native_state") or "its system cannot be asked, or knows nothing of it, for now"
            why = out.why if out else why
            return Reason(
                why=f"{why}; it keeps its slots until there is evidence{wished}", fix=gone.fix if gone else ""
            )
        words = row.facts.get("progress") or str(state)
        place = f" on {row.system}" + (f" when last seen; {out.why}" if out else "")
        return Reason(why=words + place + wished + (f"; {gone.why}" if gone else ""), fix=gone.fix if gone else "")

    def _waiting(self, row: JobRow) -> Reason:
        if _blocked(row):
            return Reason(why=f"waits for {self._dependencies(row)}")
        if full := row.facts.get("full"):
            return Reason(why=f"full: {self._filled(full)}", fix=f"jobmill capacity set {full} N")
        gone = self.missing("manager") or self._outage(row)
        if gone:
            return gone
        name = self.systems.get(row.system, {}).get("set", "")
        used = self.usage.get(name)
        if used is not None and (used.limit is None or used.used >= used.limit):
            paused = not used.limit
            why = f"{name} is {'closed' if paused else 'full'}: {used.used}/{used.limit or 0}"
            return Reason(why=why, fix=f"jobmill capacity set {name} N")
        slots = self.limits.get(f"{row.system}.slots")
        if used is not None and slots is not None and used.used >= slots:
            return (
                Reason(why=f"all {slots} slots of {row.system} are taken")
                if slots
                else Reason(why=f"{row.system} is paused: 0 slots", fix=f"jobmill capacity set {row.system}.slots N")
            )
        return self.missing("starter") or Reason(why="in line")

    def _outage(self, row: JobRow) -> Reason | None:
        """Return a reason when the system of a job does not answer."""
        found = self.outages.get(row.system)
        return Reason(why=found.told(row.system)) if found else None

    def _filled(self, name: str) -> str:
        used = self.usage.get(name)
        if used is None:
            return f"{name} {text(self._record.call('SCARD', self._record.keys(name)))}"
        return f"{name} {used.used}/{used.limit if used.limit is not None else 'no limit'}"

    def _dependencies(self, row: JobRow) -> str:
        ids = row.facts.get("depends", "").split()
        states = listing.states(self._record, ids)
        ended = {s.value for s in ENDED}
        left = [f"{i} ({s or 'not submitted yet'})" for i, s in zip(ids, states, strict=True) if s not in ended]
        return ", ".join(left[:3]) + (f" and {len(left) - 3} more" if len(left) > 3 else "")


def ending(row: JobRow) -> str:
    """Return why a job ended as it did, in one line: ``exit value 3: no licence is free [exit record]``."""
    end = row.exit
    if row.state is State.DONE:
        return "exit 0" if end.get("exit_value") == 0 else str(end.get("exit_status", ""))
    parts = []
    if end.get("term_sig"):
        parts.append(f"signal {end['term_sig']}")
    elif end.get("exit_value") is not None:
        parts.append(f"exit {end['exit_value']}")
    reason = end.get("reason")
    if reason and reason not in ("exit_value", "signal"):
        parts.insert(0, str(reason))
    words = ", ".join(parts) or str(end.get("exit_status", ""))
    message = str(end.get("message") or "").strip()
    if len(message) > MESSAGE:
        message = f"{message[:MESSAGE]} …"
    if message.startswith(f"{reason} ") and row.state is State.CANCELLED:
        return message  # "cancelled by ann: wrong input" says it all
    return f"{words}: {message}" if message and message != words else words


def _span(seconds: float) -> str:
    """Return ``95 s``, ``12 min``, ``30 h`` or ``3 days``."""
    for most, size, unit in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < most:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86400:,.0f} days"


def _blocked(row: JobRow) -> bool:
    return row.facts.get("blocked", "0") not in ("", "0")
