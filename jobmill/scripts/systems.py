"""jobmill systems"""

from __future__ import annotations

import os

import click

from jobmill.scripts.options import json_option


def _names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Complete the names of the configured systems."""
    from jobmill.config import load
    from jobmill.errors import JobmillError

    try:
        return [name for name in load().systems if name.startswith(incomplete)]
    except JobmillError:
        return []


@click.command("systems")
@click.argument("names", metavar="[NAME]...", nargs=-1, shell_complete=_names)
@click.option("--kinds", is_flag=True, help="List the kinds that are installed instead, and what they lack.")
@json_option("JSON, one line a system: {name, kind, slots, limit, lane, checks}; a kind: {name, package, class, …}.")
def systems_command(names: tuple[str, ...], kinds: bool, as_json: bool) -> int:
    """List the configured execution systems (all, or those named), and check each from here, 20 s at most."""
    from jobmill.config import find, load

    if kinds:
        if names:
            raise click.UsageError("--kinds lists all kinds; it takes no names of systems")
        from jobmill.screen.kind_list import show_kinds

        return show_kinds(find(None, os.environ), as_json=as_json)
    from jobmill.screen.checks import show_systems

    return show_systems(load(), names, as_json=as_json)
