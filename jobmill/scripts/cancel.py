"""jobmill cancel"""

from __future__ import annotations

from collections.abc import Sequence

import click

from jobmill.scripts.options import chosen, connect, json_option, selection, selectors


@click.command("cancel")
@selectors()
@click.option("--reason", default="", metavar="TEXT", help="Why; it stays with the job.")
@json_option("One JSON document: {id: answer}.")
def cancel_command(
    ids: Sequence[str], tag: str | None, states: Sequence[str], user: str | None, reason: str, as_json: bool
) -> int:
    """Cancel jobs: at once what has not begun; what runs as soon as it is proved to be gone.

    The wish stands until then. An id that nobody knows yet may be in Job_Queue: the wish waits a day for it.
    """
    from jobmill.jobs.states import LIVE
    from jobmill.screen.answers import CANCEL, show_answers

    client, _ = connect()
    found = chosen(client, selection(ids, tag, states, user), LIVE)
    return show_answers(client.cancel(found, why=reason), CANCEL, as_json=as_json)
