"""The job that runs on a far host, which shares no files with us unless `paths` of the system says so."""

from __future__ import annotations

from typing import ClassVar

from jobmill.jobs.elsewhere import ElsewhereJob


class RemoteJob(ElsewhereJob):
    """A job whose host is elsewhere: its paths are that host's."""

    class_type: ClassVar[str] = "Remote"
    kinds: ClassVar[frozenset[str]] = frozenset({"ssh", "ec2"})
    usual_on: ClassVar[frozenset[str]] = frozenset({"ssh"})

    @property
    def apart(self) -> bool:
        """Always."""
        return True
