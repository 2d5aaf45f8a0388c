"""jobmill watch"""

from __future__ import annotations

import click

from jobmill.scripts.options import json_option, record_in_use


@click.command("watch")
@click.option(
    "--interval", type=click.FloatRange(0.1, 3600), default=1.0, show_default=True, help="Seconds between looks."
)
@click.option("--count", type=click.IntRange(1), help="Stop after so many looks.")
@json_option("JSON, one line a look.")
def watch_command(interval: float, count: int | None, as_json: bool) -> int:
    """Watch the pipeline live until Ctrl-C; in a pipe a line a look."""
    from jobmill.screen.watching import watch

    record, config = record_in_use()
    return watch(record, digest=config.digest, interval=interval, count=count, as_json=as_json)
