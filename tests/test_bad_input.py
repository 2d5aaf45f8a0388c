"""Bad input of every kind: each entry ends with a reason that says what and where, and nothing stops."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pipeline import Pipeline

from jobmill.errors import SpecError
from jobmill.ledger import dead
from jobmill.ledger.listing import JobRow

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(12)
)

STREAM = b"id: good-1\ncommand: 'true'\n---\nid: bad-1\ncommandd: x\n---\nid: good-2\ncommand: 'true'\n"

REFUSED: dict[str, tuple[bytes, list[str]]] = {
    "no YAML": (b"command: [unclosed\nname: x", [":2:", "YAML"]),
    "a bomb": (BOMB.encode(), ["alias"]),
    "wrong type": (b"command: echo hi\npriority: high", [":2", "priority"]),
    "unknown key": (b"command: echo hi\n\nworkdirr: /tmp", [":3", "workdirr", "workdir"]),
    "unknown class": (b"command: echo\nClassType: Locale", ["Locale", "Local"]),
    "unknown system": (b"command: echo\nsystem: lokal", ["lokal", "local"]),
    "50 MB": (b"command: " + b"x" * (50 << 20), ["bytes", "limit"]),
    "NUL": (b"command: echo \0 hi", ["NUL"]),
    "no UTF-8": (b"command: echo \xff\xfe", ["UTF-8"]),
    "empty": (b"", []),
    "a list": (b"- a\n- b", ["mapping"]),
    "a tag": (b"command: !!python/object/apply:os.system [id]", ["tag"]),
    "nothing to run": (b"name: idle", ["command"]),
    "too large for the system": (b"command: echo\nresources: {cpus: 4000}", ["cpus", "4000", "local"]),
    "not supported yet": (b"command: echo\nnotify: [{email: a@b}]", ["notify", "not supported"]),
    "deep": (b"[" * 100_000, []),
}


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    made = Pipeline(tmp_path_factory.mktemp("bad"))
    made.start()
    yield made
    made.stop()


@pytest.fixture(autouse=True)
def everything_still_runs(pipeline: Pipeline) -> Iterator[None]:
    """After each test the same three processes serve the next job."""
    yield
    assert all(worker.poll() is None for worker in pipeline.workers.values()), pipeline.log_tail()
    row = pipeline.client.wait(pipeline.client.submit({"command": "exit 3"}), timeout=20)
    assert (row.state, row.exit["exit_value"]) == ("failed", 3)
    assert "Traceback" not in pipeline.log.read_text()


def buried(pipeline: Pipeline, raw: bytes) -> dead.DeadEntry:
    """Push an entry as redis-cli would; return it as it stands in Dead_Queue."""
    record = pipeline.client.record
    before = dead.count(record)
    record.call("RPUSH", "Job_Queue", raw)
    pipeline.until(lambda: dead.count(record) > before)
    return dead.entries(record, before)[0]


def run(pipeline: Pipeline, **job: object) -> JobRow:
    row: JobRow = pipeline.client.wait(pipeline.client.submit(job), timeout=20)
    return row


@pytest.mark.parametrize("kind", REFUSED)
def test_a_bad_entry_goes_to_the_dead_queue_whole_with_its_reason(pipeline: Pipeline, kind: str) -> None:
    raw, words = REFUSED[kind]
    entry = buried(pipeline, raw)
    assert entry.entry == raw
    assert entry.reason and entry.queue == "Job_Queue" and abs(entry.time - time.time()) < 60
    missing = [w for w in words if w.lower() not in entry.reason.lower()]
    assert not missing, entry.reason


def test_who_asks_for_a_refused_job_is_told_why(pipeline: Pipeline) -> None:
    assert buried(pipeline, b"id: typo-7\ncommandd: 'true'").job_id == "typo-7"
    with pytest.raises(SpecError, match="commandd"):
        pipeline.client.wait("typo-7", timeout=20)
    with pytest.raises(SpecError, match="commandd"):
        pipeline.client.job("typo-7")


def test_what_was_pushed_into_the_dead_queue_by_hand_is_listed_and_requeued_whole(pipeline: Pipeline) -> None:
    record = pipeline.client.record
    odd = [b"[]", b"null", b"1", b"", b"\xff\xfe", b"[" * 100_000, b'{"id": "x"}\nrest']
    odd += [b'{"reason": 1, "time": NaN}\n', b'{"reason": 1, "time": "x"}\n', b'{"reason": 1, "time": 1e400}']
    before = dead.count(record)
    record.call("RPUSH", "Dead_Queue", *odd, b"id: by-hand\ncommand: 'true'")
    found = dead.entries(record, before)
    assert [e.entry for e in found[:-1]] == odd and {e.reason for e in found} == {"pushed here by hand"}
    assert dead.requeue(record, found[-1:]) == 1
    row = pipeline.client.wait("by-hand", timeout=20)
    assert row.state == "done" and list(row.times) == ["submitted", "granted", "started", "ended"]
    assert dead.drop(record, found[-2::-1]) == len(odd)


def test_a_bad_document_of_a_stream_is_refused_alone(pipeline: Pipeline) -> None:
    record = pipeline.client.record
    before = dead.count(record)
    record.call("RPUSH", "Job_Queue", STREAM)
    rows = pipeline.client.wait(["good-1", "good-2"], timeout=20)
    assert {r.state for r in rows.values()} == {"done"}
    assert dead.count(record) == before + 1
    assert "commandd" in dead.entries(record, before)[0].reason


def test_the_same_id_is_run_once_and_with_another_spec_refused(pipeline: Pipeline, tmp_path: Path) -> None:
    record, out = pipeline.client.record, tmp_path / "out"
    job = {"id": "twice", "command": f"echo x >> {out}", "workdir": "/tmp", "user": "ann"}
    pipeline.client.wait(pipeline.client.submit(job), timeout=20)
    pipeline.client.wait(pipeline.client.submit(job), timeout=20)
    entry = buried(pipeline, json.dumps({**job, "command": "other"}).encode())
    assert "twice" in entry.reason and "id" in entry.reason
    assert out.read_text() == "x\n"
    assert record.call("HGET", "Job:twice", "state") == b"done"


def test_a_dead_entry_is_mended_by_requeue_once_its_cause_is_gone(pipeline: Pipeline) -> None:
    record = pipeline.client.record
    entry = buried(pipeline, b"id: later-fine\ncommand: 'true'\nresources: {cpus: 5000}")
    pipeline.client.record.call("HSET", "Capacity", "local.cpus", 6000)
    time.sleep(1.5)  # limits are read about once a second
    try:
        assert dead.requeue(record, [entry]) == 1
        assert dead.requeue(record, [entry]) == 0
        assert pipeline.client.wait("later-fine", timeout=20).state == "done"
    finally:
        pipeline.client.record.call("HSET", "Capacity", "local.cpus", 4)


def test_no_such_command(pipeline: Pipeline) -> None:
    row = run(pipeline, command=["/no/such/program", "x"])
    assert row.state == "failed" and row.exit["exit_value"] == 127
    assert "/no/such/program" in row.exit["message"]
    row = run(pipeline, command="no-such-program-here")
    assert row.state == "failed" and row.exit["exit_value"] == 127


def test_a_workdir_that_is_not_there(pipeline: Pipeline) -> None:
    row = run(pipeline, command="true", workdir="/no/such/folder")
    assert row.state == "failed" and row.exit["exit_status"] == "aborted_before_running"
    assert "/no/such/folder" in row.exit["message"] and "workdir" in row.exit["message"]


def test_an_output_path_that_cannot_be_written(pipeline: Pipeline) -> None:
    row = run(pipeline, command="true", stdout="/proc/no/such/file")
    assert row.state == "failed" and "/proc/no/such/file" in row.exit["message"]


def test_a_missing_required_output_fails_the_job(pipeline: Pipeline, tmp_path: Path) -> None:
    row = run(pipeline, command="true", workdir=str(tmp_path), outputs=["*.sam"])
    assert row.state == "failed" and row.exit["reason"] == "missing_output" and "*.sam" in row.exit["message"]
    assert row.exit["exit_value"] == 0  # the contradiction is kept
    row = run(pipeline, command="touch a.sam", workdir=str(tmp_path), outputs=["*.sam"])
    assert row.state == "done"


def test_a_full_server_takes_nothing_in_but_lets_ends_through(pipeline: Pipeline) -> None:
    client = pipeline.client.record.client
    running = pipeline.client.submit({"command": "sleep 1.5"})
    pipeline.until(lambda: client.hget(f"Job:{running}", "state") == b"running")
    client.config_set("maxmemory", int(client.info("memory")["used_memory"]) - 1)
    try:
        with pytest.raises(Exception, match="full"):
            pipeline.client.submit({"command": "true"})
        assert pipeline.client.wait(running, timeout=20).state == "done"
    finally:
        client.config_set("maxmemory", 0)
