"""The `drmaa` system and its sessions, over the library of real Grid Engine, and over libraries that are broken."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from grid_farm import LIBRARY, Grid
from laws import violations
from pipeline import Pipeline
from test_gridengine import ENDS, Bench, mortal, up

from jobmill.errors import ConfigError, SystemUnavailable
from jobmill.jobs.spec import JobSpec
from jobmill.jobs.states import ENDED
from jobmill.ledger import listing
from jobmill.systems import drmaa_states, run_folder
from jobmill.systems.batch_end import by_books
from jobmill.systems.batch_row import Phase, Row
from jobmill.systems.command_line import Unanswered
from jobmill.systems.drmaa import DrmaaSystem
from jobmill.systems.drmaa_child import DrmaaChild, DrmaaError
from jobmill.systems.drmaa_desk import DrmaaDesk
from jobmill.systems.system import ExitStatus, Launch, NativeState, Settled, Submission, SubmitError, SubmitFailure

pytestmark = pytest.mark.timeout(180)

__all__ = ("mortal",)  # a fixture

SH = {"remoteCommand": "/bin/sh", "workingDirectory": "/tmp", "outputPath": ":/dev/null", "joinFiles": True}
RESOURCES = {
    "cpus": "-pe smp {cpus}",
    "memory": "-l mem_free={memory}M",
    "walltime": "-l h_rt={walltime}",
    "queue": "-q {queue}",
}


@pytest.fixture(scope="module")
def cell() -> Iterator[Grid]:
    """One node."""
    yield from up()


def system(cell: Grid, spool: Path, **options: Any) -> DrmaaSystem:
    values = {"env": cell.env, "library": str(LIBRARY), "poll_interval": 1, "kill_grace": 0.5, "late": 20}
    values["native"] = ["-w", "n"]  # else it looks for a host that has now what is asked for
    return DrmaaSystem.build("any", {"resources": RESOURCES, **values, **options}, spool)


class DrmaaBench(Bench):
    """A drmaa system, and the launches of one test."""

    system: DrmaaSystem  # type: ignore[assignment]

    def __init__(self, cell: Grid, spool: Path, **options: Any) -> None:
        super().__init__(cell, spool)
        self.system = system(cell, spool, **options)


@pytest.fixture
def bench(cell: Grid, tmp_path: Path) -> Iterator[DrmaaBench]:
    made = DrmaaBench(cell, tmp_path / "spool", late=3)
    yield made
    cell.empty()
    made.system.close()


@pytest.fixture
def desk(cell: Grid, tmp_path: Path) -> Iterator[DrmaaDesk]:
    made = DrmaaDesk(tmp_path, "any", {"PATH": os.defpath, **cell.env}, library=str(LIBRARY))
    yield made
    cell.empty()
    made.close()


def heard(desk: DrmaaDesk, native: str) -> Any:
    until = time.monotonic() + 30
    while (row := desk.end(native)) is None:
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.2)
    return row


def script(desk: DrmaaDesk, text: str, **more: str) -> str:
    """Submit a command; return its id."""
    found = desk.run({**SH, "args": ["-c", text], **more}, "rec.1:a:1")
    assert isinstance(found, str), found
    return found


# Sessions.


def test_what_a_session_says_of_itself(desk: DrmaaDesk) -> None:
    told = desk.about()
    assert told["version"] == "1.0" and "SGE 8.1.9" in told["system"] and told["contact"].startswith("session=")


def test_hold_release_suspend_resume_terminate(desk: DrmaaDesk) -> None:
    native = script(desk, "sleep 30")

    def state() -> str:
        return desk.states([native])[native].state

    def until(word: str) -> None:
        deadline = time.monotonic() + 20
        while state() != word:
            assert time.monotonic() < deadline, (word, state())
            time.sleep(0.1)

    assert state() == "user_on_hold" and desk.states([native])[native].phase is Phase.HELD
    assert desk.control([native], "release") == {}
    until("running")
    assert desk.control([native], "suspend") == {}
    until("user_suspended")
    assert desk.control([native], "resume") == {}
    until("running")
    assert desk.control([native, "99999"], "terminate").keys() == {"99999"}
    row = heard(desk, native)
    assert (row.phase, row.state, row.token) == (Phase.CANCELLED, "aborted", "rec.1:a:1"), row
    held = script(desk, "true")
    desk.control([held], "release")
    desk.control([held], "hold")
    assert state_of(desk, held) in ("user_on_hold", "running", "done", "None")


def state_of(desk: DrmaaDesk, native: str) -> str:
    row = desk.states([native]).get(native)
    return row.state if row is not None else "None"


def test_bulk_jobs(desk: DrmaaDesk) -> None:
    template = {**SH, "args": ["-c", "exit $((SGE_TASK_ID % 3))"]}
    ids = desk.bulk(template, "rec.1:a:1", 2, 8, 2)
    assert len(ids) == 4 and set(desk.ids()) == set(ids)
    desk.control(ids, "release")
    assert [heard(desk, native).code for native in ids] == [2, 1, 0, 2]


@pytest.mark.parametrize(
    ("text", "phase", "code", "number"),
    [
        ("exit 0", Phase.COMPLETED, 0, None),
        ("exit 3", Phase.FAILED, 3, None),
        ("kill -9 $$", Phase.FAILED, None, 9),
        ("kill -SEGV $$", Phase.FAILED, None, 11),
    ],
)
def test_what_a_session_hears_of_ends(
    text: str, phase: Phase, code: int | None, number: int | None, desk: DrmaaDesk
) -> None:
    native = script(desk, f"sleep 1; {text}")
    desk.control([native], "release")
    row = heard(desk, native)
    assert (row.native, row.phase, row.code, row.signal) == (native, phase, code, number), row
    assert row.started and row.ended and row.cpu is not None
    assert by_books("drmaa", row, began=True).resource_usage["wall"] >= 1


def test_a_program_that_is_not_there_is_aborted_before_it_runs(desk: DrmaaDesk) -> None:
    native = script(desk, "true", remoteCommand="/nonexistent")
    desk.control([native], "release")
    row = heard(desk, native)
    assert (row.phase, row.state) == (Phase.FAILED, "aborted before it ran"), row
    end = by_books("drmaa", row, began=False)
    assert (end.exit_status, end.reason) == (ExitStatus.ABORTED_BEFORE_RUNNING, "start_failed")


def test_an_end_that_nobody_determines() -> None:
    info = {"jobId": "7", "hasExited": False, "hasSignal": False, "wasAborted": False, "resourceUsage": {"cpu": "x"}}
    row = drmaa_states.end_of({**info, "token": "rec.1:a:1"})
    assert by_books("drmaa", row, began=True).exit_status is ExitStatus.UNDETERMINED
    strange = drmaa_states.end_of({**info, "hasSignal": True, "terminatedSignal": "unknown signal"})
    assert (strange.phase, strange.signal, strange.state) == (Phase.FAILED, None, "unknown signal")


def test_numbers_without_end_are_none() -> None:
    usage = {"maxvmem": "inf", "cpu": "nan", "start_time": "1e999", "end_time": "7"}
    row = drmaa_states.end_of(
        {"jobId": "4", "token": "rec.1:a:1", "hasExited": True, "exitStatus": 0, "resourceUsage": usage}
    )
    assert (row.memory, row.cpu, row.started, row.ended) == (None, None, None, 7.0)


def test_what_begins_after_all_has_not_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody cleared its error state between the look and the deletion."""
    made = DrmaaSystem.build("any", {"late": 0}, tmp_path)
    it = Submission(token="rec.1:a:1", job_id="a", run=1, argv=("true",))
    folder, _ = made.spool.write(it, kind="drmaa", variable="JOB_ID", redirect=False)
    row = Row(native="7", token=it.token, phase=Phase.FAILED, state="failed")
    monkeypatch.setattr(made.desk, "states", lambda _ids: {"7": row})

    def terminate(_ids: object, _action: str) -> dict[str, str]:
        with contextlib.suppress(FileExistsError):
            os.close(run_folder.take(os.fsencode(folder), run_folder.header(it.token, "drmaa:7")))
        return {}

    monkeypatch.setattr(made.desk, "control", terminate)
    assert made.exit_info([f"7/{it.token}"]) == {}


