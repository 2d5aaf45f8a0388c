"""Commands that come and go: how long each takes from its start to its exit."""

from __future__ import annotations

import resource
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.contender import WrongResult


@dataclass(frozen=True, kw_only=True)
class Start:
    """Medians of one command, in milliseconds."""

    wall_ms: float
    cpu_ms: float  # user and system: what a busy machine changes less


def measure(
    commands: Mapping[str, Sequence[str]], rounds: int, *, env: Mapping[str, str], folder: Path
) -> dict[str, Start]:
    """Run each command once a round, in turns, and return the medians by name; raise WrongResult when one fails."""
    wall: dict[str, list[float]] = {name: [] for name in commands}
    cpu: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(rounds + 1):
        for name, command in commands.items():
            before, begin = _children(), time.perf_counter()
            ended = subprocess.run(command, env=dict(env), cwd=folder, capture_output=True, timeout=120, check=False)
            seconds, used = time.perf_counter() - begin, _children() - before
            if ended.returncode != 0:
                words = ended.stderr.decode(errors="replace").strip()[-300:]
                raise WrongResult(f"{' '.join(command)} exited with {ended.returncode}: {words}")
            if number:  # the first round fills the page cache
                wall[name].append(1000 * seconds)
                cpu[name].append(1000 * used)
    return {
        name: Start(wall_ms=statistics.median(wall[name]), cpu_ms=statistics.median(cpu[name])) for name in commands
    }


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
