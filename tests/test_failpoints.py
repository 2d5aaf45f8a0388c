"""Crash points: all steps have one, the sweep's list is up to date, and processes that die at them leave nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos import instrument, swept
from tests.chaos.bench import Bench
from tests.chaos.points import Points
from tests.chaos.sweep import Sweep

PROCESSES = {
    "manager": ("manager.manager:", "manager.doorway:", "manager.intake:"),
    "starter": ("starter.starter:", "systems.guard_channel:"),
    "fetcher": ("fetcher.fetcher:",),
    "janitor": ("fetcher.janitor:", "ledger.upkeep:"),
    "runner": ("systems.runner:", "systems.run_folder:", "systems.spawn:"),
    "guard": ("systems.guard:", "systems.slot_table:"),
    "all workers": ("worker.loop:", "ledger.record:", "ledger.membership:"),
    "the fake system": ("systems.fake:", "systems.fake_cluster:"),
    "staging": ("starter.stager:", "worker.carriers:", "systems.staging:", "systems.place:", "systems.spool_stage:"),
    "files that come home": ("fetcher.homecoming:", "systems.retrieval:", "systems.place_search:"),
}
DEATHS = (  # one of each process: what a law leans on
    ("manager", "manager.doorway:Doorway.admit:member.record.send", "plain"),
    ("starter", "starter.starter:Starter._prepare:kind", "plain"),
    ("starter", "starter.starter:Starter._release:launch.commit", "fake"),
    ("runner", "systems.spawn:plain:_spawn", "plain"),
    ("guard", "systems.guard:Guard.inherit:slot_table.entries", "kill-runner"),
    ("fetcher", "ledger.ending:finish:record.run", "plain"),
    ("janitor", "ledger.membership:recover:record.run", "kill-starter"),
    ("starter", "systems.staging:Staging._file:self._target.rename", "inputs"),
    ("runner", "systems.run_folder:receive:os.rename", "inputs"),
    ("fetcher", "systems.retrieval:bring_home:staging.bring#3", "far"),
)


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    """A pipeline on the instrumented copy."""
    made = Bench()
    yield made
    made.close()


@pytest.fixture(scope="module")
def sweep() -> Iterator[Sweep]:
    """One sweep for the bench: it numbers the jobs."""
    made = Sweep("KILL", 1)
    yield made
    made.close()


@pytest.fixture(scope="module")
def found() -> list[instrument.Point]:
    """All points of the code."""
    return instrument.enumerate_points()


@pytest.fixture(scope="module")
def points(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Points]:
    """An instrumented copy that nobody runs yet."""
    made = Points(tmp_path_factory.mktemp("points") / "copy")
    yield made
    made.close()


def test_every_process_has_points_of_unique_and_stable_names(found: list[instrument.Point]) -> None:
    names = [point.name for point in found]
    assert len(set(names)) == len(names)
    assert found == instrument.enumerate_points()
    assert [point.number for point in found] == list(range(len(found)))
    for process, prefixes in PROCESSES.items():
        for prefix in prefixes:
            assert any(name.startswith(prefix) for name in names), f"{process} has no point in {prefix}"


def test_no_effect_escapes() -> None:
    assert instrument.unseen() == []


def test_the_swept_list_is_that_of_the_code(found: list[instrument.Point]) -> None:
    """Where this fails a step is new: the sweep has to die there before anybody relies on it."""
    names, known = [point.name for point in found], swept.read()
    new, gone = sorted(set(names) - known.keys()), sorted(known.keys() - set(names))
    assert names == list(known), (
        f"{swept.FILE.name}: {len(new)} new points {new[:9]}, {len(gone)} gone {gone[:9]}; "
        "run `python -m tests.chaos.sweep --new --write` (minutes), without --new to kill at all again (30 minutes)"
    )


ELSEWHERE = ("launches that tell of themselves are", "queries are counted where")  # they have tests on real clusters


def test_the_sweep_has_killed_at_what_it_reaches_and_says_why_not_elsewhere() -> None:
    rows = swept.read()
    silent = [name for name, row in rows.items() if not (row.roles or row.missed or row.why)]
    assert silent == [], f"{swept.FILE.name}: write behind `unreached` why no workload gets there: `  # <why>`"
    here = [row for row in rows.values() if not row.why.startswith(ELSEWHERE)]  # as instrument.ELSEWHERE, of one module
    assert sum(1 for row in here if row.roles) > 0.8 * len(here)


def test_a_new_step_gets_a_point_and_a_hidden_one_is_told(tmp_path: Path, found: list[instrument.Point]) -> None:
    package = tmp_path / "jobmill"
    shutil.copytree(instrument.PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    file = package / "starter" / "starter.py"
    text = file.read_text()
    head = '    def tick(self, now: float) -> None:\n        """'
    assert text.count(head) == 1
    file.write_text(
        text.replace(head, f'{head[:-11]}        launch.never_heard_of(f"{{launch.hidden()}}")\n        """')
    )
    names = {point.name for point in instrument.enumerate_points(package)}
    assert names - {point.name for point in found} == {"starter.starter:Starter.tick:launch.never_heard_of"}
    assert ["launch.hidden has an effect inside of an f-string" in words for words in instrument.unseen(package)] == [
        True
    ]


