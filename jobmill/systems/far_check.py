"""What `doctor` says of one far host."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jobmill.errors import SystemUnavailable
from jobmill.systems.far_host import FarHost
from jobmill.systems.system import Check

FREE_LEAST = 64  # MiB on the spool's disk there below which it warns


def check_host(host: FarHost, answer: dict[str, Any] | SystemUnavailable) -> list[Check]:
    """Return the checks of a host by what its desk answered to `facts`."""
    checks = check_login(host.name, host.desk("").facts, answer)
    if isinstance(answer, SystemUnavailable):
        return checks
    slots = host.given_slots if host.given_slots is not None else int(answer["cores"])
    fix = "" if slots <= answer["cores"] else f"set slots to {answer['cores']} unless the jobs mostly wait"
    detail = f"{slots} slots on {answer['cores']} cores, load {answer['load']:.1f}"
    return [*checks, Check(name=f"{host.name}: slots", ok=True, detail=detail, fix=fix)]


def check_login(name: str, facts: Mapping[str, Any], answer: dict[str, Any] | SystemUnavailable) -> list[Check]:
    """Return what that says of the way to a host, and of our folder there; ``facts``: what it said of itself."""
    if isinstance(answer, SystemUnavailable):
        words = str(answer).removeprefix(f"{name}: ")
        fix = f"see that `ssh {name}` works from here without a question, as the user of the workers"
        return [Check(name=f"{name}: reached", ok=False, detail=words, fix=fix)]
    who = f"{facts['user']} on {facts['host']}, Python {facts['version']}, up {answer['up'] / 86400:.1f} days"
    checks = [Check(name=f"{name}: reached", ok=True, detail=who)]
    free = int(answer["free"])
    fix = "" if free >= FREE_LEAST else f"free at least {FREE_LEAST} MiB there, or set `folder` elsewhere"
    checks.append(Check(name=f"{name}: disk", ok=not fix, detail=f"{free} MiB free at {facts['folder']}", fix=fix))
    return checks
