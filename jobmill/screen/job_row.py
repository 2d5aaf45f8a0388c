"""One job on the screen: a line of a list, a card, a JSON document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jobmill.ledger.explanation import Reason
from jobmill.ledger.listing import JobRow
from jobmill.screen import terminal
from jobmill.screen.moment import duration, moment
from jobmill.screen.table import Cell, Column, show

COLUMNS = (
    Column("ID", cut=True, least=17),
    Column("NAME", cut=True, least=8),
    Column("STATE"),
    Column("SYSTEM", cut=True, least=5),
    Column("USER", cut=True, least=4),
    Column("SUBMITTED"),
    Column("TIME", right=True),
    Column("WHY", cut=True, least=10),
)


def show_list(rows: Sequence[JobRow], reasons: Mapping[str, Reason], now: float) -> None:
    """Write jobs as a table."""
    show(
        COLUMNS,
        [
            (
                r.id,
                r.name,
                Cell(str(r.state), terminal.COLOUR_OF_STATE.get(r.state, "")),
                r.system,
                r.user,
                moment(r.times.get("submitted")),
                duration(spent(r, now)),
                reasons[r.id].why if r.id in reasons else "",
            )
            for r in rows
        ],
    )


def spent(row: JobRow, now: float) -> float | None:
    """Return how long a job runs or ran; before its start how long it waits, in seconds."""
    wall = row.exit.get("resource_usage", {}).get("wall") if row.ended else None
    if isinstance(wall, int | float):
        return float(wall)
    start = row.times.get("started") or row.times.get("submitted")
    return None if start is None else row.times.get("ended", now) - start if row.ended else now - start


def as_json(row: JobRow, **more: Any) -> dict[str, Any]:
    """Return a job as a JSON mapping; times are Unix times in seconds."""
    return {
        "id": row.id,
        "name": row.name or None,
        "state": str(row.state),
        "system": row.system,
        "user": row.user,
        "run": row.run,
        "tags": row.facts.get("tags", "").split(),
        "progress": row.facts.get("progress") or None,
        "times": row.times,
        "exit": row.exit,
        "usage": row.exit.get("resource_usage", {}),
        "wish": row.wish or None,
        "needs": row.facts.get("needs", "").split(),
        "holds": row.facts.get("holds", "").split(),
    } | more


def show_card(
    row: JobRow,
    reason: Reason,
    *,
    spec: Mapping[str, Any],
    runs: Sequence[Mapping[str, Any]],
    folder: str,
    stderr: Sequence[str],
    now: float,
) -> None:
    """Write everything that is known of one job."""
    facts: list[tuple[str, str]] = [("state", terminal.state_text(str(row.state))), ("why", terminal.clean(reason.why))]
    if reason.fix:
        facts.append(("fix", terminal.clean(reason.fix)))
    facts += [("name", terminal.clean(row.name or "-")), ("system", row.system), ("user", terminal.clean(row.user))]
    facts.append(("run", f"{row.run}" + (f" (after {len(runs)} earlier)" if runs else "")))
    facts += _times(row, now)
    facts += _exit(row)
    if row.wish:
        wish = f"cancel, by {row.wish.get('who')} at {moment(row.wish.get('time'))}"
        facts.append(("wish", terminal.clean(wish + (f": {row.wish['why']}" if row.wish.get("why") else ""))))
    for key in ("progress", "native", "native_state", "needs", "holds", "depends", "tags"):
        if row.facts.get(key):
            facts.append((key.replace("_", " "), terminal.clean(row.facts[key])))
    facts.append(("folder", terminal.clean(folder or "-")))
    terminal.say(terminal.paint(row.id, "bold"))
    for key, value in facts:
        terminal.say(f"  {terminal.paint(f'{key:12}', 'dim')} {value}")
    for run in runs:
        end = run.get("exit") or {}
        words = end.get("reason") or end.get("exit_status") or ""
        terminal.say(
            terminal.clean(f"  run {run.get('run')}: {run.get('state')} at {moment(run.get('time'))}  {words}")
        )
    if stderr:
        terminal.say(terminal.paint("  stderr, the last lines:", "dim"))
        for line in stderr:
            terminal.say(f"    {line}")
    if spec:
        import yaml

        text = yaml.safe_dump(dict(spec), sort_keys=False, allow_unicode=True, width=1000)
        terminal.say(terminal.paint("  spec:", "dim"))
        for line in text.splitlines():
            terminal.say(f"    {terminal.clean(line)}")


def _times(row: JobRow, now: float) -> list[tuple[str, str]]:
    steps = [(name, row.times[name]) for name in ("submitted", "granted", "started", "ended") if name in row.times]
    found: list[tuple[str, str]] = []
    before: float | None = None
    for name, when in steps:
        found.append((name, moment(when) + (f"  (+{duration(when - before)})" if before is not None else "")))
        before = when
    if not row.ended and before is not None:
        found.append(("since then", duration(now - before)))
    return found


def _exit(row: JobRow) -> list[tuple[str, str]]:
    end = row.exit
    if not end:
        return []
    said = [str(end.get("exit_status", "?"))]
    said += [
        f"{word} {end[key]}"
        for key, word in (("exit_value", "value"), ("term_sig", "signal"))
        if end.get(key) is not None
    ]
    facts = [("exit", terminal.clean(", ".join(said)))]
    for key in ("reason", "message", "evidence", "host"):
        if end.get(key):
            told = terminal.clean_lines(end[key]) or [""]
            facts.append((key, told[0]))
            facts += [("", line) for line in told[1:]]
    usage = end.get("resource_usage") or {}
    names = {
        "wall": "s wall",
        "cpu": "s cpu",
        "max_memory": "MiB at most",
        "read": "MiB read",
        "written": "MiB written",
    }
    if usage:
        facts.append(("usage", ", ".join(f"{usage[k]:g} {unit}" for k, unit in names.items() if k in usage)))
    return facts