def in_copy(points: Points, program: str) -> subprocess.CompletedProcess[str]:
    """Run a program on the instrumented copy, from the folder that holds the original."""
    command = [sys.executable, "-c", program]
    return subprocess.run(command, env=os.environ | points.env, capture_output=True, text=True, timeout=30, check=False)


def test_the_copy_is_the_one_that_runs_and_every_module_of_it_loads(points: Points) -> None:
    modules = sorted({point.file[:-3].replace("/", ".") for point in points.points[1:]})
    done = in_copy(points, "import " + ", ".join(f"jobmill.{m}" for m in modules) + "; print(jobmill.__file__)")
    assert done.stdout.strip() == str(points.package / "jobmill" / "__init__.py"), done.stderr
    assert instrument.START in points.reached("client") and not points.reached("starter")


def test_a_point_acts_once_at_its_nth_pass_and_says_so(points: Points) -> None:
    name = points.points[5].name
    program = "from jobmill._points import point\nfor n in range(4): print(n, point(5, n), flush=True)"
    points.arm(name, None, "KILL", 3)
    done = in_copy(points, program)
    assert (done.returncode, done.stdout) == (-9, "0 0\n1 1\n")
    fired = points.fired()
    assert fired is not None and (fired.role, fired.name, fired.action) == ("client", name, "KILL")
    assert in_copy(points, program).returncode == 0
    points.disarm()
    assert points.fired() is None
    points.arm(name, "client")
    points.disarm()
    assert in_copy(points, program).returncode == 0
    with pytest.raises(KeyError):
        points.arm(name, "nobody")


def test_a_thread_beside_the_janitor_is_the_process_that_it_belongs_to(points: Points) -> None:
    beside, janitor, after = points.points[5:8]
    program = (
        "import threading; from jobmill._points import acting, point\n"
        "def tick():\n"
        f"    thread = threading.Thread(target=point, args=({beside.number},)); thread.start(); thread.join()\n"
        f"    point({janitor.number})\n"
        f"acting('janitor', tick)(); point({after.number})"
    )
    points.forget_hits()
    assert in_copy(points, program).returncode == 0
    assert points.reached("janitor") == {janitor.name}
    assert points.reached("client") >= {beside.name, after.name} and janitor.name not in points.reached("client")
    points.arm(beside.name, "client")
    assert in_copy(points, program).returncode == -9
    points.disarm()


def test_clock_and_boot_are_those_of_the_folder(points: Points) -> None:
    program = (
        "import time; from jobmill.systems import run_folder; from jobmill.ledger.membership import boot_id\n"
        "print(round(float(run_folder.header('r:i:1', '-').split(b'time=')[1]) - time.time()), boot_id() == "
        "run_folder.BOOT, boot_id())"
    )
    here = Path(instrument.BOOT_ID).read_text().strip()
    assert in_copy(points, program).stdout.split() == ["0", "True", here]
    points.offset("client", -3600)
    points.reboot()
    offset, same, boot = in_copy(points, program).stdout.split()
    points.offset("client", 0)
    assert (offset, same) == ("-3600", "True") and boot != here


def test_a_timeout_is_told_by_the_guard_as_well(bench: Bench, sweep: Sweep) -> None:
    """The runner dies when it has sent TERM to the last of three jobs, whose first process then exits with 0."""
    sweep.nth = 5
    try:
        outcome = sweep.attempt(bench, "walltime", ("runner", "systems.process_tree:kill:send#2"))
    finally:
        sweep.nth = 1
    assert outcome.fired is not None
    assert outcome.violations == [], outcome.log


@pytest.mark.parametrize(("role", "name", "scenario"), DEATHS)
def test_a_process_that_dies_at_a_point_leaves_nothing(
    bench: Bench, sweep: Sweep, role: str, name: str, scenario: str
) -> None:
    outcome = sweep.attempt(bench, scenario, (role, name))
    assert outcome.fired is not None, f"{scenario} does not pass {name} in the {role}"
    assert outcome.violations == [], outcome.log
