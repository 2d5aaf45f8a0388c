"""A server that dies, forgets its scripts, stands still, or is full."""

from __future__ import annotations

import random
from collections.abc import Callable

from redis import Redis
from redis.exceptions import RedisError

from tests.chaos.faults.fault import Fault, Hold, Missed
from tests.chaos.world import World


def kill(world: World, draw: random.Random, hold: Hold) -> None:
    """kill -9 of the server; it comes back on the same data after up to 2 s."""
    if world.server.poll() is not None:
        raise Missed
    world.server_down.set()
    try:
        world.server.kill()
        hold(draw.choice([0.0, 0.3, 2.0]))
    finally:
        world.server_down.clear()


def script_flush(world: World, draw: random.Random, hold: Hold) -> None:
    """The server forgets all scripts."""
    _now(world, lambda redis: redis.script_flush())


def client_kill(world: World, draw: random.Random, hold: Hold) -> None:
    """The server ends every connection."""
    if not _now(world, lambda redis: redis.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")):
        raise Missed


def client_pause(world: World, draw: random.Random, hold: Hold) -> None:
    """The server stands still for up to 4 s (CLIENT PAUSE)."""
    seconds = draw.uniform(0.5, 4)
    _now(world, lambda redis: redis.execute_command("CLIENT", "PAUSE", int(seconds * 1000), "ALL"))
    hold(seconds)


def maxmemory(world: World, draw: random.Random, hold: Hold) -> None:
    """The server is full (maxmemory, noeviction) for up to 4 s."""
    before = _refused(world)
    _now(world, lambda redis: redis.config_set("maxmemory", max(1, int(redis.info("memory")["used_memory"]) - 1)))
    try:
        hold(draw.uniform(0.5, 4))
        hit = _refused(world) != before
    finally:
        _again(world, hold, lambda redis: redis.config_set("maxmemory", 0))
    if not hit:
        raise Missed


def append_disk(world: World, draw: random.Random, hold: Hold) -> None:
    """The disk of the append file is full for up to 3 s: the server ends rather than lie."""
    assert world.server_disk is not None
    before = world.server.pid
    world.server_disk.fill()
    try:
        hold(draw.uniform(0.5, 3))
        hit = world.server.pid != before
    finally:
        world.server_disk.free()
    if not hit:
        raise Missed


def _refused(world: World) -> object:
    """Return how many commands the server has refused for want of memory."""
    return _now(world, lambda redis: redis.info("errorstats").get("errorstat_OOM"))


def _now(world: World, act: Callable[[Redis], object]) -> object:
    """Do something on the server, which another fault may keep away."""
    try:
        return act(world.redis)
    except RedisError:
        raise Missed from None


def _again(world: World, hold: Hold, act: Callable[[Redis], object]) -> None:
    """Do something on the server, again while another fault keeps it away; a server started anew has no limit."""
    for _ in range(100):
        try:
            act(world.redis)
            return
        except RedisError:
            hold(0.1)


FAULTS = (
    Fault(name="server-kill", inject=kill, weight=3),
    Fault(name="script-flush", inject=script_flush),
    Fault(name="client-kill", inject=client_kill),
    Fault(name="client-pause", inject=client_pause),
    Fault(name="maxmemory", inject=maxmemory),
    Fault(name="append-disk-full", inject=append_disk, disk=True),
)
