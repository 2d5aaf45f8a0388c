"""RQ's side of a pool: its queues, its jobs and its workers, by RQ's own calls and keys."""

from __future__ import annotations

import base64
import contextlib
import zlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import redis
from rq import Queue
from rq.job import Job
from rq.worker_registration import WORKERS_BY_QUEUE_KEY

from jobmill.systems.pool_task import PATH

FOR_EVER = -1  # RQ's word for a job without a time limit: walltimes are kept beside the job
RESULT_TTL, FAILURE_TTL = 600, 86400  # seconds for which RQ shows what is over; the exit record is elsewhere
RQ_JOBS = Job.key_for("")  # RQ's key of a job without its id
RESULTS = "rq:results:"  # RQ's key of a job's results without its id
DEAD = ("failed", "stopped", "canceled", "finished")  # RQ is through with a job
MOST, LONGEST = 1 << 20, 1000  # bytes of a traceback that are unpacked; signs of its last line that are told


class Line(NamedTuple):
    """How one queue is."""

    waiting: int
    workers: int  # that listen, by RQ's registry: one that was killed stands there for some minutes
    handed: frozenset[str]  # given to a worker that has not said that it has them


class PoolWorkers:
    """One pool's queues and workers."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._queues: dict[str, Queue] = {}

    def enqueue(self, pipeline: redis.client.Pipeline, launches: Sequence[tuple[str, str]], lease: float) -> None:
        """Queue launches (id, queue), within a transaction. RQ retries nothing of its own accord."""
        for name in dict.fromkeys(queue for _, queue in launches):
            line = self._queues.get(name)
            if line is None:
                line = self._queues[name] = Queue(name, connection=self._client)
            jobs = [
                Queue.prepare_data(
                    PATH,
                    args=(launch, lease),
                    job_id=launch,
                    timeout=FOR_EVER,
                    result_ttl=RESULT_TTL,
                    failure_ttl=FAILURE_TTL,
                    description=f"jobmill {launch}",
                )
                for launch, queue in dict.fromkeys(launches)
                if queue == name
            ]
            line.enqueue_many(jobs, pipeline=pipeline)

    def lines(self, queues: Sequence[str]) -> Mapping[str, Line]:
        """Return how each queue is."""
        with self._client.pipeline(transaction=False) as pipe:
            for name in queues:
                pipe.llen(Queue.redis_queue_namespace_prefix + name)
                pipe.smembers(WORKERS_BY_QUEUE_KEY % name)
                pipe.lrange(f"{Queue.redis_queue_namespace_prefix}{name}:intermediate", 0, -1)
            found = pipe.execute()
            known = sorted({key for keys in found[1::3] for key in keys})
            for key in known:
                pipe.exists(key)
            alive = {key for key, there in zip(known, pipe.execute() if known else [], strict=True) if there}
        rows = zip(queues, found[::3], found[1::3], found[2::3], strict=True)
        return {
            name: Line(waiting, len(alive & set(keys)), frozenset(it.decode() for it in handed))
            for name, waiting, keys, handed in rows
        }

    def drop(self, launches: Sequence[str]) -> None:
        """Remove RQ's jobs of launches that will not start: their ids in the queue lead nowhere then."""
        if launches:
            self._client.unlink(*(RQ_JOBS + it for it in launches))

    def why(self, launch: str) -> str:
        """Return the last line of what RQ says of a failed job.

        RQ's own way to its results unpickles them: who writes to the pool's server would run code here.
        """
        if not self._client.exists(RQ_JOBS + launch):
            return "RQ does not have it any more"
        found = cast("list[tuple[bytes, dict[bytes, bytes]]]", self._client.xrevrange(RESULTS + launch, count=1))
        lines: list[str] = []
        with contextlib.suppress(ValueError, zlib.error):
            packed = base64.b64decode(found[0][1].get(b"exc_string", b"") if found else b"")
            lines = zlib.decompressobj().decompress(packed, MOST).decode("utf-8", "replace").strip().splitlines()
        return lines[-1][-LONGEST:] if lines else "RQ does not say why"

    def seen(self, worker: str) -> str:
        """Return in words what RQ knows of a worker."""
        found = cast("bytes | None", self._client.hget(f"rq:worker:{worker}", "last_heartbeat")) if worker else None
        return f"last seen by RQ at {found.decode()}" if found else "no longer registered with RQ"
