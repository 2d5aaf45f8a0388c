"""The docker system on a real engine: one launch at a time, and what happens to it when everybody dies."""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import images
import pytest
from engines import IMAGE, Dockerd, Podman, engine_for_tests, podman_for_tests
from tokens import RECORD

from jobmill.errors import ConfigError, SystemUnavailable
from jobmill.jobs.container import ContainerJob
from jobmill.jobs.spec import JobSpec
from jobmill.systems import container_starts, docker
from jobmill.systems.docker import DockerSystem
from jobmill.systems.system import (
    ExitInfo,
    ExitStatus,
    Handle,
    Launch,
    NativeState,
    Settled,
    Submission,
    SubmitError,
    SubmitFailure,
)

pytestmark = pytest.mark.timeout(120)


Engine = Dockerd | Podman


@pytest.fixture(scope="module", params=["docker", "podman"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    with engine_for_tests() if request.param == "docker" else podman_for_tests() as made:
        yield made


Make = Callable[..., DockerSystem]


@pytest.fixture
def make(engine: Engine, tmp_path: Path) -> Iterator[Make]:
    made: list[DockerSystem] = []

    def _make(name: str = "docker", **options: Any) -> DockerSystem:
        known = {"engine": engine.program, "host": engine.host, "image": IMAGE, **options}
        made.append(DockerSystem.build(name, known, tmp_path / "spool"))
        return made[-1]

    yield _make
    for system in made:
        system.close()
    left = engine.out("ps", "-aq", "--filter", "label=jobmill.token").split()
    if left:
        engine.remove(*left)


@pytest.fixture
def system(make: Make) -> DockerSystem:
    return make()


def job(system: DockerSystem, job_id: str = "a", run: int = 1, **spec: Any) -> ContainerJob:
    parsed = JobSpec.parse(spec)
    return ContainerJob(parsed, job_id=job_id, run=run, record=f"{RECORD}.1", system=system, spool=system.spool)


def ready(system: DockerSystem, job_id: str = "a", run: int = 1, **spec: Any) -> Submission:
    return job(system, job_id, run, **spec).prepare()


def held(system: DockerSystem, submission: Submission) -> Handle:
    (answer,) = system.submit([submission])
    assert isinstance(answer, str), answer
    return answer


def refused(system: DockerSystem, submission: Submission) -> SubmitError:
    (answer,) = system.submit([submission])
    assert isinstance(answer, SubmitError), answer
    return answer


def until(true: Callable[[], Any], seconds: float = 30) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def end(system: DockerSystem, handle: Handle) -> ExitInfo:
    info = until(lambda: system.exit_info([handle]).get(handle))
    assert isinstance(info, ExitInfo)
    return info


def run(system: DockerSystem, submission: Submission) -> tuple[Handle, ExitInfo]:
    handle = held(system, submission)
    system.release([handle])
    return handle, end(system, handle)


def running(system: DockerSystem, handle: Handle) -> bool:
    return system.status([handle])[handle].state is NativeState.RUNNING


def names(engine: Engine) -> list[str]:
    return engine.out("ps", "-a", "--filter", "label=jobmill.token", "--format", "{{.Names}}").split()


# What runs, and how it ends.


@pytest.mark.parametrize(("code", "regular"), [(0, True), (1, False), (77, False)])
def test_exit_values_are_the_programs_own(system: DockerSystem, code: int, regular: bool) -> None:
    handle, info = run(system, ready(system, command=f"echo out; echo err >&2; exit {code}"))
    assert (info.exit_status, info.exit_value, info.regular) == (ExitStatus.FINISHED_REGULARLY, code, regular)
    assert info.started and info.ended and info.resource_usage["wall"] >= 0
    assert (system.logs(handle, "stdout", 0), system.logs(handle, "stderr", 0)) == (b"out\n", b"err\n")
    assert system.logs(handle, "stdout", 2, 1) == b"t"


@pytest.mark.parametrize("init", [True, False])
@pytest.mark.parametrize(("program", "value"), [("/no/such/program", 127), ("/etc", 126)])
def test_a_program_that_cannot_start_never_ran(make: Make, init: bool, program: str, value: int) -> None:
    _, info = run(system := make(init=init), ready(system, command=[program]))
    assert (info.exit_status, info.reason) == (ExitStatus.ABORTED_BEFORE_RUNNING, "start_failed")
    assert info.exit_value == value
    assert ("failed to exec" if system.engine.podman and init else program) in (info.message or "")  # as its init says
    assert system.survey(RECORD) == {} and system.inventory(RECORD) == {}


def test_127_of_a_shell_is_its_own_exit_value(system: DockerSystem) -> None:
    _, info = run(system, ready(system, command="no-such-program"))
    assert (info.exit_status, info.exit_value) == (ExitStatus.FINISHED_REGULARLY, 127)


def test_a_signal_of_nobody_we_know_is_told_as_unclear(system: DockerSystem) -> None:
    _, info = run(system, ready(system, command="kill -SEGV $$"))
    assert (info.exit_status, info.exit_value, info.term_sig) == (ExitStatus.FINISHED_UNCLEAR, 139, None)
    assert "SIGSEGV" in (info.evidence or "")


def test_an_error_file_is_the_message_and_a_return_file_the_result(system: DockerSystem) -> None:
    it = job(system, command="echo oops > $JOBMILL_ERROR_FILE; echo '{\"n\": 3}' > $JOBMILL_RETURN_FILE; exit 4")
    it.run_job()
    until(it.is_finished)
    info = it.exit_info()
    assert info is not None and (info.exit_value, info.message) == (4, "oops")
    assert it.get_return_data() == {"n": 3}
    it.clean_up()
    assert it.exit_info() == info


def test_out_of_memory_is_told_on_evidence(system: DockerSystem) -> None:
    grow = (
        "exec awk 'BEGIN { while (1) a = a \"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\" a }'"
    )
    _, info = run(system, ready(system, command=grow, resources={"memory": "16M"}))
    if system.engine.podman and info.reason is None:  # its conmon does not hear of it with every kernel: no evidence
        assert (info.exit_status, info.exit_value) == (ExitStatus.FINISHED_UNCLEAR, 137)
    else:
        assert (info.reason, info.term_sig, info.evidence) == ("oom", 9, "engine: OOMKilled")


HOSTILE = [
    "a b",
    "$(id)",
    "`id`",
    '"',
    "'",
    "\\",
    "*",
    "-v",
    "--privileged",
    "#x",
    "ü\U0001f680",
    "",
    "a,b=c:d",
    "\t x ",
    "%s",
]


def test_arguments_and_variables_arrive_as_they_are(system: DockerSystem) -> None:
    env = {f"V{n}": text for n, text in enumerate(HOSTILE)} | {"LINES_2": "a\nb\r\n\nc", "LONG": "x" * 100_000}
    script = "for a; do printf '%s\\0' \"$a\"; done; env -0 > $JOBMILL_RUN_FOLDER/env; "
    handle, info = run(system, ready(system, command=["sh", "-c", script, "sh", *HOSTILE, "two\nlines"], env=env))
    assert info.regular, info
    assert system.logs(handle, "stdout", 0).decode().split("\0")[:-1] == [*HOSTILE, "two\nlines"]
    seen = dict(entry.split("=", 1) for entry in system.logs(handle, "env", 0).decode().split("\0") if "=" in entry)
    assert {name: seen[name] for name in env} == env
    assert {name for name in seen if not name.startswith("JOBMILL_")} - env.keys() <= {
        "HOME",
        "PATH",
        "PWD",
        "SHLVL",
        "HOSTNAME",
        "OF_IMAGE",
        *(("TERM", "container") if system.engine.podman else ()),
    }
    assert (seen["JOBMILL_JOB_ID"], seen["JOBMILL_RUN"], seen["HOME"]) == ("a", "1", "/jobmill")


def test_a_variable_that_would_move_the_engines_program_is_kept_from_it(system: DockerSystem) -> None:
    own = {"DOCKER_HOST": "unix:///no/such", "PATH": "/bin:/x", "LD_PRELOAD": "/no/such.so", "HOME": "/tmp"}
    handle, info = run(system, ready(system, command="echo $DOCKER_HOST $PATH $HOME", env=own))
    assert info.regular and system.logs(handle, "stdout", 0) == b"unix:///no/such /bin:/x /tmp\n"
    answer = refused(system, ready(system, "b", command="x", env={"DOCKER_HOST": "a\nb"}))
    assert answer.failure is SubmitFailure.PERMANENT and "DOCKER_HOST" in answer.message


def test_nothing_of_the_environment_is_in_argv(system: DockerSystem, engine: Engine, tmp_path: Path) -> None:
    spy = tmp_path / Path(engine.program).name
    spy.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >> {tmp_path}/argv\nexec {engine.program} "$@"\n')
    spy.chmod(0o755)
    known = {"host": engine.host, "image": IMAGE, "engine": str(spy), "env": {"SITE": "secret-1"}}
    other = DockerSystem.build("docker", known, system.spool)
    _, info = run(other, ready(other, command="env", env={"A": "secret-2", "B": "secret-3\n"}))
    other.close()
    assert info.regular
    argv = (tmp_path / "argv").read_text()
    assert "create" in argv and "secret" not in argv


def test_the_run_folder_is_where_it_works_and_belongs_to_the_user(make: Make) -> None:
    system = make(user="1234:1235")
    it = ready(system, command="pwd; id -u; id -g; echo x > made; touch ~/y; mkdir -p d/e", workdir=None)
    handle, info = run(system, it)
    assert info.regular, system.logs(handle, "stderr", 0)
    assert system.logs(handle, "stdout", 0) == b"/jobmill\n1234\n1235\n"
    folder = system.spool / "jobs" / "a" / "run.1"
    assert {(folder / name).stat().st_uid for name in ("made", "y", "d/e")} == {1234}
    assert (folder / "made").read_text() == "x\n"


def test_a_job_cannot_write_its_own_record_nor_gain_privileges(system: DockerSystem) -> None:
    forged = "echo 'exit 1 {} end' >> run || echo refused; rm -f run || echo kept; grep NoNewPrivs /proc/self/status"
    handle, info = run(system, ready(system, command=forged))
    assert info.regular
    assert system.logs(handle, "stdout", 0).split() == [b"refused", b"kept", b"NoNewPrivs:", b"1"]


def test_streams_of_the_jobs_own(system: DockerSystem) -> None:
    folder = system.spool / "jobs" / "a" / "run.1"
    folder.mkdir(parents=True)
    (folder / "in").write_text("hello\n")
    it = ready(
        system, command=["sh", "-c", 'cat; echo "$1" >&2', "sh", "a b"], stdin="in", stdout="o.txt", stderr="e.txt"
    )
    handle, info = run(system, it)
    assert info.regular
    assert ((folder / "o.txt").read_text(), (folder / "e.txt").read_text()) == ("hello\n", "a b\n")
    assert system.logs(handle, "stdout", 0) == b"hello\n"


def test_limits_are_the_kernels(make: Make) -> None:
    system = make(pids=20)
    quota = "cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us || cut -d ' ' -f 1 /sys/fs/cgroup/cpu.max"
    text = f"{quota}; for i in $(seq 40); do sleep 1 & done"
    handle, info = run(system, ready(system, command=text))
    assert b"fork" in system.logs(handle, "stderr", 0), info
    assert system.logs(handle, "stdout", 0).split()[0] == b"100000"
    if system.engine.podman:  # it gives what it has
        return
    answer = refused(system, ready(system, "b", command="x", resources={"cpus": 5000}))
    assert (answer.failure, "CPUs" in answer.message) == (SubmitFailure.PERMANENT, True)


# What is refused before it is launched.


def test_an_image_that_is_not_there_is_never_pulled(system: DockerSystem) -> None:
    answer = refused(system, ready(system, command="x", container={"image": "no/such:1"}))
    assert answer.failure is SubmitFailure.PERMANENT
    assert "no such image: no/such:1" in answer.message.lower() or "no/such:1: image not known" in answer.message
    assert f"{system.engine.program} pull no/such:1" in answer.message


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"container": {"volumes": ["/etc:/x"]}}, "not among those"),
        ({"container": {"volumes": ["other:/x"]}}, "not among those"),
        ({"container": {"network": "host"}}, "not allowed"),
        ({"container": {"engine": "apptainer"}}, "is wanted, system docker has"),
        ({"resources": {"gpus": 1}}, "gives no GPUs"),
        ({"workdir": "/etc"}, "not seen in the container"),
        ({"stdout": "/tmp/x"}, "not seen in the container"),
    ],
)
def test_what_the_site_does_not_allow(make: Make, tmp_path: Path, spec: dict[str, Any], words: str) -> None:
    system = make(volumes=[str(tmp_path)])
    answer = refused(system, ready(system, command="x", **spec))
    assert answer.failure is SubmitFailure.PERMANENT and words in answer.message
    assert not (system.spool / "jobs").exists()


