"""Every example is a valid job, does what its comments say, and stays valid as the format grows."""

import json
import math
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from jobmill.jobs.document import load
from jobmill.jobs.local import LocalJob
from jobmill.jobs.spec import JobSpec
from jobmill.systems.step_progress import progress

EXAMPLES = Path(__file__).parent.parent / "examples"
FILES = sorted(EXAMPLES.glob("*.yaml"))


def spec_of(file: Path) -> JobSpec:
    documents = load(file.read_bytes(), limit=1 << 20, where=file.name)
    assert len(documents) == 1
    return JobSpec.parse(documents[0])


def test_there_are_examples() -> None:
    assert {"hello", "sleep", "fails", "accounts", "archive", "monte_carlo"} <= {file.stem for file in FILES}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_an_example_is_a_valid_job_that_keeps_its_meaning(file: Path) -> None:
    spec = spec_of(file)
    assert spec.name == file.stem.replace("_", "-")
    assert JobSpec.from_canonical(spec.canonical()).canonical() == spec.canonical()
    assert file.read_text().startswith("# ")


def run(spec: JobSpec, spool: Path) -> tuple[int, Path, str]:
    """Run a job's submission as a runner does, without one: its exit value, run folder and stdout."""
    job = LocalJob(spec, job_id="example", run=1, record="r", system=None, spool=spool)  # type: ignore[arg-type]
    ready = job.prepare()
    folder = Path(job.folder)
    folder.mkdir(parents=True)
    for name, text in ready.files.items():
        (folder / name).write_text(text)
    env = {
        "PATH": os.environ["PATH"],
        "JOBMILL_JOB_ID": "example",
        "JOBMILL_RUN": "1",
        "JOBMILL_RUN_FOLDER": str(folder),
        "JOBMILL_ERROR_FILE": str(folder / "error"),
        "JOBMILL_RETURN_FILE": str(folder / "return.json"),
        **ready.env,
    }
    with open(ready.stdin or os.devnull, "rb") as stdin:  # noqa: PTH123 - devnull
        done = subprocess.run(
            ready.argv,
            cwd=ready.workdir or folder,
            env=env,
            stdin=stdin,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
    return done.returncode, folder, done.stdout


def returned(folder: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((folder / "return.json").read_text())
    return value


def test_hello_greets(tmp_path: Path) -> None:
    code, _, out = run(spec_of(EXAMPLES / "hello.yaml"), tmp_path)
    assert code == 0
    assert out.startswith("hello from ") and out.endswith(", job example, run 1\n")


def test_fails_fails_as_it_says(tmp_path: Path) -> None:
    code, folder, _ = run(spec_of(EXAMPLES / "fails.yaml"), tmp_path)
    assert code == 3
    assert "no licence for 'align' is free" in (folder / "error").read_text()


def test_accounts_sorts_by_number(tmp_path: Path) -> None:
    code, _, out = run(spec_of(EXAMPLES / "accounts.yaml"), tmp_path)
    numbers = [int(line.split(":")[2]) for line in out.splitlines()]
    assert code == 0
    assert numbers == sorted(numbers, reverse=True)
    assert len(numbers) == len(Path("/etc/passwd").read_text().splitlines())


def test_sleep_sleeps_as_long_as_its_param_says(tmp_path: Path) -> None:
    spec = spec_of(EXAMPLES / "sleep.yaml")
    assert run(spec.with_(params={"seconds": 0}), tmp_path / "none")[0] == 0
    job = LocalJob(spec, job_id="s", run=1, record="r", system=None, spool=tmp_path)  # type: ignore[arg-type]
    assert job.prepare().env == {"JOBMILL_PARAM_SECONDS": "5"}


def test_archive_keeps_every_file(tmp_path: Path) -> None:
    code, folder, _ = run(spec_of(EXAMPLES / "archive.yaml"), tmp_path)
    assert code == 0, (folder / "error").read_text()
    result = returned(folder)
    assert result["files"] == len((folder / "sha256").read_text().splitlines()) > 100
    assert result["bytes"] == Path(result["archive"]).stat().st_size > 100_000
    assert all(line.endswith(": OK") for line in (folder / "compared").read_text().splitlines())
    assert progress(folder) == "4/4 verify"


def test_archive_notices_a_file_that_was_changed(tmp_path: Path) -> None:
    steps = [step.model_dump() for step in spec_of(EXAMPLES / "archive.yaml").steps]
    steps.insert(3, {"name": "harm", "command": 'sed -i "1s/^..../0000/" "$JOBMILL_RUN_FOLDER/sha256"'})
    wanted = [{key: value for key, value in step.items() if value} for step in steps]
    code, folder, _ = run(JobSpec.parse({"steps": wanted}), tmp_path)
    assert code == 1
    assert (folder / "error").read_text().startswith("step 5/5 verify failed: exit 1")


def test_monte_carlo_finds_pi_and_the_rounds_add_up(tmp_path: Path) -> None:
    spec = spec_of(EXAMPLES / "monte_carlo.yaml")
    assert spec.workdir == "."
    code, folder, _ = run(spec.with_(workdir=str(EXAMPLES), params={"darts": 20_000, "seed": 7}), tmp_path)
    assert code == 0, (folder / "error").read_text()
    result = returned(folder)
    assert result["darts"] == 80_000
    assert abs(result["pi"] - math.pi) < 4 * result["standard_error"] < 0.03
    assert result["after_first_round"] != result["pi"]
    assert (folder / "round-3.log").read_text().startswith("round 3: ")
