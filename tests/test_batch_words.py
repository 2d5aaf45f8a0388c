"""What each scheduler is told, word for word: the submit command and the script, beside golden files.

``python tests/test_batch_words.py`` writes them anew; what changed is then to be read and understood.
"""

from __future__ import annotations

import re
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from jobmill.errors import ConfigError
from jobmill.systems import registry
from jobmill.systems.system import Submission, SubmitError, SubmitFailure

GOLDEN = Path(__file__).parent / "golden"
KINDS = {"slurm": "sbatch", "pbspro": "qsub", "torque": "qsub", "lsf": "bsub"}
FULL: dict[str, Any] = {"cpus": 3, "memory": 1500, "gpus": 2, "nodes": 2, "tasks": 4}
FULL |= {"queue": "long", "account": "proj7", "walltime": 61.5, "native": '-l "a b"'}
JOBS: dict[str, dict[str, Any]] = {
    "nothing said": {},
    "everything said": FULL,
    "one second": {"walltime": 1.0},
    "a minute": {"walltime": 60.0},
    "a day and a half hour and a second": {"walltime": 88201.0},
    "tasks on one node": {"tasks": 8, "cpus": 2},
    "a terabyte": {"memory": 1 << 20},
}


def versions(folder: Path) -> None:
    """Write a qstat that says of which Torque it is: its qsub is told other words than Slurm's."""
    (folder / "qstat").write_text("#!/bin/sh\necho Version: 6.1.3 >&2\n")
    (folder / "qstat").chmod(0o755)


def told(kind: str, folder: Path) -> str:
    """Return what the submit command gets for each job, with the paths of this run taken out."""
    shim, log = folder / KINDS[kind], folder / "log"
    shim.write_text(
        f"#!{sys.executable} -S\nimport sys, shlex\n"
        f"open({str(log)!r}, 'a').write(shlex.join(sys.argv[1:]) + '\\n' + sys.stdin.read())\nsys.exit('refused')\n"
    )
    shim.chmod(0o755)
    versions(folder)
    options = {"path": f"{folder}:/usr/bin:/bin", "native": ["--site", "x"]}
    system: Any = registry.system_class(kind).build("here", options, folder / "spool")
    parts = []
    for number, (name, fields) in enumerate(JOBS.items(), 1):
        log.write_text("")
        it = Submission(token=f"rec.1:job-{number}:1", job_id=f"job-{number}", run=1, argv=("true",), **fields)
        system.submit([it])
        words, _, script = log.read_text().partition("\n")
        script = script or (folder / f"spool/jobs/job-{number}/run.1/script").read_text()
        parts.append(f"== {name}\n{KINDS[kind]} {words}\n" + (f"{script}" if number == 1 else ""))
    text = "\n".join(parts).replace(str(folder), "/FOLDER")
    return re.sub(r"/lib/[0-9a-f]{16}", "/lib/DIGEST", text)


@pytest.mark.parametrize("kind", KINDS)
def test_the_words(kind: str, tmp_path: Path) -> None:
    assert told(kind, tmp_path) == (GOLDEN / f"{kind}.txt").read_text()


@pytest.mark.parametrize("kind", KINDS)
def test_no_word_of_a_job_is_read_by_a_shell(kind: str, tmp_path: Path) -> None:
    """A queue, an account or native words of a hostile user stay words."""
    evil = "$(touch /tmp/x);`id`"
    shim, log = tmp_path / KINDS[kind], tmp_path / "log"
    shim.write_text(f"#!{sys.executable} -S\nimport sys\nopen({str(log)!r}, 'w').write(repr(sys.argv))\nsys.exit(1)\n")
    shim.chmod(0o755)
    versions(tmp_path)
    system = registry.system_class(kind).build("here", {"path": f"{tmp_path}:/usr/bin:/bin"}, tmp_path / "spool")
    fields = {"queue": evil, "account": evil, "native": shlex.quote(evil)}
    system.submit([Submission(token="rec.1:job:1", job_id="job", run=1, argv=("true",), **fields)])
    assert log.read_text().count("`id`") == 3


LOSING = {
    "slurm": ["-J x", "-Jx", "--job-name=x", "--job-name x", "--array=1-3", "--arr 1", "--wrap=id", "-M other"],
    "pbspro": ["-v A=1", "-vA=1", "-J 1-3"],
    "torque": ["-v A=1", "-vA=1", "-t 1-3", "-N x"],
    "gridengine": ["-N x", "-t 1-3"],
    "lsf": ["-Jd x", "-J x[1-3]"],
}


@pytest.mark.parametrize(("kind", "native"), [(kind, it) for kind, some in LOSING.items() for it in some])
def test_words_by_which_a_job_would_be_lost_are_refused(kind: str, native: str, tmp_path: Path) -> None:
    """They replace what bears the token (PBS takes the last `-v` alone): held for ever, and told to be lost."""
    system = registry.system_class(kind).build("here", {"path": str(tmp_path)}, tmp_path / "spool")
    it = Submission(token="rec.1:job:1", job_id="job", run=1, argv=("true",), native=f"--site x {native}")
    (answer,) = system.submit([it])
    assert isinstance(answer, SubmitError) and answer.failure is SubmitFailure.PERMANENT, answer
    assert "leave it out, and " in answer.message
    with pytest.raises(ConfigError, match="leave it out"):
        registry.system_class(kind).build("here", {"native": shlex.split(native)}, tmp_path / "spool")


@pytest.mark.parametrize("kind", KINDS)
def test_words_that_no_command_can_have_stop_nobody_else(kind: str, tmp_path: Path) -> None:
    """Such a command is not started at all, which looks as if the scheduler were away: for all jobs, for ever."""
    shim = tmp_path / KINDS[kind]
    shim.write_text("#!/bin/sh\nexit 1\n")
    shim.chmod(0o755)
    versions(tmp_path)
    system = registry.system_class(kind).build("here", {"path": f"{tmp_path}:/usr/bin:/bin"}, tmp_path / "spool")
    token = "rec.1:job:1"
    it = Submission(token=token, job_id="job", run=1, argv=("true",), native="-l " + "x" * 200_000)
    (answer,) = system.submit([it])
    assert isinstance(answer, SubmitError) and answer.failure is SubmitFailure.PERMANENT, answer
    assert len(answer.message) < 1000


@pytest.mark.parametrize("kind", [*KINDS, "gridengine"])
def test_an_id_that_a_job_wrote_into_a_marker_releases_nothing(kind: str, tmp_path: Path) -> None:
    """Jobs of one user can write to each other's run folders: 0 is all jobs to LSF, Grid Engine takes patterns."""
    log = tmp_path / "log"
    for name in ("scontrol", "qrls", "bresume"):
        (tmp_path / name).write_text(f'#!/bin/sh\necho "$0 $@" >> {log}\n')
        (tmp_path / name).chmod(0o755)
    system = registry.system_class(kind).build("here", {"path": f"{tmp_path}:/usr/bin:/bin"}, tmp_path / "spool")
    system.release([f"{native}/rec.1:job:1" for native in ("0", "*", "?", "-u", "all")])
    assert not log.exists(), log.read_text()
    system.release(["17/rec.1:job:1"])
    assert "17" in log.read_text()


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for one in KINDS:
        with tempfile.TemporaryDirectory() as place:
            (GOLDEN / f"{one}.txt").write_text(told(one, Path(place)))
