"""jobmill logs"""

from __future__ import annotations

import click

from jobmill.scripts.options import chosen, connect, selection


@click.command("logs")
@click.argument("job_id", metavar="ID")
@click.option("-f", "--follow", is_flag=True, help="Go on until the job ends.")
@click.option("--stderr", is_flag=True, help="Standard error instead of output.")
@click.option("--step", metavar="NAME", help="The log of a step.")
@click.option("--run", type=click.IntRange(1), help="An earlier run (on the job's own host).")
def logs_command(job_id: str, follow: bool, stderr: bool, step: str | None, run: int | None) -> int:
    """Show what a job wrote, as it wrote it."""
    from jobmill.screen.job_output import show_output

    if stderr and step:
        raise click.UsageError("--stderr and --step exclude each other: a step's log holds both streams")
    client, _ = connect()
    (found,) = chosen(client, selection([job_id], None, (), None))[:1]
    return show_output(client, found, stream="stderr" if stderr else "stdout", step=step, follow=follow, run=run)
