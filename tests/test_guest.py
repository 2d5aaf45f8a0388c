"""jobmill as a guest of a real Slurm: how often it asks, and how soon it knows."""

from __future__ import annotations

import json
import os
import shutil
import statistics
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from farm import Missing
from pipeline import Pipeline
from slurm_farm import PATH, Slurm, slurm

from jobmill.client import Client
from jobmill.jobs.spec import JobSpec
from jobmill.jobs.states import ENDED
from jobmill.ledger import listing, queries
from jobmill.ledger.membership import server_time
from jobmill.screen.overview import look, overview_lines

pytestmark = pytest.mark.timeout(300)
ASKS = ("squeue", "sacct", "scontrol", "sinfo")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Slurm]:
    try:
        with slurm() as made:
            yield made
    except Missing as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))


class Counted:
    """Commands that note each call."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.log = folder / "calls"
        self.log.touch()
        for name in (*ASKS, "sbatch", "scancel"):
            text = f'#!/bin/sh\necho {name} "$1" >> {self.log}\nexec {shutil.which(name, path=PATH)} "$@"\n'
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        self.path = f"{folder}:{PATH}"

    def asked(self) -> Counter[str]:
        """Return how often each was called; releasing jobs is an order."""
        lines = [line.split() for line in self.log.read_text().splitlines()]
        return Counter(words[0] for words in lines if words[0] in ASKS and words[1:] != ["release"])


def going(cluster: Slurm, counted: Counted, folder: Path, **more: Any) -> Pipeline:
    here = {"kind": "slurm", "env": cluster.env, "path": counted.path, "limit": 100, "late": 5, **more}
    config = {"systems": {"slurm": here}, "spool": str(folder / "spool")}
    return Pipeline(folder / "p", config=json.dumps(config))


def run(pipeline: Pipeline, jobs: list[dict[str, Any]], within: float) -> dict[str, Any]:
    """Run jobs to their ends; return how late each was told (seconds), by id."""
    client = pipeline.client
    ids = client.submit_many([JobSpec.parse(job) for job in jobs])
    seen: dict[str, float] = {}

    def over() -> bool:
        rows = listing.jobs(client.record, ids)
        now = server_time(client.record)
        for row in rows:
            if row.state in ENDED:
                seen.setdefault(row.id, now)
        return len(seen) == len(ids)

    pipeline.until(over, within)
    return {row.id: seen[row.id] - row.exit["ended"] for row in listing.jobs(client.record, ids)}


def test_ends_are_told_within_seconds_and_slurm_is_hardly_asked(cluster: Slurm, tmp_path: Path) -> None:
    counted = Counted(tmp_path / "bin")
    pipeline = going(cluster, counted, tmp_path)
    try:
        pipeline.start()
        began = server_time(pipeline.client.record)
        late = run(pipeline, [{"id": f"j{n}", "command": f"sleep {10 + n % 30}"} for n in range(40)], 120)
        minutes = (server_time(pipeline.client.record) - began) / 60
        assert statistics.median(late.values()) < 5, late
        assert sum(counted.asked().values()) <= 4 + 4 * minutes, counted.asked()
        row = Client(pipeline.client.record.url).job("j1")
        assert (row.exit["exit_value"], "slurm was not asked" in row.exit["evidence"]) == (0, True), row
        spent = queries.spent(pipeline.client.record)["slurm"]
        lines = overview_lines(look(pipeline.client.record))
        assert spent.budget == 12 and any("slurm" in line and " 12 " in line for line in lines), lines
        pipeline.until(lambda: not list((tmp_path / "spool/notices/slurm").iterdir()))
    finally:
        pipeline.stop()


def test_what_failed_waits_for_slurms_word_and_starts_are_told(cluster: Slurm, tmp_path: Path) -> None:
    counted = Counted(tmp_path / "bin")
    pipeline = going(cluster, counted, tmp_path)
    jobs = [{"id": f"f{n}", "command": "sleep 4; exit 3"} for n in range(4)]
    jobs.append({"id": "late", "command": "sleep 300", "resources": {"walltime": "3s"}})
    try:
        pipeline.start()
        late = run(pipeline, jobs, 90)
        assert statistics.median(late.values()) < 20, late
        for n in range(4):
            row = pipeline.client.job(f"f{n}")
            assert (row.exit["exit_value"], row.exit["native_state"]) == (3, "FAILED"), row
        assert pipeline.client.job("late").exit["reason"] == "timeout"
    finally:
        pipeline.stop()


def test_what_the_kernel_kills_for_memory_is_no_success_though_it_returns_0(tmp_path: Path) -> None:
    """Its notice does not say `done`, so Slurm is asked, which knows."""
    counted = Counted(tmp_path / "bin")
    eater = "python3 -c 'x = bytearray(300 << 20); x[::4096] = bytes(len(x[::4096]))'; exit 0"
    jobs = [
        {"id": "eats", "command": eater, "resources": {"memory": "60M"}},
        {"id": "fits", "command": "exit 0", "resources": {"memory": "60M"}},
        {"id": "dies", "command": eater.replace("; exit 0", ""), "resources": {"memory": "60M"}},
    ]
    try:
        with slurm(books=True, cgroups=True) as guarded:
            pipeline = going(guarded, counted, tmp_path)
            try:
                pipeline.start()
                run(pipeline, jobs, 90)
                rows = {name: pipeline.client.job(name) for name in ("eats", "fits", "dies")}
            finally:
                pipeline.stop()
    except Missing as error:  # a kernel's, not a package's
        pytest.skip(str(error))
    told = {name: (str(row.state), row.exit.get("reason")) for name, row in rows.items()}
    assert told == {"eats": ("failed", "oom"), "fits": ("done", None), "dies": ("failed", "oom")}, rows
    assert rows["eats"].exit["native_state"] == "OUT_OF_MEMORY"


def test_a_spool_that_takes_no_notices_costs_polls_alone(cluster: Slurm, tmp_path: Path) -> None:
    counted = Counted(tmp_path / "bin")
    pipeline = going(cluster, counted, tmp_path, poll_interval=1, queries_per_minute=60)
    (tmp_path / "spool/notices").mkdir(parents=True)
    (tmp_path / "spool/notices/slurm").symlink_to("/proc")  # it is there, and nothing can be written to it
    try:
        pipeline.start()
        run(pipeline, [{"id": f"j{n}", "command": "sleep 2"} for n in range(4)], 60)
        assert {str(pipeline.client.job(f"j{n}").state) for n in range(4)} == {"done"}
    finally:
        pipeline.stop()


def test_two_fetchers_and_one_that_dies_lose_no_time(cluster: Slurm, tmp_path: Path) -> None:
    """Who made the last poll is killed while the next one is minutes away: the other one sees the notices."""
    counted = Counted(tmp_path / "bin")
    pipeline = going(cluster, counted, tmp_path)
    try:
        pipeline.start()
        first = pipeline.workers.pop("fetcher")
        client = pipeline.client
        ids = client.submit_many([JobSpec.parse({"id": f"k{n}", "command": "sleep 25"}) for n in range(5)])
        pipeline.until(lambda: all(str(row.state) == "running" for row in listing.jobs(client.record, ids)), 40)
        pipeline.start("fetcher")
        first.kill()
        first.wait(20)
        pipeline.until(lambda: all(row.state in ENDED for row in listing.jobs(client.record, ids)), 60)
        now = server_time(client.record)
        assert all(now - row.exit["ended"] < 20 for row in listing.jobs(client.record, ids))
    finally:
        pipeline.stop()
