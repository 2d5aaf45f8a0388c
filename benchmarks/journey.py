"""One job's way through an idle pipeline: when each stage of it happened, and so what its latency is made of.

The server tells by MONITOR when it wrote which change (microseconds of its clock); the job is ``date``, which tells
when it ran itself; the client has its own clock. All three are the one real-time clock of this machine. What MONITOR
sends is read when the jobs are over, so that nobody works for it meanwhile but the server.
"""

from __future__ import annotations

import re
import socket
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.contender import WrongResult
from benchmarks.jobmill_under_test import LOCAL, pipeline
from jobmill.client import Client
from jobmill.jobs.states import State

JOB = {"command": ["date", "+%s.%N"]}
WARM = 10  # jobs before the measured ones
PAUSE = 0.03  # seconds between two jobs: what follows an end (dependents, the client's goodbye) is over
CHANGES = {b"waiting": "admitted", b"granted": "granted", b"starting": "begun", b"done": "finished"}  # in `Events`
STAMPS = ("pushed", "acknowledged", "admitted", "granted", "begun", "started", "end pushed", "finished", "seen")
_PUSH = re.compile(rb'\+(\d+\.\d+) \[[^\]]*\] "RPUSH" "(Job_Queue|Exit_Queue)" "\{\\"id\\":\\"([^"\\]+)')
_CHANGE = re.compile(rb'\+(\d+\.\d+) \[\d+ lua\] "XADD" "Events" .* "changes" "(\S+) (\w+) 1"')


@dataclass(frozen=True, kw_only=True)
class Watched:
    """One job as its client saw it; Unix times in seconds."""

    job_id: str
    begin: float
    acknowledged: float
    seen: float


def travel(folder: Path, jobs: int) -> dict[str, object]:
    """Return medians in milliseconds after the submission: of each stamp, and of the end as seen without MONITOR."""
    with pipeline(folder, LOCAL) as client:
        for _ in range(WARM):
            _one(client)
        plain = [done.seen - done.begin for done in (_one(client) for _ in range(jobs))]
        with _monitor(client) as monitor:
            watched = [_one(client) for _ in range(jobs)]
            ran = [float(client.log(client.job(it.job_id))) for it in watched]
            told: dict[str, dict[str, float]] = {}
            for job_id, stamp, moment in _events(_read(client, monitor)):
                told.setdefault(job_id, {}).setdefault(stamp, moment)
    rows = [_stamps(it, own, told.get(it.job_id, {})) for it, own in zip(watched, ran, strict=True)]
    middle = {name: round(statistics.median(row[name] for row in rows) * 1e3, 3) for name in STAMPS}
    return {"jobs": jobs, "stamps_ms": middle, "unwatched_ms": round(statistics.median(plain) * 1e3, 3)}


def _one(client: Client) -> Watched:
    """Submit a job and wait for it."""
    begin = time.time()
    job_id = client.submit(JOB)
    acknowledged = time.time()
    row = client.wait(job_id, timeout=60)
    seen = time.time()
    if row.state is not State.DONE:
        raise WrongResult(f"a job ended {row.state}: {row.exit}")
    time.sleep(PAUSE)
    return Watched(job_id=job_id, begin=begin, acknowledged=acknowledged, seen=seen)


def _monitor(client: Client) -> socket.socket:
    """Return a connection to which the server sends what it runs."""
    monitor = socket.socket(socket.AF_UNIX)
    monitor.settimeout(10)
    monitor.connect(client.record.url.partition("://")[2])
    monitor.sendall(b"MONITOR\r\n")
    if monitor.recv(64) != b"+OK\r\n":
        raise WrongResult("the server does not tell what it runs (MONITOR)")
    return monitor


def _read(client: Client, monitor: socket.socket) -> bytes:
    """Return all that was sent up to now."""
    last = f"until {time.time()}"
    client.record.call("ECHO", last)
    told = bytearray()
    while last.encode() not in told[-200:]:
        told += monitor.recv(1 << 20)
    return bytes(told)


def _events(told: bytes) -> Iterator[tuple[str, str, float]]:
    """Give job, stamp and time of each push, and of each change of a state, in order."""
    for line in told.split(b"\r\n"):
        if push := _PUSH.match(line):
            yield push[3].decode(), "pushed" if push[2] == b"Job_Queue" else "end pushed", float(push[1])
        elif (change := _CHANGE.match(line)) and change[3] in CHANGES:
            yield change[2].decode(), CHANGES[change[3]], float(change[1])


def _stamps(watched: Watched, started: float, told: Mapping[str, float]) -> Mapping[str, float]:
    """Return seconds from the submission to each stamp; raise WrongResult where one is missing or out of order."""
    times = {**told, "acknowledged": watched.acknowledged, "started": started, "seen": watched.seen}
    moments = [times.get(stamp, 0.0) for stamp in STAMPS if stamp != "acknowledged"]  # the manager may be sooner
    if [watched.begin, *moments] != sorted([watched.begin, *moments]):
        raise WrongResult(f"the stamps of job {watched.job_id} are not in order: {times}")
    return {stamp: times[stamp] - watched.begin for stamp in STAMPS}
