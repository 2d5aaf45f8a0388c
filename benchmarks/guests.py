"""Programs that are guests on a Slurm cluster, each in an environment of its own, behind programs that count."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import jobmill
from benchmarks.child import CLIENTS, environment
from benchmarks.contender import WrongResult
from benchmarks.peers.environment import provide
from jobmill.daemon.server import EmbeddedServer


class Guest:
    """A program whose client submits to Slurm; ``benchmarks/clients/guest_of_<name>.py`` is its user."""

    name: ClassVar[str]
    requirement: ClassVar[str] = ""
    how: ClassVar[str]  # in which form it runs, in a few words
    version: str = ""

    def prepare(self) -> None:
        """Install it into an environment of its own."""
        self.python = provide(self.name, self.requirement)
        self.version = self.requirement.partition("==")[2]

    @contextlib.contextmanager
    def serve(
        self, folder: Path, path: str, env: Mapping[str, str], options: Mapping[str, Any], wrap: Sequence[str] = ()
    ) -> Iterator[Mapping[str, Any]]:
        """Start what serves for longer than its user; give the options of its user.

        ``path``: with the programs that count first; ``env``: what Slurm's commands need; ``options``: of this guest;
        ``wrap``: words before those that start a program.
        """
        yield dict(options)

    def start(
        self, folder: Path, path: str, env: Mapping[str, str], wrap: Sequence[str] = ()
    ) -> subprocess.Popen[bytes]:
        """Start its user, ``wrap`` before its words; what it says goes to ``client.log``."""
        first, _, rest = path.partition(os.pathsep)
        # its own programs come after those that count
        whole = {**environment(self.python), **env, "PATH": os.pathsep.join((first, str(self.python.parent), rest))}
        with (folder / "client.log").open("ab") as log:
            return subprocess.Popen(
                [*wrap, str(self.python), str(CLIENTS / f"guest_of_{self.name}.py"), str(folder)],
                cwd=folder,
                env=whole,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )


class Jobmill(Guest):
    """jobmill: all that `jobmill up` starts, one `slurm` system."""

    name = "jobmill"
    how = "a Slurm job for each job, submitted held; a job tells its end by a file, and Slurm is asked rarely"

    def prepare(self) -> None:
        """It is here."""
        self.python = Path(sys.executable)
        self.version = jobmill.__version__

    @contextlib.contextmanager
    def serve(
        self, folder: Path, path: str, env: Mapping[str, str], options: Mapping[str, Any], wrap: Sequence[str] = ()
    ) -> Iterator[Mapping[str, Any]]:
        """Run `jobmill up`. Raises WrongResult when it does not start."""
        here = {"kind": "slurm", "limit": 5000, "path": path, "env": dict(env), **options}
        config = {"state": f"{folder}/state", "spool": f"{folder}/spool", "systems": {"cluster": here}}
        (folder / "jobmill.yaml").write_text(json.dumps(config))
        server = EmbeddedServer(folder / "state")
        words = [*wrap, str(self.python.with_name("jobmill")), "up", "--config", str(folder / "jobmill.yaml")]
        with (folder / "up.log").open("wb") as log:
            up = subprocess.Popen(words, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            until = time.monotonic() + 30
            while not server.socket.exists():
                if up.poll() is not None or time.monotonic() > until:
                    raise WrongResult(f"jobmill did not start: {(folder / 'up.log').read_text()[-800:]}")
                time.sleep(0.05)
            yield {"url": server.url}
        finally:
            up.terminate()
            try:
                up.wait(timeout=30)
            except subprocess.TimeoutExpired:
                up.kill()
                up.wait()


class Psij(Guest):
    """PSI/J (https://exaworks.org/psij), its slurm executor."""

    name = "psij"
    requirement = "psij-python==0.9.11"
    how = "a Slurm job for each job; `squeue --me` every 30 s, exit code from a file"


class Submitit(Guest):
    """submitit (https://github.com/facebookincubator/submitit), its slurm executor."""

    name = "submitit"
    requirement = "submitit==1.5.4"
    how = "a Slurm job for each job, with a Python and srun in it; a look for its result file each second"


class Parsl(Guest):
    """Parsl (https://parsl-project.org), SlurmProvider with the HighThroughputExecutor."""

    name = "parsl"
    requirement = "parsl==2026.10.26"
    how = "one Slurm job (a block), in which as many workers as slots take all jobs over the network"


GUESTS: Mapping[str, type[Guest]] = {guest.name: guest for guest in (Jobmill, Psij, Submitit, Parsl)}


@contextlib.contextmanager
def folder_for(guest: Guest) -> Iterator[Path]:
    """Give a folder of this run."""
    with tempfile.TemporaryDirectory(prefix=f"guest-{guest.name}-") as name:
        yield Path(name)
