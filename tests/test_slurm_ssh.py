"""The `slurm` system behind SSH, on real Slurm and a real sshd: what is cut, killed, full, changed or not there."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from far_side import far_side
from farm import Missing, Sshd, one_sshd
from laws import violations
from pipeline import Pipeline
from slurm_farm import Slurm
from test_slurm import up
from tokens import RECORD

from jobmill.errors import ConfigError, SystemUnavailable
from jobmill.jobs.cluster import ClusterJob
from jobmill.jobs.spec import JobSpec
from jobmill.jobs.states import ENDED
from jobmill.ledger import listing
from jobmill.systems import batch_options, ssh_config, ssh_host
from jobmill.systems.command_line import Unanswered
from jobmill.systems.far_command_line import FarCommandLine
from jobmill.systems.lsf import LsfSystem
from jobmill.systems.pbspro import PbsProSystem
from jobmill.systems.slurm import SlurmSystem
from jobmill.systems.system import (
    ExitInfo,
    Launch,
    NativeState,
    Settled,
    Submission,
    SubmitError,
    SubmitFailure,
    Transfer,
)
from jobmill.testing.schedulers.site import Site

pytestmark = pytest.mark.timeout(180)
# a command of the site, which does the right thing and then goes wrong
SLOW = '#!/bin/sh\n/usr/bin/{0} "$@"; code=$?; echo x >> {1}/{0}.done; sleep {2}; exit $code\n'


@pytest.fixture(scope="module")
def cluster() -> Iterator[Slurm]:
    """One node, without accounting."""
    yield from up()


@pytest.fixture
def login(tmp_path: Path) -> Iterator[Sshd]:
    """A login node of one test, which talks at every login."""
    (banner := tmp_path / "banner").write_text("sbatch: Submitted batch job 4711\n{}\n")
    try:
        with one_sshd(tmp_path / "login", f"Banner {banner}") as host:
            (host.home / ".bashrc").write_text("echo WELCOME; echo 'jobmill-ready x {}'; echo oops >&2\n")
            yield host
    except Missing as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error), pytrace=False)
        pytest.skip(str(error))


class Bench:
    """A slurm system behind SSH, and the launches of one test."""

    def __init__(self, cluster: Slurm, login: Sshd, folder: Path) -> None:
        self.cluster, self.login, self.folder = cluster, login, folder
        self.there = folder / "there"  # not below the spool here
        self.life = f"{RECORD}x{time.monotonic_ns()}"
        self.made: list[SlurmSystem] = []
        self.options: dict[str, Any] = login.options(folder=str(self.there), keepalive=2, connect_timeout=3)
        self.options |= {"env": cluster.env, "poll_interval": 1, "kill_grace": 0.5, "late": 3}
        self.system = self.another()

    def another(self, **options: Any) -> SlurmSystem:
        """Return the system as another process has it."""
        self.made.append(SlurmSystem.build("slurm", self.options | options, self.folder / "spool"))
        return self.made[-1]

    def close(self) -> None:
        for system in self.made:
            system.close()

    def job(self, name: str, text: str, **fields: Any) -> Submission:
        count = f"echo x >> {self.folder}/count.{name}; {text}"
        token = f"{self.life}.1:{name}:1"
        return Submission(token=token, job_id=name, run=1, argv=("/bin/sh", "-c", count), name=name, **fields)

    def launch(self, *jobs: Submission) -> list[str]:
        answers = self.system.submit(jobs)
        assert not [it for it in answers if isinstance(it, SubmitError)], answers
        self.system.release([str(it) for it in answers])
        return [str(it) for it in answers]

    def until(self, look: Callable[[], Any], seconds: float = 60.0) -> Any:
        until = time.monotonic() + seconds
        while not (found := self.tried(look)):
            assert time.monotonic() < until, "waited in vain"
            time.sleep(0.2)
        return found

    def tried(self, look: Callable[[], Any]) -> Any:
        """Ask as a worker does: an outage is no answer."""
        try:
            return look()
        except SystemUnavailable:
            return None

    def end(self, handle: str) -> ExitInfo:
        found: ExitInfo = self.until(lambda: self.system.exit_info([handle]).get(handle))
        return found

    def started(self, name: str) -> int:
        path = self.folder / f"count.{name}"
        return len(path.read_text().split()) if path.exists() else 0

    def commands(self, **seconds: float) -> str:
        """Return a PATH on which some of the commands take so long after what they do; `<name>.done` counts them."""
        folder = self.folder / "bin"
        folder.mkdir(exist_ok=True)
        for name, wait in seconds.items():
            (folder / name).write_text(SLOW.format(name, folder, wait))
            (folder / name).chmod(0o755)
        return f"{folder}:/usr/bin:/bin"

    def done(self, name: str) -> bool:
        return (self.folder / "bin" / f"{name}.done").exists()

    def listed(self) -> int:
        return len(self.cluster.command("squeue", "-h", "--me").splitlines())

    def folder_of(self, name: str) -> Path:
        (found,) = self.there.glob(f"spool/*/jobs/{name}/run.1")
        return found

    def desks(self) -> list[int]:
        """Return the processes of our desks on the login node."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    words = (entry / "cmdline").read_bytes()
                    if b"far_desk" in words and os.fsencode(self.there) in words:
                        found.append(int(entry.name))
        return found


