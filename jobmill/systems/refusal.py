"""What a runner can never launch, told before it is sent."""

from __future__ import annotations

from jobmill.systems import run_folder
from jobmill.systems.spool_launches import TOKEN
from jobmill.systems.system import Submission


def refusal(it: Submission) -> str | None:
    """Return why a submission can never be launched here, or None."""
    if not TOKEN.fullmatch(it.token):
        return f"token {it.token!r} is not <life>:<job id>:<run>"
    if not it.argv:
        return f"job {it.job_id}: the command is empty; name a program"
    for name in it.files:
        if "/" in name or "\0" in name or name in run_folder.RESERVED:
            return f"job {it.job_id}: {name!r} cannot be the name of a file in the run folder"
    return None
