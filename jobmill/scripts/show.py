"""jobmill show"""

from __future__ import annotations

from collections.abc import Sequence

import click

from jobmill.scripts.options import chosen, connect, json_option, selection, selectors


@click.command("show")
@selectors()
@json_option("One indented JSON document a job: state, exit, times, usage, spec, runs, folder.")
def show_command(ids: Sequence[str], tag: str | None, states: Sequence[str], user: str | None, as_json: bool) -> int:
    """Show everything that is known of jobs: state and why, exit, times, usage, folder, spec."""
    from jobmill.screen.job_list import show_one

    client, _ = connect()
    for job_id in chosen(client, selection(ids, tag, states, user)):
        show_one(client, job_id, as_json=as_json)
    return 0
