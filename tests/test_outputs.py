"""Required outputs are looked for beside the loop: a tree that has no end keeps nobody else waiting."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pipeline import Pipeline

from jobmill.fetcher import output_look, outputs
from jobmill.fetcher.glob_search import STEP, search
from jobmill.fetcher.output_look import Look
from jobmill.fetcher.outputs import Outputs

TREE = ("a.txt", ".hidden", "d/b.txt", "d/e/c.txt", "d/e/.h.txt", "x[1]", "empty/")
PARTS = st.sampled_from(
    ["*", "**", "d", "e", "*.txt", "a.txt", "c.txt", "?.txt", "[a-c].txt", ".h*", "empty", "none", "x[[]1]"]
)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tree")
    for name in TREE:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir() if name.endswith("/") else path.touch()
    (root / "loop").symlink_to(root)
    (root / "dangling").symlink_to(root / "nowhere")
    return root


def exists(folder: Path, glob: str) -> bool:
    return list(search(folder, glob))[-1:] == [True]


@given(parts=st.lists(PARTS, min_size=1, max_size=5))
def test_it_finds_what_pathlib_finds(tree: Path, parts: list[str]) -> None:
    glob = "/".join(parts)
    assert exists(tree, glob) == (next(tree.glob(glob), None) is not None)


def test_a_link_to_nowhere_is_no_output(tree: Path) -> None:
    assert not exists(tree, "dangling")


def test_a_search_stops_now_and_then_and_keeps_no_files_in_mind(tmp_path: Path) -> None:
    for number in range(3 * STEP):
        (tmp_path / str(number)).touch()
    assert list(search(tmp_path, "**/none")) == [False] * 3
    assert list(search(tmp_path, "*/none")) == [False] * 3


def test_what_nobody_wrote_is_refused(tmp_path: Path) -> None:
    for bad in ([1], [["*"]], 7, [[1, 2, 3]]):
        with pytest.raises((ValueError, TypeError)):
            Look.of(("i", 1, 1), {"outputs": bad}, tmp_path)


class Slow:
    """A file system that answers slowly, or never, below folders of these names."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.searches: Counter[str] = Counter()
        self.hang = threading.Event()
        monkeypatch.setattr(output_look, "search", self.search)

    def search(self, folder: Path, glob: str) -> Iterator[bool]:
        self.searches[glob] += 1
        if folder.name == "hangs":
            self.hang.wait(20)
        until = time.monotonic() + (0.5 if folder.name == "slow" else 0.0)
        while time.monotonic() < until:
            time.sleep(0.001)
            yield False
        if glob == "there":
            yield True


def look(name: str, folder: str, glob: str = "there") -> Look:
    return Look((name, 1, 1), (glob,), (Path(folder),))


def until_known(outputs: Outputs, asked: Look, seconds: float = 10) -> str:
    deadline = time.monotonic() + seconds
    while (words := outputs.missing([asked])[asked.launch]) is None:
        assert time.monotonic() < deadline
    return words


def test_a_slow_look_is_told_later_and_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    slow, under_way = Slow(monkeypatch), Outputs()
    looks = [look("a", "slow"), look("b", "slow", "gone"), Look(("c", 1, 1), (), (Path("slow"),))]
    assert under_way.missing(looks) == {("a", 1, 1): None, ("b", 1, 1): None, ("c", 1, 1): ""}
    assert until_known(under_way, looks[0]) == "" and "gone" in until_known(under_way, looks[1])
    assert slow.searches == {"there": 1, "gone": 1}


def test_quick_looks_pass_slow_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    Slow(monkeypatch)
    under_way = Outputs()
    under_way.missing([look(str(n), "slow", "gone") for n in range(20)])
    began = time.monotonic()
    assert until_known(under_way, look("quick", "here")) == ""
    assert time.monotonic() - began < 3  # all the slow ones together take 5 s of two scanners


def test_a_look_that_takes_too_long_by_itself_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    Slow(monkeypatch)
    monkeypatch.setattr(output_look, "LIMIT", 0.2)
    assert "not found within 0.2 s: gone (in slow)" in until_known(Outputs(), look("a", "slow", "gone"))


def test_looks_beside_it_do_not_count_against_a_look(monkeypatch: pytest.MonkeyPatch) -> None:
    Slow(monkeypatch)
    monkeypatch.setattr(output_look, "LIMIT", 1.5)
    under_way, looks = Outputs(), [look(str(n), "slow") for n in range(12)]
    under_way.missing(looks)
    assert [until_known(under_way, one) for one in looks] == [""] * 12  # 6 s in all, half a second each


