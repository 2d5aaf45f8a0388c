"""What `jobmill wait` shows: changes while it waits, then a line for each job."""

from __future__ import annotations

from collections.abc import Sequence

from jobmill.client import Client
from jobmill.errors import TransientError, UnknownName
from jobmill.jobs.states import State
from jobmill.ledger import listing
from jobmill.ledger.following import Following
from jobmill.ledger.record import batches
from jobmill.ledger.secret import mask
from jobmill.screen import terminal
from jobmill.screen.attendance import attend
from jobmill.screen.progress import board, summary
from jobmill.screen.result import FULL, exit_code, show_results


def wait(client: Client, job_ids: Sequence[str], *, timeout: float | None, as_json: bool) -> int:
    """Wait for these jobs; return the exit code. Raise TransientError when the time is over."""
    following = Following(client.record)
    following.add(job_ids)
    following.step(0.001)
    unknown = [i for i, state in following.states.items() if not state]
    if unknown and not int(client.record.call("LLEN", client.record.keys("Job_Queue"))) and not _taken(client, unknown):
        place = mask(client.record.url)
        raise UnknownName(f"no job {unknown[0]!r} in the record at {place} or in Job_Queue (jobmill list)")
    rows = following.rows(list(following.states))
    names = {i: f"{rows[i].name} ({i})" if i in rows and rows[i].name else i for i in following.states}
    shown = board(names)
    try:
        whole = attend(following, shown, timeout=timeout)
    finally:
        shown.close()
    if not whole:
        raise TransientError(f"{len(following.left):,} of {len(job_ids):,} jobs have not ended after {timeout:g} s")
    if as_json:
        return show_results(client, following, names, as_lines=True)
    few = len(following.states) <= FULL
    told = 0
    for job_id, state in following.states.items():
        if not few and (state == State.DONE or told >= FULL):
            continue
        told += 1
        terminal.say(f"{job_id}  {terminal.state_text(state)}")
        if state == "refused":
            terminal.say(f"  {terminal.clean(following.refused[job_id])}")
        elif state != State.DONE:
            terminal.note(f"  why: jobmill explain {job_id}")
    if not few:
        terminal.say(summary(following.states))
    return exit_code(following)


def _taken(client: Client, job_ids: Sequence[str]) -> bool:
    """Tell whether a manager has just taken them: then the next look finds them."""
    import time

    time.sleep(0.5)
    return any(state for some in batches(job_ids) for state in listing.states(client.record, some))
