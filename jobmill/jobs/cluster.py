"""The job that runs on a cluster, behind a batch scheduler."""

from __future__ import annotations

import os
from typing import ClassVar

from jobmill.jobs.job import Job

KINDS = frozenset({"slurm", "pbspro", "lsf"})


class ClusterJob(Job):
    """A job whose nodes see our files under the same paths, and have a Python of their own for its steps."""

    class_type: ClassVar[str] = "Cluster"
    kinds: ClassVar[frozenset[str]] = KINDS
    usual_on: ClassVar[frozenset[str]] = KINDS

    def argv(self) -> tuple[str, ...]:
        """Return the words to execute; the stepper is the one on the shared file system."""
        if self.spec.steps:
            return ("/bin/sh", "-c", 'exec "$JOBMILL_STEPPER_PYTHON" -I -S "$JOBMILL_STEPPER" "$JOBMILL_RUN_FOLDER"')
        return super().argv()

    def absolute(self, path: str, base: str) -> str:
        """As the contract says, and ``~`` is the home folder here: clusters share it."""
        return super().absolute(os.path.expanduser(path) if path.startswith("~") else path, base)  # noqa: PTH111
