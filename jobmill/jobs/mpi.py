"""The job that runs in a pilot, among many others in one allocation."""

from __future__ import annotations

from typing import ClassVar

from jobmill.jobs.cluster import ClusterJob

KINDS = frozenset({"mpi"})


class MpiJob(ClusterJob):
    """A job of a pilot: its nodes see our files as those of a cluster do. With `tasks` its system starts so many."""

    class_type: ClassVar[str] = "MPI"
    kinds: ClassVar[frozenset[str]] = KINDS
    usual_on: ClassVar[frozenset[str]] = KINDS
