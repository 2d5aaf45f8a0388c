"""What this machine takes for the smallest things that a job needs: no program that does them is quicker."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from benchmarks.contender import COMMAND, SLOTS
from jobmill.ledger.record import Record

DOCUMENT = "id: align-7\ncommand: [/bin/true]\nuser: ann\nworkdir: /home/ann\n"
LINE = '{"id":"align-7","command":["/bin/true"],"user":"ann","workdir":"/home/ann"}'
WRITE = b"x" * 299 + b"\n"  # about what the server appends for one small change
ENTRIES = 250  # of one reply


LABELS = {
    "fdatasync": "fdatasync of 300 appended bytes",
    "ping": "empty round trip to the server (PING by redis-py, unix socket)",
    "spawn_one": f"posix_spawn and wait of {COMMAND}, one after the other",
    "spawn_two": f"posix_spawn and wait of {COMMAND}, two at once",
    "fork_two": f"fork, exec and wait of {COMMAND} from this program, two at once",
    "run_folder": "run folder and marker (2 mkdir, create, write, link, unlink)",
    "json": "json.loads of a small job",
    "libyaml": "libyaml of a small job",
    "switch": "a byte to another process on the same core (pipe)",
    "wake_up": "a byte to another process, where the kernel puts it (pipe)",
    "reply_hiredis": f"a reply of {ENTRIES} small jobs, read by hiredis",
    "reply_python": f"a reply of {ENTRIES} small jobs, read by redis-py's own parser",
}


def limits(folder: Path, record: Record, times: int) -> dict[str, float]:
    """Return microseconds of wall time of each of `LABELS`; ``folder``: on the disk to measure; ``record``: quiet."""
    found = {
        "fdatasync": _fdatasync(folder, times),
        "ping": _each(record.ping, times),
        "spawn_one": _spawns(times, 1),
        "spawn_two": _spawns(times, SLOTS),
        "fork_two": _spawns(times, SLOTS, _forked),
        "run_folder": _run_folders(folder, times),
        "json": _each(lambda: json.loads(LINE), 10 * times),
        "libyaml": _each(lambda: yaml.load(DOCUMENT, Loader=yaml.CSafeLoader), times),
        "switch": _switch(10 * times, same=True),
        "wake_up": _switch(10 * times, same=False),
    }
    found |= {f"reply_{name}": took for name, took in _replies(record, times).items()}
    return {name: round(value, 2) for name, value in found.items()}


def _each(call: Callable[[], object], times: int) -> float:
    call()
    begin = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - begin) * 1e6 / times


def _fdatasync(folder: Path, times: int) -> float:
    fd = os.open(folder / "append", os.O_CREAT | os.O_WRONLY | os.O_APPEND)

    def write() -> None:
        os.write(fd, WRITE)
        os.fdatasync(fd)

    try:
        return _each(write, times)
    finally:
        os.close(fd)


def _spawned() -> None:
    os.posix_spawn(COMMAND, [COMMAND], {})


def _forked() -> None:
    if os.fork() == 0:
        try:
            os.execve(COMMAND, [COMMAND], {})
        finally:
            os._exit(127)


def _spawns(times: int, at_once: int, start: Callable[[], None] = _spawned) -> float:
    """Keep so many processes under way; microseconds for one."""
    begin = time.perf_counter()
    for number in range(times):
        if number >= at_once:
            os.wait()
        start()
    for _ in range(min(at_once, times)):
        os.wait()
    return (time.perf_counter() - begin) * 1e6 / times


def _run_folders(folder: Path, times: int) -> float:
    """Make run folders and their markers by the calls that the runner makes, and no more."""
    spool = folder / "spool"
    spool.mkdir()

    def make(number: int) -> None:
        job = f"{spool}/align-{number}"
        run = f"{job}/run.1"
        os.mkdir(job)  # noqa: PTH102 (as the runner does: a Path takes longer than the call)
        os.mkdir(run)  # noqa: PTH102
        fd = os.open(f"{run}/run.1.1", os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_APPEND, 0o644)
        os.write(fd, WRITE)
        os.link(f"{run}/run.1.1", f"{run}/run")
        os.unlink(f"{run}/run.1.1")  # noqa: PTH108
        os.close(fd)

    begin = time.perf_counter()
    for number in range(times):
        make(number)
    return (time.perf_counter() - begin) * 1e6 / times


def _switch(times: int, *, same: bool) -> float:
    """Return half a round trip of one byte between two processes, less what its system calls take by themselves.

    Both are Python, whose own time is in the calls that are taken off.
    """
    there, back, own = os.pipe(), os.pipe(), os.pipe()
    cores = os.sched_getaffinity(0)
    try:
        if same:
            os.sched_setaffinity(0, {min(cores)})
        child = os.fork()
        if child == 0:
            try:
                for _ in range(times):
                    os.read(there[0], 1)
                    os.write(back[1], b"x")
            finally:
                os._exit(0)
        begin = time.perf_counter()
        for _ in range(times):
            os.write(there[1], b"x")
            os.read(back[0], 1)
        round_trip = (time.perf_counter() - begin) * 1e6 / times
        os.waitpid(child, 0)

        def alone() -> None:
            os.write(own[1], b"x")
            os.read(own[0], 1)

        return round_trip / 2 - _each(alone, times)
    finally:
        os.sched_setaffinity(0, cores)
        for fd in (*there, *back, *own):
            os.close(fd)


def _replies(record: Record, times: int) -> dict[str, float]:
    """Return microseconds of an LRANGE of so many entries, by the two parsers of redis-py."""
    from redis import Redis
    from redis._parsers import _HiredisParser, _RESP2Parser

    record.call("RPUSH", "replies", *[LINE] * ENTRIES)
    found = {}
    parsers: dict[str, Any] = {"hiredis": _HiredisParser, "python": _RESP2Parser}
    for name, parser in parsers.items():
        client = Redis.from_url(record.url, parser_class=parser, protocol=2)
        found[name] = _each(lambda client=client: client.lrange("replies", 0, -1), max(1, times // 5))  # type: ignore[misc]
        client.close()
    record.call("DEL", "replies")
    return found
