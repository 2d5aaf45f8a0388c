"""Required outputs are looked for beside the loop: a tree that has no end keeps nobody else waiting."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pipeline import Pipeline

from jobmill.fetcher import outputs
from jobmill.fetcher.outputs import Late, Look, Outputs, exists

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


@given(parts=st.lists(PARTS, min_size=1, max_size=4))
def test_it_finds_what_pathlib_finds(tree: Path, parts: list[str]) -> None:
    glob = "/".join(parts)
    assert exists(tree, glob, time.monotonic() + 5) == (next(tree.glob(glob), None) is not None)


def test_a_link_to_nowhere_is_no_output(tree: Path) -> None:
    assert not exists(tree, "dangling", time.monotonic() + 5)


def test_a_look_has_an_end(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Late):
        exists(tree, "**/none", time.monotonic() - 1)
    monkeypatch.setattr(outputs, "LIMIT", -1.0)
    words = Look.of(("i", 1, 1), {"outputs": [["**/none", True]], "workdir": str(tree)}, tree).missing()
    assert "not found within" in words and str(tree) in words


def test_what_nobody_wrote_is_refused(tmp_path: Path) -> None:
    for bad in ([1], [["*"]], 7, [[1, 2, 3]]):
        with pytest.raises((ValueError, TypeError)):
            Look.of(("i", 1, 1), {"outputs": bad}, tmp_path)


def test_a_slow_look_is_told_later_and_once(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def slow(folder: Path, glob: str, until: float) -> bool:
        calls.append(glob)
        time.sleep(0.5)
        return glob == "there"

    monkeypatch.setattr(outputs, "exists", slow)
    looks = [
        Look(("a", 1, 1), ("there",), (tree,)),
        Look(("b", 1, 1), ("gone",), (tree,)),
        Look(("c", 1, 1), (), (tree,)),
    ]
    under_way = Outputs()
    assert under_way.missing(looks) == {("a", 1, 1): None, ("b", 1, 1): None, ("c", 1, 1): ""}
    time.sleep(0.6)
    answer = under_way.missing(looks)
    assert answer["a", 1, 1] == "" and "gone" in str(answer["b", 1, 1])
    assert sorted(calls) == ["gone", "there"]


SLOW_FETCHER = """
import sys, time
from jobmill.fetcher import outputs
from jobmill.scripts.fetcher import main
real = outputs.exists
def slow(folder, glob, until):
    time.sleep(3 if glob.startswith("slow") else 0)
    return real(folder, glob, until)
outputs.exists = slow
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