def test_volumes_by_the_sites_policy(make: Make, engine: Engine, tmp_path: Path) -> None:
    data, ref = tmp_path / "da,ta", tmp_path / "ref"
    data.mkdir()
    ref.mkdir()
    (data / "escape").symlink_to("/etc")
    system = make(volumes=[str(data), f"{ref}:ro", "jm-cache"])
    volumes = [f"{data}:/data", f"{ref}:/ref:ro", "jm-cache:/cache"]
    it = ready(
        system, command="echo 1 > /data/x; echo 2 > /cache/x; echo 3 > /ref/x; ls /", container={"volumes": volumes}
    )
    handle, info = run(system, it)
    assert info.regular
    assert (data / "x").read_text() == "1\n" and not (ref / "x").exists()
    system.forget([handle])
    assert names(engine) == []
    assert "jm-cache" in engine.out("volume", "ls", "-q")  # never ours to remove
    again = ready(system, "b", command="cat /cache/x", container={"volumes": ["jm-cache:/cache"]})
    assert system.logs(run(system, again)[0], "stdout", 0) == b"2\n"
    for text, words in (
        (f"{ref}:/ref", "only be read"),
        (f"{data}/escape:/e", "not among"),
        (f"{data}/../x:/e", "not among"),
    ):
        answer = refused(system, ready(system, "c", command="x", container={"volumes": [text]}))
        assert words in answer.message
    inside = ready(system, "d", command="pwd; touch made", workdir=str(data))
    assert run(system, inside)[1].regular and (data / "made").exists()


