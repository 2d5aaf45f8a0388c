"""jobmill submit"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from jobmill.scripts.options import connect, json_option


@click.command("submit")
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@click.option("--set", "settings", metavar="KEY=VALUE", multiple=True, help="Change a key of each job, as params.n=4.")
@click.option("--name", help="Name of the jobs.")
@click.option("--system", help="Run on this system, whatever the rules say.")
@click.option("--tag", "tags", multiple=True, help="Add a tag.")
@click.option("--hold", is_flag=True, help="Hold the jobs until `jobmill release`.")
@click.option("--wait", is_flag=True, help="Wait for the ends; show the results and exit with them.")
@click.option("--dry-run", is_flag=True, help="Submit nothing: print each job as it would be, and where it would go.")
@json_option("JSON, one line a job: {id}; with --wait its result, with --dry-run spec and choice.")
def submit_command(
    files: Sequence[str],
    settings: Sequence[str],
    name: str | None,
    system: str | None,
    tags: Sequence[str],
    hold: bool,
    wait: bool,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Submit job files (- is standard input); print one id a line.

    A job without `workdir` runs in the current folder; a relative one in a file is relative to the file.
    """
    from jobmill.jobs.job_file import read_specs
    from jobmill.screen import submission

    changes: dict[str, Any] = {"name": name, "system": system, "hold": hold or None, "tags": list(tags) or None}
    given = {key: value for key, value in changes.items() if value is not None}
    specs = [spec for file in files for spec in read_specs(file, settings=settings, changes=given)]
    client, config = connect()
    if dry_run:
        return submission.dry_run(client, config, specs, as_json=as_json)
    if wait:
        from jobmill.screen.session import follow

        return follow(client, specs, as_json=as_json, cancels=False)
    return submission.submit(client, specs, as_json=as_json)
