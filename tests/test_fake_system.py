"""The fake system: a cluster that runs nothing, whose every start and end follows from its journal and the time."""

from __future__ import annotations

import fcntl
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from jobmill.errors import ConfigError, SystemUnavailable
from jobmill.systems import fake_cluster, registry
from jobmill.systems.fake import FakeSystem
from jobmill.systems.fake_cluster import FakeCluster
from jobmill.systems.fake_queue import FakeLaunch
from jobmill.systems.system import (
    ExitStatus,
    Launch,
    NativeState,
    Settled,
    Submission,
    SubmitError,
    SubmitFailure,
)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cluster(tmp_path: Path, clock: Clock) -> FakeCluster:
    return FakeCluster(tmp_path / "c", clock=clock)


@pytest.fixture
def system(cluster: FakeCluster) -> FakeSystem:
    return FakeSystem(name="fake", cluster=cluster)


def job(name: str, run: int = 1, **more: Any) -> Submission:
    values = {"argv": ("/bin/sh", "-c", "sleep 1; echo 'ü'"), **more}
    return Submission(token=f"r:{name}:{run}", job_id=name, run=run, **values)


def submit(system: FakeSystem, *jobs: Submission) -> list[str]:
    answers = system.submit(jobs)
    assert all(isinstance(answer, str) for answer in answers), answers
    return [str(answer) for answer in answers]


def state(system: FakeSystem, handle: str) -> NativeState:
    return system.status([handle])[handle].state


# The contract.


