"""docker-compose.yml as it stands, on a real engine: it comes up, is healthy, and runs a pushed job to its end."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import images
import pytest
from engines import PATH, Dockerd, engine_for_tests

pytestmark = pytest.mark.timeout(300)
ROOT = Path(__file__).parent.parent
PROJECT = f"jm{os.getpid()}"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dockerd]:
    """An engine with a bridge, and the two images under the names that the file uses."""
    packages = tmp_path_factory.mktemp("packages")
    with engine_for_tests(network=True) as dockerd:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(packages), str(ROOT)]
        subprocess.run(pip, check=True, timeout=200, capture_output=True)
        path = "ENV PATH=/usr/local/bin:/usr/bin:/bin"
        changes = ["ENV PYTHONPATH=/packages", "USER jobmill", "WORKDIR /var/spool/jobmill"]
        dockerd.load("jobmill", images.python(packages), path, *changes, 'CMD ["jobmill", "--help"]')
        dockerd.load("redis:7-bookworm", images.redis(), path, "WORKDIR /data")
        yield dockerd


Compose = Callable[..., str]


@pytest.fixture
def compose(engine: Dockerd) -> Iterator[Compose]:
    program = shutil.which("docker-compose", path=PATH)
    assert program is not None, "apt-get install docker-compose"

    def _compose(*words: str, data: str = "", check: bool = True) -> str:
        done = subprocess.run(
            [program, "-p", PROJECT, "-f", str(ROOT / "docker-compose.yml"), *words],
            env=os.environ | {"PATH": PATH, "DOCKER_HOST": engine.host},
            input=data,
            capture_output=True,
            text=True,
            timeout=150,
            check=False,
        )
        assert not check or done.returncode == 0, done.stderr
        return done.stdout

    yield _compose
    _compose("down", "--volumes", "--timeout", "5", check=False)


def health(engine: Dockerd, compose: Compose) -> dict[str, str]:
    found = {}
    for service in ("redis", "manager", "starter", "fetcher"):
        container = compose("ps", "-q", service).strip()
        found[service] = engine.out("inspect", "--format", "{{.State.Health.Status}}", container)
    return found


def until(true: Callable[[], bool], seconds: float, told: Callable[[], object]) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, told()
        time.sleep(0.5)


def test_a_pushed_job_runs_to_its_end_and_all_are_healthy(engine: Dockerd, compose: Compose) -> None:
    compose("up", "-d", "--no-build")
    logs = lambda: compose("logs", "--no-color", check=False)  # noqa: E731
    push = ("exec", "-T", "redis", "redis-cli", "-x", "RPUSH", "Job_Queue")
    compose(*push, data="id: hello\ncommand: echo hello from $JOBMILL_JOB_ID\n")
    compose(*push, data="id: three\ncommand: exit 3\n")
    state = lambda job: compose("exec", "-T", "redis", "redis-cli", "HGET", f"Job:{job}", "state").strip()  # noqa: E731
    until(lambda: (state("hello"), state("three")) == ("done", "failed"), 60, logs)
    assert "hello from hello" in compose("exec", "-T", "starter", "jobmill", "logs", "hello")
    until(lambda: set(health(engine, compose).values()) == {"healthy"}, 60, lambda: (health(engine, compose), logs()))
    # a starter that hangs is found out by its silence
    starter = compose("ps", "-q", "starter").strip()
    engine.docker("exec", "-u", "root", starter, "sh", "-c", "kill -STOP -1")
    until(lambda: engine.docker("exec", starter, "jobmill", "alive", "starter", check=False).returncode == 1, 40, logs)
