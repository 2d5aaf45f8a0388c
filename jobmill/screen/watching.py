"""The live view of a pipeline: depths, sets, rates, the jobs that run."""

from __future__ import annotations

import contextlib
import itertools
import sys
import time
from collections.abc import Iterable

from jobmill.errors import ServerUnavailable
from jobmill.jobs.states import LAUNCHED
from jobmill.ledger import listing
from jobmill.ledger.explanation import Explainer
from jobmill.ledger.record import Record
from jobmill.screen import terminal
from jobmill.screen.job_row import spent
from jobmill.screen.moment import clock, duration
from jobmill.screen.overview import Overview, look, overview_lines
from jobmill.screen.table import Cell, Column, lines

SHOWN = 12  # running jobs


def watch(record: Record, *, digest: str, interval: float, count: int | None, as_json: bool) -> int:
    """Show looks until Ctrl-C (which is no failure), or ``count`` of them."""
    looks: Iterable[int] = range(count) if count is not None else itertools.count()
    view = look(record, digest=digest, whole=False)  # fails here, in one line, when there is no server
    with contextlib.suppress(KeyboardInterrupt):
        if as_json or not terminal.is_terminal():
            _lines(record, view, digest, interval, looks, as_json=as_json)
        else:
            _live(record, view, digest, interval, looks)
    return 0


def _lines(
    record: Record, view: Overview, digest: str, interval: float, looks: Iterable[int], *, as_json: bool
) -> None:
    for number in looks:
        if number:
            time.sleep(interval)
            before, view = view, look(record, digest=digest, whole=False)
        else:
            before = view
        if as_json:
            terminal.say_json(view.as_json() | {"ended_per_second": _rate(before, view)})
        else:
            terminal.say(f"{clock(view.now)} {_counts(view)}, {_rate(before, view):.1f} ended/s")

        sys.stdout.flush()


def _live(record: Record, view: Overview, digest: str, interval: float, looks: Iterable[int]) -> None:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    before = view
    with Live(console=Console(highlight=False), auto_refresh=False, screen=True) as live:
        for _ in looks:
            try:
                before, view = view, look(record, digest=digest, whole=False)
                rate = terminal.paint(f"{_rate(before, view):,.1f} ended/s", "bold")
                head = f"{clock(view.now)}  {rate}  {_counts(view)}"
                told = [head, "", *overview_lines(view), "", *_running(record, view.now)]
            except ServerUnavailable as error:
                told = [terminal.paint(f"{clock(time.time())}  {error}", "red"), "waits for it; Ctrl-C leaves"]
            room = terminal.height() - 1
            live.update(Text.from_ansi("\n".join(told[:room]), no_wrap=True, overflow="crop"), refresh=True)
            time.sleep(interval)


def _counts(view: Overview) -> str:
    live, queues = view.depths.live, view.depths.queues
    waiting = live["waiting"] + live["blocked"] + live["later"] + live["held"]
    granted = sum(n for name, n in queues.items() if name.startswith("Granted_Queue"))
    ended = sum(view.depths.ended.values())
    words = f"{queues['Job_Queue']:,} queued, {waiting:,} waiting, {granted:,} granted, "
    return words + f"{live['starting'] + live['running']:,} running, {ended:,} ended"


def _rate(before: Overview, after: Overview) -> float:
    seconds = after.now - before.now
    count = sum(after.depths.ended.values()) - sum(before.depths.ended.values())
    return max(0.0, count / seconds) if seconds > 0 else 0.0


def _running(record: Record, now: float) -> list[str]:
    rows = listing.jobs(record, listing.find(record, LAUNCHED, SHOWN))
    if not rows:
        return []
    reasons = Explainer(record).reasons(rows)
    heads = (Column("RUNNING", cut=True), Column("NAME", cut=True), Column("TIME", right=True), Column("", cut=True))
    return lines(
        heads,
        [(r.id, r.name, Cell(duration(spent(r, now))), Cell(reasons[r.id].why, "dim")) for r in rows],
    )
