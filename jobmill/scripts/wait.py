"""jobmill wait"""

from __future__ import annotations

from collections.abc import Sequence

import click

from jobmill.scripts.options import chosen, connect, duration_option, json_option, selection, selectors


@click.command("wait")
@selectors()
@click.option(
    "--timeout", metavar="TIME", callback=duration_option, help="Give up after this, as 90s or 1h (exit 111)."
)
@json_option("Results as JSON, one line a job.")
def wait_command(
    ids: Sequence[str], tag: str | None, states: Sequence[str], user: str | None, timeout: float | None, as_json: bool
) -> int:
    """Wait until jobs have ended; 0 when all are done, 1 when one failed, 2 when one was refused.

    An id that is not in the record yet is waited for as well: it may still stand in Job_Queue.
    """
    from jobmill.screen.waiting import wait

    client, _ = connect()
    return wait(client, chosen(client, selection(ids, tag, states, user)), timeout=timeout, as_json=as_json)
