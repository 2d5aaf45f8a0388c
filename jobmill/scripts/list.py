"""jobmill list"""

from __future__ import annotations

from collections.abc import Sequence

import click

from jobmill.scripts.options import json_option, record_in_use, selection, selectors


@click.command("list")
@selectors()
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="Show at most so many jobs.")
@json_option("JSON, one line a job.")
def list_command(
    ids: Sequence[str], tag: str | None, states: Sequence[str], user: str | None, limit: int, as_json: bool
) -> int:
    """List jobs: without words the live ones, then those that ended last."""
    from jobmill.screen.job_list import show_jobs

    record, _ = record_in_use()
    return show_jobs(record, selection(ids, tag, states, user), limit=limit, as_json=as_json)
