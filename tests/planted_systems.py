"""Systems that keep the contract in ways that `local`, `fake` and the worked example do not: far, and held.

For the proof of the conformance suite alone. Both stand on the worked example of docs/systems.md.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from test_docs import code_of

from jobmill.errors import StageFailed
from jobmill.systems.system import NativeState, Observation, Settled, Submission


def _example() -> ModuleType:
    """Return the worked example as a module; its kind is not registered."""
    name = "detached_of_the_docs"
    code = code_of("python system").replace("\n@register\n", "\n")
    spec = importlib.util.spec_from_loader(name, loader=None)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    exec(compile(code, "<docs/systems.md>", "exec"), module.__dict__)
    return module


Detached: Any = _example().Detached


class Far(Detached):  # type: ignore[misc]
    """Its run folders are in a place of its own, into which files are brought."""

    kind = "far"
    stages = True

    def __init__(self, name: str, spool: Path) -> None:
        super().__init__(name, Path(spool) / "far")

    def stage_in(self, submission: Submission, progress: Callable[[str], None]) -> Submission:
        staged = Path(os.fsdecode(self.spool)) / "staged" / submission.token
        for number, it in enumerate(submission.inputs, 1):
            source, target = Path(it.source), staged / it.target
            if not source.exists():
                raise StageFailed(f"input {source} is not there; correct `inputs`")
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, dirs_exist_ok=True)
            else:
                shutil.copyfile(source, target)
            progress(f"stages in {number}/{len(submission.inputs)}")
        return replace(submission, staged=str(staged)) if submission.inputs else submission

    def start(self, it: Submission, folder: Path) -> Any:
        if it.staged:
            it = replace(it, argv=("/bin/sh", "-c", 'cp -R "$0"/. . && exec "$@"', it.staged, *it.argv))
        return super().start(it, folder)

    def stage_out(
        self, handle: str, folder: Path, globs: Sequence[str], progress: Callable[[str], None]
    ) -> Sequence[str]:
        there = self.folder(handle)
        outputs = folder / "outputs"
        outputs.mkdir(parents=True, exist_ok=True)
        for name in ("stdout", "stderr", "error", "return.json"):
            with suppress(FileNotFoundError):
                shutil.copyfile(there / name, folder / name)
        missing = []
        for pattern in globs:
            found = [path.relative_to(there) for path in there.glob(pattern)]
            for name in found:
                (outputs / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(there / name, outputs / name)
            missing += [] if found else [pattern]
        return missing


class Held(Detached):  # type: ignore[misc]
    """A submission is a file until it is released, as a batch scheduler holds it; and is a process after that."""

    kind = "held"
    surveys = True

    def line(self) -> Path:
        folder = Path(os.fsdecode(self.spool)) / "line"
        folder.mkdir(exist_ok=True)
        return folder

    def submit(self, submissions: Sequence[Submission]) -> Sequence[Any]:
        answers: list[Any] = []
        for it in submissions:
            if it.walltime or it.memory or it.cpus > 1:
                answers.append(self.start(it, self.folder(it.token)))
                continue
            if self.mine(it.token):
                answers.append(it.token)  # it was released before
                continue
            text = json.dumps(asdict(it))
            new = self.line() / f".{os.getpid()}"
            new.write_text(text)
            new.rename(self.line() / it.token)
            answers.append(it.token)
        return answers

    def release(self, handles: Sequence[str]) -> None:
        for handle in handles:
            file = self.line() / handle
            with suppress(OSError, ValueError):
                job = Submission(**json.loads(file.read_text()))
                self.start(job, self.folder(handle))
                file.unlink()

    def status(self, handles: Sequence[str]) -> Mapping[str, Observation]:
        seen = dict(super().status(handles))
        for handle in handles:
            if seen[handle].state is NativeState.ABSENT and handle in self.waiting():
                seen[handle] = Observation(state=NativeState.SUBMITTED, held=True, alive=True)
        return seen

    def waiting(self) -> set[str]:
        return {path.name for path in self.line().iterdir() if not path.name.startswith(".")}

    def settle(self, launches: Sequence[Any]) -> Mapping[str, Any]:
        there = self.waiting()
        known = {it.token: it.token for it in launches if it.token in there or self.mine(it.token)}
        return {it.token: known.get(it.token, Settled.NOT_STARTED) for it in launches}

    def kill(self, handles: Sequence[str], *, force: bool) -> Mapping[str, bool]:
        for handle in handles:
            if handle in self.waiting():
                (self.line() / handle).unlink()
        return dict(super().kill(handles, force=force))

    def inventory(self, record: str) -> Mapping[str, str]:
        jobs = Path(os.fsdecode(self.spool)) / "jobs"
        marked = [path.read_text().split()[2] for path in jobs.glob("*/run.*/run")]
        there = {*self.waiting(), *filter(self.alive, marked)}
        return {token: token for token in there if token.startswith((f"{record}.", f"{record}:"))}

    def survey(self, record: str) -> Mapping[str, Observation]:
        return self.status(list(self.inventory(record)))


class Polled(Detached):  # type: ignore[misc]
    """Its walltime is seen by whoever polls, who kills it then."""

    kind = "polled"

    def start(self, it: Submission, folder: Path) -> Any:
        answer = super().start(replace(it, walltime=None), folder)
        if it.walltime and isinstance(answer, str):
            (folder / "until").write_text(str(time.time() + it.walltime))
        return answer

    def status(self, handles: Sequence[str]) -> Mapping[str, Observation]:
        def over(handle: str) -> bool:
            with suppress(OSError, ValueError):
                return time.time() > float((self.folder(handle) / "until").read_text())
            return False

        seen = super().status(handles)
        return {h: replace(it, orphan=it.alive, overdue=it.alive and over(h)) for h, it in seen.items()}
