"""A user of PSI/J's slurm executor: FOLDER (guest_loop)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from guest_loop import Notes, arguments, follow
from psij import Job, JobExecutor, JobSpec, JobState, JobStatus  # type: ignore[import-not-found]
from psij.executors.batch.slurm import SlurmExecutorConfig  # type: ignore[import-not-found]


class PsijDoor:
    """Ends come by the status callback, from its polling thread."""

    def __init__(self, folder: Path, notes: Notes, options: dict[str, Any]) -> None:
        """``options``: of SlurmExecutorConfig, its defaults where there are none."""
        config = SlurmExecutorConfig(work_directory=folder / "work", **options)
        self._executor = JobExecutor.get_instance("slurm", config=config)
        self._notes, self._folder = notes, folder
        self._sent: list[Job] = []

    def submit(self, number: int, argv: list[str]) -> None:
        """Submit a job with a callback."""
        job = Job(JobSpec(executable=argv[0], arguments=argv[1:], directory=self._folder))

        def told(_: Job, status: JobStatus) -> None:
            if status.final:
                state = "done" if status.state == JobState.COMPLETED and not status.exit_code else "failed"
                self._notes.end(number, f"{state} {status.message or ''}")

        job.set_job_status_callback(told)
        self._sent.append(job)
        self._executor.submit(job)

    def settled(self) -> None:
        """Its submissions are over when they return."""

    def look(self) -> None:
        """It calls back."""


if __name__ == "__main__":
    folder, plan = arguments()
    notes = Notes(folder, len(plan["jobs"]))
    follow(PsijDoor(folder, notes, plan["options"]), notes, folder, plan)
