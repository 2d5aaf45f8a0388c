"""A user of submitit's slurm executor: FOLDER (guest_loop)."""

from __future__ import annotations

import time
from pathlib import Path

from guest_loop import Notes, arguments, follow
from submitit import SlurmExecutor, SlurmJob  # type: ignore[import-not-found]
from submitit.core.utils import CommandFunction, UncompletedJobError  # type: ignore[import-not-found]


class SubmititDoor:
    """Ends come by `Job.done` once a second, as its own `Job.wait` does; how they were, by `Job.exception`."""

    def __init__(self, folder: Path, notes: Notes) -> None:
        self._executor = SlurmExecutor(folder=folder / "work")
        self._executor.update_parameters(time=30, cpus_per_task=1)
        self._notes = notes
        self._jobs: dict[int, SlurmJob[str]] = {}

    def submit(self, number: int, argv: list[str]) -> None:
        """Submit a command."""
        self._jobs[number] = self._executor.submit(CommandFunction(argv, verbose=False))

    def settled(self) -> None:
        """Its submissions are over when they return."""

    def look(self) -> None:
        """Look at each that has not ended."""
        for number, job in list(self._jobs.items()):
            if job.done():
                when = time.monotonic_ns()
                del self._jobs[number]
                error = job.exception()
                what = "no result: " if isinstance(error, UncompletedJobError) else ""
                self._notes.end(number, "done" if error is None else f"failed {what}{str(error)[:200]}", when)


if __name__ == "__main__":
    folder, plan = arguments()
    notes = Notes(folder, len(plan["jobs"]))
    follow(SubmititDoor(folder, notes), notes, folder, plan)