def test_a_file_system_that_does_not_answer_keeps_no_other_look(monkeypatch: pytest.MonkeyPatch) -> None:
    slow, under_way = Slow(monkeypatch), Outputs()
    monkeypatch.setattr(outputs, "STUCK", 0.2)
    monkeypatch.setattr(outputs, "LIMIT", 1.0)
    hanging = [look(str(n), "hangs") for n in range(6)]
    assert set(under_way.missing(hanging).values()) == {None}
    assert until_known(under_way, look("quick", "here")) == ""
    for one in hanging:
        assert "not found within" in until_known(under_way, one)
    threads = threading.active_count()
    slow.hang.set()
    deadline = time.monotonic() + 5
    while threading.active_count() > threads - 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert until_known(under_way, look("again", "here")) == ""


SLOW_FETCHER = """
import sys, time
from jobmill.fetcher import output_look
from jobmill.scripts.fetcher import main
real = output_look.search
def slow(folder, glob):
    time.sleep(3 if glob.startswith("slow") else 600 if glob == "hangs" else 0)
    yield from real(folder, glob)
output_look.search = slow
sys.exit(main([]))
"""
CONFIG = "systems: {local: {kind: local, slots: 4}, fake: {kind: fake, limit: 100, poll_interval: 0.2}}"


def start_slow_fetcher(pipeline: Pipeline) -> None:
    with pipeline.log.open("ab") as log:
        pipeline.workers["fetcher"] = subprocess.Popen(
            [sys.executable, "-c", SLOW_FETCHER], env=pipeline.env, stderr=log
        )


@pytest.mark.parametrize("system", ["local", "fake"])
def test_a_slow_file_server_keeps_only_its_own_jobs(tmp_path: Path, system: str) -> None:
    pipeline = Pipeline(tmp_path / "p", config=CONFIG)
    try:
        pipeline.start("manager", "starter")
        start_slow_fetcher(pipeline)
        plain = {"command": "touch slow.txt", "system": system, "env": {"FAKE_SECONDS": "0"}}
        client, workdir = pipeline.client, tmp_path / "work"
        workdir.mkdir()
        (workdir / "slow.txt").touch()
        here = plain | {"workdir": str(workdir)}
        client.wait(client.submit(plain), timeout=20)
        there, gone = (client.submit(here | {"outputs": [glob]}) for glob in ("slow.txt", "slow.none"))
        for job in (there, gone):
            pipeline.until(lambda job=job: client.record.call("HGET", f"Job:{job}", "state") == b"collecting")  # type: ignore[misc]
        began = time.monotonic()
        assert client.wait(client.submit(plain), timeout=20).state == "done"
        assert time.monotonic() - began < 2
        pipeline.workers["fetcher"].kill()
        pipeline.workers["fetcher"].wait()
        start_slow_fetcher(pipeline)
        assert client.wait(there, timeout=30).state == "done"
        row = client.wait(gone, timeout=30)
        assert (row.state, row.exit["reason"]) == ("failed", "missing_output") and "slow.none" in row.exit["message"]
        assert (row.run, client.wait(there).run) == (1, 1)
    finally:
        pipeline.stop()


@pytest.mark.parametrize("system", ["local", "fake"])
def test_a_job_whose_outputs_nobody_can_look_for_can_be_cancelled(tmp_path: Path, system: str) -> None:
    pipeline = Pipeline(tmp_path / "p", config=CONFIG)
    try:
        pipeline.start("manager", "starter")
        start_slow_fetcher(pipeline)
        client = pipeline.client
        job = client.submit({"command": "true", "system": system, "env": {"FAKE_SECONDS": "0"}, "outputs": ["hangs"]})
        pipeline.until(lambda: client.record.call("HGET", f"Job:{job}", "state") == b"collecting", timeout=20)
        client.cancel([job])
        row = client.wait(job, timeout=20)
        assert (row.state, row.exit["reason"], row.exit["exit_value"]) == ("cancelled", "cancelled", 0)
        assert "outputs were not looked for" in row.exit["message"]
        pipeline.workers["fetcher"].terminate()
        assert pipeline.workers["fetcher"].wait(5) == 0
    finally:
        pipeline.stop()
