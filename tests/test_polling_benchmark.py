"""The benchmark of polls measures what it says, on fewer jobs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).resolve().parent.parent / "benchmarks" / "polling.py"


def test_last_line_tells_one_query_an_interval_and_next_to_no_writes(tmp_path: Path) -> None:
    words = ["--jobs", "500", "--interval", "1", "--intervals", "4", "--spool", str(tmp_path), "--json"]
    ended = subprocess.run([sys.executable, PROGRAM, *words], capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    line = json.loads(ended.stdout)
    assert (line["jobs"], list(line["queries"])) == (500, ["survey"])
    assert line["queries_per_interval"] <= 1.25  # four or, where a poll began just within, five of them
    assert line["aof_bytes_per_interval"] < 20 * 500  # not one word a job
    assert 0 <= line["fetcher_core"] < 1
    assert not list(tmp_path.iterdir()), "nothing is left behind"


def test_numbers_that_cannot_be_are_refused() -> None:
    words = [sys.executable, PROGRAM, "--interval", "0"]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert "S above 0" in ended.stderr