def test_options_that_cannot_be(tmp_path: Path) -> None:
    for options, words in (
        ({"imge": "x"}, "did you mean 'image'"),
        ({"volumes": ["a b"]}, "volumes"),
        ({"network": []}, "network"),
        ({"user": "root"}, "uid"),
        ({"pids": 0}, "pids"),
        ({"init": "yes"}, "true or false"),
        ({"engine": "-x"}, "engine"),
    ):
        with pytest.raises(ConfigError, match=words):
            DockerSystem.build("d", options, tmp_path)


def test_steps_run_by_the_images_python_and_tell_how_far_they_are(make: Make, engine: Engine, tmp_path: Path) -> None:
    engine.load("jobmill-test/python:3", images.python(), "ENV PATH=/usr/local/bin:/bin")
    system = make(user="1234:1234")
    it = job(
        system,
        container="jobmill-test/python:3",
        steps=[
            {"name": "count", "command": 'echo "{\\"n\\": 3}" > $JOBMILL_STEP_OUTPUTS', "outputs": ["n"]},
            {"name": "power", "function": "own:power", "inputs": {"n": "$count.n"}, "outputs": ["m"]},
            {"name": "hold", "command": "while [ ! -e go ]; do sleep 0.1; done; id -u"},
        ],
    )
    folder = system.spool / "jobs" / "a" / "run.1"
    folder.mkdir(parents=True)
    (folder / "own.py").write_text("def power(n):\n    return n * n\n")
    handle = it.run_job()
    until(lambda: system.survey(RECORD)[handle].progress == "3/3 hold")
    (folder / "go").touch()
    assert end(system, handle).regular, system.logs(handle, "stderr", 0)
    assert json.loads((folder / "outputs.json").read_text()) == {"count": {"n": 3}, "power": {"m": 9}}
    assert system.logs(handle, "hold.log", 0) == b"1234\n"
    without = ready(system, "b", steps=[{"command": "true"}])
    _, info = run(system, without)
    assert info.reason == "start_failed" and ("python3" in (info.message or "") or system.engine.podman)