def test_ids_of_long_ago_are_not_asked_for_for_ever(tmp_path: Path) -> None:
    """What a fetcher was to forget when it died stayed, and every query for all jobs asked for each of them."""
    made = DrmaaSystem.build("any", {}, tmp_path)
    folder = tmp_path / "drmaa/any"
    folder.mkdir(parents=True)
    long_ago = time.time() - 8 * 86400
    for native, name, ended in (("1", "ended", True), ("2", "runs", False), ("3", "young", True)):
        token = f"rec.1:{name}:1"
        (folder / f"{native}.job").write_text(token)
        if native != "3":
            os.utime(folder / f"{native}.job", (long_ago, long_ago))
        if ended:
            run_folder.seal(os.fsencode(tmp_path), token, "drmaa:1", "start_failed", "for the test")
    made.lead()
    assert sorted(made.desk.ids()) == ["2", "3"]


def test_errors_of_the_library_are_told_by_name(desk: DrmaaDesk) -> None:
    for native, words in (("-q nowhere", "nowhere"), ("-l nosuch=1", "nosuch"), ("--bad", "--bad")):
        found = desk.run({**SH, "args": ["-c", "true"], "nativeSpecification": native}, "rec.1:a:1")
        assert isinstance(found, SubmitError) and found.failure is SubmitFailure.PERMANENT, found
        assert words in found.message
    with pytest.raises(DrmaaError) as told:
        desk.bulk({**SH, "args": ["-c", "true"], "nativeSpecification": "-q nowhere"}, "rec.1:a:1", 1, 2)
    assert told.value.kind == "DeniedByDrmException"
    assert desk.ids() == [] and desk.end("7") is None and desk.token_of("7") == ""


