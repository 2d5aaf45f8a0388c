"""Networks that swallow, hold back and cut; clocks that are off."""

from __future__ import annotations

import random

from tests.chaos.faults.fault import Fault, Hold, Missed
from tests.chaos.proxy import REPLIES, REQUESTS, Link
from tests.chaos.world import World

DEAF = 7.0  # seconds: longer than a worker waits for an answer
HOUR = 3600.0


def _link(world: World, draw: random.Random) -> Link:
    return world.proxy.links[draw.choice([*world.names, "client"])]


def cut(world: World, draw: random.Random, hold: Hold) -> None:
    """Commands are executed and their replies cut: nobody hears that it was done."""
    link = _link(world, draw)
    before = link.swallowed
    world.proxy.cut(link, draw.randint(1, 4), torn=draw.random() < 0.3)
    for _ in range(20):
        hold(0.1)
        if link.cut == 0:
            break
    world.proxy.uncut(link)
    if link.swallowed == before:
        raise Missed


def reset(world: World, draw: random.Random, hold: Hold) -> None:
    """All connections of one process end at once."""
    link = _link(world, draw)
    if not link.writers:
        raise Missed
    world.proxy.reset(link)


def _blackhole(direction: str) -> Fault:
    def inject(world: World, draw: random.Random, hold: Hold) -> None:
        link = _link(world, draw)
        before = link.delayed
        world.proxy.hold(link, direction)
        try:
            hold(DEAF + draw.uniform(0, 4))
        finally:
            world.proxy.heal(link, direction)
        if link.delayed == before:
            raise Missed

    inject.__doc__ = f"The {direction} of one process pass no more for {DEAF:g} s and longer, and arrive late."
    return Fault(name=f"blackhole-{direction}", inject=inject, weight=2)


def clock(world: World, draw: random.Random, hold: Hold) -> None:
    """The clock of one kind of process is an hour off, for a while."""
    role = draw.choice(["manager", "starter", "fetcher", "janitor", "guard", "runner"])
    before = world.points.misread(role)
    world.points.offset(role, draw.choice([-HOUR, HOUR]))
    try:
        hold(draw.uniform(1, 4))
    finally:
        world.points.offset(role, 0.0)
    if world.points.misread(role) == before:  # it has not looked at it, or never does
        raise Missed


FAULTS = (
    Fault(name="cut-reply", inject=cut, weight=6),
    Fault(name="reset", inject=reset),
    _blackhole(REQUESTS),
    _blackhole(REPLIES),
    Fault(name="clock", inject=clock),
)
