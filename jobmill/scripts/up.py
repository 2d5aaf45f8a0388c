"""jobmill up"""

from __future__ import annotations

from pathlib import Path

import click


@click.command("up")
@click.option(
    "--config", "file", type=click.Path(path_type=Path), metavar="FILE", help="jobmill.yaml (default: searched)."
)
@click.option("--redis", "url", metavar="URL", help="A server that runs elsewhere (default: configuration, embedded).")
@click.option("--quiet", is_flag=True, help="Write to the log only.")
@click.option("--parent-fd", type=int, hidden=True, help="Stop when this descriptor ends.")
def up_command(file: Path | None, url: str | None, quiet: bool, parent_fd: int | None) -> int:
    """Keep the embedded server and the workers up, in the foreground.

    Ctrl-C (or TERM) once stops warm: the workers finish what they have in hand; twice at once. Jobs run on in either
    case, and the next `jobmill up` knows them. HUP makes the workers read the configuration again.
    """
    import os

    from jobmill.config import load
    from jobmill.daemon.foreground import serve

    environ = dict(os.environ) | ({"JOBMILL_REDIS_URL": url} if url else {})
    return serve(load(file, environ=environ), file=file, quiet=quiet, parent=parent_fd)
