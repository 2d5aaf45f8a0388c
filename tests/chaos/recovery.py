"""``python -m tests.chaos.recovery``: how long it takes after each kind of fault until work goes on.

Into a calm pipeline with four jobs that run and two that wait, one fault is injected, and at once a new job is pushed.
The recovery time is from the end of the fault (a kill ends at once) until all seven have ended, less what they take
undisturbed; 0 where the other processes had done it all before the fault was over.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence

from redis.exceptions import RedisError
from rich.console import Console
from rich.table import Table

from jobmill.errors import JobmillError
from jobmill.ledger import listing
from tests.chaos.checker import ENDED
from tests.chaos.faults.fault import Fault, Missed
from tests.chaos.nemesis import usable
from tests.chaos.world import SLOTS, World

SECONDS = 0.5  # that a job takes which runs when the fault comes
POINTS = ("crash-", "freeze-point")  # to die or stop at a chosen step takes as long as at any other
LIMIT = 120.0  # seconds after which it counts as never


def measure(world: World, fault: Fault | None, mark: str) -> tuple[float, float]:
    """Inject one fault; return the seconds that it lasted, and those from its end until all jobs had ended.

    Raises Missed when it found nothing to hit.
    """
    draw = random.Random(f"recovery {mark}")
    before = world.started()
    body = {"command": world.evidence.command(SECONDS), "workdir": "/tmp"}
    ids = world.direct.submit_many([{"id": f"{mark}-{n}", **body} for n in range(SLOTS + 2)])
    _until(lambda: world.started() >= before + SLOTS)
    over = began = time.monotonic()
    missed = False

    def inject() -> None:
        nonlocal over, missed
        try:
            if fault is not None:
                fault.inject(world, draw, time.sleep)
        except Missed:
            missed = True
        over = time.monotonic()

    thread = threading.Thread(target=inject)
    thread.start()
    probe = {"id": f"{mark}-probe", "command": world.evidence.command(0), "workdir": "/tmp"}
    _until(lambda: bool(world.direct.submit(probe)))
    _until(lambda: all(state in ENDED for state in listing.states(world.direct.record, [*ids, f"{mark}-probe"])))
    ended = time.monotonic()
    thread.join()
    if missed:
        raise Missed
    return over - began, max(0.0, ended - over)


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline:
        try:
            if condition():
                return
        except (JobmillError, RedisError, OSError):  # the server is away: part of the fault
            pass
        time.sleep(0.01)
    raise TimeoutError(f"not within {LIMIT:g} s")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure every fault so many times; print a table and one line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.recovery", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeat", type=int, default=5, metavar="N", help="times that each fault is injected (5)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--nemesis", default="", metavar="A,B", help="only these faults")
    parser.add_argument("--json", action="store_true", help="print the line of JSON alone")
    given = parser.parse_args(argv)
    names = [name for name in given.nemesis.split(",") if name]
    faults = [f for f in usable(names, "local") if names or not f.name.startswith(POINTS)]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was mounted and started goes with us
    console = Console(stderr=True)
    rows: dict[str, dict[str, float]] = {}
    world = World(seed=given.seed)
    try:
        world.start()
        measure(world, None, f"r{given.seed}-first")
        undisturbed = statistics.median(measure(world, None, f"r{given.seed}-calm-{n}")[1] for n in range(3))
        for fault in faults:
            times: list[tuple[float, float]] = []
            with console.status(fault.name):
                for n in range(3 * given.repeat):
                    if len(times) == given.repeat:
                        break
                    try:
                        lasted, took = measure(world, fault, f"r{given.seed}-{fault.name}-{n}".replace("+", "-"))
                    except Missed:
                        continue
                    except TimeoutError:
                        lasted, took = 0.0, LIMIT
                    times.append((lasted, max(0.0, took - max(0.0, undisturbed - lasted))))
                    _until(lambda: world.redis.zcard("Running_Queue") + world.redis.zcard("Starting_Queue") == 0)
            if not times:
                continue
            rows[fault.name] = {
                "lasts": round(statistics.median(t[0] for t in times), 2),
                "median": round(statistics.median(t[1] for t in times), 2),
                "max": round(max(t[1] for t in times), 2),
            }
    finally:
        world.close()
    if not given.json:
        _show(rows)
    print(
        json.dumps({"seed": given.seed, "repeat": given.repeat, "undisturbed": round(undisturbed, 2), "recovery": rows})
    )
    return 0 if all(row["max"] < LIMIT for row in rows.values()) else 1


def _show(rows: dict[str, dict[str, float]]) -> None:
    table = Table(title="recovery time, seconds from the end of the fault", title_justify="left")
    for head in ("fault", "lasts", "median", "max"):
        table.add_column(head, justify="left" if head == "fault" else "right")
    for name, row in rows.items():
        table.add_row(name, *(f"{row[key]:.2f}" for key in ("lasts", "median", "max")))
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
