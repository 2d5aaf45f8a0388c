"""What doctor says of a pool."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import redis
from rq.version import VERSION

from jobmill.systems.pool_workers import PoolWorkers
from jobmill.systems.system import Check


def checks(client: redis.Redis, workers: PoolWorkers, queues: Sequence[str]) -> Sequence[Check]:
    """Return a line for the server, one for its durability, and one for each queue. Raises the library's errors."""
    facts = client.info()
    name = "Valkey" if facts.get("server_name") == "valkey" else "Redis"
    version = facts.get("valkey_version") or facts.get("redis_version")
    found = [Check(name="server", ok=True, detail=f"{name} {version} answers; RQ {VERSION} here")]
    synced = _synced(client) if facts.get("aof_enabled") else ""
    lasting = bool(facts.get("aof_enabled")) and synced in ("always", "unknown")
    detail = f"appendonly {'yes' if facts.get('aof_enabled') else 'no'}, appendfsync {synced or '-'}"
    fix = "" if lasting else "set `appendonly yes` and `appendfsync always`: a server that forgets may double a launch"
    found.append(Check(name="durable", ok=True, detail=detail, fix=fix))
    for queue, line in workers.lines(queues).items():
        there = line.workers > 0
        words = f"{line.waiting} in line, {line.workers} workers"
        fix = "" if there else f"nobody listens: start `rq worker {queue}` on a machine where jobmill[rq] is installed"
        found.append(Check(name=f"queue {queue}", ok=there, detail=words, fix=fix))
    return found


def _synced(client: redis.Redis) -> str:
    try:
        return str(cast("dict[str, str]", client.config_get("appendfsync")).get("appendfsync", "unknown"))
    except redis.ResponseError:  # CONFIG is not for everybody
        return "unknown"