# What a job may do to its own run folder.


def test_a_job_cannot_have_files_of_the_host_read_to_it(make: Make, tmp_path: Path) -> None:
    """What it leaves is read by the worker, for whom its links would lead elsewhere than for itself."""
    secret = tmp_path / "secret"
    secret.write_text("{}")
    data = tmp_path / "data"
    data.mkdir()
    system = make(volumes=[str(data)])
    links = "; ".join(f"ln -sf {secret} {name}" for name in ("stdout", "stderr", "return.json", "x.log", "error"))
    handle, _ = run(system, ready(system, command=links))
    for name in ("stdout", "stderr", "return.json", "x.log", "error"):
        assert system.logs(handle, name, 0) == b"", name
    own = ready(system, "b", command=f"ln -sf {secret} {data}/out", stdout=str(data / "out"), workdir=str(data))
    assert system.logs(run(system, own)[0], "stdout", 0) == b""
    swapped = ready(system, "c", command=f"ln -sf {secret} stdout", stdout="o.txt")
    assert system.logs(run(system, swapped)[0], "stdout", 0) == b""


def test_a_volume_that_became_a_link_is_not_mounted(make: Make, engine: Engine, tmp_path: Path) -> None:
    """Who may write beside it swaps it while the container is held; the engine would follow the link."""
    data, secret = tmp_path / "data", tmp_path / "secret"
    (data / "x").mkdir(parents=True)
    secret.mkdir()
    system = make(volumes=[str(data)], keep=0)
    handle = held(system, ready(system, command="touch /y/here", container={"volumes": [f"{data}/x:/y"]}))
    (data / "x").rmdir()
    (data / "x").symlink_to(secret)
    system.release([handle])
    info = end(system, handle)
    assert info.reason == "start_failed" and "became a link" in (info.message or "")
    assert list(secret.iterdir()) == []
    until(lambda: system.survey(RECORD) == {} and not names(engine))


