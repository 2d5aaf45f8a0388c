"""jobmill alive"""

from __future__ import annotations

import click


@click.command("alive")
@click.argument("role", type=click.Choice(["manager", "starter", "fetcher"]))
@click.option("--lane", default="", metavar="NAME", help="A worker of this lane (default: the plain one).")
def alive_command(role: str, lane: str) -> int:
    """Tell whether a worker of this host beats: exit with 0, or with 1 and the reason. Cheap, for health checks."""
    from jobmill.scripts.options import record_in_use
    from jobmill.worker.alive import alive

    well, words = alive(record_in_use()[0], role, lane)
    click.echo(words)
    return 0 if well else 1
