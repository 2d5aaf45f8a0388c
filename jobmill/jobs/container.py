"""The job that runs in a container of its own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, ClassVar

from jobmill.jobs.job import STEPPER, Job
from jobmill.systems.container_launch import CODE, FOLDER

PYTHON = "python3"  # of the image, which a job in steps needs


class ContainerJob(Job):
    """A job whose run folder is mounted into its container, and whose other paths are those of the engine's host."""

    class_type: ClassVar[str] = "Container"
    kinds: ClassVar[frozenset[str]] = frozenset({"docker"})
    usual_on: ClassVar[frozenset[str]] = frozenset({"docker"})

    def argv(self) -> tuple[str, ...]:
        """Return the words to execute; steps by the stepper, whose code is mounted, and the image's Python."""
        if self.spec.steps:
            stepper = f"{CODE}/jobmill/jobs/{os.path.basename(STEPPER)}"  # noqa: PTH119
            return (PYTHON, "-I", "-S", stepper, FOLDER)
        return super().argv()

    def container(self) -> Mapping[str, Any] | None:
        """Return what the spec says of its container; ``code``: that of jobmill is needed in it."""
        asked = super().container() or {}
        return {**asked, "code": True} if self.spec.steps else asked

    def absolute(self, path: str, base: str) -> str:
        """As the contract says, and ``~`` is the worker's home folder."""
        return super().absolute(os.path.expanduser(path) if path.startswith("~") else path, base)  # noqa: PTH111
