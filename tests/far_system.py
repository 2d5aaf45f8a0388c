"""A system for tests that shares no files with us: its run folders are in another folder, and hooks make it sick.

A hook is a file in ``hooks/``: `in.slow`, `out.hang`, `in.fail`, `out.down` …, or for one job `out.hang.<job id>`; it
holds the seconds of each piece (slow), and is looked for again and again (hang, slow) or once an attempt (fail, down).
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from jobmill.errors import StageFailed, SystemUnavailable
from jobmill.systems import run_folder
from jobmill.systems.local import LocalSystem
from jobmill.systems.place import Here
from jobmill.systems.registry import register
from jobmill.systems.retrieval import bring_home
from jobmill.systems.system import Handle, Progress, Submission


@register
class FarSystem(LocalSystem):
    kind: ClassVar[str] = "far"
    capacity_set: ClassVar[str | None] = None
    one_host: ClassVar[bool] = False
    stages: ClassVar[bool] = True
    poll_interval: ClassVar[float] = 1.0
    hooks: Path

    @classmethod
    def build(cls, name: str, options: Mapping[str, Any], spool: Path) -> FarSystem:
        own = dict(options)
        folder, patience = Path(own.pop("folder")), own.pop("stage_patience", 3600.0)
        system = super().build(name, own, folder)
        assert isinstance(system, FarSystem)
        system.hooks, system.stage_patience = folder / "hooks", float(patience)
        return system

    def stage_in(self, submission: Submission, progress: Progress) -> Submission:
        job = submission.job_id
        self.attempt("in", job)
        return super().stage_in(submission, lambda words: self.piece("in", job, words, progress))

    def stage_out(self, handle: Handle, folder: Path, globs: Sequence[str], progress: Progress) -> Sequence[str]:
        job = handle.rsplit(":", 2)[1]
        with (self.hooks / "attempts").open("a") as file:
            file.write(f"out {job}\n")
        self.attempt("out", job)
        there = os.fsdecode(run_folder.folder_of(os.fsencode(self.spool), handle.partition("/")[2]))
        return bring_home(
            Here(), there, None, str(folder), globs, lambda words: self.piece("out", job, words, progress)
        )

    def forget(self, handles: Sequence[Handle]) -> None:
        super().forget(handles)
        for handle in handles:
            folder = os.fsdecode(run_folder.folder_of(os.fsencode(self.spool), handle.partition("/")[2]))
            if (Path(folder) / "run").exists():
                with (self.hooks / "forgotten").open("a") as file:
                    file.write(f"{handle.rsplit(':', 2)[1]}\n")
                shutil.rmtree(folder, ignore_errors=True)

    def hook(self, word: str, job: str) -> str | None:
        for name in (f"{word}.{job}", word):
            try:
                return (self.hooks / name).read_text()
            except FileNotFoundError:
                continue
        return None

    def attempt(self, way: str, job: str) -> None:
        if self.hook(f"{way}.fail", job) is not None:
            raise StageFailed(f"{job}: the hook says that it never works")
        if self.hook(f"{way}.down", job) is not None:
            raise SystemUnavailable("far does not answer")

    def piece(self, way: str, job: str, words: str, progress: Progress) -> None:
        progress(words)
        while self.hook(f"{way}.hang", job) is not None:  # says nothing meanwhile
            time.sleep(0.02)
        if (seconds := self.hook(f"{way}.slow", job)) is not None:
            time.sleep(float(seconds or 0.1))
