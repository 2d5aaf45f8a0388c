"""Processes that die, stop, freeze or begin anew while jobs run, and the server, and the whole machine."""

from __future__ import annotations

import signal
import time

from tests.chaos.batch import Batch
from tests.chaos.bench import LEASE, SLOTS, WORKERS
from tests.chaos.scenarios.scenario import ANY, Scenario


def _killed(role: str, number: signal.Signals = signal.SIGKILL) -> Scenario:
    def scenario(batch: Batch) -> None:
        for how in ("0", "0", "3", "0", "0", "KILL"):
            batch.add(0.3, how)
        batch.fake(0.5)
        batch.push()
        batch.until_started(2)
        batch.bench.signal(role, number)

    scenario.__doc__ = f"{number.name} of the {role} while jobs run."
    return scenario


def launcher_killed(batch: Batch) -> None:
    """Starter, guard and runner die at once: launches are settled, jobs watched by their pids."""
    plan = {"may": ANY}
    for seconds in (0.2, 0.2, 3, 3, 0, 0, 0, 0):
        batch.add(seconds, plan=plan)
    batch.add(60, resources={"walltime": "2s"}, plan=plan | {"reasons": frozenset({"timeout"})})
    batch.fake(0.3)
    batch.push()
    batch.until_started(2)
    for role in ("starter", "guard", "runner"):
        batch.bench.signal(role)


def launcher_killed_early(batch: Batch) -> None:
    """The same in the moment of the launch, again and again."""
    for _ in range(40):
        batch.add(0, plan={"may": ANY})
    batch.push()
    batch.until_started(1)
    for _ in range(3):
        for role in ("runner", "guard", "starter"):
            batch.bench.signal(role)
        time.sleep(0.4)


def runners_killed(batch: Batch) -> None:
    """Runner after runner dies while it launches."""
    for _ in range(40):
        batch.add(0)
    batch.push()
    batch.until_started(1)
    for _ in range(6):
        batch.bench.signal("runner")
        time.sleep(0.08)


def walltime_heirs(batch: Batch) -> None:
    """Jobs over their time, after their runner has died: the guard ends them."""
    plan = {"may": frozenset({"failed"}), "reasons": frozenset({"timeout"})}
    for command in ("exec sleep 20", "trap '' TERM; sleep 20 & wait; sleep 20", "trap 'exit 0' TERM; sleep 20 & wait"):
        batch.add(command=command, resources={"walltime": "1s"}, plan=plan)
    batch.push()
    time.sleep(0.6)
    batch.bench.signal("runner")


def walltime_orphans(batch: Batch) -> None:
    """Jobs over their time while nobody waits for them."""
    plan = {"may": ANY, "reasons": frozenset({"timeout"})}
    limit = {"walltime": "1s"}
    for command in ("trap 'exit 0' TERM; (trap '' TERM; sleep 20) & wait", "(sleep 20) & exec sleep 20"):
        batch.add(command=command, resources=limit, plan=plan)
    batch.push()
    time.sleep(1.25)
    for role in ("runner", "guard"):
        batch.bench.signal(role)


def _restarted(role: str, number: signal.Signals) -> Scenario:
    def scenario(batch: Batch) -> None:
        if number is signal.SIGHUP:
            batch.bench.configure(Sweep=sum(map(ord, batch.mark)))
        for _ in range(3):
            batch.add(0.05)
        batch.fake()
        batch.bench.signal(role, number)
        batch.push()

    scenario.__doc__ = f"{number.name} of the {role}: it stops warm, or begins anew."
    return scenario


def cold(batch: Batch) -> None:
    """Stops that cannot wait: the second TERM comes at once."""
    for _ in range(6):
        batch.add(0.1)
    batch.fake()
    batch.push()
    for _ in range(2):
        for role in WORKERS:
            batch.bench.signal(role, signal.SIGTERM)
        time.sleep(0.005)  # two at the same time are one


def standby(batch: Batch) -> None:
    """A second worker of each kind comes, and goes again."""
    pids = [batch.bench.extra(role) for role in WORKERS]
    bench = batch.bench
    bench.until(lambda: all(any(b"-%d-" % p in n for n in bench.redis.zrange("Processes", 0, -1)) for p in pids), 10)
    for _ in range(6):
        batch.add(0.1)
    batch.fake()
    batch.push()
    time.sleep(1.5)
    batch.bench.dismiss()


def silent(batch: Batch) -> None:
    """A starter and a manager that freeze for longer than their lease, and go on."""
    for _ in range(SLOTS):
        batch.add(0.3)
    batch.fake(0.3)
    batch.push()
    batch.until_started(1)
    frozen = [*batch.bench.signal("starter", signal.SIGSTOP), *batch.bench.signal("manager", signal.SIGSTOP)]
    time.sleep(LEASE + 2.0)
    for pid in frozen:
        batch.bench.thaw(pid)


def outage(batch: Batch) -> None:
    """The server dies and comes again."""
    for _ in range(3):
        batch.add(0.3)
    batch.push()
    batch.until_started(1)
    batch.bench.kill_server()


def rebooted(batch: Batch) -> None:
    """The machine goes down and comes up again."""
    for seconds in (0.1, 5, 5, 0, 0, 0, 0):
        batch.add(seconds, plan={"may": ANY})
    batch.fake(3.0, may=list(ANY))
    batch.push()
    batch.until_started(2)
    batch.bench.reboot()


SCENARIOS: dict[str, Scenario] = {
    **{f"kill-{role}": _killed(role) for role in (*WORKERS, "guard", "runner")},
    **{f"stop-{role}": _restarted(role, signal.SIGTERM) for role in WORKERS},
    **{f"reload-{role}": _restarted(role, signal.SIGHUP) for role in WORKERS},
    "cold": cold,
    "standby": standby,
    "silent": silent,
    "runners-killed": runners_killed,
    "launcher-killed": launcher_killed,
    "launcher-killed-early": launcher_killed_early,
    "walltime-heirs": walltime_heirs,
    "walltime-orphans": walltime_orphans,
    "outage": outage,
    "rebooted": rebooted,
}
