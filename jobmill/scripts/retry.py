"""jobmill retry"""

from __future__ import annotations

from collections.abc import Sequence

import click

from jobmill.scripts.options import chosen, connect, json_option, selection, selectors


@click.command("retry")
@selectors()
@json_option("One JSON document: {id: answer}.")
def retry_command(ids: Sequence[str], tag: str | None, states: Sequence[str], user: str | None, as_json: bool) -> int:
    """Run ended jobs again, each as a new run; `all` means those that are not done."""
    from jobmill.jobs.states import ENDED, SUCCEEDED
    from jobmill.screen.answers import RETRY, show_answers

    client, _ = connect()
    wanted = selection(ids, tag, states, user)
    found = chosen(client, wanted, ENDED if wanted.states else ENDED - SUCCEEDED)
    return show_answers(client.retry(found), RETRY, as_json=as_json)
