"""Every kind of system that this project has, its worked example included, keeps the contract.

A system to come needs one class here: `make`, `make_absent`, and what it declares (docs/conformance.md).
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import pytest
from test_docs import code_of

from jobmill.systems.fake import FakeSystem
from jobmill.systems.fake_cluster import FakeCluster
from jobmill.systems.local import LocalSystem
from jobmill.systems.registry import known_kinds
from jobmill.systems.system import ExecutionSystem, Submission
from jobmill.testing import Conformance


def example(name: str = "detached_of_the_docs") -> ModuleType:
    """Return the worked example of docs/systems.md as a module, without registering its kind."""
    code = code_of("python system").replace("\n@register\n", "\n")
    spec = importlib.util.spec_from_loader(name, loader=None)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    exec(compile(code, "docs/systems.md", "exec"), module.__dict__)
    return module


class TestLocal(Conformance):
    """This machine."""

    keeps_slots = True

    def make(self, spool: Path) -> ExecutionSystem:
        return LocalSystem.build("local", {"slots": 4, "kill_grace": 0.5}, spool)

    def make_absent(self, spool: Path) -> ExecutionSystem:
        (spool / "file").touch()
        return LocalSystem.build("local", {}, spool / "file" / "below")


class TestFake(Conformance):
    """The cluster that runs nothing."""

    cannot = {"commands": "its jobs only pretend, as FAKE_SECONDS and FAKE_EXIT of their env say"}  # noqa: RUF012

    def make(self, spool: Path) -> ExecutionSystem:
        return FakeSystem.build("fake", {}, spool)

    def make_absent(self, spool: Path) -> ExecutionSystem:
        return FakeSystem.build("fake", {"folder": str(spool / "elsewhere"), "down": True}, spool)

    def pretend(self, *, seconds: float, exit: int) -> Mapping[str, str]:
        return {"FAKE_SECONDS": str(seconds), "FAKE_EXIT": str(exit)}

    def starts(self, submission: Submission) -> int:
        launches = FakeCluster(self.spool / "fake" / "fake").launches()
        return sum(it.token == submission.token and it.started is not None for it in launches)


class TestDetached(Conformance):
    """The worked example for authors of plug-ins."""

    cannot = {  # noqa: RUF012
        "absent": "its endpoint is this machine",
        "fled": "it signals the process group; what left it is seen by its lock, and not reached",
    }
    holds = False
    signals = "128+n"
    walltime = "refused"

    def make(self, spool: Path) -> ExecutionSystem:
        system: ExecutionSystem = example().Detached.build("side", {}, spool)
        return system


# A class for each system to come stands above this line.

COVERED = {"local", "fake"}


def test_every_kind_is_here() -> None:
    assert set(known_kinds()) - {"detached"} == COVERED, "a new kind needs a class in this file"


def test_an_abstract_suite_says_what_it_needs() -> None:
    with pytest.raises(NotImplementedError, match=r"make\(self, spool\)"):
        Conformance().make(Path())
