"""A record in which very many jobs wait, under measurement: its weight, and what is as quick as with an empty one."""

from __future__ import annotations

import statistics
import time
from typing import Any

from benchmarks import memory
from benchmarks.closed_pipeline import SET, SYSTEM, ClosedPipeline
from benchmarks.command_cost import cost
from benchmarks.contender import WrongResult
from jobmill.jobs.identifier import new_id
from jobmill.ledger import admission, capacity, listing
from jobmill.ledger.record import BATCH

USERS = ("ann", "bob", "eva", "tim")
AHEAD = 10_000  # entries that Job_Queue holds at most while it is filled
COMMANDS = {
    "list": ["list"],
    "list_waiting": ["list", "--state", "waiting"],
    "list_user": ["list", "--user", "eva"],
    "info": ["info"],
    "watch": ["watch", "--count", "1"],
    "explain": ["explain", "last"],
}


class FullRecord:
    """One server under measurement; ``figures`` fills up, in the order of the methods."""

    def __init__(self, pipeline: ClosedPipeline, *, jobs: int, rounds: int) -> None:
        self._pipeline, self._record = pipeline, pipeline.record
        self._jobs, self._rounds = jobs, rounds
        self._some = BATCH * max(1, min(8, jobs // 50_000))  # jobs of one measured round
        self._pushed = self._text = 0
        self.figures: dict[str, Any] = {}

    def empty(self) -> None:
        """Measure submitting and granting on the empty record; nothing waits afterwards."""
        self._pipeline.start_managers()
        self._pushed = self._pipeline.admitted()
        self.figures["empty"] = {"submit": self._submit(), "grant": self._grant()}

    def fill(self) -> None:
        """Let the managers admit N jobs more; weigh them."""
        self._quiet()
        before, resident = memory.used(self._record)
        self._text = 0
        begin = time.perf_counter()
        for i in range(0, self._jobs, 5000):
            self._push(min(5000, self._jobs - i))
            while self._record.call("LLEN", self._record.keys("Job_Queue")) > AHEAD:
                time.sleep(0.02)
        end = self._pipeline.until_admitted(self._pushed, timeout=120)
        self.figures["fill_per_s"] = round(self._jobs / (end - begin), 1)
        self._pipeline.stop_managers()
        self._quiet()
        after, now = memory.used(self._record)
        kinds = [*memory.by_kind(self._record)]
        self.figures |= {
            "waiting": listing.waiting(self._record),
            "text_bytes_per_job": round(self._text / self._jobs, 1),
            "bytes_per_job": round((after - before - self._text) / self._jobs, 1),
            "resident_bytes_per_job": round((now - resident - self._text) / self._jobs, 1),
            "bytes_by_key": {k.name: round(k.bytes / self._jobs, 1) for k in kinds if k.bytes >= self._jobs}
            | {"(table of keys)": round(memory.main_table(self._record) / self._jobs, 1)},
        }

    def commands(self) -> None:
        """Measure what people's commands cost while all wait; no manager is there to disturb."""
        for name, words in COMMANDS.items():
            took = cost(self._record, self._pipeline.config, words, self._rounds)
            self.figures[f"{name}_ms"] = took.server_ms
            self.figures[f"{name}_wall_ms"] = took.wall_ms

    def full(self) -> None:
        """Measure submitting and granting with N jobs waiting, beside those of `empty`."""
        self._pipeline.start_managers()
        self._pushed = self._pipeline.admitted()
        self._quiet()
        full = {"submit": self._submit(), "grant": self._grant()}
        empty = self.figures["empty"]
        self.figures["full"] = full
        for what in ("submit", "grant"):
            wall, cpu = "per_s", "server_us_per_job"
            self.figures[f"{what}_ratio"] = round(empty[what][wall] / full[what][wall], 3)
            self.figures[f"{what}_server_ratio"] = round(full[what][cpu] / empty[what][cpu], 3)

    def restart(self) -> None:
        """Stop the server and measure until it serves again."""
        self._pipeline.stop_managers()
        server, count = self._pipeline.server, self._pipeline.admitted()
        server.stop()
        files = [path for path in (server.folder / "data").rglob("*") if path.is_file()]
        self.figures["file_bytes_per_job"] = round(sum(path.stat().st_size for path in files) / self._jobs, 1)
        begin = time.perf_counter()
        server.start()
        self.figures["load_seconds"] = round(time.perf_counter() - begin, 2)
        self._pipeline.check(count)

    def _push(self, count: int) -> None:
        """Push so many jobs as the Python client writes them."""
        texts = []
        for number in range(count):
            user = USERS[number % len(USERS)]
            texts.append(f'{{"id":"{new_id()}","command":["/bin/true"],"workdir":"/home/{user}","user":"{user}"}}')
        self._pipeline.push(texts)
        self._pushed += count
        self._text += sum(map(len, texts))

    def _submit(self) -> dict[str, float]:
        """Return jobs a second from the push to the last admission, and the server's CPU microseconds a job."""
        speeds, cpu = [], []
        for _ in range(self._rounds):
            spent, begin = self._cpu(), time.perf_counter()
            self._push(self._some)
            speeds.append(self._some / (self._pipeline.until_admitted(self._pushed, timeout=60) - begin))
            cpu.append((self._cpu() - spent) / self._some)
        return {"per_s": round(statistics.median(speeds), 1), "server_us_per_job": round(statistics.median(cpu), 2)}

    def _grant(self) -> dict[str, float]:
        """Return the same of grants by 250: as many as were submitted before."""
        speeds, cpu = [], []
        with self._pipeline.managers_stopped():
            used = capacity.usage(self._record, [SET])[0].used
            capacity.set_limit(self._record, SET, used + self._some * self._rounds)
            for _ in range(self._some * self._rounds // BATCH):
                spent, begin = self._cpu(), time.perf_counter()
                granted = admission.grant(self._record, SYSTEM, SET, BATCH).jobs
                speeds.append(BATCH / (time.perf_counter() - begin))
                cpu.append((self._cpu() - spent) / BATCH)
                if granted != BATCH:
                    raise WrongResult(f"{granted} of {BATCH} jobs were granted, although they wait and there is room")
            capacity.set_limit(self._record, SET, 0)
        return {"per_s": round(statistics.median(speeds), 1), "server_us_per_job": round(statistics.median(cpu), 2)}

    def _cpu(self) -> float:
        """Return the CPU microseconds that the server has used so far."""
        facts = self._record.call("INFO", "cpu")
        return (float(facts["used_cpu_user"]) + float(facts["used_cpu_sys"])) * 1e6

    def _quiet(self) -> None:
        """Wait until the server rewrites no file and moves no table any more."""
        time.sleep(0.5)
        while int(self._record.call("INFO", "persistence")["aof_rewrite_in_progress"]):
            time.sleep(0.2)