@pytest.mark.parametrize("source", ["/", "/run", "/var/run", "/run/docker.sock", "/run/podman"])
def test_the_engines_socket_is_never_mounted(make: Make, source: str) -> None:
    system = make(volumes=["/"])
    for spec in ({"container": {"volumes": [f"{source}:/x:ro"]}}, {"workdir": source}):
        if spec.get("workdir") in ("/", "/run/docker.sock"):
            continue  # no place of a volume, and no folder
        answer = refused(system, ready(system, command="x", **spec))
        assert answer.failure is SubmitFailure.PERMANENT and "the engine's socket" in answer.message


@pytest.mark.parametrize("script", ["mkdir stdout", "mkdir -p stderr/x; mkfifo stdout", "mkdir steps; ln -s . stdout"])
def test_what_lies_in_the_way_of_its_output_does_not_hold_up_its_end(system: DockerSystem, script: str) -> None:
    handle, info = run(system, ready(system, command=f"echo out; echo err >&2; {script}; exit 3"))
    assert info.exit_value == 3
    assert (system.logs(handle, "stdout", 0), system.logs(handle, "stderr", 0)) == (b"out\n", b"err\n")


def test_a_pipe_under_the_name_of_a_file_of_ours_hangs_nobody(system: DockerSystem) -> None:
    names = " ".join(f".{name}.{os.getpid()}" for name in ("stdout", "stderr"))
    handle, info = run(system, ready(system, command=f"echo out; mkfifo {names}"))
    assert info.regular and system.logs(handle, "stdout", 0) == b"out\n"


# Held, started once, found again.


def test_a_launch_is_held_until_it_is_released_and_starts_once(system: DockerSystem, engine: Engine) -> None:
    it = ready(system, command="echo x >> $JOBMILL_RUN_FOLDER/starts")
    handle = held(system, it)
    assert held(system, it) == handle  # the same token: the same container
    look = system.status([handle])[handle]
    assert (look.state, look.held, look.alive) == (NativeState.SUBMITTED, True, True)
    assert system.survey(RECORD) == {handle: look}
    assert system.inventory(RECORD) == {handle: it.token}
    system.release([handle])
    assert end(system, handle).regular
    system.release([handle, handle])  # an engine would start it again
    container_starts.start(
        system.engine, handle.partition("/")[0], container_starts.ContainerFolder(system.spool, it.token), {}
    )
    time.sleep(0.5)
    assert system.logs(handle, "starts", 0) == b"x\n"
    assert system.survey(RECORD) == {} and system.inventory(RECORD) == {}
    assert len(names(engine)) == 1


def test_what_ended_but_was_not_taken_down_is_not_started_again(system: DockerSystem, engine: Engine) -> None:
    handle = held(system, ready(system, command="echo x >> $JOBMILL_RUN_FOLDER/starts"))
    system.release([handle])
    state = lambda: engine.out("inspect", "--format", "{{.State.Status}}", handle.partition("/")[0])  # noqa: E731
    until(lambda: state() in ("exited", "stopped"))
    system.release([handle])
    assert end(system, handle).regular
    assert system.logs(handle, "starts", 0) == b"x\n"


def test_settle_finds_a_launch_whose_starter_died_at_each_step(make: Make) -> None:
    system = make()
    token = f"{RECORD}.1:a:1"
    assert make().settle([Launch(token=token)]) == {token: Settled.NOT_STARTED}  # before create
    handle = held(system, ready(system, command="sleep 60"))
    assert make().settle([Launch(token=token)]) == {token: handle}  # created, never committed
    system.release([handle])
    until(lambda: running(system, handle))
    assert make().settle([Launch(token=token, handle=handle)]) == {token: handle}
    assert until(lambda: system.kill([handle], force=True)[handle])
    assert make().settle([Launch(token=token)]) == {token: handle}
    assert make("other").settle([Launch(token=token)]) == {token: Settled.NOT_STARTED}  # not that system's


