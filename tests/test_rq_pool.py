"""The `rq` system with real `rq worker`s: what ends how, and what is told of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Server
from rq_pool import Pool

from jobmill.systems.system import ExitStatus

pytestmark = pytest.mark.timeout(90)


@pytest.fixture
def pool(running_server: Callable[[str], Server], tmp_path: Path) -> Iterator[Pool]:
    made = Pool(running_server("valkey").url, tmp_path)
    yield made
    made.stop()


def test_exit_values_and_signals_are_the_kernels(pool: Pool) -> None:
    pool.work()
    handles = pool.launch(
        pool.sh("zero", "echo out; echo err >&2"),
        pool.sh("one", "exit 1"),
        pool.job("none", "no-such-command"),
        pool.sh("term", "kill -TERM $$"),
        pool.sh("kill", "kill -KILL $$"),
    )
    zero, one, none, term, killed = [pool.end(handle) for handle in handles]
    assert zero.regular and zero.exit_value == 0 and zero.resource_usage["wall"] >= 0
    assert (one.exit_status, one.exit_value) == (ExitStatus.FINISHED_REGULARLY, 1)
    assert (none.exit_value, none.reason) == (127, "start_failed") and "no-such-command" in (none.message or "")
    assert (term.exit_status, term.term_sig) == (ExitStatus.FINISHED_SIGNAL, 15)
    assert killed.term_sig == 9
    assert pool.system.logs(handles[0], "stdout", 0) == b"out\n"
    assert pool.system.logs(handles[0], "stderr", 1) == b"rr\n"
    pool.until(lambda: len(pool.ends) == 5)
    assert pool.ends["rec.1:one:1"] == one
    assert sorted(pool.starts) == [f"rec.1:{name}:1" for name in ("kill", "one", "term", "zero")]
