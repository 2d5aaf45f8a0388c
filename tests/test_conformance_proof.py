"""The conformance suite can fail: each of its tests catches a system with one defect."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree

import pytest
from broken_systems import DEFECTS

from jobmill.testing import Conformance

pytestmark = pytest.mark.timeout(300)
HERE = Path(__file__).parent
SAID = re.compile(r"AssertionError|assert |Failed: ")  # a test's own words; anything else is an accident


def test_each_test_has_a_system_that_breaks_it() -> None:
    tests = {name for name in dir(Conformance) if name.startswith("test_")}
    assert {test for test, _, _ in DEFECTS} == tests


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Return what the suite said of each broken system: a message for each failure, empty for each success."""
    report = tmp_path_factory.mktemp("proof") / "report.xml"
    wanted = [f"{HERE / 'broken_systems.py'}::Test{broken.__name__}::{test}" for test, _, broken in DEFECTS]
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *wanted]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=280, check=False, cwd=HERE.parent)
    assert done.returncode == 1, done.stdout[-4000:] + done.stderr[-4000:]
    said: dict[str, list[str]] = defaultdict(list)
    for case in ElementTree.parse(report).iter("testcase"):
        assert case.find("error") is None and case.find("skipped") is None, ElementTree.tostring(case)[:2000]
        failure = case.find("failure")
        said[case.get("classname", "").rpartition(".Test")[2]].append(
            "" if failure is None else failure.get("message", "")
        )
    return said


@pytest.mark.parametrize(("test", "broken"), [(test, broken.__name__) for test, _, broken in DEFECTS])
def test_a_broken_system_is_caught(test: str, broken: str, verdicts: dict[str, list[str]]) -> None:
    said = [words for words in verdicts[broken] if words]
    assert said, f"{broken} passes {test}"
    assert all(SAID.match(words) for words in said), f"{broken} fails {test} by accident: {said}"
