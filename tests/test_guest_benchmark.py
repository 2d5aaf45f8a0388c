"""The benchmarks on a real Slurm measure what they say, on fewer jobs; what guests do wrong is told as what it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from farm import Missing
from slurm_farm import provide

from benchmarks.guest_run import Plan, Run, figures, judge
from benchmarks.guests import Guest

pytestmark = pytest.mark.timeout(240)

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def programs() -> None:
    try:
        provide()
    except Missing as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error), pytrace=False)
        pytest.skip(str(error))


def measured(program: str, *words: str) -> dict[str, Any]:
    command = [sys.executable, ROOT / "benchmarks" / program, *words, "--json"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=220, check=False)
    assert ended.returncode == 0, ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


@pytest.mark.usefixtures("programs")
def test_a_guest_is_counted_and_its_delays_are_taken(tmp_path: Path) -> None:
    earlier = tmp_path / "earlier"
    earlier.write_text('{"guests": {"psij": {"kept": 1}, "jobmill": {}}}\n')
    line = measured("guest.py", "--jobs", "6", "--guests", "jobmill", "--keep", str(earlier))
    it = line["guests"]["jobmill"]
    assert list(line["guests"]) == ["jobmill", "psij"] and line["guests"]["psij"] == {"kept": 1}
    assert it["calls_before"]["sbatch"] == 6 and "squeue" in it["calls_before"], it
    assert (it["doubled"], it["lost"], it["false_ends"]) == (0, 0, 0) and 4 < it["steady_s"] < 60, it
    assert 0 <= it["median_delay_s"] <= it["p95_delay_s"] <= it["longest_delay_s"] < 60, it


@pytest.mark.usefixtures("programs")
def test_a_fault_is_survived() -> None:
    line = measured("hostile_scheduler.py", "--jobs", "2", "--guests", "jobmill", "--faults", "lists without rows")
    it = line["faults"]["lists without rows"]["jobmill"]
    assert (it["verdict"], it["jobs"], it["right"]) == ("right", 2, 2), it


class Nobody(Guest):
    name = "nobody"
    how = "runs nothing"
    version = "1"


def test_a_verdict_goes_by_what_jobs_wrote_themselves(tmp_path: Path) -> None:
    now, offset = time.time(), time.time() - time.monotonic()

    def at(seconds: float) -> str:
        return f"{round((now + seconds) * 1e9)}\n"

    def seen(number: int, seconds: float, state: str) -> str:
        return f"{number} {round((now + seconds - offset) * 1e9)} {state}\n"

    told = [(0, 3, "done"), (1, 3, "done"), (2, 1, "failed x"), (2, 9, "done"), (3, 3, "done"), (5, 3, "failed y")]
    it = Run(Nobody(), tmp_path, [Plan(2), Plan(2), Plan(2), Plan(2, 3), Plan(2), Plan(2)])
    for number in range(5):
        (it.bodies / f"start.{number}").write_text(at(0))
        (it.bodies / f"end.{number}").write_text(at(2))
    (it.bodies / "start.1").write_text(at(0) + at(0.5))
    (tmp_path / "seen").write_text("".join(seen(*line) for line in told))
    verdict = judge(it)
    assert verdict.right == [0] and verdict.doubled == [1] and verdict.lost == [4]
    assert set(verdict.false) == {2, 3, 5} and "never ran" in verdict.false[5], verdict
    assert verdict.words == "1 doubled, 1 lost, 3 false ends"
    found = figures(it, now)
    assert found["steady_s"] == pytest.approx(2, abs=0.2)
    assert found["longest_delay_s"] == pytest.approx(1, abs=0.1)


def test_an_unknown_guest_or_fault_is_refused() -> None:
    for program, words in (("guest.py", ["--guests", "x"]), ("hostile_scheduler.py", ["--faults", "x"])):
        command = [sys.executable, ROOT / "benchmarks" / program, *words]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert ended.returncode == 2 and "'x'" in ended.stderr, ended.stderr
