"""A batch system over the shipped fake commands of its scheduler, and the launches of one test."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokens import RECORD

from jobmill.systems.system import ExitInfo, NativeState, Submission, SubmitError
from jobmill.testing.schedulers.site import Site


class FakeBench:
    """``make``: gives a system over a site's commands, with a spool."""

    def __init__(self, make: Callable[[Site, Path], Any], site: Site, folder: Path) -> None:
        self.make, self.site, self.spool = make, site, folder / "spool"
        self.system = make(site, self.spool)
        self.life = f"{RECORD}x{time.monotonic_ns()}"  # of this test

    def hurry(self) -> None:
        """Wait for no command longer than for two seconds: the faults of the test are slower."""
        self.system.commands.deadline = 2.0

    def anew(self) -> Any:
        """Go on as another process, which was not kept waiting."""
        self.system = self.make(self.site, self.spool)
        return self.system

    def job(self, name: str, text: str, **fields: Any) -> Submission:
        argv = ("/bin/sh", "-c", text)
        return Submission(token=f"{self.life}.1:{name}:1", job_id=name, run=1, argv=argv, name=name, **fields)

    def launch(self, *jobs: Submission) -> list[str]:
        answers = self.system.submit(jobs)
        assert not [it for it in answers if isinstance(it, SubmitError)], answers
        self.system.release([str(it) for it in answers])
        return [str(it) for it in answers]

    def until(self, look: Callable[[], Any], seconds: float = 30.0) -> Any:
        until = time.monotonic() + seconds
        while not (found := look()):
            assert time.monotonic() < until, "waited in vain"
            time.sleep(0.1)
        return found

    def state(self, handle: str) -> NativeState:
        return self.system.status([handle])[handle].state

    def end(self, handle: str) -> ExitInfo:
        found: ExitInfo = self.until(lambda: self.system.exit_info([handle]).get(handle))
        return found

    def file(self, name: str, file: str = "stdout") -> str:
        return (self.spool / "jobs" / name / "run.1" / file).read_text()
