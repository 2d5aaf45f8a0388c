"""An id that is used again after its record was pruned: the new job runs and tells its own end, old results stay."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from laws import violations
from pipeline import Pipeline

from jobmill.ledger import ending, launch, listing, upkeep
from jobmill.ledger.listing import JobRow
from jobmill.ledger.membership import Membership
from jobmill.starter.granted import Granted
from jobmill.systems import run_folder
from jobmill.systems.fake_cluster import FakeCluster
from jobmill.systems.launch_token import life

pytestmark = pytest.mark.timeout(120)

Make = Callable[..., Pipeline]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[Pipeline] = []

    def _make(**system: Any) -> Pipeline:
        settings = {"kind": "local", "slots": 2, **system}
        config = {"systems": {settings["kind"]: settings}, "limits": {"lease": "5s"}}
        made.append(Pipeline(tmp_path / "p", config=json.dumps(config)))
        made[0].start()
        return made[0]

    yield _make
    for pipeline in made:
        pipeline.stop()


def live(pipeline: Pipeline, **spec: Any) -> JobRow:
    """Submit a job under the one id, wait for its end, and remove its record as the janitor does."""
    row = live_on(pipeline, **spec)
    assert upkeep.prune(pipeline.client.record, 0) == 1
    assert listing.jobs(pipeline.client.record, ["again"]) == []
    return row


def live_on(pipeline: Pipeline, **spec: Any) -> JobRow:
    pipeline.client.submit({"id": "again"} | spec)
    return pipeline.client.wait("again", timeout=30)


def aside(pipeline: Pipeline) -> list[Path]:
    """Return the folders of earlier lives, in their order."""
    found = (pipeline.state / "spool" / "jobs").glob("again.*")
    return sorted(found, key=lambda path: int(path.name.split(".")[2]))


def at_rest(pipeline: Pipeline) -> None:
    pipeline.until(lambda: not violations(pipeline.client.record.client, at_rest=True))


def test_each_life_runs_and_tells_its_own_end(make: Make) -> None:
    pipeline = make()
    for number in range(3):  # the third is the first one's very text
        row = live(pipeline, command=f"echo life {number % 2}; exit {number % 2}")
        assert (row.state, row.run, row.exit["exit_value"]) == (("done", "failed")[number % 2], 1, number % 2)
        assert pipeline.client.log(row) == f"life {number % 2}\n".encode()
    assert [(path / "run.1" / "stdout").read_text() for path in aside(pipeline)] == ["life 0\n", "life 1\n"]
    assert (pipeline.state / "spool/jobs/again/run.1/stdout").read_text() == "life 0\n"
    at_rest(pipeline)


def test_later_runs_of_an_earlier_life_go_aside_with_its_first(make: Make) -> None:
    pipeline = make()
    again = {"max": 1, "delay": "0s", "on": ["failed"]}
    row = live(pipeline, command='echo "old $JOBMILL_RUN"; exit 1', retry=again)
    assert (row.state, row.run) == ("failed", 2)
    row = live_on(pipeline, command='echo "new $JOBMILL_RUN"; test $JOBMILL_RUN = 2', retry=again)
    assert (row.state, row.run) == ("done", 2)
    (old,) = aside(pipeline)
    for folder, word in ((old, "old"), (old.with_name("again"), "new")):
        assert [(folder / f"run.{n}" / "stdout").read_text() for n in (1, 2)] == [f"{word} 1\n", f"{word} 2\n"]


def test_a_job_that_never_ran_shows_nothing_of_the_earlier_life(make: Make) -> None:
    pipeline = make()
    live(pipeline, command="echo secret")
    pipeline.client.submit({"id": "again", "command": "echo never", "hold": True})
    pipeline.until(lambda: bool(listing.jobs(pipeline.client.record, ["again"])))
    pipeline.client.cancel(["again"])
    row = pipeline.client.wait("again", timeout=20)
    assert row.state == "cancelled" and pipeline.client.log(row) == b""
    assert aside(pipeline) == []


def test_a_launch_that_a_dead_starter_had_begun_is_settled_in_its_own_life(make: Make) -> None:
    pipeline = make()
    live(pipeline, command="echo first")
    client, record = pipeline.client, pipeline.client.record
    pipeline.kill("starter", signal.SIGTERM)
    client.submit({"id": "again", "command": "echo second"})
    pipeline.until(lambda: record.client.hget("Job:again", "state") == b"granted")
    dying = Membership(record=record, role="starter")
    dying.register()
    handles = {"local": f"{run_folder.BOOT}/{dying.identity}"}
    begun = record.do(launch.beginning(dying, "Granted_Queue", 0, 0, handles=handles))
    granted = Granted.read(begun.entries[0])
    assert granted is not None and granted.arrival == 2 and begun.went == [True]
    handle = f"{run_folder.BOOT}/{life(dying.identity, granted.arrival)}:again:1"
    assert record.client.hget("Job:again", "handle") == handle.encode()
    pipeline.until(lambda: record.client.hget("Job:again", "run") == b"2")  # sealed: it is proved not to have begun
    pipeline.start("starter")
    row = client.wait("again", timeout=30)
    assert (row.state, row.run, client.log(row)) == ("done", 2, b"second\n")
    (old,) = aside(pipeline)
    assert (old / "run.1" / "stdout").read_text() == "first\n"
    at_rest(pipeline)


def test_late_news_of_an_earlier_life_changes_nothing(make: Make) -> None:
    pipeline = make()
    record = pipeline.client.record
    row = live(pipeline, command="exit 7")
    pipeline.client.submit({"id": "again", "command": "sleep 3; echo own"})
    pipeline.until(lambda: record.client.hget("Job:again", "state") == b"running")
    arrival = int(row.facts["score"]) % 2**42
    late = {"id": "again", "run": 1, "arrival": arrival, "exit": row.exit}
    ending.push(record, "", [json.dumps(late)])
    pipeline.until(lambda: record.client.llen("Exit_Queue") == 0)
    row = pipeline.client.wait("again", timeout=30)
    assert (row.state, row.exit["exit_value"], pipeline.client.log(row)) == ("done", 0, b"own\n")


def test_what_an_earlier_life_left_running_is_not_the_later_ones(make: Make, tmp_path: Path) -> None:
    pipeline = make()
    pid_file = tmp_path / "pid"
    live(pipeline, command=f"sleep 60 & echo $! > {pid_file}")
    lingering = int(pid_file.read_text())
    try:
        pipeline.client.submit({"id": "again", "command": "sleep 60"})
        pipeline.until(lambda: pipeline.client.record.client.hget("Job:again", "state") == b"running")
        pipeline.client.cancel(["again"])
        row = pipeline.client.wait("again", timeout=30)
        assert (row.state, row.exit["exit_status"]) == ("cancelled", "killed_by_user")
        os.kill(lingering, 0)  # a background process of a job that ended is left alone, as it always was
    finally:
        os.kill(lingering, signal.SIGKILL)


def test_each_life_runs_on_a_system_that_hands_handles_out(make: Make) -> None:
    pipeline = make(kind="fake", limit=10, poll_interval=0.2)
    for value in (3, 0, 3):
        row = live(pipeline, command="true", env={"FAKE_EXIT": str(value)})
        assert (row.state, row.run, row.exit["exit_value"]) == ("failed" if value else "done", 1, value)
    launches = FakeCluster(pipeline.state / "spool" / "fake" / "fake").launches()
    assert [(it.token.split(":")[1:], it.exit) for it in launches] == [(["again", "1"], value) for value in (3, 0, 3)]
    assert len({it.token for it in launches}) == 3 and all(it.started is not None for it in launches)
    at_rest(pipeline)
