"""What can be wrong with a pipeline, looked at from here: server, settings, workers, clocks; and one system."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from jobmill.config import Config
from jobmill.daemon.address import address
from jobmill.errors import JobmillError, SystemUnavailable
from jobmill.jobs.document import require_libyaml
from jobmill.ledger import dead, endpoint, listing, membership
from jobmill.ledger.membership import ROLES, living
from jobmill.ledger.record import Record
from jobmill.ledger.server_facts import UNREAD, WANTED, server_kind, settings
from jobmill.rules.route import parse_routes
from jobmill.systems.registry import system_class
from jobmill.systems.system import Check, ExecutionSystem

SKEW = 5.0  # seconds between our clock and the server's that are worth a word


def diagnose(config: Config) -> list[Check]:
    """Return what was looked at, in the order in which it matters; never raises for what is wrong.

    Systems are not among it: each may take its time (`Checkup`).
    """
    found = [_checked("libyaml", require_libyaml, "the C loader is used", "reinstall pyyaml from a wheel")]
    record = Record(config.redis.url or address(config.state), prefix=config.redis.prefix)
    try:
        record.ping()
    except JobmillError as error:
        fix = (
            "jobmill up" if config.redis.url is None else "start that server, or correct redis.url / JOBMILL_REDIS_URL"
        )
        found.append(Check(name="server", ok=False, detail=str(error), fix=fix))
    else:
        try:
            found += _server(record)
            found += _workers(record, config)
            found += out_of_reach(record)
        except JobmillError as error:
            found.append(Check(name="server", ok=False, detail=str(error), fix="try again; see the server's log"))
    finally:
        record.close()
    return found


def out_of_reach(record: Record) -> list[Check]:
    """Return a failed check for each system that the workers cannot reach at this time."""
    fix = "nothing: they try again by themselves, and its jobs keep their states; see what the system itself says below"
    return [
        Check(name=f"{name}: reached", ok=False, detail=outage.told(name), fix=fix)
        for name, outage in sorted(endpoint.outages(record).items())
    ]


def check_system(config: Config, name: str) -> Sequence[Check]:
    """Return what a configured system says of itself. May block as long as it does; the site's plug-ins are loaded."""
    try:
        system = built(config, name)
        try:
            checks = [*system.check(), *_route_checks(config, system)]
        finally:
            system.close()
    except SystemUnavailable as error:
        fix = "see whether what is behind it can be reached from here"
        return [Check(name=f"{name}: answer", ok=False, detail=str(error), fix=fix)]
    except (JobmillError, OSError) as error:
        return [Check(name=f"{name}: kind", ok=False, detail=str(error), fix="correct systems: in jobmill.yaml")]
    return [Check(name=f"{name}: {c.name}", ok=c.ok, detail=c.detail, fix=c.fix) for c in checks]


def _route_checks(config: Config, system: ExecutionSystem) -> list[Check]:
    """Try the `run_as` of each route that leads to a system of this machine."""
    if not (system.one_host and system.runs_as_users):
        return []
    routes = parse_routes([it.entry for it in config.routes], config.kinds)
    acting = {it.name: it.run_as for it in routes if it.run_as is not None and system.name in it.systems}
    return [replace(it.check(config.spool), name=f"run_as of route {name}") for name, it in acting.items()]


def built(config: Config, name: str) -> ExecutionSystem:
    """Return a configured system; raise ConfigError or UnknownName."""
    system = config.systems[name]
    return system_class(system.kind).build(name, system.all_options, config.spool)


def _checked(name: str, look: Callable[[], object], detail: str, fix: str) -> Check:
    try:
        look()
    except JobmillError as error:
        return Check(name=name, ok=False, detail=str(error), fix=fix)
    return Check(name=name, ok=True, detail=detail)


def _server(record: Record) -> list[Check]:
    here = time.time()
    there = membership.server_time(record)
    skew = there - (here + time.time()) / 2
    kind, version = server_kind(record)
    major, minor = (int(n) for n in version.split(".")[:2])
    old = (major, minor) < (6, 2)
    found = [
        Check(
            name="server", ok=not old, detail=f"{kind} {version} answers", fix="use Redis 6.2 or later" if old else ""
        )
    ]
    for setting, value in settings(record).items():
        wanted, worth = WANTED[setting]
        ok = value == wanted
        fix = "" if ok else f"jobmill redis CONFIG SET {setting} {wanted}, and in the server's own file: {worth}"
        if value == UNREAD:
            fix = f"this user may not read it; ask whoever runs the server for {setting} {wanted}: {worth}"
        found.append(Check(name=setting, ok=ok, detail=value, fix=fix))
    used, most = listing.memory(record)
    full = bool(most) and used > 0.8 * most
    detail = f"{used >> 20} MiB used" + (f" of {most >> 20}" if most else ", no limit")
    found.append(
        Check(
            name="memory", ok=not full, detail=detail, fix="raise maxmemory: managers take nothing now" if full else ""
        )
    )
    late = abs(skew) > SKEW
    fix = "set the clocks by NTP: start_after and times shown are off by it" if late else ""
    found.append(Check(name="clock", ok=not late, detail=f"{skew:+.2f} s from the server's", fix=fix))
    return found


def _workers(record: Record, config: Config) -> list[Check]:
    now = membership.server_time(record)
    alive = [p for p in membership.processes(record) if living(p, now)]
    found = []
    for role in ROLES:
        count = sum(p.role == role for p in alive)
        fix = "" if count else f"jobmill up, or jobmill-{role} beside a pipeline that lacks it"
        found.append(Check(name=role, ok=count > 0, detail=f"{count} alive", fix=fix))
    others = sorted({p.digest for p in alive if p.digest and p.digest != config.digest})
    if others:
        detail = f"{', '.join(others)} run, the file here says {config.digest}"
        found.append(Check(name="configuration", ok=False, detail=detail, fix="send the workers HUP, or restart them"))
    count = dead.count(record)
    found.append(Check(name="Dead_Queue", ok=True, detail=f"{count} entries", fix="jobmill dead list" if count else ""))
    return found
