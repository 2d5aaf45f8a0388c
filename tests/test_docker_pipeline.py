"""The real processes on a real container engine: killed at will, and every job ends once, with its own exit value."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from engines import IMAGE, Dockerd, engine_for_tests
from laws import violations
from pipeline import Pipeline

pytestmark = pytest.mark.timeout(180)
Make = Callable[..., Pipeline]


@pytest.fixture(scope="module")
def engine() -> Iterator[Dockerd]:
    with engine_for_tests() as dockerd:
        yield dockerd


@pytest.fixture
def make(engine: Dockerd, tmp_path: Path) -> Iterator[Make]:
    made: list[Pipeline] = []

    def _make(**options: Any) -> Pipeline:
        settings = {"kind": "docker", "limit": 50, "host": engine.host, "image": IMAGE, "poll_interval": 0.3, **options}
        config = {"systems": {"docker": settings}, "limits": {"lease": "5s"}}
        made.append(Pipeline(tmp_path / "p", config=json.dumps(config)))
        made[0].start()
        return made[0]

    yield _make
    for pipeline in made:
        pipeline.stop()
    if left := engine.out("ps", "-aq", "--filter", "label=jobmill.token").split():
        engine.docker("rm", "-f", *left)


def containers(engine: Dockerd, *filters: str) -> list[str]:
    words = [f"--filter={text}" for text in ("label=jobmill.token", *filters)]
    return engine.out("ps", "-a", *words, "--format", "{{.Names}}").split()


def plain(job_id: str, command: str, **more: Any) -> dict[str, Any]:
    return {"id": job_id, "command": command, "container": {}, **more}


def test_jobs_run_to_their_ends(make: Make, engine: Dockerd, tmp_path: Path) -> None:
    pipeline = make(keep=0)
    wanted = {
        "ok": ("done", 0),
        "three": ("failed", 3),
        "missing": ("failed", 0),
        "there": ("done", 0),
        "walltime": ("failed", None),
        "oom": ("failed", None),
        "nothing": ("failed", 127),
        "no-image": ("failed", None),
    }
    grow = (
        "exec awk 'BEGIN { while (1) a = a \"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\" a }'"
    )
    pipeline.client.submit_many(
        [
            plain("ok", "echo hello; echo '[1]' > $JOBMILL_RETURN_FILE"),
            plain("three", "echo why > $JOBMILL_ERROR_FILE; exit 3"),
            plain("missing", "true", outputs=["*.sam"]),
            plain("there", "mkdir d; touch d/a.sam", outputs=["d/*.sam"]),
            plain("walltime", "trap '' TERM; sleep 60; sleep 60", resources={"walltime": 1}),
            plain("oom", grow, resources={"memory": "16M"}),
            {"id": "nothing", "command": ["/no/such"], "container": {}},
            plain("no-image", "true") | {"container": "no/such:1"},
        ]
    )
    rows = pipeline.client.wait(list(wanted), timeout=90)
    assert {i: (row.state, row.exit.get("exit_value")) for i, row in rows.items()} == wanted
    reasons = {i: row.exit.get("reason") for i, row in rows.items()}
    assert reasons["walltime"] == "timeout" and reasons["oom"] == "oom" and reasons["missing"] == "missing_output"
    assert reasons["nothing"] == "start_failed" and reasons["no-image"] == "submit_failed"
    assert "docker pull no/such:1" in rows["no-image"].exit["message"] and rows["three"].exit["message"] == "why"
    assert pipeline.client.log(rows["ok"]) == b"hello\n"
    assert pipeline.client.result("ok") == [1]
    pipeline.until(lambda: not containers(engine))
    pipeline.until(lambda: not violations(pipeline.client.record.client, at_rest=True))


def test_a_cancel_ends_with_nothing_left(make: Make, engine: Dockerd) -> None:
    pipeline = make(keep=0)
    pipeline.client.submit(plain("c", "trap '' TERM; while :; do sleep 1; done"))
    pipeline.until(lambda: bool(containers(engine, "status=running")))
    pipeline.client.cancel("c", why="enough")
    row = pipeline.client.wait("c", timeout=40)
    assert (row.state, row.exit["term_sig"], row.exit["reason"]) == ("cancelled", 9, "cancelled")
    assert not containers(engine, "status=running")
    pipeline.until(lambda: not containers(engine))


def test_a_container_removed_by_hand_is_lost(make: Make, engine: Dockerd) -> None:
    pipeline = make()
    pipeline.client.submit(plain("gone", "sleep 100"))
    pipeline.until(lambda: bool(containers(engine, "status=running")))
    engine.docker("rm", "-f", *containers(engine))
    row = pipeline.client.wait("gone", timeout=60)
    assert (row.state, row.run) == ("lost", 1)


def test_every_process_is_killed_and_each_job_starts_once(make: Make, engine: Dockerd, tmp_path: Path) -> None:
    effects = tmp_path / "effects"
    effects.mkdir()
    pipeline = make(volumes=[str(effects)])
    script = "echo $JOBMILL_JOB_ID $JOBMILL_RUN >> {0}/$JOBMILL_JOB_ID.$JOBMILL_RUN; sleep 0.{1}; exit {1}"
    pipeline.client.submit_many(
        [plain(f"j{n}", script.format(effects, n % 3)) | {"container": {"volumes": [str(effects)]}} for n in range(40)]
    )
    for least, role in ((3, "starter"), (8, "fetcher"), (14, "starter"), (20, "manager"), (26, "fetcher")):
        pipeline.until(lambda least=least: len(list(effects.iterdir())) >= least, timeout=60)  # type: ignore[misc]
        pipeline.kill(role)
        pipeline.start(role)
    rows = pipeline.client.wait([f"j{n}" for n in range(40)], timeout=100)
    assert {i: row.exit.get("exit_value") for i, row in rows.items()} == {f"j{n}": n % 3 for n in range(40)}
    for i, row in rows.items():
        assert (effects / f"{i}.{row.run}").read_text() == f"{i} {row.run}\n"
    assert len(list(effects.iterdir())) == 40  # no run but the last was ever started
    pipeline.until(lambda: not containers(engine, "status=running"))
    pipeline.until(lambda: not containers(engine, "status=created"), timeout=60)
    pipeline.until(lambda: not violations(pipeline.client.record.client, at_rest=True))


def test_an_engine_that_is_down_pauses_and_comes_back(make: Make, engine: Dockerd) -> None:
    pipeline = make()
    redis = pipeline.client.record.client
    pipeline.client.submit(plain("first", "true"))
    assert pipeline.client.wait("first", timeout=40).state == "done"
    engine.kill()
    pipeline.client.submit(plain("later", "true"))
    pipeline.until(lambda: redis.hexists("Endpoints", "docker"), timeout=40)
    time.sleep(1)
    pipeline.until(lambda: redis.hget("Job:later", "state") in (b"waiting", b"later"))  # but for the moment of a try
    engine.start()
    assert pipeline.client.wait("later", timeout=60).state == "done"
    pipeline.until(lambda: not redis.hlen("Endpoints"))
