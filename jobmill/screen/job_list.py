"""What `list`, `explain` and `show` print."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from jobmill.errors import JobmillError
from jobmill.jobs.states import ENDED, State
from jobmill.ledger.explanation import Explainer, ending
from jobmill.ledger.listing import JobRow
from jobmill.ledger.recent import recent
from jobmill.ledger.record import Record
from jobmill.ledger.selection import Selection
from jobmill.screen import terminal
from jobmill.screen.job_row import as_json as job_json
from jobmill.screen.job_row import show_card, show_list
from jobmill.screen.result import tail

if TYPE_CHECKING:
    from jobmill.client import Client

STDERR_LINES = 8


def show_jobs(record: Record, wanted: Selection, *, limit: int, as_json: bool) -> int:
    """Write the jobs that fit."""
    rows, more = recent(record, wanted, limit)
    look = Explainer(record)
    reasons = look.reasons(rows)
    if as_json:
        for row in rows:
            terminal.say_json(job_json(row, why=reasons[row.id].why))
        return 0
    queued = int(record.call("LLEN", record.keys("Job_Queue")))
    if rows:
        show_list(rows, reasons, look.now)
    elif not queued:
        terminal.note("no jobs" + ("" if wanted.empty else " that fit") + "; submit one: jobmill submit FILE")
    if more:
        terminal.note(f"… there are more (--limit {limit * 10})")
    if queued and wanted.empty:
        reason = look.missing("manager")
        terminal.note(f"{queued:,} more in Job_Queue" + (f": {reason.why} ({reason.fix})" if reason else ""))
    return 0


def show_one(client: Client, job_id: str, *, as_json: bool) -> None:
    """Write everything that is known of one job; raise UnknownName, or SpecError for one that was refused."""
    row = client.job(job_id)
    look = Explainer(client.record)
    reason = look.reason(row)
    spec, runs = client.spec(job_id), client.runs(job_id)
    folder = _folder(client, row)
    stderr = tail(client, row, "stderr", STDERR_LINES)[0] if row.ended and row.state is not State.DONE else []
    if as_json:
        more = {"why": reason.why, "fix": reason.fix or None, "folder": folder or None, "runs": runs, "spec": spec}
        terminal.say_json(job_json(row, **more, stderr=stderr), whole=True)
        return
    show_card(row, reason, spec=spec, runs=runs, folder=folder, stderr=stderr, now=look.now)


def explain(client: Client, job_ids: Sequence[str], *, as_json: bool) -> None:
    """Write why each job is where it is."""
    for job_id in job_ids:
        row = client.job(job_id)
        look = Explainer(client.record)
        reason = look.reason(row)
        evidence = row.exit.get("evidence") if row.state in ENDED else None
        spec = client.spec(job_id)
        place = "the job names it" if spec.get("system") else "chosen by the routes, or the only one that fits"
        if as_json:
            told = {"id": job_id, "state": str(row.state), "why": reason.why, "fix": reason.fix or None}
            terminal.say_json(told | {"system": row.system, "evidence": evidence, "wish": row.wish or None})
            continue
        terminal.say(f"{terminal.paint(job_id, 'bold')}  {terminal.state_text(str(row.state))}")
        facts = [("why", reason.why), ("fix", reason.fix), ("evidence", evidence or "")]
        needs = row.facts.get("needs") or look.systems.get(row.system, {}).get("set", "")
        facts += [("system", f"{row.system} ({place})"), ("needs", needs)]
        if row.wish:
            facts.append(("wish", f"cancel, by {row.wish.get('who')}: {row.wish.get('why') or 'no reason given'}"))
        for run in client.runs(job_id):
            facts.append((f"run {run.get('run')}", _ended_run(row, run)))
        for key, value in facts:
            lines = terminal.clean_lines(value)
            for number, line in enumerate(lines):
                terminal.say(f"  {terminal.paint(f'{key if not number else str():9}', 'dim')} {line}")


def _ended_run(row: JobRow, run: dict[str, object]) -> str:
    end = run.get("exit")
    state = str(run.get("state"))
    if not isinstance(end, dict) or state not in list(State):
        return state
    told = ending(JobRow(id=row.id, state=State(state), run=0, fence=0, system="", user="", exit=end))
    return f"{state}: {told}"


def _folder(client: Client, row: JobRow) -> str:
    try:
        return str(client.folder(row)) if row.facts.get("handle") else ""
    except JobmillError:
        return ""
