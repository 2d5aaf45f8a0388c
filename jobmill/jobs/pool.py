"""The job that an RQ worker runs, on whichever host that is."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import ClassVar

from jobmill.errors import PermanentError
from jobmill.jobs.job import Job
from jobmill.systems.pool_words import HERE, OUTPUTS, STEPS


class PoolJob(Job):
    """A job whose run folder only its host knows: what is relative to it is made absolute there.

    Where the pool shares the spool, the folder is the same everywhere; the host's own Python runs the steps even so.
    """

    class_type: ClassVar[str] = "Pool"
    kinds: ClassVar[frozenset[str]] = frozenset({"rq"})
    usual_on: ClassVar[frozenset[str]] = frozenset({"rq"})

    def argv(self) -> tuple[str, ...]:
        """As the contract says; steps by the program of the host on which they run."""
        if self.spec.steps and self.spec.modules:
            raise PermanentError(f"job {self.job_id}: steps on a pool cannot load modules; load them in their commands")
        return (STEPS,) if self.spec.steps else super().argv()

    def workdir(self) -> str | None:
        """Return where it runs: the folder in which `submit` was typed is nobody's wish where files are not shared."""
        mine = self.system.stages and self.spec.workdir == self.spec.submit_dir
        return None if mine else super().workdir()

    def absolute(self, path: str, base: str) -> str:
        """Return a path for the host: what is relative to the run folder stays so until it is known."""
        if path.startswith("/") or not (base == self.folder or base.startswith(HERE)):
            return super().absolute(path, base)
        return os.path.normpath(f"{HERE if base == self.folder else base}/{path}")

    def files(self) -> Mapping[str, str]:
        """As the contract says, and which outputs the host has to bring: it is not asked again."""
        return {**super().files(), OUTPUTS: json.dumps([output.glob for output in self.spec.outputs])}