@pytest.fixture
def bench(cluster: Slurm, login: Sshd, tmp_path: Path) -> Iterator[Bench]:
    made = Bench(cluster, login, tmp_path)
    yield made
    made.close()
    cluster.empty()


def meanwhile(act: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    return thread


# A launch, from the beginning to its files at home.


def test_a_launch_lies_there_until_its_results_come_home(bench: Bench) -> None:
    bench.folder.joinpath("in.txt").write_text("reads\n")
    job = bench.job(
        "a",
        "cat in.txt; echo y > y.out; echo $SLURM_JOB_ID >&2; exit 3",
        cpus=2,
        inputs=(Transfer(source=str(bench.folder / "in.txt"), target="in.txt"),),
    )
    staged = bench.system.stage_in(job, lambda _: None)
    assert staged.staged is not None and staged.staged.startswith(str(bench.there))
    (handle,) = bench.launch(staged)
    end = bench.end(handle)
    assert end.exit_value == 3 and end.native_id == handle.partition("/")[0]
    assert bench.system.logs(handle, "stdout", 0) == b"reads\n"
    assert not (bench.folder / "spool" / "jobs").exists()
    home = bench.folder / "spool" / "jobs" / "a" / "run.1"
    assert list(bench.system.stage_out(handle, home, ["*.out", "no*"], lambda _: None)) == ["no*"]
    assert (home / "outputs" / "y.out").read_text() == "y\n"
    assert (home / "stderr").read_text().strip() == handle.partition("/")[0]
    assert (home / "run").read_text() == (bench.folder_of("a") / "run").read_text()
    assert not (bench.folder / "spool" / "lib").exists()
    assert len(bench.desks()) <= 2, "a channel for each question"


def test_what_ended_is_removed_there_after_a_time(bench: Bench) -> None:
    """Also the folder of what was taken out of the line; never one of a launch that waits."""
    ended, waits, cancelled = bench.launch(
        bench.job("e", "true"), *(bench.job(n, "true", native="--begin=now+1hour") for n in ("w", "c"))
    )
    bench.end(ended)
    bench.until(lambda: bench.system.kill([cancelled], force=False)[cancelled])
    bench.system.forget([ended, cancelled])
    old = time.time() - 8 * 86400
    for name in ("e", "w", "c"):
        for path in bench.folder_of(name).iterdir():
            os.utime(path, (old, old))
    bench.system.spool._prune_at = 0.0  # type: ignore[attr-defined]
    bench.system.forget([ended])
    assert not list(bench.there.glob("spool/*/jobs/[ec]/run.1"))
    assert bench.folder_of("w").exists() and bench.system.status([waits])[waits].state is NativeState.SUBMITTED


# What is cut.


def test_a_connection_that_is_cut_in_the_middle_of_sbatch(bench: Bench) -> None:
    """The answer is UNCLEAR, never a second submission; the job is found by its token, and runs once."""
    bench.system = bench.another(path=bench.commands(sbatch=3))

    def cut() -> None:
        while not bench.done("sbatch"):
            time.sleep(0.02)
        for pid in bench.login.sessions():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    thread = meanwhile(cut)
    job = bench.job("a", "true")
    (answer,) = bench.system.submit([job])
    thread.join(20)
    assert isinstance(answer, SubmitError) and answer.failure is SubmitFailure.UNCLEAR, answer
    assert bench.listed() == 1
    bench.system = bench.another()
    handle = bench.until(lambda: bench.system.settle([Launch(token=job.token, handle=None)])[job.token])
    assert isinstance(handle, str) and handle.endswith(job.token)
    bench.system.release([handle])
    assert bench.end(handle).regular and bench.started("a") == 1


def test_a_desk_that_is_killed_in_the_middle_of_sbatch(bench: Bench) -> None:
    bench.system = bench.another(path=bench.commands(sbatch=2))

    def cut() -> None:
        while not bench.done("sbatch"):
            time.sleep(0.02)
        for pid in bench.desks():
            os.kill(pid, signal.SIGKILL)

    thread = meanwhile(cut)
    job = bench.job("a", "true")
    (answer,) = bench.system.submit([job])
    thread.join(20)
    assert isinstance(answer, SubmitError) and answer.failure is SubmitFailure.UNCLEAR, answer
    handle = bench.until(lambda: bench.system.settle([Launch(token=job.token, handle=None)])[job.token])
    assert isinstance(handle, str) and bench.listed() == 1


def test_a_command_that_hangs_there_ends_there(bench: Bench) -> None:
    bench.system = bench.another(path=bench.commands(squeue=77))
    began = time.monotonic()
    with pytest.raises(Unanswered, match="squeue"):
        bench.system.survey(RECORD)
    assert time.monotonic() - began < 9
    bench.until(lambda: "sleep 77" not in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout)
    with pytest.raises(Unanswered):  # who has given no answer is waited for only shortly
        bench.system.survey(RECORD)
    assert time.monotonic() - began < 12


def test_a_login_node_that_dies_and_comes_back(bench: Bench) -> None:
    """What runs runs on, what is asked meanwhile is unavailable within seconds, and it heals by itself."""
    (handle,) = bench.launch(bench.job("a", "sleep 4; echo late"))
    bench.until(lambda: bench.system.status([handle])[handle].alive and bench.started("a"))
    bench.login.kill()
    began = time.monotonic()
    job = bench.job("b", "true")
    with pytest.raises(SystemUnavailable):
        bench.system.status([handle])
    with pytest.raises(SystemUnavailable) as told:
        bench.system.submit([job])
    assert not isinstance(told.value, Unanswered), "nothing of it was sent"
    assert time.monotonic() - began < 20
    with pytest.raises(SystemUnavailable):
        bench.system.exit_info([handle])
    time.sleep(3)
    bench.login.start()
    assert bench.end(handle).regular and bench.started("a") == 1
    assert bench.system.logs(handle, "stdout", 0) == b"late\n"
    assert bench.until(lambda: bench.system.settle([Launch(token=job.token, handle=None)])) == {
        job.token: Settled.NOT_STARTED
    }


def test_an_idle_connection_is_opened_anew_without_a_word(bench: Bench) -> None:
    """A desk leaves when nobody asks: the next command has certainly not been sent to it."""
    bench.system.survey(RECORD)
    for pid in bench.desks():
        os.kill(pid, signal.SIGKILL)
    bench.until(lambda: not bench.desks())
    time.sleep(0.5)
    assert bench.system.survey(RECORD) == {}


# Who dies.


def test_a_starter_that_is_killed_at_any_step_is_settled_by_another(bench: Bench) -> None:
    nothing, written, sent = (bench.job(name, "true") for name in ("n", "w", "s"))
    made = bench.system.spool.write(written, kind="slurm", variable="SLURM_JOB_ID", redirect=False)
    assert not isinstance(made, str)
    folder, script = made
    (held,) = bench.system.submit([sent])
    other = bench.another()
    answers = other.settle([Launch(token=it.token, handle=None) for it in (nothing, written, sent)])
    assert answers == {nothing.token: Settled.NOT_STARTED, written.token: Settled.NOT_STARTED, sent.token: held}
    # the one that was believed dead goes on: its launch is a no-op
    (late,) = bench.system.submit([written])
    assert isinstance(late, SubmitError) and "over" in late.message, late
    native = bench.system.send(written, folder, script)
    assert isinstance(native, str)
    bench.system.release([f"{native}/{written.token}"])
    bench.until(lambda: bench.system.status([f"{native}/{written.token}"])[f"{native}/{written.token}"].alive is False)
    assert bench.started("w") == 0


# What is not as it should be.


def test_a_host_key_that_changed_is_refused_with_the_fix(bench: Bench) -> None:
    bench.login.kill()
    bench.login.change_host_key()
    bench.login.start()
    check, *rest = bench.system.check()
    assert not check.ok and not rest and "ssh-keygen" in check.detail, check
    with pytest.raises(SystemUnavailable, match=r"the host key of .* has changed"):
        bench.system.submit([bench.job("a", "true")])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"python": "/no/python3"}, "/no/python3"),
        ({"user": "nobody-such"}, "nobody-such"),
        ({"port": 1}, ":1"),
        ({"known_hosts": "/dev/null"}, "not a known host"),
        ({"folder": "/proc/nowhere"}, "/proc/nowhere"),
    ],
)
def test_doctor_says_what_is_wrong_with_the_way(bench: Bench, options: dict[str, Any], words: str) -> None:
    check, *rest = bench.another(**options).check()
    assert not check.ok and not rest and check.fix and words in check.detail, check


