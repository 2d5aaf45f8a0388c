"""What a console command costs: the time that the server spent on its questions, and the whole command's."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.contender import WrongResult
from jobmill.ledger.record import Record


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Medians of some runs."""

    server_ms: float  # spent in the server's commands, all together
    wall_ms: float  # from the start of the command to its end, Python's start included
    questions: int  # commands that the server answered


def cost(record: Record, config: Path, words: Sequence[str], rounds: int) -> Cost:
    """Run ``jobmill WORDS`` some times on a pipeline that is quiet; raise WrongResult when it fails."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JOBMILL_")}
    environment["JOBMILL_CONFIG"] = str(config)
    server, wall, questions = [], [], []
    for _ in range(rounds):
        record.call("CONFIG", "RESETSTAT")
        begin = time.perf_counter()
        ended = subprocess.run(
            [sys.executable, "-m", "jobmill.scripts.jobmill", *words],
            capture_output=True,
            text=True,
            env=environment,
            check=False,
            timeout=600,
        )
        wall.append((time.perf_counter() - begin) * 1000)
        if ended.returncode != 0 or not ended.stdout:
            last = ended.stderr.strip()[-300:]
            raise WrongResult(f"jobmill {' '.join(words)} exited with {ended.returncode}: {last}")
        facts: dict[str, dict[str, Any]] = record.call("INFO", "commandstats")  # not yet counted itself
        asked = {name: one for name, one in facts.items() if name != "cmdstat_config|resetstat"}
        server.append(sum(float(one["usec"]) for one in asked.values()) / 1000)
        questions.append(sum(int(one["calls"]) for one in asked.values()))
    return Cost(
        server_ms=round(statistics.median(server), 2),
        wall_ms=round(statistics.median(wall), 1),
        questions=round(statistics.median(questions)),
    )