def test_the_child_goes_with_its_parent(cell: Grid, tmp_path: Path) -> None:
    """Also where the parent is killed, and takes leave of nobody."""
    code = (
        "import sys, time; from pathlib import Path; from jobmill.systems.drmaa_desk import DrmaaDesk\n"
        f"desk = DrmaaDesk(Path({str(tmp_path)!r}), 'any', {cell.env!r}, library={str(LIBRARY)!r})\n"
        "desk.about(); print(desk.child.process.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        try:
            assert parent.stdout is not None
            child = int(parent.stdout.readline())
        finally:
            parent.kill()
    until = time.monotonic() + 10
    while alive(child):
        assert time.monotonic() < until, "it outlives its parent"
        time.sleep(0.1)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_session_is_taken_up_again(cell: Grid, tmp_path: Path) -> None:
    """By one at a time; what ends meanwhile, and after, is heard by the next one where the library knows it still."""
    env = {"PATH": os.defpath, **cell.env}
    first, beside = (DrmaaDesk(tmp_path, "any", env, library=str(LIBRARY)) for _ in range(2))
    native = script(first, "sleep 4; exit 3")
    first.control([native], "release")
    contact = first.about()["contact"]
    assert beside.about()["contact"] != contact, "a session has one owner"
    assert first.child.process is not None
    first.child.process.kill()
    first.child.process.wait()
    again = DrmaaDesk(tmp_path, "any", env, library=str(LIBRARY))
    assert again.about()["contact"] == contact and again.about()["resumed"]
    assert heard(again, native).code == 3
    for desk in (first, beside, again):
        desk.close()


# Libraries that are broken: a package of that name, before the real one, does what happened to others.

CRASHES = "import os; os.abort()"
HANGS = "import time; time.sleep(60)"
DIES = """
import ctypes
class Session:
    contact = drmsInfo = drmaaImplementation = "x"; version = "1.0"
    JOB_IDS_SESSION_ANY = TIMEOUT_NO_WAIT = None
    def initialize(self, contact=None): pass
    def createJobTemplate(self): return type("T", (), {})()
    def runJob(self, template): print("last words", flush=True); ctypes.string_at(0)
    def deleteJobTemplate(self, template): pass
    def wait(self, *words): raise ValueError
    def exit(self): pass
"""


def child(tmp_path: Path, text: str, **more: Any) -> DrmaaChild:
    package = tmp_path / "package"
    package.mkdir()
    (package / "drmaa.py").write_text(text)
    return DrmaaChild(tmp_path / "folder", {"PATH": os.defpath, "PYTHONPATH": str(package)}, **more)


def test_a_library_that_crashes_takes_nothing_along(tmp_path: Path) -> None:
    it = child(tmp_path, CRASHES)
    with pytest.raises(SystemUnavailable, match=r"no DRMAA session began"):
        it.call("about")
    with pytest.raises(SystemUnavailable):
        it.call("about")
    with pytest.raises(SystemUnavailable, match="it is started again in"):  # not at once for ever
        it.call("about")


def test_a_library_that_crashes_in_the_midst_of_a_submit(tmp_path: Path) -> None:
    """Whether it was taken nobody knows; what it printed is told."""
    it = child(tmp_path, DIES)
    assert it.call("about")["version"] == "1.0"
    with pytest.raises(Unanswered, match=r"(?s)signal 11.*last words"):
        it.call("run", template={}, token="rec.1:a:1")
    it.close()


def test_a_library_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobmill.systems.drmaa_child.START", 0.5)
    it = child(tmp_path, HANGS)
    with pytest.raises(SystemUnavailable, match=r"within 0\.5 s"):
        it.call("about")
    assert it.process is None


def test_a_library_that_is_not_there(tmp_path: Path) -> None:
    made = DrmaaDesk(tmp_path, "any", {"PATH": os.defpath}, library="/opt/no/libdrmaa.so")
    with pytest.raises(SystemUnavailable, match=r"/opt/no/libdrmaa.so: cannot open"):
        made.about()


# The system.


@pytest.mark.parametrize(("text", "value", "number"), ENDS)
def test_ends(text: str, value: int | None, number: int | None, bench: DrmaaBench) -> None:
    (handle,) = bench.launch(bench.job("a", f"echo start >> starts; {text}"))
    end = bench.end(handle)
    assert (end.exit_value, end.term_sig) == (value, number) and end.regular is (value == 0), end
    bench.until(lambda: not bench.cell.command("qstat"))
    assert bench.system.exit_info([handle])[handle] == end and bench.file("a", "starts") == "start\n"


def test_resources_are_words_that_the_site_gives(bench: DrmaaBench) -> None:
    job = bench.job("a", "echo $NSLOTS", cpus=2, memory=50, walltime=61.0, queue="all.q", native="-p -5")
    (handle,) = bench.launch(job)
    told = bench.cell.command("qstat", "-j", handle.partition("/")[0])
    for words in ("h_rt=120", "mem_free=50M", "smp range: 2", "all.q"):
        assert words in told, told
    assert bench.end(handle).regular and bench.file("a") == "2\n"
    for fields, words in (({"gpus": 1}, "gpus"), ({"account": "lab"}, "account"), ({"queue": "a b"}, "no name")):
        (answer,) = bench.system.submit([bench.job("b", "true", **fields)])
        assert isinstance(answer, SubmitError) and answer.failure is SubmitFailure.PERMANENT, answer
        assert words in answer.message
    (answer,) = bench.system.submit([bench.job("c", "true", native="-N 'a b'")])
    assert isinstance(answer, SubmitError) and "no quotes" in answer.message


def test_an_end_by_force_without_a_record_is_what_the_session_heard(bench: DrmaaBench) -> None:
    (handle,) = bench.launch(bench.job("a", "echo $PPID > pid; sleep 3"))
    pid = int(bench.until(lambda: (path := bench.path("a", "pid")).exists() and path.read_text().strip()))
    os.kill(pid, signal.SIGKILL)
    end = bench.end(handle)
    assert (end.exit_status, end.term_sig, end.native_state) == (ExitStatus.FINISHED_SIGNAL, 9, "SIGKILL"), end
    assert "cpu" in end.resource_usage and "no exit record" in str(end.evidence)


def test_what_could_not_be_started_is_taken_out_of_line(bench: DrmaaBench) -> None:
    folder = bench.spool / "jobs" / "a" / "run.1"
    (handle,) = bench.system.submit([bench.job("a", "true")])
    assert isinstance(handle, str)
    shutil.rmtree(folder)  # Grid Engine cannot open the file for its words
    bench.system.release([handle])
    end = bench.end(handle)
    assert not end.regular and end.exit_status is not ExitStatus.FINISHED_REGULARLY, end
    bench.until(lambda: not bench.cell.command("qstat").strip())


def test_what_ignores_term_is_killed(bench: DrmaaBench) -> None:
    (handle,) = bench.launch(bench.job("a", "trap '' TERM; touch up; sleep 60; sleep 60"))
    bench.until(lambda: bench.path("a", "up").exists())
    assert not bench.system.kill([handle], force=False)[handle]
    bench.until(lambda: bench.system.kill([handle], force=True)[handle])
    assert bench.end(handle).term_sig == 9


def test_another_process_finds_what_was_submitted_here(bench: DrmaaBench, cell: Grid) -> None:
    """And what was accepted by a session that died starts nothing."""
    (handle,) = bench.system.submit([bench.job("a", "exit 3")])
    other = system(cell, bench.spool)
    token = str(handle).partition("/")[2]
    missing = f"{bench.life}.1:b:1"
    settled = other.settle([Launch(token=token), Launch(token=missing)])
    assert settled == {token: handle, missing: Settled.NOT_STARTED}
    assert other.inventory(bench.life) == {handle: token} and other.status([str(handle)])[str(handle)].held
    other.release([str(handle)])
    assert bench.end(str(handle)).exit_value == 3
    bench.until(lambda: bench.state(str(handle)) is NativeState.ENDED)
    other.forget([str(handle)])
    assert other.desk.ids() == [] and other.inventory(bench.life) == {}
    other.close()


def test_the_qmaster_is_killed_and_comes_back(mortal: Grid, tmp_path: Path) -> None:
    cell, bench = mortal, DrmaaBench(mortal, tmp_path / "spool", late=3)
    (handle,) = bench.launch(bench.job("a", "sleep 8; exit 3"))
    bench.until(lambda: " r " in cell.command("qstat"))
    cell.kill("qmaster")
    try:
        with pytest.raises(SystemUnavailable):
            bench.system.status([handle])
        answers: Any = None
        with contextlib.suppress(SystemUnavailable):
            answers = bench.system.submit([bench.job("lost", "true")])
        assert answers is None or answers[0].failure in (SubmitFailure.UNCLEAR, SubmitFailure.TRANSIENT), answers
    finally:
        cell.start("qmaster")
    bench.until(lambda: "lx-" in cell.command("qstat", "-f", check=False))

    def end() -> Any:
        try:
            return bench.system.exit_info([handle]).get(handle)
        except SystemUnavailable:
            return None

    assert bench.until(end, 90).exit_value == 3
    bench.system.close()


def test_options_that_cannot_be(tmp_path: Path) -> None:
    for options, words in (
        ({"library": "libdrmaa.so"}, "absolute"),
        ({"contact": 7}, "no text"),
        ({"poll_interval_max": 60}, "asked for by itself"),
        ({"resources": "-l x"}, "write a mapping"),
        ({"resources": {"memori": "-l x"}}, "did you mean 'memory'"),
        ({"resources": {"memory": "-l {mem}"}}, "it may have"),
        ({"resources": {"memory": "-l '{memory}"}}, "quotation"),
    ):
        with pytest.raises(ConfigError, match=words):
            DrmaaSystem.build("any", options, tmp_path)


def test_the_whole_pipeline(cell: Grid, tmp_path: Path) -> None:
    """Pushed, routed, launched, ended, cancelled, by the three processes; the laws hold."""
    here = {"kind": "drmaa", "env": cell.env, "library": str(LIBRARY), "poll_interval": 1, "kill_grace": 0.5}
    here |= {"late": 5, "limit": 40}
    config = {"systems": {"main": here}, "limits": {"lease": "5s"}, "spool": str(tmp_path / "spool")}
    pipeline = Pipeline(tmp_path / "p", config=json.dumps(config))
    documents: list[dict[str, Any]] = [
        *({"id": f"j{n}", "command": f"sleep 0.{n % 7}; exit {n % 3}"} for n in range(20)),
        {"id": "late", "command": "sleep 60", "resources": {"walltime": "2s"}},
        {"id": "never", "command": "true", "native": "-q nowhere"},
        {"id": "waits", "command": "sleep 300"},
    ]
    try:
        pipeline.start()
        record = pipeline.client.record
        ids = pipeline.client.submit_many([JobSpec.parse(document) for document in documents])
        pipeline.until(lambda: [str(row.state) for row in listing.jobs(record, ["waits"])] == ["running"], 60)
        pipeline.kill("starter")  # in the midst of it
        pipeline.client.cancel(["waits"], "enough")
        pipeline.start("starter")
        pipeline.until(lambda: all(row.state in ENDED for row in listing.jobs(record, ids)), 90)
        rows = {row.id: row for row in listing.jobs(record, ids)}
        told = {id_: (str(row.state), row.exit.get("reason"), row.exit.get("exit_value")) for id_, row in rows.items()}
        for n in range(20):
            assert told[f"j{n}"] == (("failed", "exit_value", n % 3) if n % 3 else ("done", None, 0)), rows[f"j{n}"]
        assert told["late"][:2] == ("failed", "timeout") and told["never"][:2] == ("failed", "submit_failed"), told
        assert told["waits"][0] == "cancelled", rows["waits"]
        pipeline.until(lambda: not violations(record.client, at_rest=True))
        pipeline.until(lambda: not cell.command("qstat").strip(), 60)
    except AssertionError:
        print([row for row in listing.jobs(record, ids) if row.state not in ENDED], cell.command("qstat", "-f"))
        raise
    finally:
        pipeline.stop()
