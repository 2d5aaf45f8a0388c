"""The job that runs on this machine."""

from __future__ import annotations

import os
from typing import ClassVar

from jobmill.jobs.job import Job
from jobmill.systems.switch import python_of_all


class LocalJob(Job):
    """A job whose host is the worker's own: its home folder is this one, its files are where they are."""

    class_type: ClassVar[str] = "Local"
    kinds: ClassVar[frozenset[str]] = frozenset({"local"})
    usual_on: ClassVar[frozenset[str]] = frozenset({"local"})

    def argv(self) -> tuple[str, ...]:
        """Return the words to execute; the stepper of a job that runs as its user needs a Python that user may use."""
        words = super().argv()
        if self.spec.steps and self.changes_user:
            return (python_of_all(), *words[1:])
        return words

    def absolute(self, path: str, base: str) -> str:
        """As the contract says, and ``~`` is the home folder here; elsewhere nobody here could know it.

        Where jobs run as their users, it is that user's: the runner fills it in.
        """
        if path.startswith("~") and self.changes_user:
            return path
        return super().absolute(os.path.expanduser(path) if path.startswith("~") else path, base)  # noqa: PTH111