def test_it_is_declared_as_a_strangers_would_be(tmp_path: Path) -> None:
    assert registry.system_class("fake") is FakeSystem
    built = registry.system_class("fake").build("fake", {"slots": 3, "unclear": 0.5}, tmp_path)
    assert isinstance(built, FakeSystem)
    assert (built.slots, built.cluster.faults().unclear) == (3, 0.5)
    assert FakeSystem.limits(3, 50, {}) == {"queue": 50, "slots": 3}
    assert FakeSystem.limits(None, 50, {}) == {"queue": 50}
    assert not (tmp_path / "fake").exists()  # to build touches nothing


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"slot": 1}, r"systems.fake: unknown option 'slot' \(did you mean 'slots'"),
        ({"slots": -1}, "systems.fake.slots: -1 is not a number of slots"),
        ({"seconds": "1h"}, "systems.fake.seconds: '1h' is not a number of seconds"),
        ({"unclear": 2}, "systems.fake.unclear: 2 is not a probability"),
        ({"down": 1}, "systems.fake.down: 1 is not true or false"),
        ({"folder": "here"}, "no absolute path"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        FakeSystem.build("fake", options, tmp_path)


def test_a_launch_is_held_until_it_is_released(system: FakeSystem, clock: Clock) -> None:
    (handle,) = submit(system, job("a", env={"FAKE_SECONDS": "5", "FAKE_EXIT": "7"}))
    clock.now += 1000
    look = system.status([handle])[handle]
    assert (look.state, look.held, look.alive) == (NativeState.SUBMITTED, True, True)
    assert system.exit_info([handle]) == {}
    assert system.inventory("r") == {handle: "r:a:1"}
    system.release([handle])
    system.release([handle])
    assert (state(system, handle), system.status([handle])[handle].held) == (NativeState.RUNNING, False)
    clock.now += 4.9
    assert state(system, handle) is NativeState.RUNNING
    clock.now += 0.2
    system.release([handle])
    assert state(system, handle) is NativeState.ENDED
    end = system.exit_info([handle])[handle]
    assert (end.exit_status, end.exit_value, end.term_sig, end.reason) == (
        ExitStatus.FINISHED_REGULARLY,
        7,
        None,
        None,
    )
    assert end.started is not None and end.ended is not None
    assert (end.resource_usage["wall"], round(end.ended - end.started, 3)) == (5, 5)
    assert (end.native_id, end.native_state, end.host) == (handle, "FAILED", "fake")
    assert system.inventory("r") == {}
    assert system.logs(handle, "stdout", 0) == b"fake: r:a:1 ran nothing; it was asked to run: " + (
        b"/bin/sh -c 'sleep 1; echo '\"'\"'\xc3\xbc'\"'\"''\n"
    )
    assert system.logs(handle, "stdout", 6, 3) == b"r:a"
    assert system.logs(handle, "stderr", 0) == b""


@pytest.mark.parametrize(
    ("env", "walltime", "status", "value", "signal", "reason"),
    [
        ({}, None, "finished_regularly", 0, None, None),
        ({"FAKE_SIGNAL": "11"}, None, "finished_signal", None, 11, None),
        ({"FAKE_SECONDS": "10"}, 3.0, "finished_signal", None, 15, "timeout"),
        ({"FAKE_SECONDS": "3"}, 3.0, "finished_regularly", 0, None, None),
    ],
)
def test_how_a_job_ends(
    system: FakeSystem,
    clock: Clock,
    env: dict[str, str],
    walltime: float | None,
    status: str,
    value: int | None,
    signal: int | None,
    reason: str | None,
) -> None:
    (handle,) = submit(system, job("a", env=env, walltime=walltime))
    system.release([handle])
    clock.now += 20
    end = system.exit_info([handle])[handle]
    assert (end.exit_status, end.exit_value, end.term_sig, end.reason) == (status, value, signal, reason)


@pytest.mark.parametrize(
    ("name", "value"),
    [("FAKE_SECONDS", "soon"), ("FAKE_SECONDS", "-1"), ("FAKE_SECONDS", "nan"), ("FAKE_EXIT", "256"),
     ("FAKE_EXIT", "1.5"), ("FAKE_SIGNAL", "KILL")],
)  # fmt: skip
def test_what_a_job_cannot_do_is_refused(system: FakeSystem, name: str, value: str) -> None:
    good, bad = system.submit([job("a"), job("b", env={name: value})])
    assert isinstance(good, str)
    assert isinstance(bad, SubmitError)
    assert bad.failure is SubmitFailure.PERMANENT
    assert bad.message.startswith(f"{name}: {value!r} is not ")


def test_the_same_token_is_the_same_launch(system: FakeSystem) -> None:
    (handle,) = submit(system, job("a"))
    again, other = submit(system, job("a"), job("a", 2))
    assert (again, other != handle, len(system.inventory("r"))) == (handle, True, 2)


def test_settle_finds_what_was_submitted(system: FakeSystem) -> None:
    (handle,) = submit(system, job("a"))
    answers = system.settle([Launch(token="r:a:1"), Launch(token="r:b:1")])
    assert answers == {"r:a:1": handle, "r:b:1": Settled.NOT_STARTED}
    system.kill([handle], force=True)
    assert system.settle([Launch(token="r:a:1")]) == {"r:a:1": Settled.NOT_STARTED}


def test_kill_ends_what_has_not_ended_and_only_that(system: FakeSystem, clock: Clock) -> None:
    held, runs, done = submit(system, job("h"), job("r", env={"FAKE_SECONDS": "60"}), job("d"))
    system.release([runs, done])
    clock.now += 1
    assert system.kill([held, runs, done, "elsewhere.5"], force=False) == dict.fromkeys(
        [held, runs, done, "elsewhere.5"], True
    )
    clock.now += 1
    ends = system.exit_info([held, runs, done])
    assert (ends[held].exit_status, ends[held].reason, ends[held].started) == (
        ExitStatus.ABORTED_BEFORE_RUNNING,
        "killed",
        None,
    )
    assert (ends[runs].term_sig, ends[runs].exit_value, ends[runs].resource_usage["wall"]) == (15, None, 1)
    assert ends[done].regular
    system.release([held])  # a late release
    assert state(system, held) is NativeState.ENDED
    assert system.inventory("r") == {}


def test_what_it_never_had_is_absent(system: FakeSystem) -> None:
    for handle in ("", "x", f"{system.cluster.boot}.99", f"{system.cluster.boot}.", "other.1", "a.²"):
        assert state(system, handle) is NativeState.ABSENT
        assert system.logs(handle, "stdout", 0) == b""


def test_check_says_that_it_runs_nothing(system: FakeSystem) -> None:
    told = {check.name: check for check in system.check()}
    assert "runs no processes" in told["fake"].detail
    assert told["faults"].detail == "none" and all(check.ok for check in told.values())
    system.cluster.faults(down=True, late=3)
    told = {check.name: check for check in system.check()}
    assert (told["faults"].ok, told["faults"].detail) == (False, "down True, late 3")


# The queue.


def test_first_released_first_served_over_slots(system: FakeSystem, clock: Clock) -> None:
    system.set_slots(2)
    handles = submit(system, *[job(n, env={"FAKE_SECONDS": "10"}) for n in "abcd"])
    a, b, c, d = handles
    system.release([d])
    clock.now += 1
    system.release([a, b, c])
    running = lambda: [h for h in handles if state(system, h) is NativeState.RUNNING]  # noqa: E731
    assert running() == [a, d]
    clock.now += 9  # d ends, b is next
    assert running() == [a, b]
    system.kill([a], force=True)
    assert running() == [b, c]
    system.set_slots(0)
    clock.now += 100
    assert running() == []
    (late,) = submit(system, job("late"))
    system.release([late])
    assert state(system, late) is NativeState.SUBMITTED


def test_a_job_takes_as_many_slots_as_it_has_cpus(system: FakeSystem, clock: Clock) -> None:
    system.set_slots(4)
    wide, small, huge = submit(
        system, *[job(n, cpus=c, env={"FAKE_SECONDS": "10"}) for n, c in (("w", 3), ("s", 2), ("h", 99))]
    )
    system.release([wide, small, huge])
    assert [state(system, h) for h in (wide, small)] == [NativeState.RUNNING, NativeState.SUBMITTED]
    clock.now += 10
    assert state(system, small) is NativeState.RUNNING
    clock.now += 10
    assert state(system, huge) is NativeState.RUNNING  # the whole cluster


def rows(launches: list[FakeLaunch]) -> list[tuple[Any, ...]]:
    return [(it.number, it.token, it.state, it.released, it.started, it.ended, it.killed) for it in launches]


@pytest.mark.parametrize("seed", range(10))
def test_whoever_looks_and_whenever_sees_the_same(tmp_path: Path, clock: Clock, seed: int) -> None:
    draw = random.Random(seed)
    some = [FakeCluster(tmp_path, clock=clock) for _ in range(3)]
    handles: list[str] = []
    some[0].set_slots(3)
    for n in range(300):
        clock.now += draw.choice([0, 0, 0.001, 0.5, 3])
        who = draw.choice(some)
        act = draw.randrange(6)
        if act < 2:
            what = {"seconds": draw.choice([0, 0.5, 1, 7]), "cpus": draw.choice([1, 1, 2, 9])}
            handles += [h for h in who.submit([(f"r:{n}:{i}", what) for i in range(draw.randrange(4))]) if h]
        elif act == 2 and handles:
            who.release(draw.sample(handles, min(5, len(handles))))
        elif act == 3 and handles:
            who.kill(draw.sample(handles, 1), 9)
        elif act == 4:
            who.set_slots(draw.choice([0, 1, 3, 8, None]))
        else:
            who.look()
    seen = [rows(it.launches()) for it in [*some, FakeCluster(tmp_path, clock=clock)]]
    assert seen[0] == seen[1] == seen[2] == seen[3]
    assert {row[2] for row in seen[0]} >= {"held", "ended"}


def test_what_has_ended_is_forgotten_after_a_while_and_the_journal_has_it(tmp_path: Path, clock: Clock) -> None:
    cluster = FakeCluster(tmp_path, clock=clock, keep=60)
    (handle,) = cluster.submit([("r:a:1", {})])
    assert handle
    cluster.release([handle])
    clock.now += 59
    assert cluster.find([handle]) != [None]
    clock.now += 2
    assert cluster.find([handle]) == [None]
    assert [it.token for it in FakeCluster(tmp_path, clock=clock).launches()] == ["r:a:1"]


# The journal.


def test_many_processes_write_one_journal(tmp_path: Path) -> None:
    code = (
        "import sys; from jobmill.systems.fake_cluster import FakeCluster; c = FakeCluster(sys.argv[1])\n"
        "for n in range(40):\n"
        "    hs = c.submit([(f'r:{sys.argv[2]}-{n}-{i}:1', {}) for i in range(5)]); c.release(hs[:3]); print(*hs)"
    )
    some = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path), str(n)], stdout=subprocess.PIPE, text=True)
        for n in range(4)
    ]
    told = [handle for it in some for handle in it.communicate(timeout=60)[0].split()]
    assert len(told) == len(set(told)) == 800
    launches = FakeCluster(tmp_path).launches()
    assert len(launches) == len({it.token for it in launches}) == 800
    assert sum(it.started is not None for it in launches) == 480


