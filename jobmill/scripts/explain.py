"""jobmill explain"""

from __future__ import annotations

from collections.abc import Sequence

import click

from jobmill.scripts.options import chosen, connect, json_option, selection, selectors


@click.command("explain")
@selectors()
@json_option("JSON, one line a job.")
def explain_command(ids: Sequence[str], tag: str | None, states: Sequence[str], user: str | None, as_json: bool) -> int:
    """Say why jobs are where they are: full sets, dependencies, missing processes, the end's reason and evidence."""
    from jobmill.screen.job_list import explain

    client, _ = connect()
    explain(client, chosen(client, selection(ids, tag, states, user)), as_json=as_json)
    return 0
