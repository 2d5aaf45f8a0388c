"""The `slurm` system on real Slurm, with and without accounting, and what goes wrong there."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from farm import Missing
from laws import violations
from pipeline import Pipeline
from slurm_farm import Slurm, slurm
from slurm_shims import Shims
from tokens import RECORD

from jobmill.errors import SystemUnavailable
from jobmill.jobs.spec import JobSpec
from jobmill.jobs.states import ENDED
from jobmill.ledger import listing
from jobmill.systems.slurm import SlurmSystem
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


def up(**wanted: Any) -> Iterator[Slurm]:
    try:
        with slurm(**wanted) as made:
            yield made
    except Missing as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error), pytrace=False)
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Slurm]:
    """One node, with accounting."""
    yield from up(books=True)


def system(cluster: Slurm, spool: Path, **options: Any) -> SlurmSystem:
    values = {"env": cluster.env, "poll_interval": 1, "kill_grace": 0.5, "late": 20, **options}
    return SlurmSystem.build("slurm", values, spool)


@pytest.fixture(scope="module")
def plain() -> Iterator[Slurm]:
    """Three nodes, without accounting; what runs in the partition `low` gives way to the others."""
    low = "PartitionName=low Nodes=ALL PriorityTier=0 PreemptMode=CANCEL MaxTime=INFINITE State=UP"
    yield from up(nodes=3, settings=[low, "PreemptType=preempt/partition_prio", "PreemptMode=CANCEL", "MinJobAge=2"])


class Bench:
    """A slurm system, and the launches of one test."""

    def __init__(self, cluster: Slurm, spool: Path, **options: Any) -> None:
        self.cluster, self.spool = cluster, spool
        self.system = system(cluster, spool, **options)
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

    def end(self, handle: str, seconds: float = 40.0) -> ExitInfo:
        def look() -> ExitInfo | None:
            if self.system.status([handle])[handle].held:  # a slurmctld that was killed forgot the release
                self.system.release([handle])
            return self.system.exit_info([handle]).get(handle)

        found: ExitInfo = self.until(look, seconds)
        return found

    def file(self, name: str, file: str = "stdout") -> str:
        return (self.spool / "jobs" / name / "run.1" / file).read_text()


@pytest.fixture
def bench(cluster: Slurm, tmp_path: Path) -> Iterator[Bench]:
    yield Bench(cluster, tmp_path / "spool", late=3)
    cluster.empty()


@pytest.fixture
def bare(plain: Slurm, tmp_path: Path) -> Iterator[Bench]:
    yield Bench(plain, tmp_path / "spool", late=3)
    plain.empty()


def test_resources_reach_the_scheduler_and_the_job_its_variables(bench: Bench) -> None:
    text = "echo $SLURM_JOB_ID $SLURM_CPUS_PER_TASK $SLURM_NTASKS $JOBMILL_CPUS; env; srun true && echo srun"
    job = bench.job("a", text, cpus=2, memory=50, walltime=61.0, tasks=2, nodes=1, native="--nice=7 --gres=none")
    (handle,) = bench.launch(job)
    native = handle.partition("/")[0]
    told = bench.cluster.command("scontrol", "-o", "show", "job", native)
    assert "TimeLimit=00:02:00" in told and "MinMemoryNode=50M" in told and "Nice=7" in told, told
    assert f"JobName={job.token}" in told and f"Comment={job.token}" in told and "Requeue=0" in told
    end = bench.end(handle)
    said = bench.file("a").splitlines()
    assert end.regular and said[0] == f"{native} 2 2 2" and said[-1] == "srun", (end, said, bench.file("a", "stderr"))
    assert "SLURM_EXPORT_ENV" not in bench.file("a") and "PYTEST" not in bench.file("a")
    assert end.native_state == "COMPLETED" and "slurm says COMPLETED 0:0" in (end.evidence or "")
    assert end.native_id == native and end.resource_usage["wall"] > 0


def test_what_waits_says_why(bench: Bench) -> None:
    (handle,) = bench.launch(bench.job("a", "true", native="--begin=now+1hour"))
    look = bench.until(lambda: (look := bench.system.status([handle])[handle]).reason and look)
    assert (look.state, look.native_state, look.reason) == (NativeState.SUBMITTED, "PENDING", "BeginTime"), look
    assert bench.system.kill([handle], force=False) == {handle: True}
    end = bench.end(handle)
    assert (end.exit_status, end.reason) == (ExitStatus.ABORTED_BEFORE_RUNNING, "killed"), end


def test_a_submission_that_can_never_be_is_refused_with_slurms_words(bench: Bench) -> None:
    jobs = [bench.job("a", "true", queue="nowhere"), bench.job("b", "true"), bench.job("c", "true", native="--gpus='")]
    first, second, third = bench.system.submit(jobs)
    assert isinstance(first, SubmitError) and first.failure is SubmitFailure.PERMANENT
    assert "invalid partition specified: nowhere" in first.message
    assert isinstance(second, str)
    assert isinstance(third, SubmitError) and "native" in third.message


def test_the_scheduler_goes_before_what_the_job_says_of_itself(bench: Bench) -> None:
    text = "touch up; trap 'exit 0' TERM; sleep 300 & wait"
    cancelled, stopped = bench.launch(bench.job("a", text.replace("exit 0", "")), bench.job("b", text))
    bench.until(lambda: all((bench.spool / f"jobs/{name}/run.1/up").exists() for name in "ab"))
    bench.cluster.command("scontrol", "update", f"jobid={stopped.partition('/')[0]}", "timelimit=1")
    bench.cluster.command("scancel", cancelled.partition("/")[0])
    end = bench.end(cancelled)
    assert (end.reason, end.native_state) == ("killed", "CANCELLED"), end
    end = bench.end(stopped, 120)
    assert (end.reason, end.native_state, end.exit_value) == ("timeout", "TIMEOUT", 0) and not end.regular, end


def test_preempted_is_no_failure_of_the_job(bare: Bench) -> None:
    (low,) = bare.launch(bare.job("low", "sleep 60", queue="low", native="--exclusive --nodes=3 --ntasks=3"))
    bare.until(lambda: bare.state(low) is NativeState.RUNNING)
    (high,) = bare.launch(bare.job("high", "true", native="--exclusive --nodes=3 --ntasks=3"))
    assert bare.end(high).regular
    end = bare.end(low)
    assert (end.reason, end.native_state) == ("preempted", "PREEMPTED"), end


def test_slurmctld_is_killed_and_comes_back(bare: Bench, plain: Slurm) -> None:
    runs, waits = bare.launch(
        bare.job("runs", "sleep 15; exit 3"), bare.job("waits", "exit 4", native="--begin=now+20")
    )
    bare.until(lambda: bare.state(runs) is NativeState.RUNNING)
    plain.saved()
    plain.kill("slurmctld")
    try:
        with pytest.raises(SystemUnavailable):
            bare.system.survey(bare.life)
        with pytest.raises(SystemUnavailable):
            bare.system.exit_info([waits])
        answers: Any = None
        with contextlib.suppress(SystemUnavailable):
            answers = bare.system.submit([bare.job("lost", "true")])
        assert answers is None or answers[0].failure in (SubmitFailure.UNCLEAR, SubmitFailure.TRANSIENT), answers
    finally:
        plain.start("slurmctld")
    plain.until(lambda: "idle" in plain.command("sinfo", "-h", "-o", "%T", check=False))
    assert bare.end(runs).exit_value == 3 and bare.end(waits).exit_value == 4
    again = system(plain, bare.spool)
    assert again.settle([Launch(token=f"{bare.life}.1:lost:1")]) == {f"{bare.life}.1:lost:1": Settled.NOT_STARTED}


def test_ends_are_known_when_slurm_has_forgotten(bare: Bench, plain: Slurm) -> None:
    handles = bare.launch(bare.job("zero", "true"), bare.job("three", "exit 3"), bare.job("kill", "kill -9 $$"))
    natives = ",".join(handle.partition("/")[0] for handle in handles)
    bare.until(lambda: not plain.command("squeue", "-h", "--states=all", f"--jobs={natives}", check=False).strip(), 150)
    ends = bare.system.exit_info(handles)
    assert [(it.exit_value, it.term_sig) for it in ends.values()] == [(0, None), (3, None), (None, 9)]
    assert "slurm knows nothing of it any more" in (ends[handles[0]].evidence or "")
    other = system(plain, bare.spool)
    assert other.settle([Launch(token=handle.partition("/")[2]) for handle in handles]) == {
        handle.partition("/")[2]: handle for handle in handles
    }


def test_a_requeue_by_hand_starts_nothing_twice(bench: Bench) -> None:
    (handle,) = bench.launch(bench.job("a", "echo start >> starts; sleep 2; exit 5", native="--requeue"))
    native = handle.partition("/")[0]
    bench.until(lambda: (bench.spool / "jobs/a/run.1/starts").exists())
    bench.cluster.command("scontrol", "requeue", native)
    end = bench.end(handle, 90)
    assert not end.regular, end
    script = bench.spool / "jobs/a/run.1/script"  # as Slurm starts it, two minutes later
    environment = os.environ | {"SLURM_JOB_ID": native}
    done = subprocess.run(["sh", str(script)], env=environment, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 143 and bench.file("a", "starts") == "start\n", done
    done = subprocess.run(
        ["sh", str(script)],
        env=environment | {"SLURM_JOB_ID": "7"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 75 and "was started before" in done.stderr, done


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_our_program_on_the_node_is_killed(number: int, bench: Bench) -> None:
    (handle,) = bench.launch(bench.job("a", "echo $PPID > pid; sleep 60"))
    pid = int(bench.until(lambda: (path := bench.spool / "jobs/a/run.1/pid").exists() and path.read_text().strip()))
    os.kill(pid, number)
    end = bench.end(handle)
    if number == signal.SIGTERM:
        assert end.term_sig == 15, end
    else:
        assert (end.exit_status, end.term_sig) == (ExitStatus.FINISHED_SIGNAL, 9) and "no exit record" in str(
            end.evidence
        )


def test_a_node_without_our_python_says_so(bench: Bench) -> None:
    bench.system = system(bench.cluster, bench.spool, late=1, python="/opt/no/python3")
    (handle,) = bench.launch(bench.job("a", "true"))
    end = bench.end(handle)
    assert end.exit_status is ExitStatus.ABORTED_BEFORE_RUNNING and end.reason == "start_failed", end
    assert "/opt/no/python3" in str(end.message), end


def test_a_python_within_a_script_leaves_the_script_and_slurms_own_program_alone(bench: Bench) -> None:
    python = bench.spool.parent / "python"
    python.write_text('#!/bin/sh\n/usr/bin/python3 "$@"\nexit $?\n')  # no exec: the shell waits for it
    python.chmod(0o755)
    bench.system = system(bench.cluster, bench.spool, python=str(python))
    (handle,) = bench.launch(bench.job("a", "sleep 60 & exit 3"))
    end = bench.end(handle)
    assert (end.exit_value, end.native_state) == (3, "FAILED"), end
    assert bench.state(handle) is NativeState.ENDED


def test_a_node_that_dies_takes_its_job_along(bare: Bench, plain: Slurm) -> None:
    (handle,) = bare.launch(bare.job("a", "sleep 60", native="--nodelist=n3"))
    bare.until(lambda: bare.state(handle) is NativeState.RUNNING)
    plain.command("scontrol", "update", "nodename=n3", "state=down", "reason=test")
    end = bare.end(handle)
    plain.command("scontrol", "update", "nodename=n3", "state=resume", check=False)
    plain.until(lambda: plain.command("sinfo", "-hN", "-n", "n3", "-p", "debug", "-o", "%T").strip() == "idle")
    assert (end.reason, end.native_state) == ("node_fail", "NODE_FAIL") and not end.regular, end


def test_the_whole_pipeline(cluster: Slurm, tmp_path: Path) -> None:
    """Pushed, routed, launched, ended, cancelled, by the three processes; the laws hold."""
    here = {"kind": "slurm", "env": cluster.env, "poll_interval": 1, "kill_grace": 0.5, "late": 5, "limit": 40}
    config = {"systems": {"main": here}, "limits": {"lease": "5s"}, "spool": str(tmp_path / "spool")}
    pipeline = Pipeline(tmp_path / "p", config=json.dumps(config))
    steps = [
        {"name": "one", "command": "id -un > one"},
        {"name": "two", "command": "cat one; echo '{\"n\": 2}' > $JOBMILL_STEP_OUTPUTS", "outputs": ["n"]},
    ]
    documents: list[dict[str, Any]] = [
        *({"id": f"j{n}", "command": f"sleep 0.{n % 7}; exit {n % 3}"} for n in range(30)),
        {"id": "steps", "steps": steps, "workdir": str(tmp_path)},
        {"id": "out", "command": "echo x > x.out", "outputs": ["x.out"], "workdir": str(tmp_path)},
        {"id": "lacks", "command": "true", "outputs": ["y.out"], "workdir": str(tmp_path)},
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
        pipeline.until(lambda: all(row.state in ENDED for row in listing.jobs(record, ids)), 60)
        rows = {row.id: row for row in listing.jobs(record, ids)}
        told = {id_: (str(row.state), row.exit.get("reason"), row.exit.get("exit_value")) for id_, row in rows.items()}
        for n in range(30):
            assert told[f"j{n}"] == (("failed", "exit_value", n % 3) if n % 3 else ("done", None, 0)), rows[f"j{n}"]
        assert told["steps"] == ("done", None, 0) and told["out"] == ("done", None, 0), told
        assert told["lacks"][0] == "failed" and told["late"][:2] == ("failed", "timeout")
        assert told["never"][:2] == ("failed", "submit_failed") and "nowhere" in rows["never"].exit["message"]
        assert told["again"][0] == "failed" and rows["again"].run == 2
        assert told["waits"][0] == "cancelled", rows["waits"]
        pipeline.until(lambda: not violations(record.client, at_rest=True))
        assert not cluster.command("squeue", "-h").strip()
    except AssertionError:
        print([row for row in listing.jobs(record, ids) if row.state not in ENDED])
        raise
    finally:
        pipeline.stop()


# A scheduler that means ill: programs before Slurm's own, which do what happened to others.


@pytest.fixture
def shims(bench: Bench, tmp_path: Path) -> Callable[..., SlurmSystem]:
    """Give a function that puts shell programs before those of Slurm and returns a system that calls them."""

    def shim(**programs: str) -> SlurmSystem:
        placed = Shims(tmp_path / f"shims{time.monotonic_ns()}")
        for name, text in programs.items():
            placed.put(name, text)
        made = system(bench.cluster, bench.spool, late=3, path=placed.path)
        made.commands.deadline = 2.0
        return made

    return shim


def test_accepted_and_timed_out_is_found_and_not_sent_again(bench: Bench, shims: Callable[..., SlurmSystem]) -> None:
    slow = shims(sbatch='"$real" "$@"; sleep 30')
    job = bench.job("a", "echo start >> starts; exit 3")
    (answer,) = slow.submit([job])
    assert isinstance(answer, SubmitError) and answer.failure is SubmitFailure.UNCLEAR, answer
    found = bench.system.settle([Launch(token=job.token)])[job.token]
    assert isinstance(found, str) and found.endswith(f"/{job.token}")
    bench.system.release([found])
    assert bench.end(found).exit_value == 3 and bench.file("a", "starts") == "start\n"


def test_what_comes_late_and_was_given_up_never_starts(bench: Bench, shims: Callable[..., SlurmSystem]) -> None:
    later = bench.spool.parent / "later"
    slow = shims(sbatch=f'cat > {later}.script; echo "$@" > {later}.words; sleep 30')
    job = bench.job("a", "echo start >> starts")
    (answer,) = slow.submit([job])
    assert isinstance(answer, SubmitError) and answer.failure is SubmitFailure.UNCLEAR, answer
    assert bench.system.settle([Launch(token=job.token)]) == {job.token: Settled.NOT_STARTED}
    words = Path(f"{later}.words").read_text().split()
    with Path(f"{later}.script").open() as script:  # now it gets there
        env = os.environ | bench.cluster.env
        done = subprocess.run(["sbatch", *words], env=env, stdin=script, capture_output=True, timeout=30, check=True)
    stray = f"{done.stdout.decode().strip()}/{job.token}"
    assert bench.system.inventory(bench.life) == {stray: job.token}  # it is swept; and were it released:
    bench.system.release([stray])
    bench.until(lambda: bench.state(stray) is NativeState.ENDED)
    assert not (bench.spool / "jobs/a/run.1/starts").exists()


@pytest.mark.parametrize(
    "squeue",
    [
        "exit 0",  # nothing at all
        '"$real" "$@" | head -c 60',  # half of the header
        '"$real" "$@" | head -c 130',  # half of a line
        "echo slurm_load_jobs error: Unable to contact slurm controller >&2; exit 1",
        "sleep 30",
        "kill -9 $$",
    ],
)
def test_an_answer_that_is_none_changes_nothing(squeue: str, bench: Bench, shims: Callable[..., SlurmSystem]) -> None:
    (handle,) = bench.launch(bench.job("a", "sleep 20"))
    bench.until(lambda: bench.state(handle) is NativeState.RUNNING)
    ill = shims(squeue=squeue)
    for verb in (ill.status, ill.exit_info):
        with pytest.raises(SystemUnavailable):
            verb([handle])
    for verb in (ill.survey, ill.inventory):
        with pytest.raises(SystemUnavailable):
            verb(bench.life)
    with pytest.raises(SystemUnavailable):
        ill.settle([Launch(token=handle.partition("/")[2])])
    assert bench.state(handle) is NativeState.RUNNING


def test_banners_and_lists_that_lack_everything_make_no_end(bench: Bench, shims: Callable[..., SlurmSystem]) -> None:
    (handle,) = bench.launch(bench.job("a", "sleep 20; exit 4"))
    bench.until(lambda: bench.state(handle) is NativeState.RUNNING)
    banner = shims(squeue='echo "*** Welcome | to | this | cluster ***"; "$real" "$@"')
    assert banner.status([handle])[handle].state is NativeState.RUNNING
    empty = shims(squeue='"$real" "$@" | head -n 1')
    assert empty.survey(bench.life) == {}
    bench.until(lambda: empty.status([handle])[handle].state is NativeState.RUNNING)  # soon the books know it
    assert empty.exit_info([handle]) == {}
    token = handle.partition("/")[2]
    assert empty.settle([Launch(token=token)]) == {token: handle}
    assert empty.kill([handle], force=True)[handle] in (False, True)
    bench.until(lambda: bench.state(handle) is NativeState.ENDED)


@pytest.mark.parametrize(
    "sacct", ["echo slurm_persist_conn_open: Connection refused >&2; exit 1", "sleep 30", "exit 0"]
)
def test_an_accounting_that_goes_away_takes_nothing_along(
    sacct: str, bench: Bench, shims: Callable[..., SlurmSystem]
) -> None:
    """Slurm has forgotten both; one left its record, and of the other nobody may say that it is gone."""
    ended, runs = bench.launch(bench.job("ended", "exit 3"), bench.job("runs", "sleep 20"))
    assert bench.end(ended).exit_value == 3
    bench.until(lambda: bench.state(runs) is NativeState.RUNNING)
    ill = shims(sacct=sacct, squeue='"$real" "$@" | head -n 1')
    looks = ill.status([ended, runs])
    assert (looks[ended].state, looks[runs].state) == (NativeState.ENDED, NativeState.UNKNOWN), looks
    assert [info.exit_value for info in ill.exit_info([ended, runs]).values()] == [3]
    tokens = [handle.partition("/")[2] for handle in (ended, runs)]
    assert ill.settle([Launch(token=token) for token in tokens]) == dict(zip(tokens, (ended, runs), strict=True))


def test_a_reused_id_is_another_job(bench: Bench) -> None:
    (handle,) = bench.launch(bench.job("a", "sleep 20"))
    native = handle.partition("/")[0]
    bench.until(lambda: bench.state(handle) is NativeState.RUNNING)
    old = f"{native}/{bench.life}.1:b:1"
    look = bench.system.status([old])[old]
    assert look.state is NativeState.ABSENT and bench.system.exit_info([old]) == {}, look
    assert bench.system.kill([old], force=True) == {old: True}
    assert bench.state(handle) is NativeState.RUNNING


def test_a_spool_that_is_not_seen_makes_nothing_unstarted(bench: Bench) -> None:
    (handle,) = bench.launch(bench.job("a", "exit 3"))
    assert bench.end(handle).exit_value == 3
    bench.spool.rename(bench.spool.parent / "away")
    end = bench.end(handle)
    assert end.exit_status is not ExitStatus.ABORTED_BEFORE_RUNNING and not end.regular, end


def test_a_record_that_its_job_spoiled_is_told_and_stops_nobody(bench: Bench) -> None:
    text = 'echo "exit 1 {\\"exit_value\\": \\"x\\"} end" >> $JOBMILL_RUN_FOLDER/run'
    spoiled, fine = bench.launch(bench.job("a", text), bench.job("b", "exit 3"))
    assert bench.end(fine).exit_value == 3
    end = bench.end(spoiled)
    assert not end.regular and "cannot be read" in str(end.message), end


def test_a_record_that_the_file_system_shows_late(bench: Bench) -> None:
    bench.system = system(bench.cluster, bench.spool, late=8)
    (handle,) = bench.launch(bench.job("a", "sleep 1; exit 3"))
    marker, hidden = bench.spool / "jobs/a/run.1/run", bench.spool.parent / "hidden"
    bench.until(lambda: marker.exists() and b" end\n" in marker.read_bytes())
    marker.rename(hidden)
    bench.until(lambda: bench.state(handle) is NativeState.ENDED)
    for _ in range(4):
        assert bench.system.exit_info([handle]) == {}
        time.sleep(1)
    hidden.rename(marker)
    end = bench.end(handle)
    assert (end.exit_value, end.exit_status) == (3, ExitStatus.FINISHED_REGULARLY), end
