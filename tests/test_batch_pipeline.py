"""Batch systems in the whole pipeline, over fake commands: pushed, routed, launched, ended, cancelled, recovered."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from laws import violations
from pipeline import Pipeline

from jobmill.jobs.spec import JobSpec
from jobmill.jobs.states import ENDED
from jobmill.ledger import listing
from jobmill.testing.schedulers.site import Site

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path / "site", slots=4)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("kind", "submit", "ask"), [("pbspro", "qsub", "qstat"), ("torque", "qsub", "qstat"), ("lsf", "bsub", "bjobs")]
)
def test_the_whole_pipeline(kind: str, submit: str, ask: str, site: Site, tmp_path: Path) -> None:
    """The laws hold; a submit that was accepted and never answered, and an outage, cost nothing."""
    site.adjust(torque="6.1.3" if kind == "torque" else "")
    here = {"kind": kind, "env": dict(site.env), "path": site.path, "limit": 40}
    here |= {"poll_interval": 1, "kill_grace": 0.5, "late": 5, "queries_per_minute": 120}
    config = {"systems": {"main": here}, "limits": {"lease": "5s"}, "spool": str(tmp_path / "spool")}
    pipeline = Pipeline(tmp_path / "p", config=json.dumps(config))
    starts = tmp_path / "starts"
    documents: list[dict[str, Any]] = [
        *({"id": f"j{n}", "command": f"echo {n} >> {starts}; exit {n % 3}"} for n in range(12)),
        {"id": "out", "command": "echo x > x.out", "outputs": ["x.out"], "workdir": str(tmp_path)},
        {"id": "late", "command": "sleep 60", "resources": {"walltime": "2s"}},
        {"id": "never", "command": "true", "queue": "nowhere"},
        {"id": "again", "command": "exit 9", "retry": {"max": 1, "on": ["failed"], "delay": "1s"}},
        {"id": "waits", "command": "sleep 300"},
    ]
    site.fault(submit, "lost", 1)
    try:
        pipeline.start()
        record = pipeline.client.record
        ids = pipeline.client.submit_many([JobSpec.parse(document) for document in documents])
        pipeline.until(lambda: [str(row.state) for row in listing.jobs(record, ["waits"])] == ["running"], 90)
        pipeline.kill("starter")  # in the midst of it
        site.fault(ask, "down", 4)
        pipeline.client.cancel(["waits"], "enough")
        pipeline.start("starter")
        pipeline.until(lambda: all(row.state in ENDED for row in listing.jobs(record, ids)), 90)
        rows = {row.id: row for row in listing.jobs(record, ids)}
        told = {id_: (str(row.state), row.exit.get("reason"), row.exit.get("exit_value")) for id_, row in rows.items()}
        for n in range(12):
            assert told[f"j{n}"] == (("failed", "exit_value", n % 3) if n % 3 else ("done", None, 0)), rows[f"j{n}"]
        assert told["out"] == ("done", None, 0) and told["late"][:2] == ("failed", "timeout"), told
        assert told["never"][:2] == ("failed", "submit_failed") and told["again"][0] == "failed", told
        assert rows["again"].run >= 2 and told["waits"][0] == "cancelled", rows["waits"]  # a seal costs a run, no retry
        assert sorted(map(int, starts.read_text().split())) == list(range(12))
        pipeline.until(lambda: not violations(record.client, at_rest=True))
        pipeline.until(lambda: all(job["state"] == "finished" for job in site.jobs()))
    except AssertionError:
        print([row for row in listing.jobs(record, ids) if row.state not in ENDED])
        raise
    finally:
        pipeline.stop()