def test_doctor_says_what_is_wrong_there(bench: Bench) -> None:
    names = {check.name.rpartition(": ")[2]: check for check in bench.system.check()}
    assert all(check.ok for check in names.values()) and {"reached", "disk", "slurm", "accounting"} <= set(names)
    lost = {check.name: check for check in bench.another(path="/nowhere").check()}
    assert not lost["slurm"].ok and "no program 'squeue' in /nowhere" in lost["slurm"].detail, lost
    assert "on the login node" in lost["slurm"].fix
    with pytest.raises(SystemUnavailable, match="no program 'sbatch'"):
        bench.another(path="/nowhere").submit([bench.job("a", "true")])


def test_a_full_disk_there_is_an_outage_and_no_end(bench: Bench) -> None:
    small = bench.folder / "small"
    small.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", small], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no tmpfs can be mounted here ({done.stderr.strip()}): docker run --privileged")
    try:
        bench.system = bench.another(folder=str(small / "far"))
        (handle,) = bench.launch(bench.job("a", "true"))
        bench.end(handle)
        with contextlib.suppress(OSError), (small / "fill").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        with pytest.raises(SystemUnavailable, match="No space left"):
            bench.system.submit([bench.job("b", "true")])
        assert bench.listed() == 0
        assert bench.system.settle([Launch(token=bench.job("c", "true").token, handle=None)]) == {
            bench.job("c", "true").token: Settled.UNKNOWN
        }
        (small / "fill").unlink()
        bench.end(*bench.launch(bench.job("b", "true")))
    finally:
        bench.close()
        bench.until(lambda: not subprocess.run(["umount", small], capture_output=True).returncode, 40)


