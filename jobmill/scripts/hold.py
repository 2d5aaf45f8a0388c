"""jobmill hold, jobmill release"""

from __future__ import annotations

from collections.abc import Sequence

import click

from jobmill.scripts.options import chosen, connect, json_option, selection, selectors


@click.command("hold")
@selectors()
@json_option("One JSON document: {id: answer}.")
def hold_command(ids: Sequence[str], tag: str | None, states: Sequence[str], user: str | None, as_json: bool) -> int:
    """Hold jobs that have not begun."""
    from jobmill.jobs.states import State
    from jobmill.screen.answers import HOLD, show_answers

    client, _ = connect()
    within = frozenset({State.WAITING, State.LATER, State.GRANTED})
    found = chosen(client, selection(ids, tag, states, user), within)
    return show_answers(client.hold(found), HOLD, as_json=as_json)


@click.command("release")
@selectors()
@json_option("One JSON document: {id: answer}.")
def release_command(ids: Sequence[str], tag: str | None, states: Sequence[str], user: str | None, as_json: bool) -> int:
    """Release held jobs."""
    from jobmill.jobs.states import State
    from jobmill.screen.answers import RELEASE, show_answers

    client, _ = connect()
    found = chosen(client, selection(ids, tag, states, user), frozenset({State.HELD}))
    return show_answers(client.release(found), RELEASE, as_json=as_json)
