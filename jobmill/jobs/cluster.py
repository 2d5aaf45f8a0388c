"""The job that runs on a cluster, behind a batch scheduler."""

from __future__ import annotations

import os
from typing import ClassVar

from jobmill.jobs.elsewhere import ElsewhereJob

KINDS = frozenset({"slurm", "pbspro", "torque", "lsf", "gridengine", "drmaa"})


class ClusterJob(ElsewhereJob):
    """A job whose nodes see our files under the same paths, but behind SSH; they have a Python of their own."""

    class_type: ClassVar[str] = "Cluster"
    kinds: ClassVar[frozenset[str]] = KINDS
    usual_on: ClassVar[frozenset[str]] = KINDS

    def absolute(self, path: str, base: str) -> str:
        """As the contract says; ``~`` is the home folder here where files are shared: clusters share it."""
        if path.startswith("~") and not self.apart:
            path = os.path.expanduser(path)  # noqa: PTH111
        return super().absolute(path, base)
