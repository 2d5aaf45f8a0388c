"""jobmill info"""

from __future__ import annotations

import click

from jobmill.scripts.options import json_option, record_in_use


@click.command("info")
@json_option("One JSON document.")
def info_command(as_json: bool) -> int:
    """Show the depths of all queues, sets used/limit, processes and the server."""
    from jobmill.screen import terminal
    from jobmill.screen.overview import look, overview_lines

    record, config = record_in_use()
    view = look(record, digest=config.digest)
    if as_json:
        terminal.say_json(view.as_json(), whole=True)
    else:
        for line in overview_lines(view):
            terminal.say(line)
    return 0
