"""The `mpi` system over PBS Pro and LSF, by their shipped fake commands; and how often a scheduler is asked."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mpi_ranks import mpirun_for_tests, options
from test_mpi import Bench

from jobmill.systems.mpi import MpiSystem
from jobmill.testing.schedulers.site import Site

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module", autouse=True)
def _mpirun() -> None:
    mpirun_for_tests()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path / "site", slots=8)
    yield made
    made.close()


class Pilot(Bench):
    """A pilot over a faked scheduler."""

    def __init__(self, kind: str, site: Site, spool: Path, **more: Any) -> None:
        self.kind, self.site = kind, site
        super().__init__(spool, **more)

    def another(self, **more: Any) -> MpiSystem:
        here = {"kind": self.kind, "env": dict(self.site.env), "path": self.site.path, "kill_grace": 0.5, "late": 1}
        here |= {"poll_interval_max": 30, "queries_per_minute": 120} | more.pop("site", {})
        said = options(over=here, walltime=300, drain=20, poll_interval=1) | {"path": None} | self.more | more
        made = MpiSystem.build("mpi", said, self.spool)
        self.systems.append(made)
        return made

    def native_jobs(self) -> list[str]:
        return [job["state"] for job in self.site.jobs()]

    def asked(self) -> int:
        """Return how many queries all the processes have put."""
        return sum(it.options.over.queries for it in self.systems if it.options.over is not None)


@pytest.mark.parametrize("kind", ["pbspro", "lsf"])
def test_a_pilot_over_it(kind: str, site: Site, tmp_path: Path) -> None:
    bench = Pilot(kind, site, tmp_path / "spool", idle=1)
    try:
        handles = bench.launch(*[bench.job(f"a{n}", f"exit {n}", n + 1) for n in range(8)])
        assert [bench.end(handle).exit_value for handle in handles] == list(range(8))
        assert bench.allocations() == ["1"] and len(bench.native_jobs()) == 1
        bench.until(lambda: bench.native_jobs() == ["finished"])
        assert bench.ended_by(1)["phase"] == "completed"
        (long,) = bench.launch(bench.job("b", "sleep 90", 20))
        bench.running(long)
        bench.until(lambda: bench.system.kill([long], force=True)[long])
        assert bench.end(long).term_sig == 9
        bench.until(lambda: bench.native_jobs() == ["finished"] * 2)
    finally:
        bench.close()


def test_all_processes_together_keep_to_the_budget(site: Site, tmp_path: Path) -> None:
    """Four processes ask as seldom as one; without news ever more seldom, and at once when there is something to do."""
    bench = Pilot("pbspro", site, tmp_path / "spool", idle=60)
    try:
        others = [bench.another() for _ in range(3)]
        for it in others:
            it.fileno()
        (one,) = bench.launch(bench.job("a", "sleep 12"))
        bench.running(one)
        time.sleep(3)
        before, began = bench.asked(), time.monotonic()
        time.sleep(8)
        assert bench.asked() - before <= 4, f"{bench.asked() - before} in {time.monotonic() - began:.0f} s"
        assert any("pbspro" in it._fleet.told(1) for it in others), "who did not ask knows the answer"
    finally:
        bench.close()


def test_an_outage_is_not_met_with_more_questions(site: Site, tmp_path: Path) -> None:
    bench = Pilot("pbspro", site, tmp_path / "spool", idle=60, poll_interval=2)
    try:
        (one,) = bench.launch(bench.job("a", "sleep 9; exit 3"))
        bench.running(one)
        site.fault("qstat", "down", 100)
        time.sleep(1)
        before = bench.asked()
        time.sleep(6)
        assert bench.asked() - before <= 8, "two for each time, each of which is two seconds after the last one"
        site.fault("qstat", "")
        assert bench.end(one).exit_value == 3
    finally:
        bench.close()