@pytest.mark.parametrize(
    "answer",
    [
        "None",
        "5",
        "[]",
        "[1, 2]",
        "['taken', []]",
        "{}",
        "{'code': 'x'}",
        "{'code': 0, 'out': 5, 'err': ''}",
        "{'a': 1}",
    ],
)
def test_a_login_node_that_talks_nonsense_is_as_good_as_silent(bench: Bench, answer: str) -> None:
    """Whatever it says, a worker meets an outage, and nothing is told as ended or as never started."""
    text = f"ready()\nfor it in questions():\n    say(json.dumps(dict(n=it['n'], answer={answer})) + chr(10))\n"
    system = bench.another(python=far_side(bench.folder / "evil.py", text))
    job = bench.job("a", "true")
    handle = f"4711/{job.token}"
    asked: list[Callable[[], Any]] = [
        lambda: system.survey(RECORD),
        lambda: system.submit([job]),
        lambda: system.status([handle]),
        lambda: system.exit_info([handle]),
        lambda: system.kill([handle], force=True),
        lambda: system.spool.progress([job.token]),
        system.notices,
        lambda: system.done([handle]),
    ]
    for ask in asked:
        with contextlib.suppress(SystemUnavailable):
            found = ask()
            assert found in ({}, {handle: False}), found
    with contextlib.suppress(SystemUnavailable):
        assert system.settle([Launch(token=job.token, handle=None)]) == {job.token: Settled.UNKNOWN}
    assert bench.listed() == 0


