"""The whole pipeline with jobs that run as their users: here, and on a host where a plain user logs in."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from accounts import Accounts, accounts, processes
from farm import Missing, one_sshd
from laws import violations
from pipeline import Pipeline
from test_run_as import ESCAPES, SETPRIV, SUDO

from jobmill.jobs.spec import JobSpec
from jobmill.ledger.listing import JobRow

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def users() -> Iterator[Accounts]:
    try:
        with accounts() as made:
            yield made
    except Missing as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error), pytrace=False)
        pytest.skip(str(error))


@pytest.fixture(params=["here by setpriv", "there by sudo"])
def pipeline(request: pytest.FixtureRequest, users: Accounts) -> Iterator[Pipeline]:
    folder = users.folder / f"p{time.monotonic_ns()}"
    folder.mkdir(0o755)
    here: dict[str, Any] = {"kind": "local", "slots": 3, "run_as": SETPRIV, "kill_grace": 0.5}
    with one_sshd(folder / "sshd") as host:
        (folder / "far").mkdir()
        os.chown(folder / "far", users.uid(users.work), -1)
        login = host.options(user=users.work, folder=str(folder / "far"))
        there: dict[str, Any] = {"kind": "ssh", "slots": 3, "run_as": SUDO, "kill_grace": 0.5, **login}
        system = here if request.param.startswith("here") else there
        config = {"systems": {"main": system}, "limits": {"lease": "5s"}, "spool": str(folder / "spool")}
        made = Pipeline(folder / "p", config=json.dumps(config))
        try:
            made.start()
            yield made
        finally:
            made.stop()


def ended(pipeline: Pipeline, *documents: dict[str, Any]) -> list[JobRow]:
    """Run jobs to their ends."""
    ids = pipeline.client.submit_many([JobSpec.parse(document) for document in documents])
    rows = pipeline.client.wait(ids, timeout=90)
    return [rows[i] for i in ids]


def test_jobs_end_as_their_users_and_nobody_else(pipeline: Pipeline, users: Accounts) -> None:
    steps = [
        {"name": "one", "command": "id -un > one"},
        {"name": "two", "command": "cat one; echo '{\"n\": 2}' > $JOBMILL_STEP_OUTPUTS", "outputs": ["n"]},
    ]
    home = str(users.folder / users.ann)
    rows = ended(
        pipeline,
        {"id": "a", "user": users.ann, "command": "id -un; echo '{\"a\": 1}' > $JOBMILL_RETURN_FILE"},
        {"id": "b", "user": users.bob, "command": "id -un; echo why > $JOBMILL_ERROR_FILE; exit 3"},
        {"id": "dies", "user": users.ann, "command": "kill -9 $$"},
        {"id": "late", "user": users.ann, "command": ESCAPES, "resources": {"walltime": "2s"}},
        {"id": "steps", "user": users.ann, "steps": steps, "workdir": home},
        {"id": "out", "user": users.ann, "command": "echo x > x.out", "outputs": ["x.out"], "workdir": home},
        {"id": "root", "user": "root", "command": "id"},
        {"id": "twin", "user": users.twin, "command": "id"},
        {"id": "env", "user": users.ann, "command": "env", "inherit_env": True},
        {"id": "nobody", "user": "no-such-user", "command": "id"},
        {"id": "again", "user": users.service, "command": "id", "retry": {"max": 1, "on": ["failed"], "delay": "1s"}},
    )
    told = {row.id: (str(row.state), row.exit.get("reason"), row.exit.get("exit_value")) for row in rows}
    assert told == {
        "a": ("done", None, 0),
        "b": ("failed", "exit_value", 3),
        "dies": ("failed", "signal", None),
        "late": ("failed", "timeout", None),
        "steps": ("done", None, 0),
        "out": ("done", None, 0),
        "root": ("failed", "submit_failed", None),
        "twin": ("failed", "submit_failed", None),
        "env": ("failed", "submit_failed", None),
        "nobody": ("failed", "submit_failed", None),
        "again": ("failed", "submit_failed", None),
    }, [row.exit for row in rows]
    by = {row.id: row for row in rows}
    assert pipeline.client.log(by["a"]).decode() == f"{users.ann}\n"
    assert pipeline.client.log(by["b"]).decode() == f"{users.bob}\n" and by["b"].exit["message"] == "why"
    assert pipeline.client.result("a") == {"a": 1}
    assert users.ann.encode() in pipeline.client.log(by["steps"], "one.log") + pipeline.client.log(
        by["steps"], "two.log"
    )
    assert "is root" in by["twin"].exit["message"] and "below run_as_least_uid" in by["again"].exit["message"]
    assert processes({users.uid(users.ann), users.uid(users.bob)}) == []
    pipeline.until(lambda: not violations(pipeline.client.record.client, at_rest=True))


def test_whoever_is_killed_each_runs_once_as_its_user(pipeline: Pipeline, users: Accounts) -> None:
    places = {name: users.folder / name / f"count{time.monotonic_ns()}" for name in (users.ann, users.bob)}
    documents = [
        {"id": f"j{n}", "user": name, "command": f"echo $JOBMILL_JOB_ID >> {places[name]}; sleep 0.3; exit {n % 3}"}
        for n in range(24)
        for name in [(users.ann, users.bob)[n % 2]]
    ]
    ids = pipeline.client.submit_many([JobSpec.parse(document) for document in documents])
    for role in ("runner", "starter", "runner", "fetcher", "runner"):
        time.sleep(0.7)
        if role == "runner":
            for pid in runners(pipeline):
                os.kill(pid, signal.SIGKILL)
        else:
            pipeline.kill(role)
            pipeline.start(role)
    rows = pipeline.client.wait(ids, timeout=90)
    assert {i: row.exit.get("exit_value") for i, row in rows.items()} == {f"j{n}": n % 3 for n in range(24)}
    lines = [line for path in places.values() for line in path.read_text().split()]
    assert sorted(lines) == sorted(ids)
    pipeline.until(lambda: not violations(pipeline.client.record.client, at_rest=True))


def runners(pipeline: Pipeline) -> list[int]:
    """Return the runners of this pipeline, here or there."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if b"jobmill.systems.runner" in words and os.fsencode(pipeline.folder.parent) in words:
                found.append(int(entry.name))
    return found


