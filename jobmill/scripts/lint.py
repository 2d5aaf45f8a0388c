"""jobmill lint"""

from __future__ import annotations

from collections.abc import Sequence

import click

from jobmill.scripts.options import json_option


@click.command("lint")
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@json_option("JSON, one line a file: {file, kind, ok, jobs, problems}.")
def lint_command(files: Sequence[str], as_json: bool) -> int:
    """Check job files and configuration files (jobmill.yaml) without running anything; 2 when one is wrong."""
    from jobmill.screen.linting import lint

    return lint(files, as_json=as_json)
