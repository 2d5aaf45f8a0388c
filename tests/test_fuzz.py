"""Whatever bytes are pushed: no process dies, each refused entry stands in Dead_Queue whole, each job ends or waits.

The long runs: `python -m tests.fuzz --documents 100000` and `python -m tests.fuzz.parser -max_total_time=600`.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from random import Random

import pytest
from conftest import Server
from driver import Driver, entry
from hypothesis import HealthCheck, example, given, settings

from jobmill.errors import SpecError
from jobmill.jobs.document import load
from jobmill.jobs.spec import JobSpec
from jobmill.jobs.unfit import MAX_VALUES
from jobmill.ledger import admission
from jobmill.ledger.admission import Entry, Refusal
from jobmill.ledger.record import BATCH, Record
from jobmill.manager import doorway, manager
from jobmill.manager.doorway import SPLIT, pieces
from jobmill.rules.dispatcher import Choice, Dispatcher
from tests.fuzz import claims, lists
from tests.fuzz.claims import check, intake
from tests.fuzz.documents import ENTRIES
from tests.fuzz.run import CONFIG, run
from tests.pipeline import Pipeline

MIB = 1 << 20
KIB64 = 1 << 16
FAST = 0.5  # CPU seconds for a document of 64 KiB


def read(raw: bytes) -> Entry | Refusal:
    """Return what the intake makes of a single document, after the claims were checked on it."""
    check(raw)
    answer = intake().read(raw, "Job_Queue")
    assert isinstance(answer, (Entry, Refusal))
    return answer


@given(ENTRIES)
@example(b"steps: [{command: a, log: [x]}]")
@example(b'{"command": "a", "memory": 1e308}')
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
def test_only_our_own_words_come_out_of_the_parser(raw: bytes) -> None:
    assert check(raw) < FAST


@pytest.mark.skipif(find_spec("atheris") is None, reason="atheris has no wheel for this platform")
def test_the_search_by_coverage_finds_nothing_in_a_few_seconds(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.fuzz.parser", "-runs=2000", "-seed=1", f"-artifact_prefix={tmp_path}/"]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=root, capture_output=True, timeout=100, check=False)
    assert done.returncode == 0 and b"Done 2000 runs" in done.stderr, done.stderr.decode(errors="replace")[-3000:]


def test_two_thousand_documents_through_a_pipeline_are_all_accounted_for() -> None:
    also = [b"\0" + b"9" * 5000, b"\x00123", b"x" * (5 * MIB), b"command: |+\n  a\n\n---\n" * 700]
    result = run(1, 1300, also=also)
    assert result.clean, [*result.crashed, *result.broken, *result.account.unaccounted, result.tracebacks]
    found = result.account
    assert found.documents == found.accepted + found.refused + found.same
    assert min(found.accepted, found.refused, found.same) > 10
    assert found.documents >= 2000 and found.states["done"] > 1000


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ("steps: [{command: a, log: [x]}]", "steps[0].log: must be text"),
        ("command: a\nid: x\ndepends_on: 5", "depends_on: item 1: must be text"),
        ("command: a\nid: [x]\ndepends_on: {a: b}", "id: must be text"),
        ("command: a\nid: x\ndepends_on: x", "names the job itself"),
        (f"command: a\nmemory: 1{'0' * 398}", "between 0 and 1024P"),
        ('{"command": "a", "memory": 1e308}', "between 0 and 1024P"),
        ('{"command": "a", "memory": -1e308}', "between 0 and 1024P"),
        (f"command: a\noutputs: [{'x' * 300}]", "too long"),
        (f"command: a\nworkdir: /{'x' * 300}", "too long"),
        ("command: a\noutputs: [a**b]", "'**' beside other signs"),
        ("command: a\noutputs: [.]", "must name files"),
        (f"command: a\noutputs: ['{'a/' * 1000}']", "must name files"),
    ],
)
def test_what_once_broke_the_reader_is_refused_in_words(raw: str, words: str) -> None:
    answer = read(raw.encode())
    assert isinstance(answer, Refusal) and words in answer.reason


def test_a_single_dependency_is_not_searched_for_the_jobs_own_id() -> None:
    answer = read(b"command: a\nid: part-1\ndepends_on: part-10")
    assert isinstance(answer, Entry) and answer.depends_on == ("part-10",)


@pytest.mark.parametrize(
    "raw",
    [
        "{" + ",".join(f'"{n}":1' for n in range(6000)) + ',"z":1,"z":2}',
        "command: a\nenv:\n" + "".join(f" A{n}: 1.5\n" for n in range(5000)),
        f"command: a\nstart_after: '1{' ' * 60_000}x'",
        '{"' + "[" * 65 + '\\"' * 30_000,
    ],
    ids=["JSON key twice", "env as written", "blanks in a time", "a text that is not closed"],
)
def test_no_text_takes_time_by_the_square_of_its_length(raw: str) -> None:
    assert check(raw.encode()) < FAST


@pytest.mark.parametrize(
    "text",
    [
        f'{{"command": "x", "params": {{"p": [{",".join("1" * MAX_VALUES)}]}}}}',
        f"command: x\nparams: {{p: [{','.join('1' * MAX_VALUES)}]}}",
        "command: x\n---\n" * (MAX_VALUES // 2),
        f"params: {{a: &a [x, x, x, x, x, x, x, x], b: [{'*a, ' * (MAX_VALUES // 8)}]}}",
    ],
    ids=["JSON", "YAML", "a stream", "aliases"],
)
def test_the_number_of_values_is_bounded(text: str) -> None:
    with pytest.raises(SpecError, match="more than 100,000 keys and values"):
        load(text.encode(), limit=4 * MIB, together=True)


def test_a_file_may_hold_any_number_of_documents() -> None:
    text = f"command: [{','.join('a' * (MAX_VALUES // 3))}]\n---\n" * 4
    assert len(load(text.encode(), limit=64 * MIB)) == 4
    with pytest.raises(SpecError, match="keys and values"):
        load(text.encode(), limit=64 * MIB, together=True)


def test_a_long_stream_is_split_into_its_documents_without_a_change() -> None:
    text = "".join(f"---\nid: i{n}\ncommand: |+\n  x\n\n" for n in range(3 * SPLIT + 7))
    texts, steps = [text], 0
    while len(texts) < 3 * SPLIT + 7:
        documents = [load(piece.encode(), limit=MIB) for piece in texts]
        texts = [piece for found in documents for piece in pieces([document.entry for document in found])]
        steps += 1
    assert steps == 2 and "".join(texts) == text
    assert {load(piece.encode(), limit=MIB)[0].data["command"] for piece in texts} == {"x\n\n"}


def test_directives_stay_with_their_document() -> None:
    text = "a: 1\n...\n%TAG !y! tag:yaml.org,2002:\n# c\n---\nb: !y!str 2\n---\nc: 3\n"
    documents = load(text.encode(), limit=MIB)
    assert [load(d.entry.encode(), limit=MIB)[0].data for d in documents] == [{"a": 1}, {"b": "2"}, {"c": 3}]
    assert "".join(d.entry for d in documents) == text


def test_what_breaks_the_reader_all_the_same_is_refused_in_words() -> None:
    class Broken(Dispatcher):
        def choose(self, job: JobSpec) -> Choice:
            raise KeyError(job.id)

    answer = intake(Broken(systems={"local": "local"})).read(b"id: x\ncommand: a", "Job_Queue")
    assert isinstance(answer, Refusal) and answer.job_id == "x"
    assert "KeyError in jobmill itself" in answer.reason


def test_an_entry_that_looks_like_the_mark_of_an_oversize_one_is_taken_as_it_is(valkey: Server) -> None:
    driver = Driver(Record(valkey.url))
    odd = [b"\x00123", b"\0" + b"9" * 5000]
    driver.client.rpush("Job_Queue", *odd)
    batch = admission.take(driver.manager, "Job_Queue", 250, largest=10_000)
    assert list(batch.entries) == odd and batch.oversize == {} and not batch.cut


def test_large_entries_are_taken_a_few_at_a_time(server: Server) -> None:
    driver = Driver(Record(server.url))
    driver.push(*[str(n) * 1000 for n in range(10)], *["x" * 9000] * 60)
    batch = admission.take(driver.manager, "Job_Queue", 250, largest=5000, most=2500)
    assert [len(e) for e in batch.entries] == [1000] * 3 and batch.cut
    admission.admit(driver.manager, batch, [entry(f"j{n}") for n in range(3)], 0)
    batch = admission.take(driver.manager, "Job_Queue", 250, largest=5000, most=10_000)
    assert len(batch.entries) == 67 and batch.oversize == dict.fromkeys(range(7, 67), 9000) and not batch.cut


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    made = Pipeline(tmp_path_factory.mktemp("lists"), config=CONFIG)
    made.start()
    yield made
    made.stop()


@pytest.mark.parametrize("queue", ["Result_Queue", "Exit_Queue", "Granted_Queue"])
def test_garbage_in_another_list_is_passed_over(pipeline: Pipeline, queue: str) -> None:
    client = pipeline.client.record.client
    first, following = f"first-{queue}", f"next-{queue}"
    client.rpush(
        "Job_Queue",
        f"id: {first}\ncommand: x\nenv: {{FAKE_SECONDS: 1}}",
        f"id: {following}\ncommand: x\ndepends_on: {first}",
    )
    pipeline.until(lambda: bool(client.exists(f"Job:{first}:dependents")))
    client.rpush(queue, *lists.entries(queue, Random(1), first))
    assert pipeline.client.wait(following, timeout=30).state == "done"
    pipeline.until(lambda: not client.llen(queue))
    assert all(worker.poll() is None for worker in pipeline.workers.values()), pipeline.log_tail()
    assert "Traceback" not in pipeline.log.read_text()


def test_a_batch_that_takes_long_to_read_is_admitted_in_parts(valkey: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """In between there are heartbeats: a manager that reads for longer than its lease counts as dead."""
    monkeypatch.setattr(doorway, "PATIENCE", 0.0)
    monkeypatch.setattr(doorway, "SHIFT", 0.0)
    driver = Driver(Record(valkey.url))
    works = manager.Manager(driver.record, claims.CONFIG)
    works.enter(driver.manager)
    driver.push(*[f"id: j{n}\ncommand: x\nhold: true" for n in range(3)])
    for n in range(3):
        assert works.ring("Job_Queue") == BATCH  # a whole batch: look again at once
        assert len(driver.where("Jobs:held")) == n + 1
    assert works.ring("Job_Queue") == 0
