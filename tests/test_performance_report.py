"""The performance page fits its raw results, and the budget behind it measures what it says."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import report
from benchmarks.pictures import PICTURES
from benchmarks.results import PAGE, WORDS

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """A copy of the page with its results and pictures."""
    copy = tmp_path / PAGE.name
    shutil.copy(PAGE, copy)
    shutil.copytree(PAGE.with_suffix(""), copy.with_suffix(""))
    (tmp_path / "pictures").mkdir()
    for name in PICTURES:
        file = PAGE.parent / "pictures" / f"{name}.svg"
        if file.exists():
            shutil.copy(file, tmp_path / "pictures")
    return copy


def test_page_and_pictures_are_what_the_results_make_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main(["--check"]) == 0, capsys.readouterr().err


def test_a_figure_changed_by_hand_is_found(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main(["--check", "--page", str(page)]) == 0
    page.write_text(page.read_text().replace("| **together** | **", "| **together** | **1", 1))
    assert report.main(["--check", "--page", str(page)]) == 1
    assert f"{page} is not what the results make of it" in capsys.readouterr().err
    assert report.main(["--page", str(page)]) == 0
    assert page.read_text() == PAGE.read_text()


def test_every_result_is_shown_and_without_any_the_page_says_how_to_make_it(page: Path) -> None:
    for file in page.with_suffix("").iterdir():
        file.unlink()
    assert report.main(["--page", str(page)]) == 0
    text = page.read_text()
    for name in WORDS:
        assert f"*Not measured: `make bench BENCH={name}` makes `performance/{name}.json`.*" in text
    assert "pictures/" not in text and not list((page.parent / "pictures").iterdir())
    assert report.main(["--check", "--page", str(page)]) == 0


def test_a_result_that_is_none_is_named(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = page.with_suffix("") / "budget.json"
    file.write_text("no result: the jobs were lost\n")
    assert report.main(["--page", str(page)]) == 1
    told = capsys.readouterr().err
    assert str(file) in told and "make bench BENCH=budget" in told


def test_pictures_are_whole_and_hold_text() -> None:
    for name in PICTURES:
        file = PAGE.parent / "pictures" / f"{name}.svg"
        if file.exists():
            drawn = ElementTree.parse(file).getroot()
            width = float(drawn.attrib["width"])
            space = "{http://www.w3.org/2000/svg}"
            assert len(drawn.findall(f"{space}text")) > 4
            for bar in drawn.findall(f"{space}rect"):
                assert float(bar.attrib.get("x", 0)) + float(bar.attrib["width"]) <= width


def test_the_budget_adds_up(tmp_path: Path) -> None:
    words = ["--jobs", "40", "--single", "3", "--spool", str(tmp_path), "--json"]
    program = ROOT / "benchmarks" / "budget.py"
    ended = subprocess.run([sys.executable, program, *words], capture_output=True, text=True, timeout=110, check=False)
    assert ended.returncode == 0, ended.stderr
    line = json.loads(ended.stdout)
    for run, processes in (("local", {"runner", "guard", "jobs"}), ("fake", set())):
        used = line[run]["cpu_us"]
        assert used.keys() == {"client", "supervisor", "server", "manager", "starter", "fetcher"} | processes
        assert all(value >= 0 for value in used.values()) and used["server"] > 0
    stamps = [*line["journey"]["stamps_ms"].values()]
    assert stamps[0] > 0 and max(stamps) == stamps[-1] < 60_000
    assert line["scripts"]["finish"]["single"]["server_us"] > 0
    assert line["ended_job_bytes"]["compact"] < line["ended_job_bytes"]["default"]
    assert all(value > 0 for name, value in line["limits_us"].items() if name not in ("switch", "wake_up"))
    assert not list(tmp_path.iterdir()), "nothing is left behind"
