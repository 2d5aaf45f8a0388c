"""A pilot in the whole pipeline, by mpirun: pushed, routed, launched, ended, cancelled, tried again, recovered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from laws import violations
from mpi_ranks import mpirun_for_tests, options
from pipeline import Pipeline
from test_mpi_conformance import stop

from jobmill.jobs.spec import JobSpec
from jobmill.jobs.states import ENDED
from jobmill.ledger import listing

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module", autouse=True)
def _mpirun() -> None:
    mpirun_for_tests()


def test_the_whole_pipeline(tmp_path: Path) -> None:
    """The laws hold, with the starter and the fetcher killed in the midst of it; each job starts as often as it may."""
    spool = tmp_path / "spool"
    here = options(poll_interval=1, idle=5) | {"kind": "mpi", "limit": 40}
    config = {"systems": {"main": here}, "limits": {"lease": "5s"}, "spool": str(spool)}
    pipeline = Pipeline(tmp_path / "p", config=json.dumps(config))
    starts = tmp_path / "starts"
    documents: list[dict[str, Any]] = [
        *({"id": f"j{n}", "command": f"echo {n} >> {starts}; sleep 0.2; exit {n % 3}"} for n in range(60)),
        {"id": "out", "command": "echo x > x.out", "outputs": ["x.out"], "workdir": str(tmp_path)},
        {"id": "two", "command": "echo $OMPI_COMM_WORLD_RANK", "ClassType": "MPI", "resources": {"tasks": 2}},
        {"id": "late", "command": "sleep 60", "resources": {"walltime": "2s"}},
        {"id": "never", "command": "true", "resources": {"cpus": 3}},
        {"id": "again", "command": "exit 9", "retry": {"max": 1, "on": ["failed"], "delay": "1s"}},
        {"id": "waits", "command": "sleep 300", "priority": 90},
    ]
    ids: list[str] = []
    left: list[str] = []
    try:
        pipeline.start()
        record = pipeline.client.record
        ids = pipeline.client.submit_many([JobSpec.parse(document) for document in documents])
        pipeline.until(lambda: [str(row.state) for row in listing.jobs(record, ["waits"])] == ["running"], 90)
        pipeline.kill("starter")  # in the midst of it
        pipeline.kill("fetcher")
        pipeline.client.cancel(["waits"], "enough")
        pipeline.start("fetcher")
        pipeline.start("starter")
        pipeline.until(lambda: all(row.state in ENDED for row in listing.jobs(record, ids)), 120)
        rows = {row.id: row for row in listing.jobs(record, ids)}
        told = {id_: (str(row.state), row.exit.get("reason"), row.exit.get("exit_value")) for id_, row in rows.items()}
        for n in range(60):
            assert told[f"j{n}"] == (("failed", "exit_value", n % 3) if n % 3 else ("done", None, 0)), rows[f"j{n}"]
        assert told["out"] == ("done", None, 0) and told["late"][:2] == ("failed", "timeout"), told
        assert told["two"] == ("done", None, 0), rows["two"]
        assert sorted((spool / f"jobs/two/run.{rows['two'].run}/stdout").read_text().split()) == ["0", "1"]
        assert told["never"][:2] == ("failed", "submit_failed") and told["again"][0] == "failed", told
        assert rows["again"].run >= 2 and told["waits"][0] == "cancelled", rows["waits"]  # a seal costs a run, no retry
        assert sorted(map(int, starts.read_text().split())) == list(range(60))
        pipeline.until(lambda: not violations(record.client, at_rest=True))
        folder = spool / "pilots/main"

        def tidy() -> bool:
            left[:] = [f"{it}/{name.name}" for it in ("held", "line", "done") for name in (folder / it).iterdir()]
            return not left

        pipeline.until(tidy)
        rooms = list((folder / "allocations").iterdir())
        pipeline.until(lambda: all((room / "ended").exists() for room in rooms), 30)  # idle, they end themselves
        assert not list((folder / "work").iterdir()), "ranks take their folders with them"
    except AssertionError:
        print(left, [row for row in listing.jobs(pipeline.client.record, ids) if row.state not in ENDED])
        raise
    finally:
        pipeline.stop()
        stop(spool, "main")
