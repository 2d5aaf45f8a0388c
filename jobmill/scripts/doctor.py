"""jobmill doctor"""

from __future__ import annotations

import click

from jobmill.scripts.options import json_option


@click.command("doctor")
@json_option("JSON, one line a check: {name, ok, detail, fix}.")
def doctor_command(as_json: bool) -> int:
    """Look at server, settings, workers, clocks and systems; print fixes; exit with 1 when something is wrong."""
    from jobmill.config import load
    from jobmill.screen.checks import show_diagnosis

    return show_diagnosis(load(), as_json=as_json)
