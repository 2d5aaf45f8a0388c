"""The whole pipeline on real Slurm that means ill: nothing is doubled, nothing is lost, no end is false."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from late_files import late_node
from laws import violations
from pipeline import Evidence, Pipeline
from slurm_farm import Slurm
from slurm_shims import FAULTS, Shims, skewed
from test_slurm import Bench, up

from jobmill.jobs.spec import JobSpec
from jobmill.jobs.states import ENDED
from jobmill.ledger import listing
from jobmill.ledger.listing import JobRow
from jobmill.systems.system import ExitStatus, NativeState

pytestmark = pytest.mark.timeout(240)

IDS = 8  # of the cluster on which they come round soon


@pytest.fixture(scope="module")
def cluster() -> Iterator[Slurm]:
    """One node, with accounting."""
    yield from up(books=True)


@pytest.fixture(scope="module")
def small() -> Iterator[Slurm]:
    """A cluster that numbers its jobs from 1 to 8, and forgets an ended one after two seconds."""
    yield from up(books=True, settings=["FirstJobId=1", f"MaxJobId={IDS + 1}", "MinJobAge=2"])


@pytest.fixture
def reusing(small: Slurm, tmp_path: Path) -> Iterator[Bench]:
    yield Bench(small, tmp_path / "spool", late=2)
    small.empty()


class Site:
    """A pipeline behind programs before Slurm's, and jobs that write down their starts and ends."""

    def __init__(self, cluster: Slurm, folder: Path, **options: Any) -> None:
        self.shims = Shims(folder / "shims")
        here = {"kind": "slurm", "env": cluster.env, "path": self.shims.path, "kill_grace": 0.5}
        here |= {"poll_interval": 1, "poll_interval_max": 1, "queries_per_minute": 1000}  # asked often, fooled often
        config = {"systems": {"main": here | {"limit": 40} | options}, "limits": {"lease": "5s"}}
        self.pipeline = Pipeline(folder / "p", config=json.dumps(config | {"spool": str(folder / "spool")}))
        self.evidence = Evidence(folder / "evidence")
        self.evidence.file.touch()
        self.values: dict[str, int] = {}

    def submit(self, jobs: int, seconds: float) -> None:
        """Push jobs that sleep so long, and somewhat longer one after the other; every third fails."""
        documents = []
        for number in range(jobs):
            job_id = f"j{len(self.values)}"
            self.values[job_id] = (0, 0, 3)[number % 3]
            body = f"sleep {seconds + 0.3 * number:.1f}"
            documents.append({"id": job_id, "command": self.evidence.command(body, self.values[job_id])})
        self.pipeline.client.submit_many([JobSpec.parse(document) for document in documents])

    def rows(self) -> list[JobRow]:
        return list(listing.jobs(self.pipeline.client.record, list(self.values)))

    def bodies_ended(self) -> set[str]:
        """Return the ids of those whose body has written that it ends."""
        return {job_id for what, job_id in self.evidence.counts() if what == "end"}

    def watch(self, seconds: float) -> None:
        """Wait until all are told to be over; none may be before its body is."""

        def over() -> bool:
            rows = self.rows()
            early = {row.id for row in rows if row.state in ENDED} - self.bodies_ended()
            assert not early, [row for row in rows if row.id in early]
            time.sleep(0.2)
            return len(rows) == len(self.values) and all(row.state in ENDED for row in rows)

        self.pipeline.until(over, seconds)

    def judge(self) -> None:
        """Each started once, and is told to have ended as it did."""
        told = {row.id: (str(row.state), row.exit.get("exit_value")) for row in self.rows()}
        assert told == {job_id: ("failed" if value else "done", value) for job_id, value in self.values.items()}
        starts = {job_id: n for (what, job_id), n in self.evidence.counts().items() if what == "start"}
        assert starts == dict.fromkeys(self.values, 1)
        self.pipeline.until(lambda: not violations(self.pipeline.client.record.client, at_rest=True))


@contextlib.contextmanager
def site(cluster: Slurm, folder: Path, **options: Any) -> Iterator[Site]:
    made = Site(cluster, folder, **options)
    try:
        yield made
    except AssertionError:
        print([row for row in made.rows() if row.state not in ENDED], made.pipeline.log_tail(), sep="\n")
        raise
    finally:
        made.pipeline.stop()
        cluster.empty()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_while_jobs_come_and_go(fault: str, cluster: Slurm, tmp_path: Path) -> None:
    with site(cluster, tmp_path) as it:
        it.shims.fault(fault)
        it.shims.armed = "sbatch" in FAULTS[fault]
        it.pipeline.start()
        it.submit(9, 2.0)
        it.pipeline.until(lambda: it.evidence.file.stat().st_size > 0, 60)
        it.shims.armed = True
        it.submit(3, 0.1)
        time.sleep(7)
        it.shims.armed = fault == "banners"  # these never end
        it.watch(60)
        # nobody needed it where jobs tell of themselves and squeue still knows them
        assert it.shims.met or fault == "accounting gone"
        it.judge()