@pytest.mark.parametrize("answer", [OSError(5, "Input/output error"), {"a": 1}, "", "-x", "a\nb"])
def test_a_login_node_that_cannot_say_who_logs_in_is_as_good_as_silent(answer: Any) -> None:
    class Login:
        host = type("Host", (), {"name": "login"})

        def ask(self, verb: str) -> Any:
            if isinstance(answer, OSError):
                raise answer
            return answer

    with pytest.raises(SystemUnavailable, match="login: "):
        _ = FarCommandLine(Login(), {}).user  # type: ignore[arg-type]


# The configuration.


def test_options(tmp_path: Path) -> None:
    assert set(batch_options.LOGIN) == {*ssh_host.OPTIONS, "folder"}
    host = {"host": "ann@login.example", "ssh_config": "none"}
    for kind in (SlurmSystem, PbsProSystem, LsfSystem):
        assert kind.build("x", host, tmp_path).stages and not kind.build("x", {}, tmp_path).stages
        for alone in ({"port": 22}, {"user": "ann"}, {"folder": "x"}, {"keep": 600}, {"paths": {"/a": "/b"}}):
            (key,) = alone
            with pytest.raises(ConfigError, match=rf"systems\.x\.{key}.*host:"):
                kind.build("x", alone, tmp_path)
    for wrong, words in (
        ({"container": "apptainer"}, "container"),
        ({"port": "x"}, "port"),
        ({"python": "a b"}, "python"),
        ({"keep": 5}, "keep"),
        ({"paths": {"a": "/b"}}, "paths"),
        ({"hots": "x"}, "did you mean"),
        ({"user": "bob"}, "say one"),
    ):
        with pytest.raises(ConfigError, match=words):
            SlurmSystem.build("x", host | wrong, tmp_path)


def test_without_paramiko_the_pip_line_is_told(tmp_path: Path) -> None:
    """And the system without a host needs none of it."""
    text = (
        "import sys; sys.modules['paramiko'] = None\n"
        "from pathlib import Path\nfrom jobmill.systems.slurm import SlurmSystem\n"
        "SlurmSystem.build('x', {}, Path('/tmp'))\n"
        "try: SlurmSystem.build('x', {'host': 'h'}, Path('/tmp'))\nexcept Exception as e: print(type(e).__name__, e)"
    )
    said = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True).stdout
    assert said.startswith("ConfigError") and "pip install 'jobmill[ssh]'" in said, said


def test_paths_of_a_job_are_those_of_the_cluster(tmp_path: Path) -> None:
    near = SlurmSystem.build("x", {}, tmp_path)
    far = SlurmSystem.build("x", {"host": "h", "ssh_config": "none", "paths": {"/data": "/scratch/d"}}, tmp_path)

    def prepared(system: SlurmSystem, **fields: Any) -> Submission:
        spec = JobSpec.parse({"command": "true", **fields})
        return ClusterJob(spec, job_id="a", run=1, record="r.1", system=system, spool="/s").prepare()

    assert prepared(near, workdir="~/x").workdir == f"{Path.home()}/x"
    assert prepared(far, workdir="~/x").workdir == "~/x"
    assert prepared(far, workdir="/data/x").workdir == "/scratch/d/x"
    assert prepared(far, workdir="/data/x").files == {"workdir": "/scratch/d/x\n"}
    assert prepared(near, workdir="/data/x").files == {}
    assert prepared(far, stdout="o/x").stdout == "o/x" and prepared(near, stdout="o/x").stdout.endswith("run.1/o/x")
    assert ssh_config.paths_of({"paths": {"/a/": "/b/"}}, "x") == {"/a": "/b"}


# All of it.


