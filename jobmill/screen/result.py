"""What came of jobs: how each ended, the end of what it wrote, where the rest is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from jobmill.errors import JobmillError
from jobmill.jobs.states import State
from jobmill.ledger.explanation import ending
from jobmill.ledger.listing import JobRow
from jobmill.screen import terminal
from jobmill.screen.job_row import as_json, spent
from jobmill.screen.moment import duration

if TYPE_CHECKING:
    from jobmill.client import Client
    from jobmill.ledger.following import Following

FULL = 20  # jobs up to which every one is told with its output
LINES = 10  # of stdout, at its end
BYTES = 16384  # of a stream that are looked at, at its end
RETURNED = 1 << 20  # bytes of a return file that are read to be shown
SHOWN = 2000  # characters of it on the screen


def show_results(client: Client, following: Following, names: Mapping[str, str], *, as_lines: bool) -> int:
    """Write the result of each job; return 0 when all are done, 1 when one failed, 2 when one was refused."""
    rows = following.rows(list(following.states))
    if as_lines:
        for job_id in following.states:
            if job_id in following.refused:
                terminal.say_json({"id": job_id, "state": "refused", "reason": following.refused[job_id]})
            elif row := rows.get(job_id):
                returned, problem = _returned(client, row)
                more = {"return_problem": problem} if problem else {}
                terminal.say_json(as_json(row, folder=_folder(client, row), returned=returned, **more))
    else:
        few = len(following.states) <= FULL
        told = 0
        for job_id in following.states:
            row = rows.get(job_id)
            if row is not None and (few or (row.state is not State.DONE and told < FULL)):
                _show(client, row, names.get(job_id, job_id), stdout=few)
                told += 1
        for job_id, why in following.refused.items():
            terminal.say(f"{names.get(job_id, job_id)}  {terminal.state_text('refused')}  {terminal.clean(why)}")
        if not few:
            from jobmill.screen.progress import summary

            terminal.say(summary(following.states))
    return exit_code(following)


def exit_code(following: Following) -> int:
    """Return 0 when all jobs are done, 2 when one was refused, else 1."""
    if following.refused:
        return 2
    return 0 if all(state == State.DONE for state in following.states.values()) else 1


def _show(client: Client, row: JobRow, name: str, *, stdout: bool) -> None:
    import time

    words = [terminal.paint(terminal.clean(name), "bold"), terminal.state_text(str(row.state))]
    why = terminal.clean_lines(ending(row)) or [""]
    terminal.say("  ".join([*words, why[0], terminal.paint(duration(spent(row, time.time())), "dim")]))
    for line in why[1:]:
        terminal.say(f"    {line}")
    if stdout:
        _show_stream(client, row, "stdout", LINES)
    if row.state is not State.DONE:
        _show_stream(client, row, "stderr", LINES)
    returned, problem = _returned(client, row)
    if problem:
        terminal.say(f"  returned {problem}")
    elif returned is not None:
        import json

        text = terminal.clean(json.dumps(returned, ensure_ascii=False))
        terminal.say("  returned " + (text if len(text) <= SHOWN else f"{text[:SHOWN]} … (all of it: --json)"))
    if folder := _folder(client, row):
        terminal.say(terminal.paint(f"  files: {folder}", "dim"))


def _show_stream(client: Client, row: JobRow, stream: str, most: int) -> None:
    lines, more = tail(client, row, stream, most)
    if more:
        terminal.say(terminal.paint(f"  … {stream}, the last {len(lines)} lines:", "dim"))
    elif lines and stream == "stderr":
        terminal.say(terminal.paint("  stderr:", "dim"))
    for line in lines:
        terminal.say(f"  {line}")


def tail(client: Client, row: JobRow, stream: str, most: int) -> tuple[list[str], bool]:
    """Return the last lines of a stream, and whether there was more; nothing where it cannot be read from here."""
    if not row.facts.get("handle"):
        return [], False
    try:
        begin = max(0, _size(client, row, stream) - BYTES)
        data = client.part(row, stream, begin, BYTES)
    except (JobmillError, OSError, ValueError):
        return [], False
    lines = terminal.clean_lines(data.decode("utf-8", "replace"))
    return lines[-most:], begin > 0 or len(lines) > most


def _size(client: Client, row: JobRow, stream: str) -> int:
    """Return how long a stream is: some 60 looks for its last byte in a terabyte, and nothing else is read."""
    low, high = 0, 1 << 16
    while high < 1 << 50 and client.part(row, stream, high, 1):
        low, high = high + 1, high * 2
    while low < high:
        middle = (low + high) // 2
        if client.part(row, stream, middle, 1):
            low = middle + 1
        else:
            high = middle
    return low


def _folder(client: Client, row: JobRow) -> str:
    try:
        return str(client.folder(row)) if row.facts.get("handle") else ""
    except JobmillError:
        return ""


def _returned(client: Client, row: JobRow) -> tuple[object, str]:
    """Return what a done job returned; or None and why it is not told."""
    import json

    if row.state is not State.DONE:
        return None, ""
    try:
        data = client.log(row, "return.json", most=RETURNED)
    except (JobmillError, OSError, ValueError):
        return None, ""
    if len(data) > RETURNED:
        return None, f"more than {RETURNED >> 20} MiB, too much to show: return.json among its files"
    try:
        return (json.loads(data) if data.strip() else None), ""
    except (ValueError, RecursionError) as error:
        return None, f"what is no JSON ({terminal.clean(error)}): return.json among its files"


def names_of(specs: Sequence[object]) -> dict[str, str]:
    """Return what to call each job: its name with its id, or the id alone."""
    found = {}
    for spec in specs:
        job_id, name = str(getattr(spec, "id", "")), getattr(spec, "name", None)
        found[job_id] = f"{name} ({job_id})" if name and name != job_id else job_id
    return found