def test_a_release_goes_on_when_its_process_dies(system: DockerSystem) -> None:
    """Whoever starts it holds the right to do so, and nobody else starts it meanwhile."""
    handle = held(system, ready(system, command="true"))
    token = handle.partition("/")[2]
    folder = container_starts.ContainerFolder(system.spool, token)
    with folder.starting() as right:
        assert right is not None
        system.release([handle])  # by another: nothing happens
        assert not system.status([handle])[handle].held  # somebody lets it go
        assert system.kill([handle], force=True) == {handle: False}  # it may be starting
    assert system.status([handle])[handle].held  # that process died before it had
    assert system.kill([handle], force=True) == {handle: True}


# Ending.


def test_a_tree_is_killed_whole_and_its_end_survives_the_container(system: DockerSystem, engine: Engine) -> None:
    mark = f"31{os.getpid()}"
    script = f"trap '' TERM; (setsid sleep {mark} &) ; sleep {mark} & sleep {mark}; wait; sleep {mark}"
    handle = held(system, ready(system, command=script))
    system.release([handle])
    until(lambda: len(processes(mark)) >= 4)
    assert system.kill([handle], force=False) == {handle: False}
    assert processes(mark)
    assert system.kill([handle], force=True) == {handle: True}
    until(lambda: not processes(mark))
    info = end(system, handle)
    assert (info.exit_status, info.term_sig) == (ExitStatus.FINISHED_SIGNAL, 9)
    assert "we had sent SIGKILL" in (info.evidence or "")
    engine.docker("rm", handle.partition("/")[0])
    assert system.exit_info([handle]) == {handle: info}
    assert system.status([handle])[handle].state is NativeState.ENDED
    assert system.kill([handle], force=True) == {handle: True}


