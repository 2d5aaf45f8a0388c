"""jobmill capacity"""

from __future__ import annotations

import click

from jobmill.scripts.options import json_option, record_in_use


def _limit(ctx: click.Context, param: click.Parameter, value: str) -> int | None:
    return None if value == "none" else int(click.IntRange(0, 10_000_000)(value, param, ctx))


@click.group("capacity")
def capacity_command() -> None:
    """Show or change the limits of sets and slots, live."""


@capacity_command.command("get")
@click.argument("name", required=False)
@json_option("One JSON document: {name: {used, limit}}.")
def get_command(name: str | None, as_json: bool) -> int:
    """Show use and limits, of one set or all."""
    from jobmill.screen.capacities import show_capacities

    record, _ = record_in_use()
    return show_capacities(record, name, as_json=as_json)


@capacity_command.command("set")
@click.argument("name")
@click.argument("limit", metavar="N|none", callback=_limit)
def set_command(name: str, limit: int | None) -> int:
    """Change a limit now; 0 pauses, none takes it away. Lowering it evicts nobody.

    It stands until the file says another number.
    """
    from jobmill.screen.capacities import change

    record, _ = record_in_use()
    return change(record, name, limit)
