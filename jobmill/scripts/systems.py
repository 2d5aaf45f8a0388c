"""jobmill systems"""

from __future__ import annotations

import click

from jobmill.scripts.options import json_option


@click.command("systems")
@json_option("JSON, one line a system: {name, kind, slots, limit, lane, checks}.")
def systems_command(as_json: bool) -> int:
    """List the configured execution systems, check each from here, and name the kinds that are installed."""
    from jobmill.config import load
    from jobmill.screen.checks import show_systems

    return show_systems(load(), as_json=as_json)
