"""The `gridengine` system on real Grid Engine, by DRMAA and by commands, and what goes wrong there."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from farm import Missing
from grid_farm import BIN, Grid, grid
from laws import violations
from pipeline import Pipeline
from tokens import RECORD

from jobmill.errors import ConfigError, SystemUnavailable
from jobmill.jobs.spec import JobSpec
from jobmill.jobs.states import ENDED
from jobmill.ledger import listing
from jobmill.systems.command_line import Answer
from jobmill.systems.gridengine import GridEngineSystem
from jobmill.systems.gridengine_name import name_of, token_of
from jobmill.systems.system import (
    ExitInfo,
    ExitStatus,
    Launch,
    NativeState,
    Settled,
    Submission,
    SubmitError,
    SubmitFailure,
)

pytestmark = pytest.mark.timeout(180)

OVER = (NativeState.ABSENT, NativeState.ENDED)
ENDS = [
    ("exit 0", 0, None),
    ("exit 3", 3, None),
    ("exit 99", 99, None),
    ("exit 100", 100, None),
    ("kill -9 $$", None, 9),
    ("kill -SEGV $$", None, 11),
]


def up(**wanted: Any) -> Iterator[Grid]:
    try:
        with grid(**wanted) as made:
            yield made
    except Missing as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error), pytrace=False)
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def cell() -> Iterator[Grid]:
    """One node."""
    yield from up()


@pytest.fixture
def mortal() -> Iterator[Grid]:
    """One for a test that kills its daemons: a job that was on its way then may stay on its way for ever."""
    yield from up()


def system(cell: Grid, spool: Path, **options: Any) -> GridEngineSystem:
    values = {"env": cell.env, "path": cell.path, "poll_interval": 1, "kill_grace": 0.5, "late": 20, **options}
    return GridEngineSystem.build("grid", {"pe": {"cpus": "smp", "tasks": "mpi"}, **values}, spool)


class Bench:
    """A gridengine system, and the launches of one test."""

    def __init__(self, cell: Grid, spool: Path, **options: Any) -> None:
        self.cell, self.spool = cell, spool
        self.system = system(cell, spool, **options)
        self.life = f"{RECORD}x{time.monotonic_ns()}"  # of this test

    def job(self, name: str, text: str, **fields: Any) -> Submission:
        argv = ("/bin/sh", "-c", text)
        return Submission(token=f"{self.life}.1:{name}:1", job_id=name, run=1, argv=argv, name=name, **fields)

    def launch(self, *jobs: Submission) -> list[str]:
        answers = self.system.submit(jobs)
        assert not [it for it in answers if isinstance(it, SubmitError)], answers
        self.system.release([str(it) for it in answers])
        return [str(it) for it in answers]

    def until(self, look: Callable[[], Any], seconds: float = 40.0) -> Any:
        until = time.monotonic() + seconds
        while not (found := look()):
            assert time.monotonic() < until, "waited in vain"
            time.sleep(0.2)
        return found

    def state(self, handle: str) -> NativeState:
        return self.system.status([handle])[handle].state

    def running(self, handle: str) -> str:
        """Wait until it has taken its marker; return its id."""
        self.until(lambda: self.state(handle) is NativeState.RUNNING)
        self.until(lambda: self.path(handle.split(":")[1], "run").exists())
        return handle.partition("/")[0]

    def end(self, handle: str, seconds: float = 60.0) -> ExitInfo:
        found: ExitInfo = self.until(lambda: self.system.exit_info([handle]).get(handle), seconds)
        return found

    def path(self, name: str, file: str = "stdout") -> Path:
        return self.spool / "jobs" / name / "run.1" / file

    def file(self, name: str, file: str = "stdout") -> str:
        return self.path(name, file).read_text()


@pytest.fixture
def bench(cell: Grid, tmp_path: Path) -> Iterator[Bench]:
    """With a DRMAA session."""
    made = Bench(cell, tmp_path / "spool", late=3)
    assert made.system.desk is not None, "the package drmaa, or Grid Engine's library, is not here"
    yield made
    cell.empty()
    made.system.close()


@pytest.fixture
def plain(cell: Grid, tmp_path: Path) -> Iterator[Bench]:
    """By commands alone."""
    yield Bench(cell, tmp_path / "spool", late=3, drmaa=False)
    cell.empty()


@pytest.fixture(params=["drmaa", "commands"])
def either(request: pytest.FixtureRequest) -> Bench:
    found: Bench = request.getfixturevalue("bench" if request.param == "drmaa" else "plain")
    return found


def test_a_name_bears_its_token() -> None:
    for life in ("rec.5", "c0ffee", "a=b+c@*?[x]é", "x" * 40):
        token = f"{life}:9align-7.x_y:12"
        name = name_of(token)
        assert name[0].isalpha() and not set(name) & set("\n\t\r/:'@\\*?[] \""), name
        assert token_of(name) == token
    for strange in ("", "STDIN", "j.", "j.a+1+", "j.a+x+rec", "J.a+1+rec.5", "j.a+1+rec 5", "j.a+1+r\n"):
        assert token_of(strange) == "", strange


def test_resources_reach_the_scheduler_and_the_job_its_variables(either: Bench) -> None:
    text = "echo $JOB_ID $NSLOTS $PE $JOBMILL_CPUS; env"
    job = either.job("a", text, cpus=2, memory=50, walltime=61.0, account="lab", queue="all.q", native="-p -5")
    (handle,) = either.launch(job)
    native = handle.partition("/")[0]
    told = either.cell.command("qstat", "-j", native)
    for line in ("smp range: 2", "h_rt=120", "mem_free=50M", "priority: -5", "account: lab", "notify: TRUE"):
        name, _, value = line.partition(": ")
        assert any(name in it and value in it for it in told.splitlines()), (line, told)
    assert name_of(job.token) in told
    end = either.end(handle)
    assert end.regular, (end, either.file("a", "stderr"))
    assert either.file("a").splitlines()[0] == f"{native} 2 smp 2"
    assert "PYTEST" not in either.file("a") and f"SGE_ROOT={either.cell.folder}" in either.file("a")
    assert end.resource_usage["wall"] > 0


@pytest.mark.parametrize(("text", "value", "number"), ENDS)
def test_ends(text: str, value: int | None, number: int | None, either: Bench) -> None:
    """99 would have Grid Engine start it again, 100 set it aside."""
    (handle,) = either.launch(either.job("a", f"echo start >> starts; {text}"))
    end = either.end(handle)
    assert (end.exit_value, end.term_sig) == (value, number) and end.regular is (value == 0), end
    assert either.file("a", "starts") == "start\n"
    either.until(lambda: not either.cell.command("qstat"))
    assert either.system.exit_info([handle])[handle] == end, "what is told of an end is told again"


def test_a_success_that_is_to_be_confirmed_has_the_books_asked(plain: Bench) -> None:
    plain.system = system(plain.cell, plain.spool, late=3, drmaa=False, confirm=True)
    (handle,) = plain.launch(plain.job("a", "true"))
    end = plain.end(handle)
    assert end.regular and "gridengine says done" in (end.evidence or ""), end


def test_many_ends_in_one_question(plain: Bench) -> None:
    handles = plain.launch(*(plain.job(f"j{n}", f"exit {n}") for n in range(12)))
    ends = [plain.end(handle) for handle in handles]
    assert [end.exit_value for end in ends] == list(range(12))
    natives = [handle.partition("/")[0] for handle in handles]
    rows = plain.until(lambda: len(rows := plain.system.books(natives, [])) == 12 and rows)
    assert {row.native: row.code for row in rows} == {native: n for n, native in enumerate(natives)}
    (row,) = plain.system.books([], [handles[5].partition("/")[2]])
    assert (row.native, row.code, row.state) == (natives[5], 5, "done") and row.started and row.ended


def test_the_walltime_is_kept_by_our_program_and_a_queues_limit_by_grid_engine(either: Bench) -> None:
    ours, theirs = either.launch(
        either.job("ours", "sleep 60", walltime=1.0),
        either.job("theirs", "trap 'exit 0' TERM; sleep 60 & wait", native="-l h_rt=2"),
    )
    end = either.end(ours)
    assert (end.reason, end.term_sig) == ("timeout", 15), end
    end = either.end(theirs)
    assert end.reason == "timeout" and not end.regular and end.native_state == "failed 37", end


def test_deleted_while_it_runs(either: Bench) -> None:
    (handle,) = either.launch(either.job("a", "touch up; sleep 60"))
    either.until(lambda: either.path("a", "up").exists())
    either.cell.command("qdel", handle.partition("/")[0])
    end = either.end(handle)
    assert (end.reason, end.term_sig) == ("killed", 15), end


def test_deleted_at_any_moment_of_its_start(plain: Bench) -> None:
    """The warning may come before our program listens."""
    handles = plain.launch(*(plain.job(f"j{n}", "sleep 60") for n in range(8)))
    plain.until(lambda: "all.q" in plain.cell.command("qstat"))
    for n, handle in enumerate(handles):
        time.sleep(0.01 * n)
        plain.cell.command("qdel", handle.partition("/")[0])
    plain.until(lambda: all(look.state in OVER for look in plain.system.status(handles).values()))
    for handle in handles:
        if plain.state(handle) is NativeState.ENDED:  # else deleted in line, which nobody writes down
            end = plain.end(handle)
            assert end.reason == "killed" and not end.regular, end


def test_what_ignores_the_warning_is_killed(either: Bench) -> None:
    (handle,) = either.launch(either.job("a", "trap '' TERM; touch up; sleep 60; sleep 60"))
    either.until(lambda: either.path("a", "up").exists())
    either.system.kill([handle], force=False)
    end = either.end(handle)
    assert (end.reason, end.term_sig) == ("killed", 9), end


def test_deleted_in_line(either: Bench) -> None:
    held, waits, theirs = [
        str(it)
        for it in either.system.submit(
            [
                either.job("held", "true"),
                *(either.job(n, "true", native="-a 203001010000") for n in ("waits", "theirs")),
            ]
        )
    ]
    either.system.release([waits, theirs])
    looks = either.system.status([held, waits])
    assert looks[held].held and not looks[waits].held, looks
    assert (looks[waits].state, looks[waits].native_state) == (NativeState.SUBMITTED, "qw"), looks
    either.until(lambda: either.system.kill([held, waits], force=False) == {held: True, waits: True})
    assert either.end(waits).exit_status is ExitStatus.ABORTED_BEFORE_RUNNING
    either.cell.command("qdel", theirs.partition("/")[0])  # nobody writes this down
    either.until(lambda: either.state(theirs) is NativeState.ABSENT)
    assert either.system.exit_info([theirs]) == {}


def test_a_hold_of_somebody_else_is_not_ours(plain: Bench) -> None:
    (first, second) = plain.launch(plain.job("a", "sleep 20"), plain.job("b", "true"))
    plain.cell.command("qhold", "-h", "s", second.partition("/")[0])
    plain.cell.command("qalter", "-hold_jid", first.partition("/")[0], second.partition("/")[0], check=False)
    look = plain.system.status([second])[second]
    assert look.state is NativeState.ENDED or (not look.held and look.reason == "a hold"), look


def test_an_error_state_is_an_end_with_its_reason(plain: Bench) -> None:
    """It would wait there for ever, for somebody to clear it."""
    (handle,) = plain.launch(plain.job("a", "true", native="-wd /nonexistent"))
    plain.until(lambda: plain.state(handle) is NativeState.ENDED)
    end = plain.end(handle)
    assert (end.exit_status, end.reason) == (ExitStatus.ABORTED_BEFORE_RUNNING, "start_failed"), end
    assert "/nonexistent" in str(end.message), end
    assert not plain.cell.command("qstat").strip()
    assert plain.system.exit_info([handle])[handle] == end


def test_an_error_state_can_be_cancelled(plain: Bench) -> None:
    (handle,) = plain.launch(plain.job("a", "true", native="-wd /nonexistent"))
    plain.until(lambda: "Eqw" in plain.cell.command("qstat"))
    plain.until(lambda: plain.system.kill([handle], force=True)[handle])
    assert not plain.cell.command("qstat").strip()


def test_a_submission_that_can_never_be_is_refused_with_its_words(either: Bench) -> None:
    jobs = [
        either.job("a", "true", queue="nowhere"),
        either.job("b", "true"),
        either.job("c", "true", native="-l h_rt='"),
        either.job("d", "true", native="-l nosuch=3"),
        either.job("e", "true", account="my lab"),
    ]
    answers = either.system.submit(jobs)
    assert isinstance(answers[1], str)
    wrong = [it for it in answers if isinstance(it, SubmitError)]
    assert [it.failure for it in wrong] == [SubmitFailure.PERMANENT] * 4, wrong
    for it, words in zip(wrong, ("nowhere", "native", "nosuch", "account"), strict=True):
        assert words in it.message or "quotation" in it.message, it
    bare = system(either.cell, either.spool, pe=None)
    (answer,) = bare.submit([either.job("f", "true", cpus=2)])
    assert isinstance(answer, SubmitError) and "pe: {cpus: NAME}" in answer.message, answer


def test_a_submit_limit_is_back_pressure(either: Bench) -> None:
    either.cell.change(max_u_jobs="1")
    try:
        first, second = either.system.submit([either.job("a", "true"), either.job("b", "true")])
    finally:
        either.cell.change(max_u_jobs="0")
    assert isinstance(first, str)
    assert isinstance(second, SubmitError) and second.failure is SubmitFailure.LIMIT, second


def test_a_node_without_our_python_says_so(plain: Bench) -> None:
    plain.system = system(plain.cell, plain.spool, late=1, drmaa=False, python="/opt/no/python3")
    (handle,) = plain.launch(plain.job("a", "true"))
    end = plain.end(handle)
    assert end.exit_status is ExitStatus.ABORTED_BEFORE_RUNNING and end.reason == "start_failed", end
    assert "/opt/no/python3" in str(end.message), end


def test_our_program_on_the_node_is_killed(plain: Bench) -> None:
    (handle,) = plain.launch(plain.job("a", "echo $PPID > pid; sleep 3"))
    pid = int(plain.until(lambda: (path := plain.path("a", "pid")).exists() and path.read_text().strip()))
    os.kill(pid, signal.SIGKILL)
    end = plain.end(handle)
    assert (end.exit_status, end.term_sig) == (ExitStatus.FINISHED_SIGNAL, 9) and "no exit record" in str(end.evidence)
    assert end.resource_usage["wall"] >= 0 and end.native_state == "failed 100", end


def test_started_again_by_hand_it_runs_once(plain: Bench) -> None:
    (handle,) = plain.launch(plain.job("a", "echo start >> starts; sleep 60", native="-r y"))
    native = plain.running(handle)
    plain.until(lambda: plain.path("a", "starts").exists())
    plain.cell.command("qmod", "-rj", native)
    end = plain.end(handle, 90)
    assert not end.regular and plain.file("a", "starts") == "start\n", end
    script = plain.path("a", "script")
    again = os.environ | {"JOB_ID": "7"}
    done = subprocess.run(["sh", script], env=again, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 75 and "was started before" in plain.file("a", "native.log") + done.stderr, done


def test_suspended_and_resumed(plain: Bench) -> None:
    (handle,) = plain.launch(plain.job("a", "sleep 4; exit 3"))
    native = plain.running(handle)
    plain.cell.command("qmod", "-sj", native)
    plain.until(lambda: "s" in str(plain.system.status([handle])[handle].native_state))
    assert plain.state(handle) is NativeState.RUNNING
    plain.cell.command("qmod", "-usj", native)
    assert plain.end(handle).exit_value == 3


@pytest.mark.parametrize("drmaa", [True, False])
def test_the_qmaster_is_killed_and_comes_back(drmaa: bool, mortal: Grid, tmp_path: Path) -> None:
    cell, either = mortal, Bench(mortal, tmp_path / "spool", late=3, drmaa=drmaa)
    runs, waits, held = [
        str(it)
        for it in either.system.submit(
            [either.job("runs", "sleep 8; exit 3"), either.job("waits", "exit 4"), either.job("held", "exit 5")]
        )
    ]
    either.system.release([runs])
    either.until(lambda: either.system.status([runs])[runs].native_state == "r")  # it forgets what was on its way
    cell.kill("qmaster")
    try:
        with pytest.raises(SystemUnavailable):
            either.system.survey(either.life)
        with pytest.raises(SystemUnavailable):
            either.system.exit_info([waits])
        answers: Any = None
        with contextlib.suppress(SystemUnavailable):
            answers = either.system.submit([either.job("lost", "true")])
        assert answers is None or answers[0].failure in (SubmitFailure.UNCLEAR, SubmitFailure.TRANSIENT), answers
    finally:
        cell.start("qmaster")
    either.until(lambda: "lx-" in cell.command("qstat", "-f", check=False))
    either.until(lambda: not _fails(lambda: either.system.release([waits])))
    assert either.end(runs).exit_value == 3 and either.end(waits).exit_value == 4
    again = system(cell, either.spool, drmaa=False)
    lost = f"{either.life}.1:lost:1"
    assert again.settle([Launch(token=lost), Launch(token=held.partition("/")[2])]) == {
        lost: Settled.NOT_STARTED,
        held.partition("/")[2]: held,
    }
    either.system.close()
    either.system = again
    (handle,) = either.launch(either.job("after", "exit 6"))
    assert either.end(handle).exit_value == 6


def _fails(verb: Callable[[], Any]) -> bool:
    try:
        verb()
    except SystemUnavailable:
        return True
    return False


def test_execd_is_killed_and_comes_back(mortal: Grid, tmp_path: Path) -> None:
    """Its job goes on; after a while the qmaster says that the node does not answer."""
    cell, plain = mortal, Bench(mortal, tmp_path / "spool", late=3, drmaa=False)
    (handle,) = plain.launch(plain.job("a", "sleep 12; exit 3"))
    plain.running(handle)
    cell.kill("execd")
    try:
        plain.until(lambda: plain.state(handle) is NativeState.UNKNOWN, 30)
        look = plain.system.status([handle])[handle]
        assert look.reason == "its node does not answer" and look.alive
    finally:
        cell.start("execd")
    assert plain.end(handle).exit_value == 3


def test_two_cells_at_once(cell: Grid, tmp_path: Path) -> None:
    """Each with a session in a process of its own: one library allows one a process."""
    for other in up():
        benches = [Bench(it, tmp_path / str(n), late=3) for n, it in enumerate((cell, other))]
        handles = [it.launch(it.job("a", "echo $SGE_ROOT; exit 3"))[0] for it in benches]
        assert all(it.system.desk and it.system.desk.live for it in benches)
        for it, handle in zip(benches, handles, strict=True):
            assert it.end(handle).exit_value == 3 and it.file("a").strip() == str(it.cell.folder)
            it.system.close()


def test_the_session_is_killed_at_any_moment(bench: Bench) -> None:
    """The next one is started, and what was under way is found or was never there."""
    desk = bench.system.desk
    assert desk is not None
    (first,) = bench.launch(bench.job("first", "exit 3"))
    assert desk.child.process is not None
    contact = desk.about()["contact"]
    desk.child.process.kill()
    desk.child.process.wait()
    (second,) = bench.launch(bench.job("second", "exit 4"))
    assert desk.about()["contact"] == contact, "the session is taken up again"
    assert [bench.end(handle).exit_value for handle in (first, second)] == [3, 4]
    desk.child.process.send_signal(signal.SIGSTOP)  # a library that hangs
    desk.child.deadline = 1.0
    (answer,) = bench.system.submit([bench.job("third", "echo start >> starts")])
    assert isinstance(answer, SubmitError) and answer.failure is SubmitFailure.UNCLEAR, answer
    token = f"{bench.life}.1:third:1"
    assert bench.system.settle([Launch(token=token)]) == {token: Settled.NOT_STARTED}
    (fourth,) = bench.launch(bench.job("fourth", "exit 5"))  # at once by qsub, while the session rests
    assert bench.end(fourth).exit_value == 5


def test_a_library_that_cannot_be_loaded_takes_nothing_along(cell: Grid, tmp_path: Path) -> None:
    for path, words in (("/opt/no/libdrmaa.so", "cannot open shared object"), ("/bin/true", "")):
        bench = Bench(cell, tmp_path / "spool", late=3, library=path)
        (handle,) = bench.launch(bench.job(path.rpartition("/")[2], "exit 3"))
        assert bench.end(handle).exit_value == 3
        (told,) = [it for it in bench.system.check() if it.name == "drmaa"]
        assert not told.ok and words in told.detail and "drmaa: false" in told.fix, told
    with pytest.raises(ConfigError, match="neither true nor false"):
        system(cell, tmp_path, drmaa="yes")


def test_the_check_tells_what_is_wrong(cell: Grid, tmp_path: Path) -> None:
    made = system(cell, tmp_path / "spool")
    told = {it.name: it for it in made.check()}
    assert all(it.ok for it in told.values()), told
    assert "8.1.9" in told["version"].detail and "DRMAA 1.0" in told["drmaa"].detail
    made.close()
    wrong = system(cell, tmp_path / "spool", pe={"cpus": "nosuch"}, kill_grace=30, drmaa=False)
    told = {it.name: it for it in wrong.check()}
    assert not told["pe"].ok and "smp" in told["pe"].fix
    assert not told["notify"].ok and "all.q 10 s" in told["notify"].detail


@pytest.mark.parametrize("line", ["ru_wallclock 1.2.3", "ru_wallclock ...", "failed " + "1" * 5000])
def test_numbers_that_are_none_are_no_answer(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = GridEngineSystem.build("grid", {"drmaa": False}, tmp_path)
    text = f"==========\njobname j.a+1+rec.1\njobnumber 7\nexit_status 0\ncategory -l h_rt=60\n{line}\n"
    monkeypatch.setattr(made.commands, "ask", lambda _words: Answer(0, text, ""))
    with pytest.raises(SystemUnavailable, match="qacct"):
        made.books(["7"], ())


def test_a_session_is_here_and_not_behind_ssh(tmp_path: Path) -> None:
    for more in ({"drmaa": True}, {"library": "/lib/libdrmaa.so"}):
        with pytest.raises(ConfigError, match="behind SSH"):
            GridEngineSystem.build("grid", {"host": "ann@login", "ssh_config": "none", **more}, tmp_path)
    made = GridEngineSystem.build("grid", {"host": "ann@login", "ssh_config": "none", "drmaa": False}, tmp_path)
    assert made.desk is None


def test_options_that_cannot_be(tmp_path: Path) -> None:
    for options, words in (
        ({"pe": "smp"}, "write a mapping"),
        ({"pe": {"nodes": "smp"}}, "none of cpus, tasks"),
        ({"memory": {"h_vmem": "node"}}, "none of job, slot"),
        ({"memory": {"h vmem": "slot"}}, "no name"),
        ({"project": "a b"}, "project"),
        ({"library": "libdrmaa.so"}, "absolute"),
    ):
        with pytest.raises(ConfigError, match=words):
            GridEngineSystem.build("grid", options, tmp_path)


def test_the_whole_pipeline(cell: Grid, tmp_path: Path) -> None:
    """Pushed, routed, launched, ended, cancelled, by the three processes; the laws hold."""
    here = {"kind": "gridengine", "env": cell.env, "path": cell.path, "poll_interval": 1, "kill_grace": 0.5}
    here |= {"late": 5, "limit": 40}
    config = {"systems": {"main": here}, "limits": {"lease": "5s"}, "spool": str(tmp_path / "spool")}
    pipeline = Pipeline(tmp_path / "p", config=json.dumps(config))
    documents: list[dict[str, Any]] = [
        *({"id": f"j{n}", "command": f"sleep 0.{n % 7}; exit {n % 3}"} for n in range(30)),
        {"id": "out", "command": "echo x > x.out", "outputs": ["x.out"], "workdir": str(tmp_path)},
        {"id": "late", "command": "sleep 60", "resources": {"walltime": "2s"}},
        {"id": "never", "command": "true", "queue": "nowhere"},
        {"id": "again", "command": "exit 9", "retry": {"max": 1, "on": ["failed"], "delay": "1s"}},
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
        for n in range(30):
            assert told[f"j{n}"] == (("failed", "exit_value", n % 3) if n % 3 else ("done", None, 0)), rows[f"j{n}"]
        assert told["out"] == ("done", None, 0) and told["late"][:2] == ("failed", "timeout"), told
        assert told["never"][:2] == ("failed", "submit_failed") and "nowhere" in rows["never"].exit["message"]
        assert told["again"][0] == "failed" and rows["again"].run >= 2
        assert told["waits"][0] == "cancelled", rows["waits"]
        pipeline.until(lambda: not violations(record.client, at_rest=True))
        pipeline.until(lambda: not cell.command("qstat").strip(), 60)
    except AssertionError:
        print([row for row in listing.jobs(record, ids) if row.state not in ENDED])
        raise
    finally:
        pipeline.stop()


# A scheduler that means ill: programs before Grid Engine's own, which do what happened to others.


@pytest.fixture
def shims(plain: Bench, tmp_path: Path) -> Callable[..., GridEngineSystem]:
    """Give a function that puts shell programs before those of Grid Engine and returns a system that calls them."""

    def shim(**programs: str) -> GridEngineSystem:
        folder = tmp_path / f"bin{time.monotonic_ns()}"
        folder.mkdir()
        for name, text in programs.items():
            path = folder / name
            path.write_text(f'#!/bin/sh\nreal="{shutil.which(name, path=str(BIN))}"\n{text}\n')
            path.chmod(0o755)
        made = system(plain.cell, plain.spool, late=3, drmaa=False, path=f"{folder}:{plain.cell.path}")
        made.commands.deadline = 2.0
        return made

    return shim


def test_accepted_and_timed_out_is_found_and_not_sent_again(plain: Bench, shims: Callable[..., Any]) -> None:
    slow = shims(qsub='"$real" "$@"; sleep 30')
    job = plain.job("a", "echo start >> starts; exit 3")
    (answer,) = slow.submit([job])
    assert isinstance(answer, SubmitError) and answer.failure is SubmitFailure.UNCLEAR, answer
    found = plain.system.settle([Launch(token=job.token)])[job.token]
    assert isinstance(found, str) and found.endswith(f"/{job.token}")
    plain.system.release([found])
    assert plain.end(found).exit_value == 3 and plain.file("a", "starts") == "start\n"


def test_what_comes_late_and_was_given_up_never_starts(plain: Bench, shims: Callable[..., Any]) -> None:
    words = plain.spool.parent / "words"
    slow = shims(qsub=f'for word in "$@"; do echo "$word"; done > {words}; sleep 30')
    job = plain.job("a", "echo start >> starts")
    (answer,) = slow.submit([job])
    assert isinstance(answer, SubmitError) and answer.failure is SubmitFailure.UNCLEAR, answer
    assert plain.system.settle([Launch(token=job.token)]) == {job.token: Settled.NOT_STARTED}
    stray = f"{plain.cell.command('qsub', *words.read_text().splitlines()).strip()}/{job.token}"  # now it gets there
    assert plain.system.inventory(plain.life) == {stray: job.token}  # it is swept; and were it released:
    plain.system.release([stray])
    plain.until(lambda: plain.state(stray) is NativeState.ENDED)
    assert not plain.path("a", "starts").exists()


@pytest.mark.parametrize(
    "qstat",
    [
        "exit 0",  # nothing at all
        '"$real" "$@" | head -c 300',
        '"$real" "$@" | head -c 700',
        'echo \'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "c">]><job_info>&b;</job_info>\'',
        "echo '<?xml version=\"1.0\"?><unknown_jobs></unknown_jobs>'",
        "echo 'error: unable to send message to qmaster' >&2; exit 1",
        "sleep 30",
        "kill -9 $$",
    ],
)
def test_an_answer_that_is_none_changes_nothing(qstat: str, plain: Bench, shims: Callable[..., Any]) -> None:
    (handle,) = plain.launch(plain.job("a", "sleep 20"))
    plain.running(handle)
    ill = shims(qstat=qstat)
    for verb in (ill.status, ill.exit_info):
        with pytest.raises(SystemUnavailable):
            verb([handle])
    for verb in (ill.survey, ill.inventory):
        with pytest.raises(SystemUnavailable):
            verb(plain.life)
    with pytest.raises(SystemUnavailable):
        ill.settle([Launch(token=handle.partition("/")[2])])
    assert plain.state(handle) is NativeState.RUNNING


def test_banners_and_lists_that_lack_everything_make_no_end(plain: Bench, shims: Callable[..., Any]) -> None:
    (handle,) = plain.launch(plain.job("a", "sleep 20; exit 4"))
    plain.running(handle)
    banner = shims(qstat='echo "*** Welcome <to> & this cluster ***"; "$real" "$@"')
    assert banner.status([handle])[handle].state is NativeState.RUNNING
    empty = shims(qstat="echo '<?xml version=\"1.0\"?><job_info><queue_info/><job_info/></job_info>'")
    assert empty.survey(plain.life) == {}
    assert empty.status([handle])[handle].state is NativeState.ABSENT  # not an end by itself: nothing is recorded
    assert empty.exit_info([handle]) == {}
    token = handle.partition("/")[2]
    assert empty.settle([Launch(token=token)]) == {token: handle}
    assert not empty.kill([handle], force=True)[handle], "its marker is taken, and it has no end"
    plain.system.kill([handle], force=True)
    assert not plain.end(handle).regular


@pytest.mark.parametrize("qacct", ["echo error: cannot open accounting file >&2; exit 1", "sleep 30", "kill -9 $$"])
def test_an_accounting_that_goes_away_takes_nothing_along(qacct: str, plain: Bench, shims: Callable[..., Any]) -> None:
    ended, runs = plain.launch(plain.job("ended", "exit 3"), plain.job("runs", "sleep 20"))
    assert plain.end(ended).exit_value == 3
    plain.running(runs)
    empty = "echo '<?xml version=\"1.0\"?><job_info><queue_info/><job_info/></job_info>'"
    ill = shims(qacct=qacct, qstat=empty)
    looks = ill.status([ended, runs])
    assert (looks[ended].state, looks[runs].state) == (NativeState.ENDED, NativeState.UNKNOWN), looks
    assert [info.exit_value for info in ill.exit_info([ended, runs]).values()] == [3]


def test_a_reused_id_is_another_job(plain: Bench) -> None:
    (handle,) = plain.launch(plain.job("a", "sleep 20"))
    native = plain.running(handle)
    old = f"{native}/{plain.life}.1:b:1"
    look = plain.system.status([old])[old]
    assert look.state is NativeState.ABSENT and plain.system.exit_info([old]) == {}, look
    assert plain.system.kill([old], force=True) == {old: True}
    assert plain.state(handle) is NativeState.RUNNING
