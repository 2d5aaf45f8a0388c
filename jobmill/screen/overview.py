"""The state of the whole pipeline: depths, sets used/limit, processes, server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from jobmill.ledger import capacity, listing, membership, polls, queries, server_facts
from jobmill.ledger.capacity import Usage
from jobmill.ledger.listing import Depths
from jobmill.ledger.membership import ROLES, Process, living
from jobmill.ledger.record import Record
from jobmill.ledger.secret import mask
from jobmill.screen import terminal
from jobmill.screen.moment import ago, duration
from jobmill.screen.table import Cell, Column, bar, lines


@dataclass(frozen=True, kw_only=True)
class Overview:
    """One look at a pipeline."""

    url: str  # without its password
    now: float  # the server's Unix time, seconds
    server: str  # "Valkey 9.1.0"
    settings: Mapping[str, str]  # appendonly, appendfsync, maxmemory-policy, as far as they can be read
    memory: tuple[int, int]  # used, limit (0: none); bytes
    depths: Depths
    usage: Sequence[Usage]
    processes: Sequence[Process]
    digest: str  # of the configuration here
    limits: Mapping[str, int]
    polls: Mapping[str, float]  # system -> when it is asked next, the server's Unix time
    queries: Mapping[str, queries.Spent]  # of systems with a budget

    def as_json(self) -> dict[str, Any]:
        """Return all of it as one JSON mapping."""
        return {
            "url": self.url,
            "time": self.now,
            "server": self.server,
            "settings": dict(self.settings),
            "memory": {"used": self.memory[0], "limit": self.memory[1] or None},
            "queues": self.depths.queues,
            "live": self.depths.live,
            "ended": self.depths.ended,
            "sets": [asdict(usage) for usage in self.usage],
            "slots": {name: n for name, n in self.limits.items() if name.endswith(".slots")},
            "processes": [asdict(p) | {"alive": living(p, self.now)} for p in self.processes],
            "polls": dict(self.polls),
            "queries": {name: asdict(spent) for name, spent in self.queries.items()},
            "configuration": self.digest or None,
        }


def look(record: Record, *, digest: str = "", whole: bool = True) -> Overview:
    """Return one look; without ``whole`` the server's kind and settings are left out, for who looks often."""
    return Overview(
        url=mask(record.url),
        now=membership.server_time(record),
        server=" ".join(server_facts.server_kind(record)) if whole else "",
        settings=server_facts.settings(record) if whole else {},
        memory=listing.memory(record),
        depths=listing.depths(record),
        usage=capacity.usage(record, capacity.set_names(record)),
        processes=membership.processes(record),
        digest=digest,
        limits=capacity.limits(record),
        polls=polls.due(record),
        queries=queries.spent(record),
    )


def overview_lines(view: Overview) -> list[str]:
    """Return the look as lines."""
    found = []
    if view.server:
        durable = (view.settings.get("appendonly"), view.settings.get("appendfsync")) == ("yes", "always")
        unread = server_facts.UNREAD in view.settings.values()
        words = "durable" if durable else "settings cannot be read" if unread else "NOT durable: jobmill doctor"
        most = f" of {view.memory[1] >> 20}" if view.memory[1] else ""
        style = "" if durable or unread else "red"
        found += [
            f"{terminal.paint('Server', 'bold')}  {view.server} at {view.url}, {view.memory[0] >> 20}{most} MiB, "
            + terminal.paint(words, style),
            "",
        ]
    found += [*_queue_lines(view.depths), "", *_set_lines(view.usage, view.limits), ""]
    if view.queries:
        found += [*_query_lines(view), ""]
    return found + process_lines(view)


