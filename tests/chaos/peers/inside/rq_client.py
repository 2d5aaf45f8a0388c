"""Asked by lines of JSON, in RQ's own environment: enqueues jobs, and tells what RQ tells of them.

The user's part is played with care: explicit ids and ``unique``, so that an enqueue that is said again is found out.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import rq_body  # type: ignore[import-not-found]
from redis import Redis
from redis.exceptions import RedisError
from rq import Queue, Retry  # type: ignore[import-not-found]
from rq.exceptions import DuplicateJobError  # type: ignore[import-not-found]
from rq.job import Job  # type: ignore[import-not-found]
from rq.registry import StartedJobRegistry  # type: ignore[import-not-found]

FOR_EVER = -1


def submit(queue: Queue, jobs: list[dict[str, Any]]) -> int:
    """Enqueue jobs one by one; those that are there already count as enqueued."""
    for job in jobs:
        try:
            queue.enqueue(
                rq_body.run,
                args=(job["argv"], job["id"]),
                job_id=job["id"],
                retry=Retry(max=rq_body.RETRIES),
                job_timeout=300,
                result_ttl=FOR_EVER,
                failure_ttl=FOR_EVER,
                unique=True,
            )
        except DuplicateJobError:
            continue
    return len(jobs)


def told(redis: Redis, ids: list[str]) -> dict[str, Any]:
    """Return status and last error of every job that RQ knows."""
    found = {}
    for job in Job.fetch_many(ids, connection=redis):
        if job is None:
            continue
        status = job.get_status(refresh=False)
        failed = status == "failed"
        result = job.latest_result() if failed else None
        found[job.id] = {"status": str(getattr(status, "value", status)), "why": (result and result.exc_string) or ""}
    return found


def pending(redis: Redis, queue: Queue) -> dict[str, int]:
    """Return what RQ may still do something about, and the seconds that its maintenance is locked for."""
    return {
        "queued": redis.llen(queue.key),
        "intermediate": redis.llen(queue.intermediate_queue_key),
        "started": redis.zcard(StartedJobRegistry(queue=queue).key),
        "locked": max(0, redis.ttl(queue.registry_cleaning_key)),
    }


def main() -> None:
    """Answer every line."""
    redis = Redis.from_url(sys.argv[1], socket_timeout=20)
    queue = Queue("default", connection=redis)
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            if asked["do"] == "submit":
                answer: Any = submit(queue, asked["jobs"])
            elif asked["do"] == "told":
                answer = told(redis, asked["ids"])
            else:
                answer = pending(redis, queue)
            print(json.dumps({"answer": answer}), flush=True)
        except (RedisError, OSError) as error:
            print(json.dumps({"error": f"{type(error).__name__}: {error}"}), flush=True)


if __name__ == "__main__":
    main()