@pytest.mark.parametrize("cut", [1, 5, 30, -1])
def test_a_torn_line_is_passed_over(cluster: FakeCluster, clock: Clock, cut: int) -> None:
    """Whose writer died in its midst; even where nothing but the end of the line is missing."""
    (first,) = cluster.submit([("r:a:1", {})])
    line = json.dumps(["submit", clock.now, 2, "r:torn:1", {"what": "x"}]).encode() + b"\n"
    with cluster.journal.open("ab") as file:
        file.write(line[:cut])
    reader = FakeCluster(cluster.folder, clock=clock)
    assert [it.token for it in reader.launches()] == ["r:a:1"]
    (second,) = cluster.submit([("r:b:1", {})])
    assert first and second and second != first
    reader.release([first, second])
    for each in (cluster, reader, FakeCluster(cluster.folder, clock=clock)):
        assert [(it.token, it.released is not None) for it in each.launches()] == [("r:a:1", True), ("r:b:1", True)]


def test_lines_that_are_no_acts_are_passed_over(cluster: FakeCluster) -> None:
    cluster.submit([("r:a:1", {})])
    with cluster.journal.open("ab") as file:
        file.write(b'\x00\xff\n[]\n{}\n3\n"x"\n["submit"]\n["submit",1,"x","t",{}]\n["kill",1,99,"t",9]\n')
        file.write(b'["submit",1,3,"t",{"odd":1}]\n["explode",1]\n["slots",1,"many"]\n[[[\n')
    cluster.submit([("r:b:1", {})])
    assert [it.token for it in FakeCluster(cluster.folder).launches()] == ["r:a:1", "r:b:1"]


