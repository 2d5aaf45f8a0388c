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

from jobmill.systems import registry
from jobmill.systems.system import Submission

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


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for one in KINDS:
        with tempfile.TemporaryDirectory() as place:
            (GOLDEN / f"{one}.txt").write_text(told(one, Path(place)))
