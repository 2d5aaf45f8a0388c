"""What a job can do to whoever looks after it, by what it writes into its own run folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from jobmill.systems import run_folder
from jobmill.systems.batch_files import BatchFiles
from jobmill.systems.gridengine import GridEngineSystem
from jobmill.systems.registry import system_class
from jobmill.systems.system import Submission

pytestmark = pytest.mark.timeout(20)
TOKEN = "rec.1:job:1"


@pytest.fixture
def files(tmp_path: Path) -> BatchFiles:
    made = BatchFiles(os.fsencode(tmp_path), "here")
    made.write(TOKEN, "{}\n", ["/usr/bin/python3", "slurm", "SLURM_JOB_ID", "5"], "/lib", False)
    return made


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _zeros(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


def _folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("make", [_pipe, _zeros, _huge, _folder])
def test_a_marker_that_is_no_plain_file_holds_nobody_up(
    make: Callable[[Path], None], files: BatchFiles, tmp_path: Path
) -> None:
    """It would wait for the pipe's writer, or read until the memory is full: the fetcher, and so all jobs of all."""
    make(tmp_path / "jobs/job/run.1/run")
    assert files.records([TOKEN]) == {}
    assert files.began(TOKEN)
    assert files.settle(TOKEN) == ["unknown", ""]
    assert not files.gone(TOKEN)


@pytest.mark.parametrize("make", [_pipe, _zeros, _huge, _folder])
def test_words_and_steps_that_are_no_plain_files_hold_nobody_up(
    make: Callable[[Path], None], files: BatchFiles, tmp_path: Path
) -> None:
    for name in ("native.log", "steps"):
        make(tmp_path / "jobs/job/run.1" / name)
    assert not (files.said(TOKEN) or "").strip("\0")
    assert files.progress([TOKEN]) == {}


def test_a_spoiled_marker_keeps_nobody_elses_notices(files: BatchFiles, tmp_path: Path) -> None:
    _pipe(tmp_path / "jobs/job/run.1/run")
    other = "rec.1:other:1"
    files.write(other, "{}\n", ["/usr/bin/python3", "slurm", "SLURM_JOB_ID", "5"], "/lib", False)
    files.forget([TOKEN, other], True)
    assert (tmp_path / "jobs/other/run.1/fetched").exists()


def test_a_wish_that_cannot_be_written_is_told_by_other_ways(files: BatchFiles, tmp_path: Path) -> None:
    """An error here would look as if the whole system were out of reach; an end by force follows in any case."""
    (tmp_path / "jobs/job/run.1/wish").mkdir()
    (tmp_path / "jobs/job/run.1/wish/full").touch()
    files.wish(TOKEN, "TERM")
    assert not list((tmp_path / "jobs/job/run.1").glob("wish.*"))


@pytest.mark.parametrize("name", ["launch", "script"])
def test_what_an_earlier_run_put_into_the_next_ones_place_is_of_that_job_alone(
    name: str, files: BatchFiles, tmp_path: Path
) -> None:
    """It is no fault of the spool, for which the whole system would be taken for out of reach."""
    (tmp_path / "jobs/job/run.2" / name / "x").mkdir(parents=True)
    start = ["/usr/bin/python3", "slurm", "SLURM_JOB_ID", "5"]
    found = files.write("rec.1:job:2", "{}\n", start, "/lib", False)
    assert "in the way" in found["superseded"] and name in found["superseded"]


def test_a_file_in_place_of_the_next_run_is_of_that_job_alone(files: BatchFiles, tmp_path: Path) -> None:
    (tmp_path / "jobs/job/run.2").touch()
    found = files.write("rec.1:job:2", "{}\n", ["/usr/bin/python3", "slurm", "SLURM_JOB_ID", "5"], "/lib", False)
    assert "in the way" in found["superseded"]


@pytest.mark.parametrize("name", ["jobs", "notices", "notices/here"])
def test_what_is_in_the_way_in_the_spool_itself_is_no_launches_fault(name: str, tmp_path: Path) -> None:
    """A permanent refusal would end all jobs for what can be mended."""
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    made = BatchFiles(os.fsencode(tmp_path), "here")
    with pytest.raises(OSError):  # whichever: the spool cannot be used
        made.write(TOKEN, "{}\n", ["/usr/bin/python3", "slurm", "SLURM_JOB_ID", "5"], "/lib", False)


@pytest.mark.parametrize("began", [False, True])
def test_a_grid_engine_job_whose_error_was_cleared_and_that_began_is_not_deleted(began: bool, tmp_path: Path) -> None:
    """And one that was sealed by who died before its `qdel` is deleted by the next one."""
    log = tmp_path / "log"
    for name in ("qstat", "qdel"):
        (tmp_path / name).write_text(f"#!/bin/sh\necho {name} >> {log}\n")
        (tmp_path / name).chmod(0o755)
    options = {"path": f"{tmp_path}:/usr/bin:/bin", "drmaa": False}
    system = system_class("gridengine").build("here", options, tmp_path / "spool")
    assert isinstance(system, GridEngineSystem)
    it = Submission(token=TOKEN, job_id="job", run=1, argv=("true",))
    system.spool.write(it, kind="x", variable="X", redirect=False)
    if began:
        (tmp_path / "spool/jobs/job/run.1/run").write_bytes(run_folder.header(TOKEN, "gridengine:5"))
    for _ in range(2):
        system._bury("5", TOKEN)
    assert log.read_text().split().count("qdel") == (0 if began else 2)
