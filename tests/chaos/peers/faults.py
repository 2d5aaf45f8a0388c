"""The faults of the main program, made from what a peer has: its processes by role, and its Redis server if any.

Whatever is drawn is drawn from the fault's own generator; what it hits (a body that runs just then) is up to the run.
"""

from __future__ import annotations

import random
import signal
from collections.abc import Sequence

from tests.chaos import processes
from tests.chaos.faults import server
from tests.chaos.faults.fault import Fault, Hold, Missed
from tests.chaos.peers.contract import Peer
from tests.chaos.peers.tree import children, stopped

SEEN = 3.0  # seconds that a fault waits for a process which lives for moments only


def kill(role: str, words: str, *, weight: int = 3, calm: float = 0.0) -> Fault:
    """SIGKILL of one process of a role (``tree``: a worker and all below it), then ``calm`` seconds of peace."""

    def inject(peer: Peer, draw: random.Random, hold: Hold) -> None:
        hit = _choose(peer, role, draw, hold)
        pids = _stop(hit, tree=True) if role == "tree" else [hit]  # none of it sees another die, or starts more
        for pid in pids:
            processes.send(pid, signal.SIGKILL)
        peer.note(f"kill {role} {pids}")
        hold(calm)

    return _fault(f"kill-{role}", f"SIGKILL: {words}", inject, weight)


def freeze(role: str, words: str, least: float, most: float, *, weight: int = 1) -> Fault:
    """SIGSTOP of one process of a role (``tree``: and all below it) for a while, then SIGCONT."""

    def inject(peer: Peer, draw: random.Random, hold: Hold) -> None:
        seconds = draw.uniform(least, most)
        pids = _stop(_choose(peer, role, draw, hold, running=True), tree=role == "tree")
        peer.note(f"freeze {role} {pids}")
        try:
            hold(seconds)
        finally:
            peer.note(f"thaw {role} {pids}")
            for pid in reversed(pids):
                processes.send(pid, signal.SIGCONT)

    return _fault(f"freeze-{role}", f"SIGSTOP for {least:g} to {most:g} s: {words}", inject, weight)


def of_server() -> Sequence[Fault]:
    """Return the main program's faults of a Redis server, by its own code."""
    wanted = ("server-kill", "script-flush", "client-kill", "client-pause")
    return [_noted(fault) for fault in server.FAULTS if fault.name in wanted]


def _noted(fault: Fault) -> Fault:
    def inject(peer: Peer, draw: random.Random, hold: Hold) -> None:
        peer.note(fault.name)
        fault.inject(peer, draw, hold)  # type: ignore[arg-type]

    return _fault(fault.name, fault.words, inject, fault.weight)


def _choose(peer: Peer, role: str, draw: random.Random, hold: Hold, *, running: bool = False) -> int:
    """Return the process to be hit (``tree``: a worker that has a job), not a stopped one where it has to run.

    Raises Missed when there is none.
    """
    hold(draw.uniform(0, 0.1))
    for _ in range(int(SEEN / 0.01)):
        pids = sorted(peer.pids("worker" if role == "tree" else role))
        draw.shuffle(pids)
        for pid in pids:
            if (role != "tree" or children(pid)) and not (running and stopped(pid)):
                return pid
        hold(0.01)
    raise Missed(f"no {role} within {SEEN:g} s")


def _stop(pid: int, *, tree: bool) -> list[int]:
    """Stop a process (``tree``: then what it has started until then, and so on); return all, parents first."""
    processes.send(pid, signal.SIGSTOP)
    return [pid, *(each for child in (children(pid) if tree else ()) for each in _stop(child, tree=True))]


def _fault(name: str, words: str, inject, weight: int) -> Fault:  # type: ignore[no-untyped-def]
    inject.__doc__ = words
    return Fault(name=name, inject=inject, weight=weight)
