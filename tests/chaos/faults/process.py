"""Processes that die, stop and come back, at any line or at a chosen step."""

from __future__ import annotations

import random
import signal

from tests.chaos import processes
from tests.chaos.faults.fault import Fault, Hold, Missed
from tests.chaos.points import Action, Fired
from tests.chaos.world import LEASE, World

ROLES = ("manager", "starter", "fetcher", "guard", "runner")
POINTED = (*ROLES, "janitor")


def _choose(world: World, draw: random.Random, role: str) -> int:
    pids = sorted(world.pids(role))
    if not pids:
        raise Missed
    return draw.choice(pids)


def _kill(role: str) -> Fault:
    def inject(world: World, draw: random.Random, hold: Hold) -> None:
        if not processes.send(_choose(world, draw, role), signal.SIGKILL):
            raise Missed

    inject.__doc__ = f"SIGKILL of a {role}."
    systems = frozenset({"local"}) if role in ("guard", "runner") else frozenset({"local", "fake"})
    return Fault(name=f"kill-{role}", inject=inject, systems=systems, weight=3, kills=role)


def _freeze(role: str) -> Fault:
    def inject(world: World, draw: random.Random, hold: Hold) -> None:
        pid = _choose(world, draw, role)
        if not processes.send(pid, signal.SIGSTOP):
            raise Missed
        try:
            hold(2 * LEASE + draw.uniform(0, 2))
        finally:
            processes.send(pid, signal.SIGCONT)

    inject.__doc__ = f"SIGSTOP of a {role} for twice the lease, then SIGCONT: a zombie owner that must not act."
    systems = frozenset({"local"}) if role in ("guard", "runner") else frozenset({"local", "fake"})
    return Fault(name=f"freeze-{role}", inject=inject, systems=systems, weight=1)


def guard_and_runner(world: World, draw: random.Random, hold: Hold) -> None:
    """SIGKILL of guard and runner at once: nobody sees how their jobs end."""
    hit = [world.pids(role) for role in draw.sample(["guard", "runner"], 2)]
    if not all(hit):
        raise Missed
    for pid in (pid for pids in hit for pid in pids):
        processes.send(pid, signal.SIGKILL)


def _at_a_point(world: World, draw: random.Random, role: str, action: Action, passes: int, hold: Hold) -> Fired:
    """Let a process act at one of the points that its role has passed before; return who did."""
    with world.arming:
        names = sorted(world.points.reached(role))
        if not names:
            raise Missed
        world.points.arm(draw.choice(names), role, action, passes)
        for _ in range(30):
            hold(0.1)
            if world.points.fired() is not None:
                break
        for fired in world.points.disarm():
            return fired
    raise Missed


def _crash(role: str) -> Fault:
    def inject(world: World, draw: random.Random, hold: Hold) -> None:
        _at_a_point(world, draw, role, "KILL", draw.choice([1, 1, 1, 2, 5]), hold)

    inject.__doc__ = f"SIGKILL of a {role} exactly between two of its steps."
    systems = frozenset({"local"}) if role in ("guard", "runner") else frozenset({"local", "fake"})
    return Fault(name=f"crash-{role}", inject=inject, systems=systems, weight=3, kills=role)


def freeze_point(world: World, draw: random.Random, hold: Hold) -> None:
    """SIGSTOP exactly between two steps for twice the lease: it goes on with what is not its own any more."""
    role = draw.choice([role for role in POINTED if world.system == "local" or role not in ("guard", "runner")])
    fired = _at_a_point(world, draw, role, "STOP", 1, hold)
    try:
        hold(2 * LEASE)
    finally:
        processes.send(fired.pid, signal.SIGCONT)


FAULTS = (
    *(_kill(role) for role in ROLES),
    *(_freeze(role) for role in ROLES),
    *(_crash(role) for role in POINTED),
    Fault(name="freeze-point", inject=freeze_point, weight=4),
    Fault(name="guard+runner", inject=guard_and_runner, loses=True, systems=frozenset({"local"})),
)
