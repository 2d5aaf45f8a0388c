"""What a site does with a real Slurm while jobs are there: limits, drained nodes, a cluster named among several."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_farm import Slurm
from test_slurm import Bench, up

from jobmill.systems.slurm import SlurmSystem
from jobmill.systems.system import Launch, NativeState, SubmitError, SubmitFailure

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Slurm]:
    """One node; limits of associations are enforced."""
    yield from up(books=True, settings=["AccountingStorageEnforce=associations,limits", "JobRequeue=1"])


@pytest.fixture
def bench(cluster: Slurm, tmp_path: Path) -> Iterator[Bench]:
    yield Bench(cluster, tmp_path / "spool", late=3)
    cluster.empty()


def test_a_submit_limit_is_back_pressure(bench: Bench) -> None:
    change = ["sacctmgr", "-i", "modify", "user", "root", "where", "cluster=it", "account=root", "set"]
    bench.cluster.command(*change, "MaxSubmitJobs=2")
    try:

        def refused() -> SubmitError | None:  # slurmctld is told of the limit by slurmdbd, a moment later
            tries = [bench.job(f"t{time.monotonic_ns()}", "true") for _ in range(3)]
            wrong = [it for it in bench.system.submit(tries) if isinstance(it, SubmitError)]
            bench.cluster.empty()
            return wrong[0] if wrong else None

        error = bench.until(refused)
        assert error.failure is SubmitFailure.LIMIT and "limit" in error.message.lower(), error
    finally:
        bench.cluster.command(*change, "MaxSubmitJobs=-1")
    bench.until(lambda: refused() is None)


def test_a_drained_node_keeps_what_runs_and_tells_what_waits_why(bench: Bench) -> None:
    running = bench.launch(bench.job("runs", "sleep 6; exit 4"))[0]
    bench.until(lambda: bench.state(running) is NativeState.RUNNING)
    bench.cluster.command("scontrol", "update", "nodename=n1", "state=drain", "reason=a fan")
    try:
        (waits,) = bench.launch(bench.job("waits", "exit 5"))
        assert bench.end(running).exit_value == 4
        look = bench.until(lambda: (it := bench.system.status([waits])[waits]).reason and it)
        assert look.state is NativeState.SUBMITTED and look.native_state == "PENDING", look
        assert bench.system.exit_info([waits]) == {}
    finally:
        bench.cluster.command("scontrol", "update", "nodename=n1", "state=resume")
    assert bench.end(waits).exit_value == 5


def test_a_cluster_by_its_name(bench: Bench, tmp_path: Path) -> None:
    """Its commands print a line of their own before the list."""
    named = Bench(bench.cluster, tmp_path / "other")
    options = {"env": bench.cluster.env, "late": 3, "kill_grace": 0.5}
    named.system = SlurmSystem.build("slurm", {**options, "cluster": "it"}, named.spool)
    assert [check.detail for check in named.system.check() if not check.ok] == []
    good, bad = named.launch(named.job("good", "exit 0"), named.job("bad", "sleep 1; exit 3"))
    assert good in named.system.survey(named.life) and named.system.inventory(named.life).keys() <= {good, bad}
    assert (named.end(good).exit_value, named.end(bad).exit_value) == (0, 3)
    (held,) = named.system.submit([named.job("held", "true")])
    assert named.system.settle([Launch(token=held.partition("/")[2])]) == {held.partition("/")[2]: held}
    named.until(lambda: named.system.kill([held], force=False)[held])
    away = SlurmSystem.build("slurm", {**options, "cluster": "elsewhere"}, tmp_path / "third")
    assert not all(check.ok for check in away.check())
