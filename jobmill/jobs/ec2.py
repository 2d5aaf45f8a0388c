"""The job that runs on an instance of EC2: a far host's, on a machine that is started for it."""

from __future__ import annotations

from typing import ClassVar

from jobmill.jobs.remote import RemoteJob


class Ec2Job(RemoteJob):
    """Everything that it needs is brought there, and what it leaves there is gone with the instance."""

    class_type: ClassVar[str] = "EC2"
    kinds: ClassVar[frozenset[str]] = frozenset({"ec2"})
    usual_on: ClassVar[frozenset[str]] = frozenset({"ec2"})
