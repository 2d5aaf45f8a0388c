"""jobmill dead"""

from __future__ import annotations

from collections.abc import Sequence

import click

from jobmill.scripts.options import json_option, record_in_use

_WHICH = click.argument("positions", metavar="POSITION...|all", nargs=-1, required=True)


@click.group("dead")
def dead_command() -> None:
    """Look after Dead_Queue: entries that could not become jobs, each whole and with its reason."""


@dead_command.command("list")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="The newest so many.")
@json_option("JSON, one line an entry.")
def list_command(limit: int, as_json: bool) -> int:
    """List the entries with their positions."""
    from jobmill.screen.dead_entries import show_entries

    record, _ = record_in_use()
    return show_entries(record, limit, as_json=as_json)


@dead_command.command("show")
@_WHICH
def show_command(positions: Sequence[str]) -> int:
    """Show entries whole, as they were pushed."""
    from jobmill.screen.dead_entries import show_whole

    record, _ = record_in_use()
    return show_whole(record, positions)


@dead_command.command("requeue")
@_WHICH
def requeue_command(positions: Sequence[str]) -> int:
    """Push entries back onto Job_Queue, unchanged."""
    from jobmill.screen.dead_entries import move

    record, _ = record_in_use()
    return move(record, "requeue", positions)


@dead_command.command("drop")
@_WHICH
def drop_command(positions: Sequence[str]) -> int:
    """Remove entries for good."""
    from jobmill.screen.dead_entries import move

    record, _ = record_in_use()
    return move(record, "drop", positions)
