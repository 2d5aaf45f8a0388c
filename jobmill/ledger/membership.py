"""Worker processes in the record: they register, beat, leave in peace, or are declared dead and recovered."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jobmill.ledger.record import Record, text

ROLES = ("manager", "starter", "fetcher")  # of which a pipeline needs one each
SILENCE = 10.0  # seconds without a beat after which a process may be declared dead
POISON = 8  # recoveries of one entry after which it goes to Dead_Queue


@dataclass(frozen=True, kw_only=True)
class Process:
    """One worker as the record knows it."""

    name: str
    role: str  # manager, starter, fetcher …
    host: str = ""
    pid: int = 0
    start: str = ""  # start time of the pid in clock ticks since boot: pids are used again
    boot: str = ""  # boot id of the host
    lane: str = ""
    digest: str = ""  # of the configuration that it runs with
    since: float = 0.0  # Unix time, seconds
    seen: float = 0.0  # last beat
    evicted: bool = False  # declared dead, or left in peace
    left: bool = False  # left in peace
    progress: str = ""


def boot_id() -> str:
    """Return the id of this boot of this machine, or an empty string where the kernel tells none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def start_time(pid: int) -> str:
    """Return the start time of a live process in ticks since boot (proc(5), field 22), or an empty string."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def dead(process: Process) -> bool:
    """Tell whether it is proved on this host that the process is gone (not merely silent)."""
    if process.host != socket.gethostname() or not process.pid:
        return False
    here = boot_id()
    if process.boot and here and process.boot != here:
        return True
    return start_time(process.pid) != process.start


@dataclass(kw_only=True)
class Membership:
    """This process in the record; a new one is made after an eviction."""

    record: Record
    role: str
    lane: str = ""
    digest: str = ""
    name: str = field(default_factory=str)
    identity: str = ""  # the Record id

    def register(self) -> None:
        """Enter under a new name; what the record holds under an old one is never touched again."""
        host = socket.gethostname()
        name = f"{self.role}-{host}-{os.getpid()}-{os.urandom(3).hex()}"
        facts = {
            "role": self.role,
            "host": host,
            "pid": os.getpid(),
            "start": start_time(os.getpid()),
            "boot": boot_id(),
            "lane": self.lane,
            "digest": self.digest,
        }
        flat = [value for pair in facts.items() for value in pair]
        self.identity = text(self.record.run("register", name, *flat))
        self.name = name  # a name whose answer was cut is given up: it falls silent

    def beat(self, progress: str = "", starting: Sequence[str] = (), lease: float = SILENCE) -> dict[str, str]:
        """Renew this process and the leases of its launches (ids, at most 250); return their wishes. Raise Evicted."""
        answer = self.record.run("beat", self.name, int(lease * 1000), progress, *starting)
        words = [text(a) for a in answer]
        return dict(zip(words[::2], words[1::2], strict=True))

    def leave(self, queues: Sequence[str]) -> None:
        """Give back what was taken and not dealt with, and leave."""
        while self.record.run("leave", self.name, *queues):
            pass


def processes(record: Record) -> list[Process]:
    """Return all processes that the record knows, oldest beat first, dead ones of the last day included."""
    seen = record.call("ZRANGE", record.keys("Processes"), 0, -1, "WITHSCORES")
    names = [text(n) for n in seen[::2]]
    beats = [float(s) / 1000 for s in seen[1::2]]
    rows = record.read([("HGETALL", record.keys.process(n)) for n in names])
    found = []
    for name, beat, row in zip(names, beats, rows, strict=True):
        facts = row if isinstance(row, dict) else dict(zip(row[::2], row[1::2], strict=True))
        known = {text(k): text(v) for k, v in facts.items()}
        found.append(
            Process(
                name=name,
                role=known.get("role", "?"),
                host=known.get("host", ""),
                pid=int(known.get("pid", 0)),
                start=known.get("start", ""),
                boot=known.get("boot", ""),
                lane=known.get("lane", ""),
                digest=known.get("digest", ""),
                since=float(known.get("since", 0)) / 1000,
                seen=beat,
                evicted="evicted" in known,
                left="left" in known,
                progress=known.get("progress", ""),
            )
        )
    return found


def recover(
    record: Record, process: str, queues: Sequence[str], *, proved: bool = False, silence: float = SILENCE
) -> int:
    """Declare a process dead and give its lists back; return how many entries moved, -1 when it is not silent."""
    moved = 0
    while True:
        count, left = record.run("recover", process, 0 if proved else int(silence * 1000), POISON, *queues)
        if count < 0:
            return -1
        moved += int(count)
        if not left:
            return moved


def other_digest(record: Record, role: str, digest: str, silence: float = SILENCE) -> str:
    """Return the digest of a living process of this role that runs with another configuration, or an empty string."""
    now = server_time(record)
    for process in processes(record):
        alive = not process.evicted and now - process.seen <= silence and not dead(process)
        if alive and process.role == role and process.digest != digest:
            return process.digest
    return ""


def living(process: Process, now: float) -> bool:
    """Tell whether a process counts as alive by the server's clock."""
    return not process.evicted and now - process.seen < SILENCE


def missing_roles(record: Record) -> list[str]:
    """Return the roles of the pipeline of which no process is alive."""
    now = server_time(record)
    alive = {p.role for p in processes(record) if living(p, now)}
    return [role for role in ROLES if role not in alive]


def server_time(record: Record) -> float:
    """Return the server's clock, the only one that the record uses (Unix time, seconds)."""
    seconds, micros = record.call("TIME")
    return int(seconds) + int(micros) / 1e6
