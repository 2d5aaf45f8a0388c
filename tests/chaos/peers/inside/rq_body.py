"""The function that RQ's workers call: runs one body as a subprocess, as a job that calls a program does."""

from __future__ import annotations

import subprocess

from rq import get_current_job  # type: ignore[import-not-found]

RETRIES = 3


class BodyFailed(Exception):
    """The body did not end with 0."""


def run(argv: list[str], job_id: str) -> None:
    """Run it; return when it ended with 0, raise BodyFailed with how it ended else.

    The number of a run is what RQ has accounted: one more than the retries that are gone.
    """
    left = get_current_job().retries_left
    number = 1 + RETRIES - (RETRIES if left is None else left)
    status = subprocess.run([*argv, job_id, str(number)], check=False).returncode
    if status:
        raise BodyFailed(f"body ended with {status}")
