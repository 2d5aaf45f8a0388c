"""The option `callbacks` of `lsf`: three jobs for a launch, accepted all or withdrawn all."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_lsf import Bench, system

from jobmill.errors import ConfigError
from jobmill.systems.lsf import LsfSystem
from jobmill.systems.system import ExitStatus, Launch, NativeState, Settled, SubmitError, SubmitFailure

pytestmark = pytest.mark.timeout(120)
TELL = 'echo "$JOBMILL_CALLBACK $JOBMILL_JOB_ID $JOBMILL_RUN $JOBMILL_NATIVE_ID $JOBMILL_EXIT_STATUS'
TELL += ' $JOBMILL_EXIT_VALUE $JOBMILL_TERM_SIG" >> "$0"'


def callbacks(folder: Path, **other: Any) -> dict[str, Any]:
    words = ["/bin/sh", "-c", TELL, str(folder / "told")]
    return {"start": words, "end": words, **other}


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    made.system = system(made.site, made.spool, callbacks=callbacks(tmp_path))
    yield made
    made.site.close()


def told(bench: Bench) -> list[str]:
    file = bench.spool.parent / "told"
    return sorted(file.read_text().splitlines()) if file.exists() else []


def anew(bench: Bench) -> LsfSystem:
    """Return the system as another process has it."""
    return system(bench.site, bench.spool, callbacks=callbacks(bench.spool.parent))


def quiet(bench: Bench) -> bool:
    return all(job["state"] == "finished" for job in bench.site.jobs())


def test_both_are_told_and_the_launch_goes_by_its_own_record(bench: Bench) -> None:
    (handle,) = bench.system.submit([bench.job("a", "exit 3")])
    assert isinstance(handle, str)
    assert [job["state"] for job in bench.site.jobs()] == ["held"] * 3
    native = handle.partition("/")[0]
    waits = [job["resources"].get("-w") for job in bench.site.jobs()]
    assert waits == [None, [f"started({native})"], [f"ended({native})"]]
    assert bench.system.status([handle])[handle].held
    assert bench.system.inventory(bench.life) == {handle: handle.partition("/")[2]}  # its callbacks are no launches
    bench.system.release([handle])
    end = bench.end(handle)
    assert (end.exit_value, end.exit_status) == (3, ExitStatus.FINISHED_REGULARLY)
    bench.until(lambda: quiet(bench))
    assert told(bench) == [f"end a 1 {native} finished_regularly 3 ", f"start a 1 {native}   "]
    assert sorted(bench.system.logs(handle, "callbacks.log", 0).decode().split("\n")) == [
        "",
        "end: exit 0",
        "start: exit 0",
    ]


def test_a_callback_that_fails_changes_nothing_and_is_told(bench: Bench) -> None:
    wrong = {"start": ["/no/such/program"], "end": ["/bin/sh", "-c", "echo why >&2; exit 9"]}
    bench.system = system(bench.site, bench.spool, callbacks=wrong)
    (handle,) = bench.launch(bench.job("a", "true"))
    assert bench.end(handle).regular
    bench.until(lambda: quiet(bench))
    log = bench.system.logs(handle, "callbacks.log", 0).decode()
    assert "/no/such/program: No such file or directory\nstart: exit 127, which changes nothing of the job" in log
    assert "why\nend: exit 9, which changes nothing of the job" in log


def test_one_that_hangs_holds_nothing_up(bench: Bench) -> None:
    bench.system = system(bench.site, bench.spool, callbacks={"start": ["/bin/sleep", "60"]})
    (handle,) = bench.launch(bench.job("a", "exit 4"))
    assert bench.end(handle).exit_value == 4


@pytest.mark.parametrize("count", [1, 2])
def test_one_refused_and_all_are_withdrawn(count: int, bench: Bench) -> None:
    """A threshold that the second or the third of them hits: back-pressure, and nothing is left."""
    bench.site.adjust(most=count)
    (answer,) = bench.system.submit([bench.job("a", "true")])
    assert isinstance(answer, SubmitError) and answer.failure is SubmitFailure.LIMIT, answer
    assert "callback" in answer.message and "threshold" in answer.message
    assert len(bench.site.jobs()) == count and quiet(bench)
    bench.site.adjust(most=100)
    (handle,) = bench.launch(bench.job("a", "exit 5"))  # the same again
    assert bench.end(handle).exit_value == 5
    bench.until(lambda: quiet(bench))
    assert [line.split()[0] for line in told(bench)] == ["end", "start"]


def test_a_withdrawal_that_is_not_certain_is_looked_at(bench: Bench) -> None:
    bench.site.adjust(most=2)
    bench.site.fault("bkill", "down")
    job = bench.job("a", "true")
    (answer,) = bench.system.submit([job])
    assert isinstance(answer, SubmitError) and answer.failure is SubmitFailure.UNCLEAR, answer
    bench.site.fault("bkill", "")
    assert anew(bench).settle([Launch(token=job.token)]) == {job.token: Settled.NOT_STARTED}
    assert quiet(bench)


def test_a_callback_accepted_and_never_told(bench: Bench) -> None:
    """The launch is withdrawn; the callback, under an id that nobody knows, is found by the token."""
    job = bench.job("a", "true")
    first = bench.system._bsub

    def then_lost(words: Any, script: str) -> Any:
        if "-w" in words:
            bench.site.fault("bsub", "lost", 1)
        return first(words, script)

    bench.system._bsub = then_lost  # type: ignore[method-assign]
    bench.hurry()
    (answer,) = bench.system.submit([job])
    assert isinstance(answer, SubmitError) and answer.failure is SubmitFailure.UNCLEAR, answer
    assert not quiet(bench)
    assert anew(bench).settle([Launch(token=job.token)]) == {job.token: Settled.NOT_STARTED}
    assert quiet(bench) and told(bench) == []


DIE = """
import sys, json
from pathlib import Path
from jobmill.systems.lsf import LsfSystem
from jobmill.systems.system import Submission
options, spool, token = json.loads(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
system = LsfSystem.build("lsf", options, spool)
system.commands.deadline = 60.0
print(system.submit([Submission(token=token, job_id="a", run=1, argv=("/bin/sh", "-c", "exit 6"))])[0], flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("accepted", [1, 2, 3])
def test_the_starter_dies_between_the_submits(accepted: int, bench: Bench, tmp_path: Path) -> None:
    """kill -9 after the first, the second, the third: none of them lives on, or all do, and run once."""
    job = bench.job("a", "exit 6")
    options = {"env": dict(bench.site.env), "path": bench.site.path, "callbacks": callbacks(tmp_path)}
    real, shim = shlex.quote(str(tmp_path / "lsf/bin/bsub")), tmp_path / "shim"
    shim.mkdir()
    (shim / "bsub").write_text(
        f"#!/bin/sh\n[ $(ls {shlex.quote(str(shim))} | grep -c ^n) -lt {accepted} ] || exec sleep 60\n"
        f'{real} "$@"; code=$?; touch {shlex.quote(str(shim))}/n$$; exit $code\n'
    )
    (shim / "bsub").chmod(0o755)
    options["path"] = f"{shim}:{bench.site.path}"
    words = [sys.executable, "-c", DIE, json.dumps(options), str(bench.spool), job.token]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True) as starter:
        try:
            bench.until(lambda: len(list(shim.glob("n*"))) == accepted)
            if accepted == 3:
                assert starter.stdout is not None and starter.stdout.readline()
        finally:
            os.killpg(starter.pid, signal.SIGKILL)
            starter.wait()
    assert len(bench.site.jobs()) == accepted
    ours = anew(bench)
    answer = ours.settle([Launch(token=job.token)])[job.token]
    if accepted < 3:
        assert answer is Settled.NOT_STARTED and quiet(bench)
        time.sleep(1)
        assert told(bench) == []
        return
    assert isinstance(answer, str) and [it["state"] for it in bench.site.jobs()] == ["held"] * 3
    ours.release([answer])
    bench.system = ours
    assert bench.end(answer).exit_value == 6
    bench.until(lambda: quiet(bench))
    assert [line.split()[0] for line in told(bench)] == ["end", "start"]


def test_a_cancel_takes_all_of_them(bench: Bench) -> None:
    held, running = bench.system.submit([bench.job("a", "true"), bench.job("b", "sleep 60")])
    assert isinstance(held, str) and isinstance(running, str)
    bench.system.release([running])
    bench.until(lambda: bench.state(running) is NativeState.RUNNING and len(told(bench)) == 1)
    bench.until(lambda: all(bench.system.kill([held, running], force=True).values()))
    bench.until(lambda: quiet(bench))
    time.sleep(0.5)
    assert [line.split()[0] for line in told(bench)] == ["start"]


def test_a_release_that_was_cut_is_done_again(bench: Bench) -> None:
    """Callbacks are released first, so a launch that is held tells that not all are."""
    (handle,) = bench.system.submit([bench.job("a", "exit 2")])
    assert isinstance(handle, str)
    for job in bench.site.jobs()[1:]:
        bench.system.commands.call(["bresume", str(job["id"])])
    time.sleep(0.5)
    assert told(bench) == [] and bench.system.status([handle])[handle].held
    bench.system.release([handle])
    assert bench.end(handle).exit_value == 2


def test_what_was_killed_in_line_was_never_started(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """LSF says `started` of what was killed in line, too; the marker says what is true."""
    bench.site.adjust(delay=1.5)
    (handle,) = bench.launch(bench.job("a", "true"))
    bench.system.commands.call(["bkill", handle.partition("/")[0]])
    assert bench.end(handle).exit_status is ExitStatus.ABORTED_BEFORE_RUNNING
    assert bench.system.spool.settle(handle.partition("/")[2]) is Settled.NOT_STARTED  # as the fetcher does in time
    bench.until(lambda: quiet(bench))
    assert told(bench) == [f"end a 1 {handle.partition('/')[0]} aborted_before_running  "]
    assert "start: it never started" in bench.system.logs(handle, "callbacks.log", 0).decode()


def test_options_that_cannot_be(tmp_path: Path) -> None:
    for value in ({}, [], {"begin": ["a"]}, {"end": "a"}, {"end": []}, {"start": [""]}, {"start": [3]}):
        with pytest.raises(ConfigError, match="callbacks"):
            LsfSystem.build("lsf", {"callbacks": value}, tmp_path)
