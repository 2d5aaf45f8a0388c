"""What a visit counts on an instance: what runs there, and what nobody has fetched, for an hour at most."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jobmill.systems import process_tree
from jobmill.systems.ec2_visit import COUNT, MOST, Visits
from jobmill.systems.far_desk import Desk
from jobmill.systems.run_folder import append, end_line, header, never_started, seal, take

pytestmark = pytest.mark.timeout(60)

LIFE = f"r{os.getpid()}.1"  # a launch is looked for by its token on the whole machine


def count(spool: Path, minutes: int = 60) -> int:
    done = subprocess.run(
        ["/bin/sh", "-c", COUNT, "jobmill", str(spool / "jobs"), f"{minutes}"],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert not done.stderr
    word, number = done.stdout.split()
    assert word == "jobmill-taken"
    return int(number)


def launch(spool: Path, job: str, lines: bytes = b"") -> Path:
    """Take a launch's marker, as a runner does; return its `run` file."""
    folder = spool / "jobs" / job / "run.1"
    folder.mkdir(parents=True)
    os.close(take(os.fsencode(folder), header(f"{LIFE}:{job}:1", "-") + lines))
    return folder / "run"


def aged(file: Path, minutes: float) -> None:
    then = time.time() - 60 * minutes
    os.utime(file, (then, then))


def test_where_nothing_is_nothing_is_counted(tmp_path: Path) -> None:
    assert count(tmp_path) == 0
    (tmp_path / "jobs").mkdir()
    assert count(tmp_path) == 0
    seal(os.fsencode(tmp_path), f"{LIFE}:a:1", "-", "not_started", "its starter died")
    assert count(tmp_path) == 0


def test_what_ended_counts_until_it_is_fetched_and_for_an_hour_at_most(tmp_path: Path) -> None:
    run = launch(tmp_path, "a", end_line("exit", never_started("x", "y")))
    assert count(tmp_path) == 1
    desk = Desk(os.fsencode(tmp_path), "aws")
    desk.tidy([("r.2:a:1", 0.0), (f"{LIFE}:b:1", 0.0)])  # another life of it, and one that is not here
    assert count(tmp_path) == 1
    aged(run, 59)
    assert count(tmp_path) == 1
    aged(run, 61)
    assert count(tmp_path) == 0
    aged(run, 0)
    for _ in range(2):  # a question may be repeated
        desk.tidy([(f"{LIFE}:a:1", 0.0)])
    assert count(tmp_path) == 0


def test_what_runs_counts_however_long(tmp_path: Path) -> None:
    mine = process_tree.process(os.getpid())
    assert mine is not None
    run = launch(tmp_path, "a", f"pid {mine.pid} {mine.start}\n".encode())
    aged(run, 5000)
    other = launch(tmp_path, "fled", b"pid 4194304 1\n")  # its first process is gone, another is not
    aged(other, 5000)
    with subprocess.Popen(["sleep", "30"], env={"JOBMILL_TOKEN": f"{LIFE}:fled:1"}) as child:
        try:
            assert count(tmp_path) == 2
            assert not (run.parent / "gone").exists()
        finally:
            child.kill()
    assert count(tmp_path) == 2 and (other.parent / "gone").exists()


def test_what_will_never_have_an_end_counts_for_an_hour_since_that_was_seen(tmp_path: Path) -> None:
    run = launch(tmp_path, "a", b"pid 4194304 1\n")
    aged(run, 5000)
    assert count(tmp_path) == 1
    aged(run.parent / "gone", 61)
    assert count(tmp_path) == 0
    append(os.fsencode(run.parent), end_line("exit", never_started("x", "y")))  # somebody knew all the same
    assert count(tmp_path) == 1


def test_a_marker_that_was_taken_just_now_counts(tmp_path: Path) -> None:
    run = launch(tmp_path, "a")
    assert count(tmp_path) == 1 and not (run.parent / "gone").exists()


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (b"hello\njobmill-taken 2\n", 2),
        (b"jobmill-taken -5\n", 0),  # never free slots that it does not have, nor busy for ever
        (b"jobmill-taken many\n", None),
        (b"", None),
        (b"x" * (MOST + 1), None),
    ],
)
def test_an_instance_may_say_anything(answer: bytes, found: int | None) -> None:
    ours, theirs = socket.socketpair()

    def say() -> None:
        with theirs, contextlib.suppress(OSError):
            theirs.sendall(b'{"ok": true}\n' + answer)

    link: Any = SimpleNamespace(open=lambda command: ours, close=lambda: None)
    host: Any = SimpleNamespace(name="i-1", renew="true", ready="true")
    talks = threading.Thread(target=say)
    talks.start()
    visits = Visits(lambda it: link, lambda: "jobs")
    assert visits(host, renew=True) == found
    visits.close()
    talks.join()
