"""jobmill run"""

from __future__ import annotations

from collections.abc import Sequence

import click

from jobmill.scripts.options import json_option


@click.command("run")
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@click.option("--set", "settings", metavar="KEY=VALUE", multiple=True, help="Change a key of each job, as params.n=4.")
@click.option("--slots", type=click.IntRange(1, 100_000), help="Jobs at once on this machine (default: its CPUs).")
@click.option("--keep", is_flag=True, help="Leave the pipeline up afterwards.")
@json_option("Results as JSON, one line a job.")
def run_command(files: Sequence[str], settings: Sequence[str], slots: int | None, keep: bool, as_json: bool) -> int:
    """Run job files (- is standard input), all at once, and show their results.

    Uses the pipeline that serves already; else brings up the embedded server and the workers for as long as the jobs
    take. A job without `workdir` runs in the current folder; a relative one in a file is relative to the file.

    Ctrl-C once cancels the jobs and waits for their ends, twice leaves at once. Exits with 0 when all jobs are done,
    1 when one failed, 2 when one was refused. Progress goes to standard error, results to standard output.
    """
    from jobmill.config import load
    from jobmill.screen.session import run

    return run(load(), files, settings=settings, slots=slots, keep=keep, as_json=as_json)
