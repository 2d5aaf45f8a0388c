"""What users ask for: jobs of all sorts on this machine, wishes, limits."""

from __future__ import annotations

import shlex
import signal
import time

from jobmill.ledger import capacity
from tests.chaos.batch import Batch
from tests.chaos.bench import SLOTS
from tests.chaos.scenarios.scenario import ANY, Scenario, failing


def plain(batch: Batch) -> None:
    """Ends of all sorts."""
    for how in ("0", "3", "TERM", "0"):
        batch.add(0.02, how)
    batch.add(command=["sh", *batch.evidence.command(0, "0")[1:]])
    batch.push()


def burst(batch: Batch) -> None:
    """More than there are slots."""
    for _ in range(30):
        batch.add(0)
    batch.push()


def forms(batch: Batch) -> None:
    """Steps, outputs, streams elsewhere, error messages, a script without a first line."""
    folder = batch.bench.folder
    script = folder / f"script.{batch.mark}"
    script.write_text(shlex.join(batch.evidence.command(0.01, "0")))
    script.chmod(0o755)
    batch.add(command=[str(script)])
    body = shlex.join(batch.evidence.command(1.2, "0"))
    batch.add(steps=[{"name": "one", "command": "true"}, {"name": "two", "command": body}])
    batch.add(1.2)
    batch.add(command=f"echo why > $JOBMILL_ERROR_FILE; {shlex.join(batch.evidence.command(0, '4'))}", how="4")
    batch.add(stdin="/etc/passwd", stdout=f"{folder}/out.{batch.mark}", stderr=f"{folder}/err.{batch.mark}")
    batch.add(stdout=f"{folder}/both.{batch.mark}", stderr=f"{folder}/both.{batch.mark}")
    batch.add(outputs=["jobmill.yaml"])
    batch.add(outputs=["none.*"], plan=failing("missing_output"))
    batch.push()


def bad_starts(batch: Batch) -> None:
    """Launches that cannot be."""
    folder = batch.bench.folder
    plan = failing("start_failed", "submit_failed")
    for command in (["no-such-command"], [str(folder)], [str(batch.bench.config)], ["/no/such/file"]):
        batch.add(command=command, plan=plan)
    batch.add(command="true " + "x" * 200_000, plan=plan)
    batch.add(workdir="/no/such/folder", plan=plan)
    batch.add(stdin="/no/such/file", plan=plan)
    batch.add(stdout="/no/such/folder/out", plan=plan)
    script = folder / f"lost.{batch.mark}"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    batch.add(command=[str(script)], plan=plan)
    batch.push()


def waits(batch: Batch) -> None:
    """Retries, dependencies, holds, later."""
    batch.add(0, "9", retry={"max": 1, "on": ["failed"], "delay": "0s"}, plan={"retries": 1})
    first, bad = batch.add(), batch.add(0, "2")
    batch.add(depends_on=[first])
    batch.add(depends_on=[bad], plan={"may": frozenset({"not_run"})})
    batch.add(start_after=time.time() + 1)
    held = batch.add(hold=True)
    batch.push()
    batch.bench.until(lambda: batch.bench.client.release([held])[held] == "waiting", 15)


def stream(batch: Batch) -> None:
    """Documents in one entry, some refused; entries that are nothing; the same id again."""
    for _ in range(3):
        batch.add()
    batch.push(as_stream=True)
    batch.redis_push(
        "Job_Queue",
        "command: 'true'\nsystem: local",
        "a: [",
        "command: x\nkomand: y",
        f"{{id: {batch.ids[0]}, command: other}}",
    )
    for queue in ("Granted_Queue", "Exit_Queue", "Result_Queue"):
        batch.redis_push(queue, "nonsense")


def users(batch: Batch) -> None:
    """A set with little room, and a pause."""
    record = batch.bench.client.record
    for name in ("LocalJobs", "local.slots"):
        capacity.set_limit(record, name, 0)
    for _ in range(5):
        batch.add(user="ann")
    batch.add(resources={"cpus": 2, "memory": 10})
    batch.push()
    batch.bench.until(lambda: all(batch.bench.redis.exists(f"Job:{i}") for i in batch.ids), 10)
    time.sleep(1.3)  # a tick of the starter, which hands the slots on
    capacity.set_limit(record, "local.slots", SLOTS)
    capacity.set_limit(record, "LocalJobs", SLOTS + 64)


def walltime(batch: Batch) -> None:
    """Jobs over their time: one obeys TERM, one does not, one leaves children behind."""
    plan = failing("timeout")
    limit = {"walltime": "1s"}
    batch.add(60, resources=limit, plan=plan)
    batch.add(command="trap '' TERM; sleep 60 & wait; sleep 60", resources=limit, plan=plan)
    batch.add(command="trap 'exit 0' TERM; (trap '' TERM; sleep 60) & wait", resources=limit, plan=plan)
    batch.add(command="(setsid sleep 1 >/dev/null 2>&1 &); " + shlex.join(batch.evidence.command(0, "0")))
    batch.push()


def cancels(batch: Batch) -> None:
    """Wishes at every stage."""
    plan = {"may": frozenset({"cancelled"})}
    for _ in range(SLOTS):
        batch.add(60, plan=plan)
    batch.add(60, hold=True, plan=plan)
    for _ in range(4):
        batch.add(60, user="ann", plan=plan)
    stubborn = batch.add(command="trap '' TERM; while :; do sleep 0.1; done", resources={"cpus": 1}, plan=plan)
    batch.push()
    batch.until_started(SLOTS)
    client, ids = batch.bench.client, batch.ids
    batch.bench.until(lambda: "unknown" not in client.cancel(ids, "sweep").values(), 15)
    assert stubborn in ids


def in_line(batch: Batch) -> None:
    """Wishes for launches that wait for a slot, and a stop while some do."""
    for _ in range(20):  # short ones: more than there are slots are granted ahead
        batch.add(0)
    batch.push()
    batch.bench.until(lambda: batch.bench.ended(batch.ids), 15)
    for _ in range(SLOTS):
        batch.add(4)
    for _ in range(6):
        batch.add(0.05, plan={"may": ANY - {"failed", "lost"}})
    batch.push()
    waiting = batch.ids[-6:]
    client = batch.bench.client
    batch.bench.until(lambda: {str(client.job(i).state) for i in waiting} >= {"starting"}, 1)
    client.cancel(waiting[:2], "sweep")
    time.sleep(2.2)  # a heartbeat of the starter, which brings the wishes
    batch.bench.signal("starter", signal.SIGTERM)


SCENARIOS: dict[str, Scenario] = {
    "plain": plain,
    "burst": burst,
    "forms": forms,
    "bad-starts": bad_starts,
    "waits": waits,
    "stream": stream,
    "users": users,
    "walltime": walltime,
    "cancels": cancels,
    "in-line": in_line,
}
