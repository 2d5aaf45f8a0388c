"""The benchmarks beside peers measure what they say: real rounds, clocks that hide no wait, wrong results refused."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from benchmarks import turns
from benchmarks.child import CLIENTS, answer
from benchmarks.contender import Contender, WrongResult
from benchmarks.jobmill_under_test import pipeline
from benchmarks.latencies import Latencies, quantile
from benchmarks.peers.environment import FOLDER

ROOT = Path(__file__).resolve().parent.parent
LATENCY = [f"{loop}{figure}_ms" for loop in ("", "open_") for figure in ("p50", "p99", "max")]


def run(program: str, *words: str) -> dict[str, Any]:
    command = [sys.executable, ROOT / "benchmarks" / program, "--rounds", "1", "--json", *words]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert ended.returncode == 0, ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def client(name: str) -> ModuleType:
    """Import a program of another Python: what it needs here is the standard library."""
    spec = importlib.util.spec_from_file_location(name, CLIENTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def installed(peer: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        not (FOLDER / peer / "requirement").exists() and os.environ.get("CI") != "true",
        reason=f"{peer} is not installed in .peers; its benchmark does it",
    )


def test_latency_tells_both_loops(tmp_path: Path) -> None:
    line = run("latency.py", "--jobs", "20", "--peers", "", "--spool", str(tmp_path))
    assert all(line[f"jobmill_{key}"] > 0 for key in LATENCY), line
    assert line["jobmill_p50_ms"] <= line["jobmill_p99_ms"] <= line["jobmill_max_ms"]
    assert not list(tmp_path.iterdir()), "a round leaves nothing behind"


def test_pipeline_tells_a_rate(tmp_path: Path) -> None:
    line = run("pipeline.py", "--jobs", "20", "--peers", "", "--spool", str(tmp_path))
    assert line["jobmill_per_s"] > 1
    assert not list(tmp_path.iterdir()), "a round leaves nothing behind"


@installed("psij")
def test_latency_beside_a_peer(tmp_path: Path) -> None:
    line = run("latency.py", "--jobs", "20", "--peers", "psij", "--spool", str(tmp_path))
    assert all(line[f"psij_{key}"] > 0 for key in LATENCY), line
    assert line["ratio_psij_p50"] == pytest.approx(line["psij_p50_ms"] / line["jobmill_p50_ms"], rel=0.05)


@installed("dramatiq")
def test_pipeline_beside_a_peer(tmp_path: Path) -> None:
    line = run("pipeline.py", "--jobs", "40", "--peers", "dramatiq", "--spool", str(tmp_path))
    assert line["ratio_dramatiq"] == pytest.approx(line["jobmill_per_s"] / line["dramatiq_per_s"], rel=0.05)


def test_latency_of_the_open_loop_counts_from_the_schedule(capsys: pytest.CaptureFixture[str]) -> None:
    loop = client("latency_loop")

    class Stalls:
        """Answers at once, but for one submission that blocks those behind it."""

        def one(self) -> None:
            pass

        def open(self, watch: Any) -> None:
            self.watch = watch

        def send(self, number: int) -> None:
            time.sleep(0.3 if number == 0 else 0)
            self.watch.end(number)

        def check(self) -> None:
            pass

    loop.measure(Stalls(), 5, 100.0)
    found = Latencies.read(json.loads(capsys.readouterr().out))
    assert len(found.closed) == 5
    for number, value in enumerate(found.open):
        assert value >= 299 - 10 * number, "what was late through no fault of its own is late"


def test_task_queue_with_one_wrong_result_is_refused() -> None:
    ends = client("ends")

    class Lies:
        """Tells of all ends, and one job returned something else."""

        def __init__(self) -> None:
            self.sent = 0

        def ready(self) -> bool:
            return True

        def submit(self, jobs: int) -> int:
            self.sent += jobs
            return jobs

        def ended(self) -> int:
            return self.sent

        def results(self, submitted: int) -> list[int | None]:
            return [None if number == 2 else number for number in range(submitted)]

    with pytest.raises(ends.WrongEnd, match=r"1 of 5 results are wrong; .* \[\(2, None\)\]"):
        ends.measure(Lies(), 5)


def test_failing_job_is_no_result(tmp_path: Path) -> None:
    with pipeline(tmp_path) as jobmill, pytest.raises(WrongResult, match="ended failed in run 1"):
        words = (jobmill.record.url, "1", "100", "/bin/false")
        answer("jobmill", Path(sys.executable), "latency_of_jobmill.py", *words, folder=tmp_path)


def test_peer_that_cannot_be_had_is_told_and_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    class Here(Contender[float]):
        name = "here"
        durability = "none"

        def prepare(self) -> None:
            pass

        def round(self, jobs: int) -> float:
            return 1.0

    class Nowhere(Here):
        name = "nowhere"

        def prepare(self) -> None:
            subprocess.run([sys.executable, "-c", "raise SystemExit(1)"], check=True)

    here = Here()
    assert turns.prepared([Nowhere(), here]) == [here]
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert told[0].startswith("nowhere is left out, it could not be installed: ")


def test_contenders_take_turns() -> None:
    names = [(number, name) for number, name in turns.in_turn(["a", "b"], 2)]  # type: ignore[list-item]
    assert names == [(1, "a"), (1, "b"), (2, "b"), (2, "a")]


def test_figures_are_the_quantiles_of_each_loop() -> None:
    found = Latencies(closed=[float(n) for n in range(1, 102)], open=[5.0]).figures()
    assert found == {
        "p50_ms": 51.0,
        "p99_ms": 100.0,
        "max_ms": 101.0,
        "open_p50_ms": 5.0,
        "open_p99_ms": 5.0,
        "open_max_ms": 5.0,
    }
    assert quantile([1.0, 3.0], 50) == 2.0


@pytest.mark.parametrize("program", ["latency.py", "pipeline.py"])
def test_unknown_peer_is_named(program: str) -> None:
    words = [sys.executable, ROOT / "benchmarks" / program, "--peers", "nobody"]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert "unknown peer 'nobody'; known: " in ended.stderr
