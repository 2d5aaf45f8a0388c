"""Jobs: what a spec becomes, and the one-job verbs for real on the local system."""

import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tokens import RECORD

from jobmill.errors import PermanentError, SystemRefused, SystemUnavailable
from jobmill.jobs.job import STEPPER, Job
from jobmill.jobs.local import LocalJob
from jobmill.jobs.spec import JobSpec
from jobmill.systems.local import LocalSystem
from jobmill.systems.step_progress import progress
from jobmill.systems.system import ExecutionSystem, ExitStatus, Submission, SubmitError, SubmitFailure


@pytest.fixture
def system(tmp_path: Path) -> Iterator[LocalSystem]:
    local = LocalSystem(name="local", spool=tmp_path / "spool", slots=2)
    yield local
    local.close()


Make = Callable[..., LocalJob]


@pytest.fixture
def make(system: LocalSystem) -> Make:
    """Make a job of a document, bound to the local system."""

    def _make(job_id: str = "job-1", run: int = 1, **document: Any) -> LocalJob:
        spec = JobSpec.parse(document)
        return LocalJob(spec, job_id=job_id, run=run, record=RECORD, system=system, spool=system.spool)

    return _make


def finish(job: Job, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not job.is_finished():
        assert time.monotonic() < deadline, f"{job.job_id} did not end within {seconds} s"
        job.system.ends()
        time.sleep(0.01)


def text(job: Job, stream: str) -> str:
    return job.read(stream).decode()


# What a spec becomes.


def test_text_runs_in_a_shell_and_a_list_is_argv(make: Make) -> None:
    assert make(command="echo $HOME | wc").prepare().argv == ("/bin/sh", "-c", "echo $HOME | wc")
    assert make(command=["echo", "$HOME", "|"]).prepare().argv == ("echo", "$HOME", "|")


def test_a_plain_command_needs_nothing_else(make: Make, system: LocalSystem) -> None:
    job = make(command="true")
    assert job.prepare() == Submission(
        token=f"{RECORD}:job-1:1", job_id="job-1", run=1, argv=("/bin/sh", "-c", "true"), name="job-1"
    )
    assert job.folder == f"{system.spool}/jobs/job-1/run.1"
    assert not system.spool.exists()


def test_every_wish_reaches_the_submission(make: Make) -> None:
    ready = make(
        command="true",
        name="align",
        resources={"cpus": 4, "memory": "2G", "walltime": "1h"},
        queue="long",
        account="lab",
        native="-l arch=lx",
    ).prepare()
    assert (ready.cpus, ready.memory, ready.walltime) == (4, 2048, 3600)
    assert (ready.name, ready.queue, ready.account, ready.native) == ("align", "long", "lab", "-l arch=lx")


def test_relative_paths_are_relative_to_the_workdir_and_that_to_the_run_folder(make: Make) -> None:
    ready = make(command="true", stdin="in", stdout="../out", stderr="/tmp/err").prepare()
    folder = make(command="true").folder
    assert ready.workdir is None
    assert (ready.stdin, ready.stdout, ready.stderr) == (f"{folder}/in", f"{Path(folder).parent}/out", "/tmp/err")
    ready = make(command="true", workdir="sub/.", stdin="in").prepare()
    assert (ready.workdir, ready.stdin) == (f"{folder}/sub", f"{folder}/sub/in")
    ready = make(command="true", workdir="/data", stdin="in").prepare()
    assert (ready.workdir, ready.stdin) == ("/data", "/data/in")


def test_home_is_known_on_this_machine_only(make: Make, monkeypatch: pytest.MonkeyPatch, system: LocalSystem) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    job = make(command="true", workdir="~/data", stdin="~/x")
    assert (job.prepare().workdir, job.prepare().stdin) == ("/home/ann/data", "/home/ann/x")
    elsewhere = Job(job.spec, job_id="j", run=1, record="r", system=system, spool="/spool")
    assert elsewhere.prepare().workdir == "/spool/jobs/j/run.1/~/data"


def test_the_environment_is_inherited_names_then_params_then_env(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LICENCE", "worker's")
    monkeypatch.setenv("COLOUR", "worker's")
    monkeypatch.setenv("JOBMILL_RUN", "7")
    job = make(
        command="true",
        inherit_env=["LICENCE", "COLOUR", "JOBMILL_RUN", "NOT_SET_ANYWHERE"],
        env={"COLOUR": "red", "JOBMILL_PARAM_B": "mine"},
        params={"darts": 3, "out-dir": "a b", "b": 1, "many": ["x", 1.5], "yes": True},
    )
    assert job.prepare().env == {
        "LICENCE": "worker's",
        "COLOUR": "red",
        "JOBMILL_PARAM_DARTS": "3",
        "JOBMILL_PARAM_OUT_DIR": "a b",
        "JOBMILL_PARAM_B": "mine",
        "JOBMILL_PARAM_MANY": '["x", 1.5]',
        "JOBMILL_PARAM_YES": "true",
    }


def test_all_of_the_environment_leaves_out_what_names_another_run(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBMILL_JOB_ID", "outer")
    monkeypatch.setenv("JOBMILL_TOKEN", "outer")
    env = make(command="true", inherit_env=True).prepare().env
    assert "PATH" in env
    assert not {"JOBMILL_JOB_ID", "JOBMILL_TOKEN"} & set(env)


@pytest.mark.parametrize("wanted", [True, ["JOBMILL_REDIS_URL"]])
def test_the_workers_password_reaches_no_job_that_does_not_bring_it(
    make: Make, monkeypatch: pytest.MonkeyPatch, wanted: object
) -> None:
    monkeypatch.setenv("JOBMILL_REDIS_URL", "redis://:secret@host")
    assert "JOBMILL_REDIS_URL" not in make(command="true", inherit_env=wanted).prepare().env
    job = make(command="true", inherit_env=wanted, env={"JOBMILL_REDIS_URL": "redis://:mine@host"})
    assert job.prepare().env["JOBMILL_REDIS_URL"] == "redis://:mine@host"


def test_steps_are_written_into_the_run_folder_and_run_by_the_stepper(make: Make) -> None:
    job = make(steps=[{"name": "a", "command": ["echo", "ä"]}], params={"x": 1})
    ready = job.prepare()
    assert ready.argv == (sys.executable, "-I", "-S", STEPPER, job.folder)
    assert json.loads(ready.files["job.yaml"]) == {
        "params": {"x": 1},
        "steps": [{"name": "a", "command": ["echo", "ä"]}],
    }
    assert "\n " in ready.files["job.yaml"] and "ä" in ready.files["job.yaml"]


# For real.


def test_a_job_runs_and_returns_its_data(make: Make) -> None:
    job = make(command='echo out; echo err >&2; echo \'{"answer": 42}\' > "$JOBMILL_RETURN_FILE"')
    assert not job.is_finished()
    handle = job.run_job()
    finish(job)
    ended = job.exit_info()
    assert ended is not None and ended.regular
    assert job.get_return_data() == {"answer": 42}
    assert (text(job, "stdout"), text(job, "stderr"), text(job, "no-such-file")) == ("out\n", "err\n", "")
    assert job.run_job() == handle  # the marker stands: the second launch is a no-op
    time.sleep(0.1)
    assert text(job, "stdout") == "out\n"
    job.clean_up()
    assert text(job, "stdout") == "out\n"


def test_another_object_of_the_same_run_finds_it_by_its_handle(make: Make) -> None:
    first = make(command="echo 7 > $JOBMILL_RETURN_FILE")
    handle = first.run_job()
    finish(first)
    second = make(command="echo 7 > $JOBMILL_RETURN_FILE")
    second.handle = handle
    assert second.is_finished()
    assert second.get_return_data() == 7


def test_return_data_is_none_when_there_is_none_and_refused_when_it_is_no_json(make: Make) -> None:
    none, bad = make("none", command="true"), make("bad", command="echo '{x' > $JOBMILL_RETURN_FILE")
    with pytest.raises(PermanentError, match="job none has not ended yet"):
        none.get_return_data()
    for job in (none, bad):
        job.run_job()
        finish(job)
    assert none.get_return_data() is None
    with pytest.raises(PermanentError, match=r"run\.1/return\.json of job bad is no JSON: Expecting property name"):
        bad.get_return_data()


def test_workdir_env_stdin_and_streams_are_as_the_spec_says(make: Make, tmp_path: Path) -> None:
    (tmp_path / "names").write_text("b\na\n")
    job = make(
        command=["sh", "-c", "sort; pwd; echo $COLOUR $JOBMILL_PARAM_N $JOBMILL_CPUS"],
        workdir=str(tmp_path),
        stdin="names",
        stdout="sorted",
        env={"COLOUR": "red"},
        params={"n": 5},
        resources={"cpus": 2},
    )
    job.run_job()
    finish(job)
    assert (tmp_path / "sorted").read_text() == f"a\nb\n{tmp_path}\nred 5 2\n"


def test_kill_ends_everything_that_a_step_has_started(make: Make, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    job = make(steps=[{"name": "long", "command": f"sleep 60 & echo $! $$ > {pids}; wait"}, {"command": "true"}])
    job.run_job()
    deadline = time.monotonic() + 20
    while not pids.exists() or len(pids.read_text().split()) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert progress(job.folder) == "1/2 long"
    with pytest.raises(PermanentError, match="job job-1 has not ended; kill it first"):
        job.clean_up()
    while not job.kill():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    finish(job)
    ended = job.exit_info()
    assert ended is not None and ended.term_sig == signal.SIGTERM
    assert not any(running(int(pid)) for pid in pids.read_text().split())
    assert text(job, "error").startswith("step 1/2 long stopped by 15 (SIGTERM)")


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_steps_run_for_real_and_the_true_end_is_recorded(make: Make, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def double(x): return 2 * x\n")
    steps = [
        {"name": "one", "function": "mine:double", "outputs": ["x"]},
        {"name": "two", "function": "mine:double", "outputs": ["x"]},
    ]
    good = make("good", steps=steps, params={"x": 3}, workdir=str(tmp_path))
    bad = make("bad", steps=[{"name": "one", "command": "exit 3"}])
    shot = make("shot", steps=[{"name": "one", "command": "kill -KILL $$"}])
    for job in (good, bad, shot):
        job.run_job()
    for job in (good, bad, shot):
        finish(job)
    assert good.get_return_data() == {"x": 12}
    assert progress(good.folder) == "2/2 two"
    ended = [job.exit_info() for job in (good, bad, shot)]
    assert [(it.exit_value, it.term_sig) for it in ended if it] == [(0, None), (3, None), (None, signal.SIGKILL)]
    assert ended[2] is not None and ended[2].exit_status is ExitStatus.FINISHED_SIGNAL
    assert text(bad, "error") == "step 1/1 one failed: exit 3; see one.log\n"


def test_a_refused_submission_is_told_with_the_system_s_words(make: Make) -> None:
    class Refusing(LocalSystem):
        failure = SubmitFailure.PERMANENT

        def submit(self, submissions: Any) -> list[SubmitError]:
            return [SubmitError(failure=self.failure, message="no such queue: lnog") for _ in submissions]

    job = make(command="true")
    refusing = Refusing(name="bird", spool=Path("/nowhere"), slots=1)
    job.system = refusing
    with pytest.raises(SystemRefused, match="system 'bird' did not take job job-1: no such queue: lnog"):
        job.run_job()
    refusing.failure = SubmitFailure.LIMIT
    with pytest.raises(SystemUnavailable, match="no such queue"):
        job.run_job()
    assert job.handle is None
    assert job.kill() and not job.is_finished()


def test_the_contract_s_own_class_is_a_job(system: ExecutionSystem, tmp_path: Path) -> None:
    spec = JobSpec.parse({"command": "echo plain"})
    job = Job(spec, job_id="plain", run=2, record=RECORD, system=system, spool=tmp_path / "spool")
    job.run_job()
    finish(job)
    assert (tmp_path / "spool/jobs/plain/run.2/stdout").read_text() == "plain\n"


def test_preparing_a_plain_command_is_cheap(make: Make) -> None:
    job = make(command="true")
    best = min(timed(job.prepare) for _ in range(200))
    assert best < 200e-6  # ~5 µs where this was written; a file or a process would cost more than this


def timed(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