def test_all_faults_in_turn_while_workers_die(cluster: Slurm, tmp_path: Path) -> None:
    with site(cluster, tmp_path) as it:
        it.pipeline.start()
        for number, fault in enumerate(FAULTS):
            it.shims.fault(fault)
            it.shims.armed = True
            it.submit(3, 1.0)
            time.sleep(4)
            role = ("starter", "fetcher", "manager")[number % 3]
            it.pipeline.kill(role)
            it.pipeline.start(role)
            it.shims.armed = False
            for name in FAULTS[fault]:
                it.shims.put(name)
        it.watch(90)
        it.judge()


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_clock_that_is_an_hour_off(hours: int, cluster: Slurm, tmp_path: Path) -> None:
    """Ours and that of Slurm's queries, beside those of slurmctld, of the nodes, and of the server."""
    with site(cluster, tmp_path) as it:
        name, _, value = skewed(it.shims, hours)[-1].partition("=")
        it.pipeline.env[name] = value
        program = [sys.executable, "-c", "import time; print(time.time())"]
        answer = subprocess.run(
            program, env=it.pipeline.env, capture_output=True, text=True, timeout=20, check=True
        ).stdout
        assert abs(float(answer) - time.time() - 3600 * hours) < 60
        it.pipeline.start()
        it.submit(6, 2.0)
        it.pipeline.until(lambda: it.evidence.file.stat().st_size > 0, 60)
        for role in ("starter", "fetcher"):
            it.pipeline.kill(role)
            it.pipeline.start(role)
        it.submit(3, 0.1)
        it.watch(60)
        it.judge()
        spans = [row.exit["resource_usage"]["wall"] for row in it.rows()]
        assert all(0 < span < 60 for span in spans), spans


def test_records_that_a_shared_file_system_shows_a_minute_late(cluster: Slurm, tmp_path: Path) -> None:
    """With the default of `late`: Slurm tells at once that they are over, and nobody else does before the record."""
    with late_node(tmp_path, tmp_path / "spool", 60.0) as python, site(cluster, tmp_path, python=python) as it:
        it.pipeline.start()
        it.submit(6, 0.5)
        it.pipeline.until(lambda: len(it.bodies_ended()) == 6, 60)
        it.pipeline.kill("fetcher")
        it.pipeline.start("fetcher")
        time.sleep(40)
        assert not [row for row in it.rows() if row.state in ENDED]
        it.watch(90)
        it.judge()


def strangers(cluster: Slurm, text: str = "sleep 60; exit 7") -> None:
    """Give every id that is free to a job of somebody else with our account."""
    known = len(cluster.command("squeue", "-h", "--states=all", check=False).splitlines())
    for _ in range(IDS - known):
        cluster.command("sbatch", "--output=/dev/null", f"--wrap={text}")


def test_ids_that_strangers_got_meanwhile(reusing: Bench, small: Slurm) -> None:
    fine, killed, hidden = reusing.launch(
        reusing.job("fine", "exit 3"), reusing.job("killed", "kill -9 $PPID; sleep 9"), reusing.job("hidden", "exit 4")
    )
    handles = [fine, killed, hidden]
    natives = [handle.partition("/")[0] for handle in handles]
    small.until(lambda: not small.command("squeue", "-h", "--states=all", check=False).strip())
    marker = reusing.spool / "jobs/hidden/run.1/run"
    marker.rename(reusing.spool / "away")
    strangers(small)
    live = small.command("squeue", "-h", "-o", "%i %j")
    assert all(f"{native} wrap" in live for native in natives), live  # each of ours is now somebody else's
    looks = reusing.system.status(handles)
    assert NativeState.RUNNING not in {look.state for look in looks.values()}, looks
    assert reusing.end(fine).exit_value == 3
    end = reusing.end(killed)
    assert (end.exit_status, end.regular) == (ExitStatus.FINISHED_SIGNAL, False) and "slurm says" in str(end.evidence)
    (reusing.spool / "away").rename(marker)
    assert reusing.end(hidden).exit_value == 4
    assert reusing.system.kill(handles, force=True) == dict.fromkeys(handles, True)
    assert small.command("squeue", "-h", "-o", "%i %j") == live  # and nobody touched it


def test_more_jobs_than_there_are_ids(small: Slurm, tmp_path: Path) -> None:
    """They come round several times, while a fetcher is away as well."""
    with site(small, tmp_path, limit=4) as it:
        it.pipeline.start()
        it.submit(20, 0.1)
        it.pipeline.until(lambda: len(it.bodies_ended()) >= 2, 60)
        it.pipeline.kill("fetcher")
        it.pipeline.until(lambda: not small.command("squeue", "-h", check=False).strip(), 60)
        strangers(small, "exit 7")
        it.pipeline.start("fetcher")
        it.watch(150)
        it.judge()


def test_the_shims_are_slurms_own_programs_where_nothing_is_wrong(cluster: Slurm, tmp_path: Path) -> None:
    shims = Shims(tmp_path, note=True)
    env = os.environ | cluster.env | {"PATH": shims.path}
    for words in (["squeue", "-h"], ["scontrol", "show", "hostnames", "a[1-2]"], ["scontrol", "show", "config"]):
        subprocess.run(words, env=env, capture_output=True, timeout=30, check=True)
    assert [(call.kind, call.query) for call in shims.calls()] == [
        ("squeue", True),
        ("scontrol show", False),
        ("scontrol show", True),
    ]
    assert all(abs(call.time - time.time()) < 60 for call in shims.calls())
