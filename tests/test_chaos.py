"""A short run of the chaos program: what it finds, and that it finds what is planted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
CLEAN = dict.fromkeys(("lost", "doubled", "over_capacity", "leaked", "untrue", "fences", "crashed"), 0)


def chaos(module: str, *words: str) -> tuple[int, dict[str, Any], str]:
    """Run a program of the chaos package; return its exit code, its last line, and what it said beside."""
    done = subprocess.run(
        [sys.executable, "-m", module, *words, "--json"], cwd=ROOT, capture_output=True, text=True, timeout=170
    )
    assert done.stdout.strip(), done.stderr
    return done.returncode, json.loads(done.stdout.splitlines()[-1]), done.stderr


@pytest.mark.timeout(180)
@pytest.mark.parametrize("system", ["local", "fake"])
def test_nothing_is_lost_doubled_or_leaked_under_ten_faults(system: str) -> None:
    code, told, errors = chaos("tests.chaos", "--jobs", "60", "--faults", "10", "--seed", "3", "--system", system)
    assert {kind: told[kind] for kind in CLEAN} == CLEAN, errors
    assert (code, told["faults"], sum(told["injected"].values()), told["acknowledged"]) == (0, 10, 10, 60)


@pytest.mark.timeout(180)
def test_after_a_reboot_what_cannot_be_known_is_told_as_lost() -> None:
    code, told, errors = chaos(
        "tests.chaos", "--jobs", "60", "--faults", "3", "--seed", "4", "--nemesis", "reboot,power-cut"
    )
    assert {kind: told[kind] for kind in CLEAN} == CLEAN, errors
    assert code == 0 and sum(told["injected"].values()) == 3
    assert told["told_lost"] > 0


@pytest.mark.timeout(180)
@pytest.mark.parametrize("bug", ["does not look at limits", "without proof"])
def test_planted_bugs_are_found(bug: str) -> None:
    code, told, errors = chaos("tests.chaos.planted", "--only", bug)
    assert (code, told["planted"], told["found"]) == (0, 1, 1), (told, errors)


def test_an_unknown_fault_is_refused_with_the_known_ones() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos", "--nemesis", "kil"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2 and "no fault 'kil'" in done.stderr and "kill-starter" in done.stderr