def run_pipeline(pipeline: Pipeline, folder: Path, *, middle: Callable[[], None]) -> dict[str, Any]:
    """Push jobs of every sort, let something happen in the midst of it, and return the rows by id."""
    (folder / "in.txt").write_text("reads\n")
    starts = folder / "starts"
    documents: list[dict[str, Any]] = [
        *({"id": f"j{n}", "command": f"echo {n} >> {starts}; echo out {n}; exit {n % 3}"} for n in range(6)),
        {
            "id": "files",
            "command": "cat in.txt > x.out; mkdir -p d; echo y > d/y",
            "inputs": [{"from": str(folder / "in.txt"), "to": "in.txt"}],
            "outputs": ["x.out", "d/*"],
        },
        {"id": "lacks", "command": "true", "outputs": ["no.out"]},
        {"id": "late", "command": "sleep 60", "resources": {"walltime": "2s"}},
        {"id": "steps", "steps": [{"name": "one", "command": "echo 1"}, {"name": "two", "command": "echo 2"}]},
        {"id": "waits", "command": "echo here; sleep 300"},
    ]
    pipeline.start()
    record = pipeline.client.record
    ids = pipeline.client.submit_many([JobSpec.parse(document) for document in documents])
    try:
        pipeline.until(lambda: [str(row.state) for row in listing.jobs(record, ["waits"])] == ["running"], 90)
        (row,) = listing.jobs(record, ["waits"])
        pipeline.until(lambda: pipeline.client.part(row, "stdout", 0) == b"here\n", 30)
        middle()
        pipeline.client.cancel(["waits"], "enough")
        pipeline.until(lambda: all(row.state in ENDED for row in listing.jobs(record, ids)), 120)
    except AssertionError:
        print([row for row in listing.jobs(record, ids) if row.state not in ENDED])
        print(pipeline.log.read_text(errors="replace")[-4000:])
        raise
    rows = {row.id: row for row in listing.jobs(record, ids)}
    told = {id_: (str(row.state), row.exit.get("reason")) for id_, row in rows.items()}
    for n in range(6):
        assert told[f"j{n}"] == (("failed", "exit_value") if n % 3 else ("done", None)), rows[f"j{n}"]
        assert (pipeline.state / "spool" / "jobs" / f"j{n}" / "run.1" / "stdout").read_text() == f"out {n}\n"
    assert told["files"] == told["steps"] == ("done", None), rows["files"]
    assert told["lacks"][0] == "failed" and "no.out" in str(rows["lacks"].exit), rows["lacks"]
    assert told["late"] == ("failed", "timeout") and told["waits"][0] == "cancelled", rows["waits"]
    home = pipeline.state / "spool" / "jobs"
    assert (home / "files" / f"run.{rows['files'].run}" / "outputs" / "x.out").read_text() == "reads\n"
    assert (home / "files" / f"run.{rows['files'].run}" / "outputs" / "d" / "y").read_text() == "y\n"
    assert sorted(map(int, starts.read_text().split())) == list(range(6))
    pipeline.until(lambda: not violations(record.client, at_rest=True))
    return rows


def test_the_whole_pipeline(bench: Bench) -> None:
    """The starter is killed, and the login node for some seconds: nothing is lost, doubled, or told wrongly."""
    here = bench.options | {"kind": "slurm", "limit": 40, "late": 5}
    config = {"systems": {"main": here}, "limits": {"lease": "5s"}}
    pipeline = Pipeline(bench.folder / "p", config=json.dumps(config))

    def middle() -> None:
        pipeline.kill("starter")
        bench.login.kill()
        time.sleep(3)
        bench.login.start()
        pipeline.start("starter")

    try:
        run_pipeline(pipeline, bench.folder, middle=middle)
        bench.until(lambda: bench.listed() == 0)
    finally:
        pipeline.stop()


def test_pbspro_behind_ssh(login: Sshd, tmp_path: Path) -> None:
    """Another scheduler is the same: over its fake commands."""
    site = Site(tmp_path / "site", slots=4)
    options = login.options(folder=str(tmp_path / "there"), env=dict(site.env), path=site.path)
    here = options | {"kind": "pbspro", "limit": 40, "poll_interval": 1, "kill_grace": 0.5, "late": 5}
    config = {"systems": {"main": here}, "limits": {"lease": "5s"}}
    pipeline = Pipeline(tmp_path / "p", config=json.dumps(config))
    try:
        run_pipeline(pipeline, tmp_path, middle=lambda: (pipeline.kill("fetcher"), pipeline.start("fetcher"))[0])
    finally:
        pipeline.stop()
        site.close()
