"""The user of a guest on a cluster: submits the jobs of a plan and takes down when each end is seen.

Standard library only: it runs in the Python of each program's own environment, in a folder with ``plan.json``:
``{"jobs": [{"argv", "number"}], "options": {…}}``. It writes ``submitted`` once all are in line, and a line for each
end: ``<number> <CLOCK_MONOTONIC, ns> <state>``; it leaves when all ends were seen, or when there is a file ``stop``.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

AGAIN = 3  # times that a job is submitted anew when its submission is told to have failed
LOOK = 1.0  # seconds between looks of who has to look


class Notes:
    """What the user saw."""

    def __init__(self, folder: Path, jobs: int) -> None:
        self._file = (folder / "seen").open("a", buffering=1)
        self._lock = threading.Lock()
        self._left = set(range(jobs))
        self._stop = folder / "stop"

    def end(self, number: int, state: str, when: int | None = None) -> None:
        """Note that this job is told to be over, now or at ``when``; each change of mind is noted as well."""
        with self._lock:
            self._file.write(f"{number} {when or time.monotonic_ns()} {' '.join(state.split())}\n")
            self._left.discard(number)

    @property
    def over(self) -> bool:
        """Whether there is nothing more to see."""
        return not self._left or self._stop.exists()


class Door(Protocol):
    """How one program is used."""

    def submit(self, number: int, argv: list[str]) -> None:
        """Submit a job; raise whatever the program raises."""

    def settled(self) -> None:
        """Return once the cluster has all that was submitted."""

    def look(self) -> None:
        """Called each second; notes ends where the program does not call back."""


def arguments() -> tuple[Path, Mapping[str, Any]]:
    """Return the folder and its plan."""
    folder = Path(sys.argv[1])
    return folder, json.loads((folder / "plan.json").read_text())


def follow(door: Door, notes: Notes, folder: Path, plan: Mapping[str, Any]) -> None:
    """Submit, then wait for all ends."""
    for job in plan["jobs"]:
        for attempt in range(AGAIN + 1):
            try:
                door.submit(job["number"], job["argv"])
                break
            except Exception as error:
                print(f"job {job['number']} is told not to be submitted: {error!r}", file=sys.stderr, flush=True)
                if attempt == AGAIN:
                    notes.end(job["number"], f"refused: {error}")
                time.sleep(1)
    door.settled()
    (folder / "submitted").touch()
    while not notes.over:
        try:
            door.look()
        except Exception as error:  # the user looks again
            print(f"a look failed: {error!r}", file=sys.stderr, flush=True)
        time.sleep(LOOK)
