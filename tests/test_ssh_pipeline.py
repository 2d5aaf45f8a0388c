"""The whole pipeline with its jobs on far hosts: it tells what happened there, whoever was killed or cut off."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from farm import Farm, Missing, three_hosts
from laws import violations
from pipeline import Evidence, Pipeline

from jobmill.jobs.spec import JobSpec
from jobmill.ledger import listing

pytestmark = pytest.mark.timeout(180)

Make = Callable[..., Pipeline]


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    try:
        with three_hosts(tmp_path_factory.mktemp("farm")) as hosts:
            yield hosts
    except Missing as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error), pytrace=False)
        pytest.skip(str(error))


@pytest.fixture
def make(farm: Farm, tmp_path: Path) -> Iterator[Make]:
    made: list[Pipeline] = []

    def _make(*hosts: int, **options: Any) -> Pipeline:
        shared = {"slots": 3, "keepalive": 3, "connect_timeout": 3}
        some = {f"h{n}": farm.host(n).options(folder=str(tmp_path / f"far{n}"), **shared) for n in hosts or (1, 2, 3)}
        config = {
            "systems": {"lab": {"kind": "ssh", "hosts": some, "limit": 200, **options}},
            "limits": {"lease": "5s"},
        }
        made.append(Pipeline(tmp_path / "p", config=json.dumps(config)))
        made[0].start()
        return made[0]

    yield _make
    for n in (1, 2, 3):
        farm.join(n)
    for pipeline in made:
        pipeline.stop()


def submit(pipeline: Pipeline, *documents: dict[str, Any]) -> list[str]:
    return pipeline.client.submit_many([JobSpec.parse(document) for document in documents])


def test_jobs_end_as_they_ended_there(make: Make, farm: Farm, tmp_path: Path) -> None:
    pipeline = make()
    before = [farm.host(n).logins for n in (1, 2, 3)]
    ids = submit(
        pipeline,
        {"id": "words", "command": "echo out; echo err >&2; echo '{\"a\": 1}' > $JOBMILL_RETURN_FILE; pwd; hostname"},
        {"id": "fails", "command": "echo why > $JOBMILL_ERROR_FILE; exit 3"},
        {"id": "dies", "command": "kill -9 $$"},
        {"id": "late", "command": "sleep 30", "resources": {"walltime": "1s"}},
        {"id": "none", "command": ["no-such-program"]},
        {"id": "argv", "command": ["printf", "%s|", "a b", "$HOME", "'", "é", "\n"], "env": {"X": "a'b\"c"}},
        {
            "id": "steps",
            "steps": [
                {"name": "one", "command": "echo 1 > one"},
                {"name": "two", "command": "cat one; echo '{\"n\": 2}' > $JOBMILL_STEP_OUTPUTS", "outputs": ["n"]},
            ],
        },
    )
    rows = pipeline.client.wait(ids, timeout=60)
    assert {i: row.state for i, row in rows.items()} == {
        "words": "done",
        "fails": "failed",
        "dies": "failed",
        "late": "failed",
        "none": "failed",
        "argv": "done",
        "steps": "done",
    }
    client = pipeline.client
    assert client.log(rows["words"]).startswith(b"out\n" + str(tmp_path / "far").encode())  # its run folder there
    assert client.log(rows["words"], "stderr") == b"err\n"
    assert json.loads(client.log(rows["words"], "return.json")) == {"a": 1}
    assert rows["fails"].exit["exit_value"] == 3 and rows["fails"].exit["message"] == "why"
    assert rows["dies"].exit["term_sig"] == 9
    assert rows["late"].exit["reason"] == "timeout" and rows["none"].exit["reason"] == "start_failed"
    assert client.log(rows["argv"]) == "a b|$HOME|'|é|\n|".encode()
    assert client.log(rows["steps"], "two.log") == b"1\n"
    for i in ids:  # all of it is at home: the host may go
        if i != "none":
            assert (client.folder(rows[i]) / "run").is_file(), i
    assert [farm.host(n).logins - count for n, count in zip((1, 2, 3), before, strict=True)] in (
        [0, 0, 0],
        [1, 1, 1],  # starter, fetcher and we: one connection a host
    )
    pipeline.until(lambda: not violations(pipeline.client.record.client, at_rest=True))


def test_files_come_and_go(make: Make, tmp_path: Path) -> None:
    pipeline = make(1)
    tree = tmp_path / "in"
    (tree / "deep").mkdir(parents=True)
    (tree / "deep" / "a b\n'é").write_text("hostile\n")
    (tree / "script").write_text("#!/bin/sh\necho ran\n")
    (tree / "script").chmod(0o755)
    big = tmp_path / "big.bin"
    big.write_bytes(os.urandom(3 << 20))
    (i,) = submit(
        pipeline,
        {
            "id": "staged",
            "command": "tree/script; cat tree/deep/*; cp big.bin out.bin; mkdir -p logs; echo l > logs/l.txt",
            "inputs": [{"from": str(tree), "to": "tree"}, str(big)],
            "outputs": ["out.bin", "logs/*", {"glob": "*.none", "required": False}],
        },
    )
    row = pipeline.client.wait(i, timeout=60)
    assert row.state == "done", row
    assert pipeline.client.log(row) == b"ran\nhostile\n"
    home = pipeline.client.folder(row) / "outputs"
    assert (home / "out.bin").read_bytes() == big.read_bytes() and (home / "logs" / "l.txt").read_text() == "l\n"
    (i,) = submit(pipeline, {"id": "lacks", "command": "true", "outputs": ["*.none"]})
    row = pipeline.client.wait(i, timeout=60)
    assert row.state == "failed" and row.exit["reason"] == "missing_output" and "*.none" in row.exit["message"]
    (i,) = submit(pipeline, {"id": "no-input", "command": "true", "inputs": ["/no/such/file"]})
    row = pipeline.client.wait(i, timeout=60)
    assert row.state == "failed" and row.exit["reason"] == "stage_failed" and "/no/such/file" in row.exit["message"]


def test_paths_are_translated(make: Make, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    (here / "x").mkdir(parents=True)
    (there / "x").mkdir(parents=True)
    pipeline = make(1, paths={str(here): str(there)})
    ids = submit(
        pipeline,
        {"id": "seen", "command": "pwd", "workdir": str(here / "x"), "stdout": "o.txt", "outputs": ["o.txt"]},
        {"id": "said", "command": "pwd", "workdir": "/usr"},
        {"id": "typed", "command": "pwd", "workdir": str(tmp_path), "submit_dir": str(tmp_path)},
        {"id": "under", "command": "pwd", "workdir": str(here), "submit_dir": str(here)},
    )
    rows = pipeline.client.wait(ids, timeout=60)
    assert {row.state for row in rows.values()} == {"done"}, rows
    assert (there / "x" / "o.txt").read_text() == f"{there}/x\n"
    assert pipeline.client.log(rows["said"]) == b"/usr\n"
    assert pipeline.client.log(rows["typed"]).decode().startswith(str(tmp_path / "far1"))
    assert pipeline.client.log(rows["under"]).decode() == f"{there}\n"


@pytest.mark.parametrize("who", ["starter", "fetcher", "starter and fetcher", "cable", "sshd"])
def test_nothing_is_lost_or_doubled(make: Make, farm: Farm, tmp_path: Path, who: str) -> None:
    pipeline = make()
    evidence = Evidence(tmp_path / "evidence")
    evidence.file.touch()
    ids = submit(
        pipeline,
        *(
            {"id": f"j{n}", "command": evidence.command(f"sleep {n % 4 / 4}", n % 3), "outputs": ["stdout"]}
            for n in range(60)
        ),
    )
    for turn in range(3):
        evidence.until_started(pipeline, 8 + 12 * turn)
        if who == "cable":
            farm.cut(2)
            time.sleep(5)
            farm.join(2)
        elif who == "sshd":
            farm.host(1 + turn).kill()
            farm.host(1 + turn).start()
        else:
            for role in who.split(" and "):
                pipeline.kill(role, signal.SIGKILL)
            pipeline.start(*who.split(" and "))
    rows = pipeline.client.wait(ids, timeout=120).values()
    assert {row.id: (row.state, row.exit.get("exit_value")) for row in rows} == {
        f"j{n}": ("failed" if n % 3 else "done", n % 3) for n in range(60)
    }
    assert set(evidence.counts().values()) == {1}  # each started once and ended once
    pipeline.until(lambda: not violations(pipeline.client.record.client, at_rest=True))


def test_cancel_reaches_there(make: Make, tmp_path: Path) -> None:
    pipeline = make(3)
    ids = submit(pipeline, *({"id": f"c{n}", "command": "setsid sleep 300 & sleep 300"} for n in range(5)))
    rows = listing.jobs
    pipeline.until(lambda: [row.state for row in rows(pipeline.client.record, ids)].count("running") == 3, 30)
    pipeline.client.cancel(ids, why="enough")
    assert {row.state for row in pipeline.client.wait(ids, timeout=60).values()} == {"cancelled"}
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            assert (
                str(tmp_path / "far3").encode() not in entry.read_bytes() or b"JOBMILL_TOKEN" not in entry.read_bytes()
            )
        except OSError:
            continue
