"""Provides mpirun for the tests: Debian's Open MPI, installed where it is missing.

``python tests/mpi_ranks.py`` installs what is missing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import Any

import pytest
from farm import PATH, Missing, need

PROGRAMS = {"mpirun": "openmpi-bin"}
# as Open MPI wants it from root, which the tests may be; more ranks than cores: jobs of tests mostly sleep
MPIRUN = ("mpirun", "--allow-run-as-root", "--bind-to", "none", "--oversubscribe", "--enable-recovery", "-n")
TASKS = [*MPIRUN[:-2], "-n", "{tasks}"]


def options(**more: Any) -> dict[str, Any]:
    """Return the options of a pilot on this machine that suits tests."""
    said = {"ranks": 2, "cpus": 2, "launcher": [*MPIRUN, "{ranks}"], "task_launcher": TASKS, "idle": 20}
    return said | {"kill_grace": 0.5, "poll_interval": 0.5, "path": PATH} | more


def mpirun_for_tests() -> None:
    """Install mpirun where it is missing; where that cannot be, fail the test in CI and skip it elsewhere."""
    try:
        provide()
    except Missing as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI has to have mpirun: {error}", pytrace=False)
        pytest.skip(str(error))


def provide() -> None:
    """Install what is missing; raise Missing where that cannot be."""
    need(PROGRAMS)


def main() -> int:
    """Install what is missing; say what is there, and exit with 1 when CI lacks it."""
    try:
        provide()
    except (Missing, subprocess.SubprocessError) as error:
        print(f"mpirun   missing: {error}", file=sys.stderr)
        return 1 if os.environ.get("CI") == "true" else 0
    print(f"mpirun   {shutil.which('mpirun', path=PATH)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
