"""The benchmark measures what it says: real rounds of the whole pipeline, and no result where one job went wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.contender import WrongResult
from benchmarks.peers import xargs

PROGRAM = Path(__file__).resolve().parent.parent / "benchmarks" / "local_throughput.py"


def test_last_line_holds_medians_and_ratios(tmp_path: Path) -> None:
    words = ["--jobs", "40", "--rounds", "2", "--peers", "xargs", "--spool", str(tmp_path), "--json"]
    ended = subprocess.run([sys.executable, PROGRAM, *words], capture_output=True, text=True, timeout=90, check=False)
    assert ended.returncode == 0, ended.stderr
    line = json.loads(ended.stdout)
    assert [len(values) for values in line["rounds"].values()] == [2, 2]
    assert line["jobmill_per_s"] > 1
    assert line["ratio_xargs"] == pytest.approx(line["jobmill_per_s"] / line["xargs_per_s"], rel=0.05)
    assert not list(tmp_path.iterdir()), "a round leaves nothing behind"


def test_failing_job_is_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xargs, "COMMAND", "/bin/false")
    with pytest.raises(WrongResult, match="exited with 123"):
        xargs.Xargs().round(3)


def test_unknown_peer_is_named() -> None:
    words = [sys.executable, PROGRAM, "--peers", "xargs,nobody"]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert "unknown peer 'nobody'; known: xargs, hyperqueue" in ended.stderr
