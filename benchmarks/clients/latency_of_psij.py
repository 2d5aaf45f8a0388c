"""Latencies of PSI/J's local executor, run by the Python of its own environment: FOLDER JOBS RATE COMMAND."""

from __future__ import annotations

import sys

from latency_loop import Watch, WrongEnd, measure
from psij import Job, JobExecutor, JobSpec, JobState, JobStatus  # type: ignore[import-not-found]


class PsijDoor:
    """Closed: `submit`, `Job.wait`. Open: its own reaper thread calls back with each change of state."""

    def __init__(self, folder: str, command: str) -> None:
        self._executor = JobExecutor.get_instance("local")
        self._folder, self._command = folder, command
        self._sent: list[Job] = []

    def _job(self) -> Job:
        return Job(JobSpec(executable=self._command, directory=self._folder))

    def one(self) -> None:
        """Submit and wait."""
        job = self._job()
        self._executor.submit(job)
        _check(job.wait())

    def open(self, watch: Watch) -> None:
        """Keep whom to tell."""
        self._watch = watch

    def send(self, number: int) -> None:
        """Submit with a callback."""
        job, watch = self._job(), self._watch

        def told(_: Job, status: JobStatus) -> None:
            if status.final:
                watch.end(number)

        job.set_job_status_callback(told)
        self._sent.append(job)
        self._executor.submit(job)

    def check(self) -> None:
        """Look at each job's status."""
        for job in self._sent:
            _check(job.status)


def _check(status: JobStatus | None) -> None:
    if status is None or status.state != JobState.COMPLETED or status.exit_code != 0:
        raise WrongEnd(f"a job ended as {status}")


if __name__ == "__main__":
    measure(PsijDoor(sys.argv[1], sys.argv[4]), int(sys.argv[2]), float(sys.argv[3]))
