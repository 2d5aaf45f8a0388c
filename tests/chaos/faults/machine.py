"""The machine itself: its disk full, down and up again, with or without what was not yet on disk."""

from __future__ import annotations

import random

from tests.chaos.faults.fault import Fault, Hold, Missed
from tests.chaos.world import World

UNSYNCED = 10.0  # seconds of writes that a power cut may undo


def spool_disk(world: World, draw: random.Random, hold: Hold) -> None:
    """The disk of the run folders is full for up to 4 s."""
    assert world.spool_disk is not None
    said = world.log_size()
    world.spool_disk.fill()
    try:
        hold(draw.uniform(0.5, 4))
    finally:
        world.spool_disk.free()
    if "No space left" not in world.logged(said):
        raise Missed


def reboot(world: World, draw: random.Random, hold: Hold) -> None:
    """The machine reboots: every process is gone, the boot id is another, the disks are whole."""
    world.reboot()


def power_cut(world: World, draw: random.Random, hold: Hold) -> None:
    """The power fails: as a reboot, and of what was lately written to run folders some is cut, empty or gone."""
    world.reboot(lose_unsynced=draw.uniform(1, UNSYNCED))


FAULTS = (
    Fault(name="spool-disk-full", inject=spool_disk, systems=frozenset({"local"}), disk=True),
    Fault(name="reboot", inject=reboot, loses=True, systems=frozenset({"local"}), weight=1),
    Fault(name="power-cut", inject=power_cut, loses=True, forgets=UNSYNCED, systems=frozenset({"local"}), weight=1),
)