def test_what_the_disk_did_not_take_was_not_accepted(tmp_path: Path) -> None:
    code = (
        "import resource, sys; from jobmill.systems.fake_cluster import FakeCluster; c = FakeCluster(sys.argv[1])\n"
        "c.submit([('r:first:1', {})])\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (400, resource.RLIM_INFINITY))\n"
        "print(sum(h is not None for h in c.submit([(f'r:j{i}:1', {}) for i in range(20)])))\n"
        "try: c.submit([('r:last:1', {})])\n"
        "except Exception as e: print(type(e).__name__)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=30)
    count, refused = done.stdout.split()
    assert (0 < int(count) < 20, refused) == (True, "SystemUnavailable"), done
    cluster = FakeCluster(tmp_path)
    cluster.submit([("r:after:1", {})])
    wanted = ["r:first:1", *[f"r:j{i}:1" for i in range(int(count))], "r:after:1"]
    assert [it.token for it in cluster.launches()] == wanted


def test_a_process_that_sleeps_with_the_lock_is_an_outage(
    cluster: FakeCluster, system: FakeSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake_cluster, "PATIENCE", 0.05)
    submit(system, job("a"))
    fd = os.open(cluster.journal, os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)
    for verb in (lambda: system.submit([job("b")]), lambda: system.inventory("r")):
        with pytest.raises(SystemUnavailable, match="locked"):
            verb()
    os.close(fd)
    assert list(system.inventory("r").values()) == ["r:a:1"]


def test_a_reboot_takes_all_it_had(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    system = FakeSystem(name="fake", cluster=FakeCluster(tmp_path, clock=clock), seconds=60)
    (handle,) = submit(system, job("a"))
    system.release([handle])
    monkeypatch.setattr(fake_cluster, "BOOT", "another-boot")
    clock.now = 3.0
    after = FakeSystem(name="fake", cluster=FakeCluster(tmp_path, clock=clock))
    assert state(after, handle) is NativeState.ABSENT
    assert after.settle([Launch(token="r:a:1")]) == {"r:a:1": Settled.NOT_STARTED}
    assert after.inventory("r") == {}
    (new,) = submit(after, job("b"))
    assert new != handle


def test_a_journal_that_was_removed_begins_anew(cluster: FakeCluster) -> None:
    cluster.submit([("r:a:1", {})])
    cluster.journal.unlink()
    assert cluster.launches() == []
    cluster.submit([("r:b:1", {})])
    assert [it.token for it in cluster.launches()] == ["r:b:1"]


def test_a_folder_that_cannot_be_is_an_outage(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemUnavailable):
        FakeCluster(tmp_path / "file" / "c").submit([("r:a:1", {})])


# The faults.


def answers(system: FakeSystem, count: int = 40) -> list[str]:
    """Submit jobs in batches; return "" for a handle, and the failure for what is none."""
    found = [a for n in range(count // 4) for a in system.submit([job(f"j{n}-{i}") for i in range(4)])]
    return [a.failure.value if isinstance(a, SubmitError) else "" for a in found]


def test_faults_are_changed_by_any_process_while_it_runs(system: FakeSystem) -> None:
    assert submit(system, job("a"))
    code = (
        "import sys; from jobmill.systems.fake_cluster import FakeCluster; FakeCluster(sys.argv[1]).faults(down=True)"
    )
    subprocess.run([sys.executable, "-c", code, str(system.cluster.folder)], check=True, timeout=30)
    verbs = [
        lambda: system.submit([job("b")]),
        lambda: system.release(["x"]),
        lambda: system.status(["x"]),
        lambda: system.exit_info(["x"]),
        lambda: system.settle([]),
        lambda: system.inventory("r"),
        lambda: system.kill(["x"], force=True),
    ]
    for verb in verbs:
        with pytest.raises(SystemUnavailable, match="connection refused"):
            verb()
    assert system.cluster.faults(down=False).down is False
    assert len(system.inventory("r")) == 1
    with pytest.raises(ConfigError, match=r"unknown fault 'donw' \(did you mean 'down'\?\)"):
        system.cluster.faults(donw=True)


def test_options_hold_as_long_as_the_file_does_not_say_otherwise(tmp_path: Path) -> None:
    system = FakeSystem.build("fake", {"refuse": 1.0, "late": 2}, tmp_path)
    assert answers(system, 4) == ["transient"] * 4
    system.cluster.faults(refuse=0)
    assert (system.cluster.faults().refuse, system.cluster.faults().late) == (0, 2)
    assert answers(system, 4) == [""] * 4


def test_the_same_seed_gives_the_same_faults(tmp_path: Path) -> None:
    def told(folder: str, seed: int) -> list[str]:
        system = FakeSystem.build("fake", {"seed": seed, "refuse": 0.3, "unclear": 0.3}, tmp_path / folder)
        return answers(system)

    assert told("a", 1) == told("b", 1) != told("c", 2)
    assert set(told("d", 1)) == {"", "transient", "unclear"}


def test_unclear_is_accepted(system: FakeSystem) -> None:
    system.cluster.faults(unclear=1)
    assert answers(system, 4) == ["unclear"] * 4
    assert len(system.inventory("r")) == 4


def test_refused_is_not_accepted(system: FakeSystem) -> None:
    system.cluster.faults(refuse=1)
    assert answers(system, 4) == ["transient"] * 4
    assert system.inventory("r") == {}


def test_a_limit_is_told_as_one(system: FakeSystem) -> None:
    system.cluster.faults(limit=6)
    assert answers(system, 12) == [""] * 6 + ["limit"] * 6
    system.kill(list(system.inventory("r"))[:2], force=True)
    assert [type(a) is str for a in system.submit([job(n) for n in "xyz"])] == [True, True, False]


def test_a_duplicate_is_told_once_and_held(system: FakeSystem) -> None:
    system.cluster.faults(duplicate=1)
    (handle,) = submit(system, job("a"))
    found = system.inventory("r")
    assert (len(found), set(found.values()), handle in found) == (2, {"r:a:1"}, True)
    system.release([handle])
    assert [system.status([h])[h].held for h in found if h != handle] == [True]
    assert submit(system, job("a")) == [handle]


def test_an_empty_answer_knows_nothing(system: FakeSystem) -> None:
    (handle,) = submit(system, job("a"))
    system.cluster.faults(empty=1)
    assert state(system, handle) is NativeState.ABSENT
    assert system.settle([Launch(token="r:a:1")]) == {"r:a:1": Settled.NOT_STARTED}
    assert system.inventory("r") == {}
    system.cluster.faults(empty=0)
    assert system.settle([Launch(token="r:a:1")]) == {"r:a:1": handle}


def test_wrong_observations_are_of_every_kind(system: FakeSystem) -> None:
    handles = submit(system, *[job(str(n), env={"FAKE_SECONDS": "60"}) for n in range(200)])
    system.release(handles[:100])
    system.cluster.faults(wrong=0.5)
    seen = system.status(handles)
    assert {look.state for look in seen.values()} == {
        NativeState.RUNNING,
        NativeState.SUBMITTED,
        NativeState.ENDED,
        NativeState.UNKNOWN,
    }
    assert system.exit_info(handles) == {}
    runs = sum(seen[h].state is NativeState.RUNNING for h in handles[:100])
    assert 40 < runs < 80


def test_a_record_may_be_late(system: FakeSystem, clock: Clock) -> None:
    system.cluster.faults(late=5)
    (handle,) = submit(system, job("a"))
    system.release([handle])
    clock.now += 4
    assert (state(system, handle), system.exit_info([handle])) == (NativeState.ENDED, {})
    clock.now += 2
    assert system.exit_info([handle])[handle].exit_value == 0


def test_verbs_may_take_their_time(system: FakeSystem) -> None:
    system.cluster.faults(delay=0.05)
    began = time.monotonic()
    system.inventory("r")
    assert time.monotonic() - began >= 0.05
