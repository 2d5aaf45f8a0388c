"""xargs: two processes at a time, nothing remembered; the floor that any system with a record stands above."""

from __future__ import annotations

import subprocess
import time

from benchmarks.contender import COMMAND, SLOTS, Contender, WrongResult


class Xargs(Contender[float]):
    """``xargs -P2 -n1 /bin/true`` over N lines; it exits with 123 when any of them did not exit with 0."""

    name = "xargs"
    durability = "none: no record, no queue"

    def prepare(self) -> None:
        """Find out which xargs it is."""
        words = subprocess.run(["xargs", "--version"], capture_output=True, text=True, timeout=10, check=False).stdout
        self.version = words.split("\n")[0].rpartition(" ")[2]

    def round(self, jobs: int) -> float:
        """Clock the whole program."""
        lines = "".join(f"{number}\n" for number in range(jobs))
        begin = time.perf_counter()
        ended = subprocess.run(
            ["xargs", f"-P{SLOTS}", "-n1", COMMAND], input=lines, text=True, timeout=3600, check=False
        )
        seconds = time.perf_counter() - begin
        if ended.returncode != 0:
            raise WrongResult(f"xargs exited with {ended.returncode}")
        return seconds