def test_a_cancel_ends_all_of_it(pipeline: Pipeline, users: Accounts) -> None:
    (job,) = pipeline.client.submit_many([JobSpec.parse({"user": users.ann, "command": ESCAPES})])
    pipeline.until(lambda: len(processes({users.uid(users.ann)})) >= 4)
    time.sleep(0.3)
    pipeline.client.cancel([job], "enough")
    row = pipeline.client.wait(job, timeout=60)
    assert str(row.state) == "cancelled", row.exit
    assert processes({users.uid(users.ann)}) == []


def test_a_route_says_as_whom_its_jobs_run(users: Accounts) -> None:
    """Also for who named the system; and what no route to it allows never runs as the workers' user."""
    folder = users.folder / f"p{time.monotonic_ns()}"
    folder.mkdir(0o755)
    with one_sshd(folder / "sshd") as host:
        (folder / "far").mkdir()
        os.chown(folder / "far", users.uid(users.work), -1)
        login = host.options(user=users.work, folder=str(folder / "far"))
        anns = {"run_as": SETPRIV, "run_as_users": [users.ann]}
        config = {
            "systems": {
                "here": {"kind": "local", "slots": 3},
                "there": {"kind": "ssh", "slots": 3, **login},
                "plain": {"kind": "local", "slots": 2},
            },
            "routes": [
                {"name": "own", "rules": [{"project_is": "own"}], "system": "here", **anns},
                {"name": "farm", "rules": [{"project_is": "farm"}], "system": "here"},
                {"name": "far", "rules": [{"project_is": "far"}], "system": "there", "run_as": SUDO},
                {"name": "rest", "rules": [{"project_is": "plain"}], "system": "plain"},
            ],
            "spool": str(folder / "spool"),
        }
        pipeline = Pipeline(folder / "p", config=json.dumps(config))
        try:
            pipeline.start()
            job: dict[str, Any] = {"user": users.ann, "command": "id -un"}
            rows = ended(
                pipeline,
                {"id": "own", "project": "own", **job},
                {"id": "named", "project": "own", "system": "here", **job},
                {"id": "steps", "project": "own", "steps": [{"name": "one", "command": "id -un"}], **drop(job)},
                {"id": "bobs", "project": "own", **job, "user": users.bob},
                {"id": "env", "project": "own", "inherit_env": True, **job},
                {"id": "farm", "project": "farm", **job},
                {"id": "sneaks", "system": "here", **job},
                {"id": "far", "project": "far", **job},
                {"id": "far-sneaks", "system": "there", **job},
                {"id": "plain", "system": "plain", **job},
            )
            root, done = "root", [row for row in rows if str(row.state) == "done"]
            said = {it.id: pipeline.client.log(it, "one.log" if it.id == "steps" else "stdout") for it in done}
            assert {id_: text.decode().strip() for id_, text in said.items()} == {
                "own": users.ann,
                "named": users.ann,
                "steps": users.ann,
                "farm": root,
                "far": users.ann,
                "plain": root,
            }, rows
            why = {row.id: (row.exit["reason"], row.exit["message"]) for row in rows if str(row.state) != "done"}
            assert set(why) == {"bobs", "env", "sneaks", "far-sneaks"}
            assert {reason for reason, _ in why.values()} == {"submit_failed"}
            assert "not among run_as_users" in why["bobs"][1] and "inherit_env" in why["env"][1]
            for name in ("sneaks", "far-sneaks"):
                assert "none of them allows this one: route" in why[name][1] and "project" in why[name][1]
            pipeline.until(lambda: not violations(pipeline.client.record.client, at_rest=True))
        finally:
            pipeline.stop()


def drop(job: dict[str, Any]) -> dict[str, Any]:
    """Return it without its command."""
    return {key: value for key, value in job.items() if key != "command"}
