"""HyperQueue (https://github.com/It4innovations/hyperqueue), the quickest of the schedulers for many small jobs."""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path

from benchmarks.contender import COMMAND, SLOTS, Contender, WrongResult
from benchmarks.peers.environment import provide

REQUIREMENT = "hyperqueue==0.27.0"


class HyperQueue(Contender[float]):
    """One server and one worker with two cpus, as its Python package starts them; tasks without stdout and stderr.

    The package on PyPI holds server, worker and Python interface, and no ``hq`` program.
    """

    name = "hyperqueue"
    durability = "none as started here: its server keeps jobs in memory (no journal)"

    def prepare(self) -> None:
        """Install it into an environment of its own."""
        self._python = provide(self.name, REQUIREMENT)
        self.version = REQUIREMENT.partition("==")[2]

    def round(self, jobs: int) -> float:
        """Let its own Python submit one job of N tasks, and wait for it."""
        program = Path(__file__).with_name("hyperqueue_round.py")
        with tempfile.TemporaryDirectory(prefix="hyperqueue-") as folder:
            ended = subprocess.run(
                [self._python, "-P", program, folder, str(jobs), str(SLOTS), COMMAND],
                capture_output=True,
                text=True,
                timeout=3600,
                check=False,
                cwd=folder,
            )
        if ended.returncode != 0:
            raise WrongResult(f"hyperqueue's round exited with {ended.returncode}: {ended.stderr.strip()[-500:]}")
        answer = json.loads(ended.stdout.splitlines()[-1])
        if answer["finished"] != jobs or answer["failed"] != 0:
            raise WrongResult(f"hyperqueue finished {answer['finished']} of {jobs}, failed {answer['failed']}")
        return float(answer["seconds"])
