"""A command put into a container by another program: what is made of it, and that it is never run bare."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import pytest

from jobmill.errors import ConfigError, PermanentError
from jobmill.jobs.job import Job
from jobmill.jobs.local import LocalJob
from jobmill.jobs.spec import JobSpec
from jobmill.systems.container_template import TEMPLATES, ContainerTemplate
from jobmill.systems.local import LocalSystem
from jobmill.systems.system import Submission

pytestmark = pytest.mark.timeout(60)


def job(tmp_path: Path, template: Any, **spec: Any) -> Job:
    options = {"slots": 1, "container": template}
    system = LocalSystem.build("local", options, tmp_path)
    return LocalJob(JobSpec.parse(spec), job_id="a", run=1, record="r", system=system, spool=tmp_path)


def prepared(tmp_path: Path, template: Any, **spec: Any) -> Submission:
    return job(tmp_path, template, **spec).prepare()


def test_words_are_filled_in_and_never_split(tmp_path: Path) -> None:
    own = "run --in '{folder} x' --at={workdir} --set {#variables} {image} -- {#command}"
    it = prepared(tmp_path, own, command=["a b", "{image}", "$x"], workdir="/w d", env={"A": "secret"}, container="i:1")
    folder = f"{tmp_path}/jobs/a/run.1"
    assert it.argv[:4] == ("run", "--in", f"{folder} x", "--at=/w d")
    assert it.argv[-5:] == ("i:1", "--", "a b", "{image}", "$x")
    assert ("--set", "A") in zip(it.argv, it.argv[1:], strict=False)
    assert ("--set", "JOBMILL_TOKEN") in zip(it.argv, it.argv[1:], strict=False)
    assert "secret" not in " ".join(it.argv) and it.container is None


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_shipped_ones_hold_image_folder_and_command(tmp_path: Path, name: str) -> None:
    it = prepared(tmp_path, name, command=["x", "y z"], container={"image": "i:1", "engine": name})
    assert it.argv[0] == name and it.argv[-3:] == ("i:1", "x", "y z")
    assert any(f"{tmp_path}/jobs/a/run.1" in word for word in it.argv)
    other = "docker" if name != "docker" else "podman"
    with pytest.raises(PermanentError, match=f"by {name}"):
        prepared(tmp_path, name, command="x", container={"image": "i:1", "engine": other})


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("dokcer", "did you mean 'docker'"),
        ("run {image}", "#command"),
        ("run {#command}", "{image} is missing"),
        ("run {image} {img} {#command}", "stands for nothing"),
        ("run {image} x{#command}", "stands for nothing"),
        ("run 'x", "cannot be split"),
        ("{#variables} {image} {#command}", "word before it"),
        ([1], "words of a command"),
        (5, "cannot be split"),
        ([], "words of a command"),
    ],
)
def test_a_template_that_cannot_be(template: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words.replace("{", r"\{")):
        ContainerTemplate.of("systems.local", template)


@pytest.mark.parametrize(
    ("template", "spec", "words"),
    [
        (None, {"command": "x", "container": "i"}, "runs none"),
        ("apptainer", {"command": "x", "container": {}}, "image is missing"),
        ("apptainer", {"command": "x", "container": {"image": "i", "volumes": ["/d"]}}, "for the site to say"),
        ("apptainer", {"command": "x", "container": {"image": "i", "network": "host"}}, "for the site to say"),
        ("apptainer", {"steps": [{"command": "x"}], "container": "i"}, "need a system of kind docker"),
    ],
)
def test_what_cannot_be_contained_is_never_run_bare(tmp_path: Path, template: Any, spec: Any, words: str) -> None:
    with pytest.raises(PermanentError, match=words):
        prepared(tmp_path, template, **spec)


def test_it_runs_on_the_local_system(tmp_path: Path) -> None:
    program = tmp_path / "contain"
    program.write_text(
        f"#!{sys.executable}\nimport os, sys\n"
        "print('image', sys.argv[1], os.environ['GREETING'], flush=True)\nos.execvp(sys.argv[2], sys.argv[2:])\n"
    )
    program.chmod(0o755)
    it = job(
        tmp_path,
        [str(program), "{image}", "{#command}"],
        command="echo in; exit 3",
        env={"GREETING": "hi"},
        container="i:1",
    )
    try:
        it.run_job()
        deadline = time.monotonic() + 20
        while not it.is_finished():
            assert time.monotonic() < deadline
            it.system.ends()
            time.sleep(0.01)
        info = it.exit_info()
        assert info is not None and info.exit_value == 3
        assert it.read("stdout") == b"image i:1 hi\nin\n"
    finally:
        it.system.close()
