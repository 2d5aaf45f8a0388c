"""The whole pipeline with its jobs on EC2: they run, come home, and nothing is left on, whoever is killed."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ec2world import CREDENTIALS, IMAGE, PORT, REGION, Cloud, Machines, cloud_in
from laws import violations
from pipeline import Evidence, Pipeline

from jobmill.jobs.spec import JobSpec

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    for key, value in CREDENTIALS.items():
        monkeypatch.setenv(key, value)
    with cloud_in(tmp_path) as made:
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "id"], check=True)
        machines = Machines(made, tmp_path / "machines", tmp_path / "run")
        yield made
        machines.close()


@pytest.fixture
def foreign(cloud: Cloud) -> str:
    """Launch an instance that is somebody else's."""
    made = cloud.ec2.run_instances(ImageId=IMAGE, MinCount=1, MaxCount=1, SubnetId=cloud.subnet)
    return str(made["Instances"][0]["InstanceId"])


@pytest.fixture
def pipeline(cloud: Cloud, foreign: str, tmp_path: Path) -> Iterator[Pipeline]:
    system = {
        "kind": "ec2",
        "limit": 20,
        "image": IMAGE,
        "instance_type": "t3.micro",
        "key": str(tmp_path / "id"),
        "region": REGION,
        "endpoint_url": cloud.url,
        "subnet": cloud.subnet,
        "port": PORT,
        "user": "root",
        "slots": 2,
        "max_instances": 2,
        "spot": True,
        "idle": 1,
        "lease_folder": str(tmp_path / "run"),
    }
    made = Pipeline(tmp_path / "p", config=json.dumps({"systems": {"aws": system}, "limits": {"lease": "5s"}}))
    made.start()
    yield made
    made.stop()


@pytest.fixture
def evidence(tmp_path: Path) -> Evidence:
    (tmp_path / "evidence").touch()
    return Evidence(tmp_path / "evidence")


def submit(pipeline: Pipeline, *documents: dict[str, Any]) -> list[str]:
    return pipeline.client.submit_many([JobSpec.parse({"ClassType": "EC2", **document}) for document in documents])


def all_off(cloud: Cloud, pipeline: Pipeline, foreign: str) -> None:
    """See that every instance of ours is terminated and the other one is not, and that the record is at rest."""
    pipeline.until(lambda: cloud.live() == [foreign], 60)
    states = {it["InstanceId"]: it["State"]["Name"] for it in cloud.all()}
    assert {state for id_, state in states.items() if id_ != foreign} == {"terminated"}, states
    pipeline.until(lambda: not violations(pipeline.client.record.client, at_rest=True))


def test_jobs_are_run_and_brought_home_and_nothing_is_left_on(
    cloud: Cloud, foreign: str, pipeline: Pipeline, evidence: Evidence, tmp_path: Path
) -> None:
    (tmp_path / "in").write_text("seven\n")
    ids = submit(
        pipeline,
        {"id": "words", "command": evidence.command("echo out", 3)},
        {
            "id": "files",
            "command": evidence.command("cat in; echo more > out", 0),
            "inputs": [{"from": str(tmp_path / "in"), "to": "in"}],
            "outputs": ["out"],
        },
        {"id": "long", "command": evidence.command("sleep 6; echo long", 0)},
    )
    pipeline.until(lambda: ("start", "long") in evidence.counts(), 60)
    pipeline.kill("starter")
    pipeline.start("starter")
    pipeline.until(lambda: ("end", "words") in evidence.counts(), 60)
    pipeline.kill("fetcher")
    pipeline.start("fetcher")
    rows = pipeline.client.wait(ids, timeout=90)
    states = {i: row.state for i, row in rows.items()}
    assert states == {"words": "failed", "files": "done", "long": "done"}, rows["files"].exit
    assert rows["words"].exit["exit_value"] == 3
    assert pipeline.client.log(rows["files"]) == b"seven\n" and pipeline.client.log(rows["long"]) == b"long\n"
    assert (pipeline.client.folder(rows["files"]) / "outputs" / "out").read_text() == "more\n"
    assert set(evidence.starts_of_runs()) == {(i, str(rows[i].run)) for i in ids}
    assert set(evidence.starts_of_runs().values()) == {1}
    all_off(cloud, pipeline, foreign)
    assert 1 <= cloud.count("RunInstances") <= 3


def test_a_job_whose_instance_was_taken_back_runs_again(
    cloud: Cloud, foreign: str, pipeline: Pipeline, evidence: Evidence
) -> None:
    document = {
        "id": "spot",
        "command": evidence.command("[ $JOBMILL_RUN = 2 ] || sleep 600", 0),
        "retry": {"max": 1, "delay": "1s"},
    }
    (i,) = submit(pipeline, document)
    pipeline.until(lambda: ("start", i) in evidence.counts(), 60)
    (first,) = set(cloud.live()) - {foreign}
    cloud.take_away(first)
    row = pipeline.client.wait(i, timeout=90)
    assert row.state == "done" and row.run == 2, row
    assert evidence.starts_of_runs() == Counter({(i, "1"): 1, (i, "2"): 1})
    all_off(cloud, pipeline, foreign)