def processes(mark: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                alive = b"State:\tZ" not in (entry / "status").read_bytes()
            except OSError:
                continue
            if alive and any(mark.encode() in word for word in words):
                found.append(int(entry.name))
    return found


def test_a_walltime_is_told_as_overdue_and_ends_as_timeout(system: DockerSystem) -> None:
    handle = held(system, ready(system, command="sleep 60", resources={"walltime": 1}))
    system.release([handle])
    until(lambda: running(system, handle))
    assert not system.survey(RECORD)[handle].overdue
    until(lambda: system.survey(RECORD)[handle].overdue)
    assert system.status([handle])[handle].overdue
    until(lambda: system.kill([handle], force=False)[handle])
    info = end(system, handle)
    assert (info.reason, info.term_sig) == ("timeout", 15)


def test_a_held_one_that_is_killed_never_starts(system: DockerSystem, engine: Engine) -> None:
    handle = held(system, ready(system, command="true"))
    assert system.kill([handle], force=False) == {handle: True}
    assert names(engine) == []
    assert system.exit_info([handle])[handle].exit_status is ExitStatus.ABORTED_BEFORE_RUNNING
    system.release([handle])
    assert held(system, ready(system, command="true")) == handle  # the same token: the same launch, which is over
    assert names(engine) == []
    assert system.settle([Launch(token=f"{RECORD}.1:a:1")]) == {f"{RECORD}.1:a:1": Settled.NOT_STARTED}


def test_a_container_removed_by_hand_is_absent_and_no_end(system: DockerSystem, engine: Engine) -> None:
    handle = held(system, ready(system, command="sleep 60"))
    system.release([handle])
    until(lambda: running(system, handle))
    engine.remove(handle.partition("/")[0])
    assert system.status([handle])[handle].state is NativeState.ABSENT
    assert system.survey(RECORD) == {} and system.exit_info([handle]) == {}


def test_only_what_bears_our_labels_is_touched(system: DockerSystem, engine: Engine) -> None:
    for words in ((), ("--label=jobmill.system=docker", f"--label=jobmill.token={RECORD}.1:z:1")):
        other = engine.out("run", "-d", "--network=none", *words, IMAGE, "sleep", "60")
        handle = f"{other}/{RECORD}.1:a:1"
        assert system.status([handle])[handle].state is NativeState.ABSENT
        system.kill([handle], force=True)
        system.forget([handle])
        system.release([handle])
        assert engine.out("inspect", "--format", "{{.State.Status}}", other) == "running"
        engine.remove(other)


def test_containers_go_after_their_end_was_taken_down(make: Make, engine: Engine) -> None:
    system = make(keep=0)
    handle = held(system, ready(system, command="echo kept"))
    system.release([handle])
    until(lambda: system.survey(RECORD) == {} and not names(engine))
    assert system.exit_info([handle])[handle].regular
    assert system.logs(handle, "stdout", 0) == b"kept\n"


def test_a_spool_that_was_emptied_does_not_lose_the_end(system: DockerSystem) -> None:
    handle = held(system, ready(system, command="sleep 1; exit 5"))
    system.release([handle])
    until(lambda: running(system, handle))
    (system.spool / "jobs" / "a" / "run.1" / "run").unlink()
    assert end(system, handle).exit_value == 5


def test_logs_by_offset_while_it_runs(system: DockerSystem) -> None:
    handle = held(system, ready(system, command="echo one; echo two; echo err >&2; sleep 60"))
    system.release([handle])
    until(lambda: system.logs(handle, "stdout", 0) == b"one\ntwo\n")
    assert system.logs(handle, "stdout", 4) == b"two\n"
    assert system.logs(handle, "stdout", 4, 1) == b"t"
    assert system.logs(handle, "stdout", 8) == b""
    assert until(lambda: system.logs(handle, "stderr", 0)) == b"err\n"
    assert system.logs(handle, "nothing", 0) == b""
    with pytest.raises(ValueError):
        system.logs(handle, "../x", 0)


# Many, and an engine that is not there.


def test_many_at_once(system: DockerSystem) -> None:
    many = 60 if not system.engine.podman else 20
    began = time.monotonic()
    submissions = [ready(system, f"m{n}", command=f"echo {n}; exit {n % 3}") for n in range(many)]
    answers = dict(zip([it.job_id for it in submissions], system.submit(submissions), strict=True))
    while again := [it for it in submissions if not isinstance(answers[it.job_id], str)]:  # what a slow engine left
        assert time.monotonic() - began < 60, answers
        answers |= zip([it.job_id for it in again], system.submit(again), strict=True)
    handles = [str(answers[it.job_id]) for it in submissions]
    left = set(handles)
    while left:
        assert time.monotonic() - began < 100
        seen = system.survey(RECORD)
        system.release([handle for handle, look in seen.items() if look.held])
        left = {handle for handle in handles if handle in seen}
    ends = system.exit_info(handles)
    assert [ends[handle].exit_value for handle in handles] == [n % 3 for n in range(many)]
    assert [int(system.logs(handle, "stdout", 0)) for handle in handles] == list(range(many))


def test_an_engine_that_is_down_is_unavailable(make: Make, tmp_path: Path) -> None:
    for options in ({"host": f"unix://{tmp_path}/none"}, {"engine": "no-such-engine"}):
        system = make(**options)
        handle, token = f"{'0' * 64}/{RECORD}.1:a:1", f"{RECORD}.1:a:1"
        calls: list[tuple[Callable[..., Any], list[Any], dict[str, Any]]] = [
            (system.submit, [[ready(system, command="x")]], {}),
            (system.survey, [RECORD], {}),
            (system.inventory, [RECORD], {}),
            (system.status, [[handle]], {}),
            (system.exit_info, [[handle]], {}),
            (system.kill, [[handle]], {"force": True}),
            (system.settle, [[Launch(token=token)]], {}),
        ]
        for verb, args, more in calls:
            with pytest.raises(SystemUnavailable):
                verb(*args, **more)
        assert [check.ok for check in system.check()] == [False]


def test_an_engine_that_hangs_does_not_hang_us(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stuck = tmp_path / "docker"
    stuck.write_text("#!/bin/sh\nexec sleep 60\n")
    stuck.chmod(0o755)
    system = make(engine=str(stuck))
    monkeypatch.setattr(system.engine, "deadline", 0.3)
    answer = refused(system, ready(system, command="x"))
    assert answer.failure is SubmitFailure.UNCLEAR
    with pytest.raises(SystemUnavailable):
        system.survey(RECORD)


def test_a_slow_engine_keeps_nobody_silent_for_longer_than_a_lease(
    make: Make, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every call takes two seconds: what a verb asks for after the other has one bound, well below ten seconds."""
    slow = tmp_path / Path(engine.program).name
    slow.write_text(f'#!/bin/sh\n[ -e {tmp_path}/fast ] || sleep 2\nexec {engine.program} "$@"\n')
    slow.chmod(0o755)
    (tmp_path / "fast").touch()
    system = make(engine=str(slow))
    monkeypatch.setattr(docker, "WHOLE", 3.0)
    handle = held(system, ready(system, "r", command="trap '' TERM; sleep 60"))
    system.release([handle])
    until(lambda: running(system, handle))
    (tmp_path / "fast").unlink()
    for verb, args, more in (
        (system.kill, [[handle]], {"force": True}),
        (system.survey, [RECORD], {}),
        (system.inventory, [RECORD], {}),
        (system.forget, [[handle]], {}),
    ):
        began = time.monotonic()
        with suppress(SystemUnavailable):
            verb(*args, **more)  # type: ignore[operator]
        assert time.monotonic() - began < 3.0 + docker.COLLECT + 1.0, verb
    (tmp_path / "fast").touch()
    assert until(lambda: system.kill([handle], force=True)[handle])


@pytest.mark.parametrize("engine", ["docker"], indirect=True)  # podman has no daemon
def test_an_engine_that_stands_still_is_told_within_a_lease(system: DockerSystem, engine: Dockerd) -> None:
    handle = held(system, ready(system, "r", command="sleep 60"))
    system.release([handle])
    until(lambda: running(system, handle))
    submission = ready(system, "s", command="true")
    with engine.stopped():
        for verb, args, more in (
            (system.submit, [[submission] * 9], {}),
            (system.survey, [RECORD], {}),
            (system.kill, [[handle]], {"force": True}),
        ):
            began = time.monotonic()
            answers = None
            with suppress(SystemUnavailable):
                answers = verb(*args, **more)  # type: ignore[operator]
            assert time.monotonic() - began < 9.0, verb
            for answer in answers if verb == system.submit else ():
                assert isinstance(answer, SubmitError)
                assert answer.failure in (SubmitFailure.UNCLEAR, SubmitFailure.TRANSIENT)
    assert until(lambda: system.kill([handle], force=True)[handle])
    assert len(names(engine)) <= 2  # what the engine did of it after all is one container


@pytest.mark.parametrize(
    "words", ["Emulating Docker", "[1]", '{"id": 3}', "[]x", '{"id":"a","state":null,"labels":null}']
)
def test_an_engine_that_answers_nonsense_is_unavailable(make: Make, tmp_path: Path, words: str) -> None:
    strange = tmp_path / "docker"
    strange.write_text(f"#!/bin/sh\necho {shlex.quote(words)}\n")
    strange.chmod(0o755)
    system = make(engine=str(strange))
    with pytest.raises(SystemUnavailable, match="no listing of containers"):
        system.survey(RECORD)
    (check, *_) = system.check()
    assert isinstance(check.detail, str)


def test_checks_say_what_is_there(make: Make, engine: Engine) -> None:
    assert all(check.ok for check in make().check()), make().check()
    bad = {check.name: check for check in make(image="no/such:1").check()}
    assert (bad["image"].ok, bad["image"].fix) == (False, f"{engine.program} pull no/such:1")


@pytest.mark.parametrize("engine", ["docker"], indirect=True)  # podman has no daemon
def test_an_engine_that_is_killed_and_comes_back(system: DockerSystem, engine: Dockerd) -> None:
    waiting = held(system, ready(system, "w", command="true"))
    handle = held(system, ready(system, "r", command="sleep 60"))
    system.release([handle])
    until(lambda: running(system, handle))
    engine.kill()
    with pytest.raises(SystemUnavailable):
        system.survey(RECORD)
    engine.start()
    seen = system.survey(RECORD)
    assert seen[waiting].held
    system.release([waiting])
    assert end(system, waiting).regular
    if handle not in seen:  # this engine ends what it finds running
        info = end(system, handle)
        assert not info.regular and info.exit_value != 0
    else:
        until(lambda: system.kill([handle], force=True)[handle])
        assert not end(system, handle).regular


def test_an_engine_can_be_looked_at_by_people(system: DockerSystem, engine: Engine) -> None:
    handle = held(system, ready(system, "seen-1", command="true"))
    (name,) = names(engine)
    assert name.startswith("jobmill-seen-1.1-")
    labels = json.loads(engine.out("inspect", "--format", "{{json .Config.Labels}}", name))
    assert labels["jobmill.token"] == handle.partition("/")[2]
    assert shlex.quote(name) == name
