"""The laws of the record as a check from outside: reads everything and says what is broken."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Collection

from redis import Redis

LIVE = {"held", "later", "waiting", "granted", "starting", "submitted", "running", "unknown", "collecting"}
POLLED = {"submitted", "running", "unknown", "collecting"}
ENDED = {"done", "failed", "cancelled", "not_run", "lost"}
HOLDING = {"granted", "starting"} | POLLED


class _Prefixed:
    """Reads the keys of one pipeline under their plain names."""

    def __init__(self, client: Redis, prefix: str) -> None:
        self._client, self._prefix = client, prefix

    def keys(self) -> list[str]:
        found = [k.decode() for k in self._client.scan_iter("*", count=1000)]
        if not self._prefix:
            return [k for k in found if not k.startswith("{")]  # another pipeline's, by its prefix
        return [k[len(self._prefix) :] for k in found if k.startswith(self._prefix)]

    def __getattr__(self, verb: str) -> object:
        return lambda key, *words: getattr(self._client, verb)(self._prefix + key, *words)


def dump(client: Redis, *, ignore: Collection[str] = ()) -> dict[str, object]:
    """Return everything that the server holds, to be compared with what it holds later."""
    found: dict[str, object] = {}
    for key in sorted(client.scan_iter("*", count=1000)):
        kind, name = client.type(key), key.decode()
        if name in ignore:
            continue
        if kind == b"hash":
            found[name] = client.hgetall(key)
        elif kind == b"zset":
            found[name] = client.zrange(key, 0, -1, withscores=True)
        elif kind == b"set":
            found[name] = client.smembers(key)
        elif kind == b"list":
            found[name] = client.lrange(key, 0, -1)
        elif kind == b"stream":
            found[name] = client.xrange(key)
        else:
            found[name] = client.get(key)
    return found


def violations(
    server: Redis, *, lane: str = "", at_rest: bool = False, prefix: str = "", lowered: Collection[str] = ()
) -> list[str]:
    """Return what contradicts law 1 (and, at rest, what is left in lists and sets).

    ``lowered`` names the sets whose limit was lowered under what they held: these may be over it.
    """
    found: list[str] = []
    client = _Prefixed(server, prefix)
    suffix = f":{lane}" if lane else ""
    keys = client.keys()
    jobs = {
        k[4:]: {f.decode(): v.decode() for f, v in client.hgetall(k).items()}
        for k in keys
        if k.startswith("Job:") and client.type(k) == b"hash"
    }
    where: dict[str, list[str]] = defaultdict(list)
    ranked = {k for k in keys if k.startswith("Waiting:") and k.count(":") >= 2}
    for k in keys:
        if k in ranked or k.startswith(("Full:", "Jobs:")) or k in ("Blocked", "Later"):
            if k.startswith("Jobs:by-"):
                continue
            for member in client.zrange(k, 0, -1):
                where[member.decode()].append(k)
    for k in (f"Starting_Queue{suffix}", f"Running_Queue{suffix}"):
        for member in client.zrange(k, 0, -1):
            where[member.decode()].append(k)
    entries: dict[str, list[dict[str, object]]] = defaultdict(list)
    for k in keys:
        if k.startswith(f"Granted_Queue{suffix}"):
            for line in client.lrange(k, 0, -1):
                entry = json.loads(line)
                entries[entry["id"]].append(entry)
    for job_id, places in where.items():
        if job_id not in jobs:
            found.append(f"{job_id} stands in {places} without a record")
    for job_id, job in jobs.items():
        state, places = job["state"], where.get(job_id, [])
        blocked = int(job.get("blocked", 0)) > 0
        expected = {
            "waiting": "Full:" + job["full"]
            if "full" in job
            else "Blocked"
            if blocked
            else f"Waiting:{job['system']}:{job['user']}",
            "held": "Jobs:held",
            "later": "Later",
            "starting": f"Starting_Queue{suffix}",
            "granted": None,
        }.get(state, f"Running_Queue{suffix}" if state in POLLED else f"Jobs:{state}")
        if places != ([expected] if expected else []):
            found.append(f"{job_id} is {state} and stands in {places}, not in {expected}")
        valid = [e for e in entries[job_id] if str(e["fence"]) == job.get("fence") and str(e["run"]) == job.get("run")]
        if state == "granted" and len(valid) != 1:
            found.append(f"{job_id} is granted with {len(valid)} valid list entries")
        if state not in HOLDING and job.get("holds"):
            found.append(f"{job_id} is {state} and holds {job['holds']}")
        if state in HOLDING and not job.get("holds"):
            found.append(f"{job_id} is {state} and holds nothing")
        if "full" in job and state != "waiting":
            found.append(f"{job_id} is {state} and marked as waiting for {job['full']}")
        if state in ENDED and ("exit" not in job or "ended" not in job):
            found.append(f"{job_id} is {state} without exit information")
        if state in ENDED and not json.loads(job.get("exit", "{}")).get("evidence") and state != "done":
            found.append(f"{job_id} is {state} without evidence")
    members: dict[str, set[str]] = defaultdict(set)
    amounts: Counter[str] = Counter()
    for job_id, job in jobs.items():
        for token in job.get("holds", "").split():
            name, eq, amount = token.rpartition("=")
            if eq:
                amounts[name] += int(amount)
            else:
                members[token].add(job_id)
    limits = {k.decode(): int(v) for k, v in client.hgetall("Capacity").items()}
    used = {k.decode(): int(v) for k, v in client.hgetall("Used").items()}
    sets = {k for k in keys if client.type(k) == b"set" and not k.endswith(":dependents") and k != "Full"}
    for name in sets | set(members):
        has = {m.decode() for m in client.smembers(name)}
        if has != members[name]:
            found.append(f"set {name} has {sorted(has ^ members[name])} wrong")
    for name in set(used) | set(amounts):
        if used.get(name, 0) != amounts[name]:
            found.append(f"amount {name} is {used.get(name, 0)}, live records hold {amounts[name]}")
    for name, limit in limits.items():
        held = amounts[name] + len(members[name])
        if held > limit and name not in lowered:
            found.append(f"{name} is over its limit: {held} > {limit}")
    found += _sleepers(client, keys, jobs, limits)
    if at_rest:
        for k in keys:
            if ":taken:" in k or k.startswith(("Job_Queue", "Granted_Queue", "Exit_Queue")):
                queue, _, process = k.partition(":taken:")
                begun = int(client.hget(f"Process:{process}", f"begun:{queue}") or 0)  # answered, not let go yet
                if client.llen(k) > begun:
                    found.append(f"{k} still has {client.llen(k)} entries")
        for job_id, job in jobs.items():
            if job["state"] in LIVE - {"held"}:
                found.append(f"{job_id} is still {job['state']}")
    return found


def _sleepers(client: _Prefixed, keys: list[str], jobs: dict[str, dict[str, str]], limits: dict[str, int]) -> list[str]:
    """Return what nobody would ever wake: lines and dependencies that no script looks at any more."""
    found: list[str] = []
    full_sets = {m.decode() for m in client.smembers("Full")}
    for k in keys:
        if k.startswith("Full:") and k[5:] not in full_sets:
            found.append(f"{k} is not in Full: grants never look at it")
        if k.startswith("Waiting:") and k.count(":") == 2:
            ranks, _, user = k.rpartition(":")
            if client.zscore(ranks, user) is None:
                found.append(f"{k} is not ranked: grants never look at it")
    waiters = {k.split(":")[1]: {m.decode() for m in client.smembers(k)} for k in keys if k.endswith(":dependents")}
    for job_id, job in jobs.items():
        if job["state"] in ("waiting", "held", "later") and int(job.get("blocked", 0)) > 0:
            known = sum(job_id in waiters.get(d, ()) for d in set(job["depends"].split()))
            if known != int(job["blocked"]):
                found.append(f"{job_id} is blocked by {job['blocked']} and known to {known} of {job['depends']}")
    return found