def _queue_lines(depths: Depths) -> list[str]:
    queues, live = depths.queues, depths.live
    rows: list[tuple[Cell | str, ...]] = []
    names = {
        **{name: count for name, count in queues.items() if name != "Dead_Queue"},
        "waiting": live["waiting"],
        "blocked": live["blocked"],
        "later": live["later"],
        "held": live["held"],
        "Starting_Queue": live["starting"],
        "Running_Queue": live["running"],
    }
    order = ("Job_Queue", "waiting", "blocked", "later", "held", "Granted_Queue", "Starting_Queue", "Running_Queue")
    for name in sorted(names, key=lambda n: next((i for i, o in enumerate(order) if n.startswith(o)), 99)):
        rows.append((name, Cell(f"{names[name]:,}", "" if names[name] else "dim")))
    found = lines((Column("QUEUE"), Column("JOBS", right=True)), rows)
    ended = ", ".join(f"{n:,} {terminal.state_text(s)}" for s, n in depths.ended.items() if n) or "none yet"
    found.append(f"{terminal.paint('Ended', 'bold')}  {ended}")
    if count := queues["Dead_Queue"]:
        found.append(terminal.paint(f"Dead_Queue  {count:,} refused (jobmill dead list)", "red"))
    return found


def _set_lines(usage: Sequence[Usage], limits: Mapping[str, int]) -> list[str]:
    slots = [(n, limit) for n, limit in sorted(limits.items()) if n.endswith(".slots")]
    rows: list[tuple[Cell | str, ...]] = []
    for u in usage:
        full = u.limit is not None and u.used >= u.limit
        style = "yellow" if full else "green"
        rows.append((u.name, str(u.used), "-" if u.limit is None else str(u.limit), Cell(bar(u.used, u.limit), style)))
    rows += [(name, "", str(limit), "at once") for name, limit in slots]
    if not rows:
        return ["no sets yet: no manager has run here"]
    return lines((Column("SET", cut=True), Column("USED", right=True), Column("LIMIT", right=True), Column("")), rows)


def _query_lines(view: Overview) -> list[str]:
    """Return what clusters are asked, as their guests."""
    rows: list[tuple[Cell | str, ...]] = []
    for name, spent in sorted(view.queries.items()):
        due = view.polls.get(name)
        next_ = "-" if due is None else duration(max(0.0, due - view.now))
        full = spent.last_minute >= spent.budget
        count = Cell(f"{spent.last_minute:.0f}", "yellow" if full else "")
        rows.append((name, count, f"{spent.budget:g}", next_, "polls wait" if full else ""))
    heads = (Column("CLUSTER"), Column("QUERIES/MIN", right=True), Column("BUDGET", right=True), Column("NEXT IN"))
    return lines((*heads, Column("")), rows)


def process_lines(view: Overview) -> list[str]:
    """Return the processes, those that left in peace aside, with what is wrong with them."""
    rows: list[tuple[Cell | str, ...]] = []
    alive = [p for p in view.processes if living(p, view.now)]
    for p in sorted(view.processes, key=lambda p: (not living(p, view.now), p.role, p.name)):
        if p.left:
            continue
        live = living(p, view.now)
        differs = live and view.digest and p.digest and p.digest != view.digest
        note = "runs with another configuration than the one here" if differs else ""
        rows.append(
            (
                p.role + (f" ({p.lane})" if p.lane else ""),
                f"{p.host}[{p.pid}]",
                Cell("alive", "green") if live else Cell("dead", "red") if p.evicted else Cell("silent", "yellow"),
                ago(p.seen, view.now),
                duration(max(0.0, (view.now if live else p.seen) - p.since)) if p.since else "-",
                Cell(note, "yellow" if differs else "dim"),
            )
        )
    found = []
    if rows:
        heads = (Column("PROCESS"), Column("HOST", cut=True), Column("STATE"), Column("BEAT"), Column("UP", right=True))
        # the last few dead ones tell the story; a day's worth of them would hide it
        found = lines((*heads, Column("", cut=True)), rows[: len(alive) + 5])
    gone = [role for role in ROLES if not any(p.role == role for p in alive)]
    if gone:
        found.append(terminal.paint(f"no {', no '.join(gone)} alive: jobmill up", "red"))
    return found
