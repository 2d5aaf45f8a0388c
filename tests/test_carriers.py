"""Carriers: quick loads pass slow ones, and who stands in a dead file system is replaced."""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from jobmill.errors import StageFailed, StageStopped, SystemUnavailable
from jobmill.systems.system import ExecutionSystem, Progress
from jobmill.worker import carriers
from jobmill.worker.carriers import Carriers, Load

pytestmark = pytest.mark.timeout(60)


class Instance:
    def __init__(self, name: str) -> None:
        self.name = name
        self.thread = threading.current_thread()
        self.dropped: list[str] = []

    def close(self) -> None:
        pass


@pytest.fixture
def built() -> list[Instance]:
    return []


@pytest.fixture
def under_way(built: list[Instance]) -> Carriers:
    def build(name: str) -> Any:
        built.append(Instance(name))
        return built[-1]

    return Carriers(build)


def until_ended(under_way: Carriers, loads: list[Load], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not all(load.ended for load in loads):
        assert time.monotonic() < deadline
        select.select(under_way.filenos(), [], [], 0.05)
        under_way.ended()
        under_way.tick()


def lasting(seconds: float, result: object = "done") -> Callable[[ExecutionSystem, Progress], object]:
    def work(system: ExecutionSystem, progress: Progress) -> object:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            progress(f"{seconds}")
            time.sleep(0.01)
        return result

    return work


def test_each_thread_has_an_instance_of_its_own(under_way: Carriers, built: list[Instance]) -> None:
    used: list[tuple[object, threading.Thread]] = []

    def work(system: ExecutionSystem, progress: Progress) -> str:
        used.append((system, threading.current_thread()))
        time.sleep(0.01)
        return system.name

    loads = [Load(name, work) for name in ("a", "b") for _ in range(10)]
    for load in loads:
        under_way.add(load)
    until_ended(under_way, loads)
    assert [load.result for load in loads] == ["a"] * 10 + ["b"] * 10
    assert all(isinstance(system, Instance) and system.thread is thread for system, thread in used)
    assert len(built) <= 4


def test_it_wakes_the_loop_once_there_is_news(under_way: Carriers) -> None:
    load = Load("a", lasting(0.1))
    under_way.add(load)
    assert select.select(under_way.filenos(), [], [], 5)[0]
    assert under_way.ended() == [load] and under_way.ended() == []
    assert not select.select(under_way.filenos(), [], [], 0)[0]


def test_heavy_loads_have_a_line_of_their_own(under_way: Carriers) -> None:
    heavy = [Load("a", lasting(1.0), heavy=lambda: True) for _ in range(4)]
    quick = [Load("a", lasting(0.0)) for _ in range(50)]
    began = time.monotonic()
    for load in heavy + quick:
        under_way.add(load)
    until_ended(under_way, quick)
    assert time.monotonic() - began < 0.9 and not any(load.ended for load in heavy)
    until_ended(under_way, heavy)


def test_what_takes_long_while_others_wait_goes_on_in_the_slow_line(
    under_way: Carriers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(carriers, "QUICK", 0.1)
    slow = [Load("a", lasting(1.0)) for _ in range(4)]
    quick = [Load("a", lasting(0.0)) for _ in range(20)]
    began = time.monotonic()
    for load in slow + quick:
        under_way.add(load)
    until_ended(under_way, quick)
    assert time.monotonic() - began < 0.9
    until_ended(under_way, slow)
    assert all(load.result == "done" for load in slow)


def test_who_stands_still_is_replaced_and_comes_back_to_nothing(
    under_way: Carriers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(carriers, "STUCK", 0.3)
    free, dropped = threading.Event(), []

    def stand(system: ExecutionSystem, progress: Progress) -> str:
        free.wait(20)
        return "too late"

    standing = [Load("a", stand, drop=dropped.append) for _ in range(5)]
    for load in standing:
        under_way.add(load)
    until_ended(under_way, standing)
    assert all(isinstance(load.error, SystemUnavailable) and "does not answer" in str(load.error) for load in standing)
    after = Load("a", lasting(0.0))
    under_way.add(after)
    until_ended(under_way, [after])
    free.set()
    time.sleep(0.2)
    assert dropped == [] and all(load.result is None for load in standing)
    deadline = time.monotonic() + 5
    while under_way._lost and time.monotonic() < deadline:
        time.sleep(0.01)
        under_way.tick()
    assert under_way._lost == []


def test_what_is_not_wanted_stops_and_is_removed(under_way: Carriers) -> None:
    dropped: list[object] = []
    begun = Load("a", lasting(20), drop=dropped.append)
    kept = Load("a", lasting(20), drop=dropped.append)
    in_line = [Load("a", lasting(20), drop=dropped.append) for _ in range(3)]
    for load in (begun, kept, *in_line):
        under_way.add(load)
    while not begun.words:
        time.sleep(0.01)
    began = time.monotonic()
    for load in (begun, *in_line):
        load.stop(unwanted=True)
    kept.stop(unwanted=False)
    assert all(load.ended and isinstance(load.error, StageStopped) for load in (begun, kept, *in_line))
    while len(dropped) < 4 and time.monotonic() - began < 5:
        time.sleep(0.01)
    assert len(dropped) == 4 and under_way.ended() == []


def test_what_came_just_before_it_was_not_wanted_is_removed_too(under_way: Carriers) -> None:
    dropped: list[object] = []
    go = threading.Event()

    def work(system: ExecutionSystem, progress: Progress) -> str:
        go.wait(10)
        return "all of it"

    load = Load("a", work, drop=dropped.append)
    under_way.add(load)
    load.stop(unwanted=True)
    go.set()
    deadline = time.monotonic() + 5
    while not dropped and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(dropped) == 1 and load.result is None


def test_a_system_that_breaks_ends_its_load_alone(under_way: Carriers) -> None:
    def work(system: ExecutionSystem, progress: Progress) -> object:
        raise ZeroDivisionError("oh")

    load = Load("a", work)
    under_way.add(load)
    until_ended(under_way, [load])
    assert isinstance(load.error, StageFailed) and "ZeroDivisionError: oh" in str(load.error)
    after = Load("a", lasting(0.0))
    under_way.add(after)
    until_ended(under_way, [after])
    assert after.result == "done"
