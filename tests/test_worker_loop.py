"""The loop of every worker: watchdog, stops, outages, evictions, and idleness that costs nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from conftest import Server
from pipeline import Pipeline

from jobmill.ledger import membership
from jobmill.ledger.record import Record

STUCK = """
import sys, time
from jobmill.ledger import admission
from jobmill.ledger.record import Record
from jobmill.worker import loop, log
from jobmill.worker.work import Work

class Hangs(Work):
    role = "fetcher"
    def queues(self): return ("Exit_Queue",)
    def enter(self, member): self.member = member
    def taking(self, queue): return admission.taking(self.member, queue, 1)
    def ring(self, queue, batch=None): return 0
    def tick(self, now): time.sleep(600)

loop.STUCK = 1.0
log.configure("fetcher")
sys.exit(loop.Loop(Record(sys.argv[1]), Hangs()).run())
"""

CUT = """
import sys
from jobmill.errors import ServerUnavailable
from jobmill.ledger import admission
from jobmill.ledger.record import Record
from jobmill.worker import log
from jobmill.worker.loop import Loop
from jobmill.worker.work import Work

class Cut(Record):
    cut = False
    def run(self, name, *args):
        answer = super().run(name, *args)
        if name == "register" and not self.cut:
            self.cut = True
            raise ServerUnavailable("the reply was cut")
        return answer

class Enters(Work):
    role = "fetcher"
    tries = 0
    def queues(self): return ("Exit_Queue",)
    def taking(self, queue): return admission.taking(self.member, queue, 1)
    def ring(self, queue, batch=None):
        print(self.tries, bool(self.member.identity))
        loop._stop = 1
        return 0
    def tick(self, now): assert self.tries == 2, "a tick before it entered"
    def enter(self, member):
        self.member = member
        self.tries += 1
        if self.tries == 1:
            raise ServerUnavailable("in the midst of it")

