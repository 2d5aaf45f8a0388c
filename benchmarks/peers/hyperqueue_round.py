"""One round of HyperQueue, run by the Python of its own environment: FOLDER JOBS SLOTS COMMAND → one line of JSON."""

import json
import sys
import time

from hyperqueue import Job, LocalCluster  # type: ignore[import-not-found]
from hyperqueue.cluster import WorkerConfig  # type: ignore[import-not-found]


def main() -> None:
    """Start server and worker, submit, wait; the clock covers submission to last recorded end."""
    folder, jobs, slots, command = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    counts = {"finished": 0, "failed": 0}

    def note(states: dict) -> None:  # its shape: {job id: {"total", "finished", "failed", "completed" …}}
        for state in states.values():
            counts.update({key: state[key] for key in counts if key in state})

    with LocalCluster(folder, WorkerConfig(cores=slots)) as cluster:
        client = cluster.client()
        # one task first: the worker has registered when it is done
        warm = Job(max_fails=None)
        warm.program([command], stdout=None, stderr=None)
        client.wait_for_jobs([client.submit(warm)])

        job = Job(max_fails=None)
        for _ in range(jobs):
            job.program([command], stdout=None, stderr=None)
        begin = time.perf_counter()
        submitted = client.submit(job)
        failed_jobs = client.connection.wait_for_jobs([submitted.id], note)
        seconds = time.perf_counter() - begin
        failed = sum(len(tasks) for tasks in client.connection.get_failed_tasks([submitted.id]).values())
    counts["failed"] = max(counts["failed"], failed, len(failed_jobs))
    print(json.dumps({"seconds": seconds, **counts}))


if __name__ == "__main__":
    main()
