"""The benchmark of admission measures real managers, and gives no result where a job was refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import admission, documents
from benchmarks.contender import WrongResult

PROGRAM = Path(__file__).resolve().parent.parent / "benchmarks" / "admission.py"


def test_last_line_holds_speeds_cpu_and_scaling(tmp_path: Path) -> None:
    words = ["--jobs", "300", "--rounds", "1", "--managers", "2", "--spool", str(tmp_path), "--json"]
    ended = subprocess.run([sys.executable, PROGRAM, *words], capture_output=True, text=True, timeout=90, check=False)
    assert ended.returncode == 0, ended.stderr
    line = json.loads(ended.stdout)
    assert line["jobs"] == 300
    for name in ("yaml_per_s", "json_per_s", "stream_per_s", "libyaml_per_s", "json_loads_per_s"):
        assert line[name] > 1
    assert line["managers"].keys() == line["managers_json"].keys() == {"1", "2"}
    assert line["managers"]["1"] == line["yaml_per_s"]
    assert line["cpu_us_per_job"]["yaml 1"]["manager"] > 0
    assert int(line["machine"]["cores"]) > 0
    assert not list(tmp_path.iterdir()), "a round leaves nothing behind"


def test_all_ways_hold_the_same_jobs() -> None:
    texts = documents.yaml_texts(3)
    (first, *_), (stream,) = documents.canonical(texts), documents.streams(texts)
    assert json.loads(first)["id"] == "align-0000000"
    assert json.loads(first)["resources"] == {"cpus": 4, "memory": 8192, "walltime": 7200}
    assert stream.count("\nid: ") == 2 and stream.startswith("id: align-0000000")


def test_a_refused_job_is_no_result(tmp_path: Path) -> None:
    broken = [*documents.yaml_texts(3)[:2], "id: align-0000002\ncommmand: typed wrongly\n"]
    with pytest.raises(WrongResult, match=r"of 4 jobs are admitted; refused: .*commmand"):
        admission.admit(broken, 3, 1, tmp_path)


def test_numbers_have_to_be_possible() -> None:
    words = [sys.executable, PROGRAM, "--rounds", "0"]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert "N, R and M must be 1 or more" in ended.stderr