log.configure("fetcher")
loop = Loop(Cut(sys.argv[1]), Enters())
sys.exit(loop.run())
"""


@pytest.fixture
def pipeline(tmp_path: Path) -> Iterator[Pipeline]:
    made = Pipeline(tmp_path)
    yield made
    made.stop()


def test_a_loop_without_progress_ends_with_its_stacks_in_the_log(valkey: Server) -> None:
    began = time.monotonic()
    stuck = subprocess.run(
        [sys.executable, "-c", STUCK, valkey.url], capture_output=True, text=True, timeout=30, check=False
    )
    assert stuck.returncode != 0 and time.monotonic() - began < 15
    assert "Timeout" in stuck.stderr and "in tick" in stuck.stderr


def test_a_worker_serves_only_after_it_has_registered_and_entered(valkey: Server) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CUT, valkey.url], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout) == (0, "2 True\n"), done.stderr


def test_a_manager_alone_grants_valid_yaml(pipeline: Pipeline) -> None:
    pipeline.start("manager")
    redis = pipeline.client.record.client
    job = "id: alone\nname: 'café: \"x\"'\ncommand: [echo, 'a: b', '€']\nparams: {empty: [], map: {}}\n"
    redis.rpush("Job_Queue", job.encode())
    pipeline.until(lambda: redis.llen("Granted_Queue") == 1)
    granted = yaml.safe_load(redis.lindex("Granted_Queue", 0))
    assert (granted["id"], granted["run"], granted["system"]) == ("alone", 1, "local")
    assert granted["spec"]["command"] == ["echo", "a: b", "€"]
    assert granted["spec"]["params"] == {"empty": [], "map": {}}


def test_a_warm_stop_leaves_in_peace_and_jobs_run_on(pipeline: Pipeline) -> None:
    pipeline.start()
    job_id = pipeline.client.submit({"command": "sleep 2; exit 4"})
    redis = pipeline.client.record.client
    pipeline.until(lambda: redis.hget(f"Job:{job_id}", "state") == b"running")
    for role in ("manager", "starter", "fetcher"):
        pipeline.workers[role].terminate()
        assert pipeline.workers[role].wait(timeout=10) == 0
    assert all(p.left for p in membership.processes(pipeline.client.record))
    assert redis.hget(f"Job:{job_id}", "state") == b"running"
    pipeline.start()
    row = pipeline.client.wait(job_id, timeout=20)
    assert (row.state, row.run, row.exit["exit_value"]) == ("failed", 1, 4)


def test_a_second_signal_stops_at_once_and_nothing_is_lost(pipeline: Pipeline) -> None:
    pipeline.start("manager")
    pipeline.until(lambda: bool(membership.processes(pipeline.client.record)))
    manager = pipeline.workers["manager"]
    for _ in range(2):
        manager.send_signal(signal.SIGTERM)
    assert manager.wait(timeout=5) == 0


def test_a_process_that_was_declared_dead_registers_anew(pipeline: Pipeline) -> None:
    pipeline.start()
    record = pipeline.client.record
    pipeline.until(lambda: len(membership.processes(record)) == 3)
    old = {p.name for p in membership.processes(record)}
    for name in old:
        assert membership.recover(record, name, ["Job_Queue"], proved=True) == 0
    row = pipeline.client.wait(pipeline.client.submit({"command": "true"}), timeout=30)
    assert row.state == "done"
    living = {p.name for p in membership.processes(record) if not p.evicted}
    assert len(living) == 3 and not living & old


def test_hup_takes_up_a_right_configuration_and_refuses_a_wrong_one(pipeline: Pipeline) -> None:
    pipeline.start()
    record = pipeline.client.record
    pipeline.until(lambda: len(membership.processes(record)) == 3)
    running = pipeline.client.submit({"command": "sleep 4; exit 5"})
    pipeline.until(lambda: record.call("HGET", f"Job:{running}", "state") == b"running")
    before = living(record)

    def tell(text: str) -> None:
        pipeline.config.write_text(text)
        for worker in pipeline.workers.values():
            worker.send_signal(signal.SIGHUP)

    tell("systems: {local: {kind: local, slotss: 1}}\n")
    pipeline.until(lambda: pipeline.log.read_text().count("the old one stays in force") == 3)
    assert living(record) == before
    tell("systems: {local: {kind: local, slots: 1}}\n")
    pipeline.until(lambda: len((now := living(record)).keys() - before.keys()) == len(now) == 3)
    assert len(set(living(record).values()) - set(before.values())) == 1
    pipeline.until(lambda: record.call("HGET", "Capacity", "local.slots") == b"1")
    row = pipeline.client.wait(running, timeout=30)
    assert (row.run, row.exit["exit_value"]) == (1, 5)
    assert all(worker.poll() is None for worker in pipeline.workers.values())


def test_a_starter_that_stands_by_keeps_no_guard_until_it_leads(pipeline: Pipeline) -> None:
    pipeline.start()
    pipeline.client.wait(pipeline.client.submit({"command": "true"}), timeout=20)
    first = pipeline.workers["starter"]
    pipeline.start("starter")
    record = pipeline.client.record
    pipeline.until(lambda: sum(p.role == "starter" for p in membership.processes(record)) == 2)
    time.sleep(1)
    assert len(pipeline.pids("guard")) == 1
    first.kill()
    first.wait()
    assert pipeline.client.wait(pipeline.client.submit({"command": "true"}), timeout=20).state == "done"


def test_workers_without_a_server_wait_for_it_without_spinning(pipeline: Pipeline) -> None:
    pipeline.start()
    record = pipeline.client.record
    pipeline.until(lambda: len(membership.processes(record)) == 3)
    server = pipeline.server
    assert server is not None
    server.kill()
    pipeline.until(lambda: server.poll() is not None)
    time.sleep(1)
    before = {role: cpu(worker.pid) for role, worker in pipeline.workers.items()}
    time.sleep(3)
    assert all(cpu(w.pid) - before[r] < 0.3 for r, w in pipeline.workers.items())
    server.start()
    assert pipeline.client.wait(pipeline.client.submit({"command": "true"}), timeout=20).state == "done"
    assert all(worker.poll() is None for worker in pipeline.workers.values())


def test_an_idle_and_a_full_pipeline_cost_next_to_nothing(pipeline: Pipeline) -> None:
    pipeline.start()
    record = pipeline.client.record
    pipeline.client.wait(pipeline.client.submit({"command": "true"}), timeout=20)
    Record(pipeline.url).call("HSET", "Capacity", "LocalJobs", 0)
    pipeline.client.submit_many([{"command": "true"} for _ in range(300)])
    pipeline.until(lambda: record.call("LLEN", "Job_Queue") == 0)
    time.sleep(1)
    before = sum(cpu(worker.pid) for worker in pipeline.workers.values())
    time.sleep(4)
    assert sum(cpu(worker.pid) for worker in pipeline.workers.values()) - before < 0.4  # 10 % of a core, noise included


def test_a_manager_with_another_configuration_applies_nothing_before_the_first_is_gone(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    redis = pipeline.client.record.client
    pipeline.config.write_text("systems: {local: {kind: local, slots: 3}}\ncapacities: {'User:ann': 2}\n")
    pipeline.start("manager")
    pipeline.until(lambda: redis.hget("Capacity", "User:ann") == b"2")
    first = pipeline.workers["manager"]
    pipeline.config.write_text("systems: {local: {kind: local, slots: 1}}\n")
    pipeline.start("manager")
    pipeline.until(lambda: "applies no limits" in pipeline.log.read_text())
    assert (redis.hget("Capacity", "User:ann"), redis.hget("Capacity", "local.slots")) == (b"2", b"3")
    first.kill()
    first.wait()
    pipeline.until(lambda: redis.hget("Capacity", "local.slots") == b"1")
    assert redis.hget("Capacity", "User:ann") is None  # the file names it no longer


def living(record: Record) -> dict[str, str]:
    """Return the processes that are not known to be gone, with the digests of their configurations."""
    return {p.name: p.digest for p in membership.processes(record) if not p.evicted}


def cpu(pid: int) -> float:
    """Return the CPU seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
