"""The checker of the chaos programs finds what is planted into fabricated evidence; and a peer is judged by it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.peers.environment import FOLDER
from tests.chaos.checker import Findings, Plan, Told, check
from tests.chaos.evidence import Evidence
from tests.chaos.peers import rq
from tests.chaos.peers.plans import SET, jobs
from tests.chaos.peers.verdict import crowded, judge, repeated, unseen

ROOT = Path(__file__).resolve().parent.parent
DONE = Told(state="done", exit_value=0)
ONCE = "start a 1 0 10.00 100\nend a 1 0 11.00 100\n"


def judged(
    tmp_path: Path,
    text: str,
    told: Mapping[str, Told],
    *plans: Plan,
    acknowledged: Collection[str] = ("a",),
    may_lose: bool = False,
) -> Findings:
    """Let the checker read evidence from a file, as bodies write it."""
    evidence = Evidence(tmp_path / "evidence")
    evidence.file.write_text(text)
    plans = plans or (Plan(job_id="a", holds={"slots": 1}),)
    return check(plans, acknowledged, evidence.lines(), told, {"slots": 2}, may_lose=may_lose)


def kinds(found: Findings) -> dict[str, int]:
    return {kind: len(sentences) for kind, sentences in found.sentences().items() if sentences}


def test_nothing_is_found_where_nothing_is_wrong(tmp_path: Path) -> None:
    found = judged(tmp_path, ONCE, {"a": DONE})
    assert found.clean, found.sentences()
    assert (found.runs, dict(found.states)) == (1, {"done": 1})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        pytest.param(ONCE, {}, id="nobody knows it though it ran"),
        pytest.param("", {}, id="nobody knows it"),
        pytest.param("", {"a": Told(state="waiting")}, id="never ended"),
        pytest.param("start a 1 0 10.00 100\n", {"a": Told(state="running")}, id="stuck"),
    ],
)
def test_acknowledged_and_not_ended_is_lost(tmp_path: Path, text: str, told: Mapping[str, Told]) -> None:
    assert kinds(judged(tmp_path, text, told)) == {"lost": 1}


def test_what_was_not_acknowledged_may_be_nowhere(tmp_path: Path) -> None:
    assert judged(tmp_path, "", {}, acknowledged=()).clean


def test_a_body_of_a_job_that_nobody_knows_is_untrue(tmp_path: Path) -> None:
    assert kinds(judged(tmp_path, ONCE, {}, acknowledged=())) == {"untrue": 1}


def test_a_body_that_nobody_asked_for_is_untrue(tmp_path: Path) -> None:
    text = ONCE + ONCE.replace(" a ", " stranger ")
    assert kinds(judged(tmp_path, text, {"a": DONE})) == {"untrue": 1}


def test_a_run_that_started_twice_is_doubled(tmp_path: Path) -> None:
    text = ONCE + ONCE.replace("100", "200").replace("10.00", "12.00").replace("11.00", "13.00")
    assert kinds(judged(tmp_path, text, {"a": DONE})) == {"doubled": 1}


def test_two_runs_at_once_are_doubled(tmp_path: Path) -> None:
    text = "start a 1 0 10.00 1\nstart a 2 0 10.50 2\nend a 1 0 11.00 1\nend a 2 0 11.50 2\n"
    told = {"a": Told(state="done", run=2, earlier=[{"run": 1, "reason": "lost"}])}
    plan = Plan(job_id="a", retries=1)
    assert kinds(judged(tmp_path, text, told, plan, may_lose=True)) == {"doubled": 1}


def test_a_second_run_after_the_first_is_none(tmp_path: Path) -> None:
    text = "start a 1 9 10.00 1\nend a 1 9 11.00 1\nstart a 2 9 11.00 2\nend a 2 9 11.50 2\n"
    earlier = [{"run": 1, "reason": "exit_value"}]
    told = {"a": Told(state="failed", run=2, exit_value=9, reason="exit_value", earlier=earlier)}
    assert judged(tmp_path, text, told, Plan(job_id="a", how="9", may=frozenset({"failed"}), retries=1)).clean


def test_a_run_beyond_the_record_is_doubled(tmp_path: Path) -> None:
    text = ONCE + "start a 2 0 12.00 2\nend a 2 0 13.00 2\n"
    assert kinds(judged(tmp_path, text, {"a": DONE}, Plan(job_id="a", retries=1))) == {"doubled": 1}


def test_a_run_that_is_told_as_sealed_and_started_is_doubled(tmp_path: Path) -> None:
    text = ONCE + "start a 2 0 12.00 2\nend a 2 0 13.00 2\n"
    told = {"a": Told(state="done", run=2, earlier=[{"run": 1, "reason": "sealed"}])}
    assert kinds(judged(tmp_path, text, told)) == {"doubled": 1}


def test_a_sealed_run_that_did_not_start_costs_no_retry(tmp_path: Path) -> None:
    told = {"a": Told(state="done", run=2, earlier=[{"run": 1, "reason": "sealed"}])}
    assert judged(tmp_path, ONCE.replace("a 1", "a 2"), told).clean


def test_more_runs_than_the_spec_allows_are_doubled(tmp_path: Path) -> None:
    text = ONCE.replace("a 1 0", "a 1 9") + "start a 2 9 12.00 2\nend a 2 9 13.00 2\n"
    earlier = [{"run": 1, "reason": "exit_value"}]
    told = {"a": Told(state="failed", run=2, exit_value=9, reason="exit_value", earlier=earlier)}
    plan = Plan(job_id="a", how="9", may=frozenset({"failed"}))
    assert kinds(judged(tmp_path, text, told, plan)) == {"doubled": 1}


FAILS = Plan(job_id="a", how="3", may=frozenset({"failed"}))
OWN_3 = Told(state="failed", exit_value=3, reason="exit_value")
ENDS_3 = ONCE.replace("a 1 0", "a 1 3")


@pytest.mark.parametrize(
    ("text", "told", "plan"),
    [
        pytest.param("", DONE, Plan(job_id="a"), id="done and never started"),
        pytest.param("start a 1 0 10.00 1\n", DONE, Plan(job_id="a"), id="done and did not end"),
        pytest.param(ENDS_3, DONE, FAILS, id="done and ended with 3"),
        pytest.param(
            ENDS_3, Told(state="failed", exit_value=4, reason="exit_value"), FAILS, id="another value than its own"
        ),
        pytest.param(
            ENDS_3, Told(state="failed", term_sig=9, reason="signal"), FAILS, id="a signal where it was a value"
        ),
        pytest.param(ENDS_3, Told(state="failed", reason="timeout"), FAILS, id="another reason"),
        pytest.param("start a 1 3 10.00 1\n", OWN_3, FAILS, id="its own value, and it did not end"),
        pytest.param(ONCE, Told(state="failed", exit_value=1), Plan(job_id="a"), id="failed and ended with 0"),
        pytest.param(ONCE, Told(state="cancelled"), Plan(job_id="a"), id="cancelled by nobody"),
        pytest.param(
            ONCE, Told(state="not_run"), Plan(job_id="a", may=frozenset({"not_run"})), id="not run and started"
        ),
        pytest.param(ONCE, Told(state="lost"), Plan(job_id="a"), id="lost though its end could be known"),
        pytest.param(
            ONCE.replace("a 1", "a 2"),
            Told(state="done", run=2, earlier=[{"run": 1, "reason": "lost"}]),
            Plan(job_id="a", retries=1),
            id="an earlier run lost though its end could be known",
        ),
    ],
)
def test_told_otherwise_than_it_happened_is_untrue(tmp_path: Path, text: str, told: Told, plan: Plan) -> None:
    assert kinds(judged(tmp_path, text, {"a": told}, plan)) == {"untrue": 1}


CANCELLED = Plan(job_id="a", may=frozenset({"done", "cancelled"}))
TIMED = Plan(job_id="a", may=frozenset({"failed"}), reasons=frozenset({"timeout"}), starts=True)
RETRIED = Plan(job_id="a", how="9", may=frozenset({"failed"}), retries=1)
TWICE_9 = "".join(f"start a {n} 9 1{n}.00 {n}\nend a {n} 9 1{n}.50 {n}\n" for n in (1, 2))


@pytest.mark.parametrize(
    ("text", "told", "plan", "kind"),
    [
        pytest.param(ONCE, Told(state="done", exit_value=7), Plan(job_id="a"), "untrue", id="done with a value"),
        pytest.param(ONCE, Told(state="done", term_sig=9), Plan(job_id="a"), "untrue", id="done with a signal"),
        pytest.param(ONCE, Told(state="cancelled", exit_value=0), CANCELLED, "untrue", id="cancelled after its end"),
        pytest.param(
            "start a 1 0 10.00 1\n",
            Told(state="cancelled", exit_status="aborted_before_running"),
            CANCELLED,
            "untrue",
            id="cancelled before it ran, and it started",
        ),
        pytest.param("", Told(state="failed", reason="timeout"), TIMED, "untrue", id="timeout of what never started"),
        pytest.param(
            ONCE.replace("11.00 100", "11.00 7"), DONE, Plan(job_id="a"), "doubled", id="another process ends"
        ),
        pytest.param(ONCE + "end a 1 0 12.00 100\n", DONE, Plan(job_id="a"), "doubled", id="ended twice"),
        pytest.param(
            "".join(reversed(ONCE.splitlines(True))), DONE, Plan(job_id="a"), "doubled", id="end before start"
        ),
        pytest.param(ONCE.replace("a 1 0", "a 1 3"), DONE, Plan(job_id="a"), "untrue", id="the body of another spec"),
        pytest.param(
            TWICE_9,
            Told(state="failed", run=2, exit_value=9, reason="exit_value"),
            RETRIED,
            "untrue",
            id="an earlier run that is not kept",
        ),
        pytest.param(
            TWICE_9,
            Told(
                state="failed",
                run=2,
                exit_value=9,
                reason="exit_value",
                earlier=[{"run": 1, "reason": "exit_value", "exit_value": 4}],
            ),
            RETRIED,
            "untrue",
            id="an earlier run with another value",
        ),
    ],
)
def test_small_print_that_contradicts_what_happened(
    tmp_path: Path, text: str, told: Told, plan: Plan, kind: str
) -> None:
    found = kinds(judged(tmp_path, text, {"a": told}, plan))
    assert found.keys() == {kind}, found


@pytest.mark.parametrize(
    ("text", "losses", "told_at", "clean"),
    [
        ("start a 1 0 10.00 1\n", [(20.0, 21.0)], 30.0, True),  # it ran when it happened
        (ONCE, [(12.0, 12.5)], 30.0, True),  # it had just ended, and its record was not yet anywhere
        ("", [(20.0, 21.0)], 30.0, True),
        ("start a 1 0 10.00 1\n", [(5.0, 6.0)], 30.0, False),  # it started after all that
        (ONCE, [(60.0, 61.0)], 70.0, False),  # it had ended long before
        ("start a 1 0 10.00 1\n", [(20.0, 21.0)], 15.0, False),  # it was told before anything happened
    ],
)
def test_lost_is_only_what_something_hid(
    tmp_path: Path, text: str, losses: list[tuple[float, float]], told_at: float, clean: bool
) -> None:
    evidence = Evidence(tmp_path / "evidence")
    evidence.file.write_text(text)
    told = {"a": Told(state="lost", ended=told_at)}
    found = check([Plan(job_id="a")], ["a"], evidence.lines(), told, {}, may_lose=True, losses=losses)
    assert (found.clean, found.told_lost) == (clean, 1), found.sentences()


def test_dependents_start_after_the_right_end_and_only_then(tmp_path: Path) -> None:
    first, after_ok = (
        Plan(job_id="a"),
        Plan(job_id="b", may=frozenset({"done", "not_run"}), waits_for=("a",), after="ok"),
    )
    failing = Plan(job_id="a", how="3", may=frozenset({"failed"}))
    then = "start b 1 0 12.00 2\nend b 1 0 13.00 2\n"
    not_run = Told(state="not_run")
    assert judged(tmp_path, ONCE + then, {"a": DONE, "b": DONE}, first, after_ok).clean
    assert judged(tmp_path, ENDS_3, {"a": OWN_3, "b": not_run}, failing, after_ok).clean
    early = "start a 1 0 10.00 1\n" + then + "end a 1 0 14.00 1\n"
    for text, told, plan in (
        (early, {"a": DONE, "b": DONE}, first),
        (ENDS_3 + then, {"a": OWN_3, "b": DONE}, failing),
        (ONCE, {"a": DONE, "b": not_run}, first),
    ):
        assert kinds(judged(tmp_path, text, told, plan, after_ok)).keys() == {"untrue"}


def test_a_cancel_that_was_answered_with_the_end_is_the_end(tmp_path: Path) -> None:
    evidence = Evidence(tmp_path / "evidence")
    evidence.file.write_text("start a 1 0 10.00 1\n")
    told, answers = {"a": Told(state="cancelled")}, {"a": ("cancelled", 9.0)}
    assert kinds(check([CANCELLED], ["a"], evidence.lines(), told, {}, answers=answers)) == {"doubled": 1}
    answers = {"a": ("wished", 9.0)}
    assert check([CANCELLED], ["a"], evidence.lines(), told, {}, answers=answers).clean
    told, answers = {"a": DONE}, {"a": ("cancelled", 9.0)}
    evidence.file.write_text("")
    assert "untrue" in kinds(check([CANCELLED], ["a"], evidence.lines(), told, {}, answers=answers))


def test_what_is_known_to_be_killed_holds_its_slot_until_then(tmp_path: Path) -> None:
    plans = [replace(TIMED, job_id=i, holds={"slots": 1}) for i in "abc"]
    text = "".join(f"start {i} 1 0 10.00 1\n" for i in "abc")
    told = dict.fromkeys("abc", Told(state="failed", reason="timeout"))
    assert judged(tmp_path, text, told, *plans).clean, "nobody wrote down when"
    text += "".join(f"killed {i} 1 0 11.00 1\n" for i in "abc")
    assert kinds(judged(tmp_path, text, told, *plans)) == {"over_capacity": 1}


def test_an_end_that_nobody_can_know_may_be_told_as_lost(tmp_path: Path) -> None:
    found = judged(tmp_path, "start a 1 0 10.00 1\n", {"a": Told(state="lost")}, may_lose=True)
    assert found.clean
    assert found.told_lost == 1


def test_more_at_once_than_a_set_has_room_for(tmp_path: Path) -> None:
    ids = ("a", "b", "c")
    text = "".join(f"start {i} 1 0 10.00 1\n" for i in ids) + "".join(f"end {i} 1 0 11.00 1\n" for i in ids)
    plans = [Plan(job_id=i, holds={"slots": 1}) for i in ids]
    found = judged(tmp_path, text, dict.fromkeys(ids, DONE), *plans)
    assert found.over_capacity == ["slots: 3 at once, its limit is 2 (c at 10.00 s)"]
    assert kinds(found) == {"over_capacity": 1}
    one_by_one = "".join(f"start {i} 1 0 10.00 1\nend {i} 1 0 10.00 1\n" for i in ids)
    assert judged(tmp_path, one_by_one, dict.fromkeys(ids, DONE), *plans).clean


def test_the_body_writes_what_the_checker_reads(tmp_path: Path) -> None:
    evidence = Evidence(tmp_path / "evidence")
    for how, status in (("0", 0), ("42", 42), ("KILL", -9)):
        ended = subprocess.run([*evidence.command(0.01, how), f"job-{how}", "1"], timeout=30, check=False)
        assert ended.returncode == status
    lines = evidence.lines()
    assert [(line.kind, line.job_id, line.run, line.how) for line in lines] == [
        (kind, f"job-{how}", 1, how) for how in ("0", "42", "KILL") for kind in ("start", "end")
    ]
    assert evidence.started() == 3


def test_of_a_system_that_numbers_no_runs_the_last_end_counts(tmp_path: Path) -> None:
    text = ONCE + "start a 2 0 12.00 2\n"  # run again after a good end, and killed
    told = {"a": Told(state="done", run=None)}
    assert judged(tmp_path, text, told, Plan(job_id="a", retries=3)).clean
    assert kinds(judged(tmp_path, "start a 2 0 12.00 2\n", told)) == {"untrue": 1}


def test_a_peer_that_tells_a_good_end_as_its_own_failure_is_untrue(tmp_path: Path) -> None:
    evidence = Evidence(tmp_path / "evidence")
    evidence.file.write_text(ONCE)
    plan, told = Plan(job_id="a", holds={SET: 1}), {"a": Told(state="lost", run=None, reason="work horse died")}
    assert kinds(judge([plan], ["a"], evidence.lines(), told, 2)) == {"untrue": 1}
    assert judge([plan], ["a"], evidence.lines(), told, 2, says_lost=True).clean, "it has a word of its own for that"
    assert unseen([plan], evidence.lines(), told) == {"a": 1}, "and is counted"
    evidence.file.write_text("start a 1 0 10.00 100\n")
    assert judge([plan], ["a"], evidence.lines(), told, 2).clean, "nobody could know how it ended"


def test_a_good_end_that_is_run_again_is_counted_apart(tmp_path: Path) -> None:
    evidence = Evidence(tmp_path / "evidence")
    evidence.file.write_text(ONCE + "start a 2 0 12.00 2\nend a 2 0 13.00 2\n" + ENDS_3.replace(" a ", " b ") * 2)
    plans = [Plan(job_id="a"), Plan(job_id="b", how="3")]
    assert repeated(plans, evidence.lines()) == ["a"]


def test_each_start_beyond_the_slots_is_counted(tmp_path: Path) -> None:
    evidence = Evidence(tmp_path / "evidence")
    starts = [f"start {i} 1 0 10.00 1\n" for i in "abcd"]
    ends = [f"end {i} 1 0 11.00 1\n" for i in "abc"]
    evidence.file.write_text("".join(starts + ends))
    assert crowded(evidence.lines(), 2) == ["c"], "d was killed, nobody knows when"


@pytest.mark.parametrize(
    ("why", "told"),
    [
        ("Traceback …\nrq_body.BodyFailed: body ended with 3\n", ("failed", 3, None, "exit_value")),
        ("rq_body.BodyFailed: body ended with -9", ("failed", None, 9, "signal")),
        ("Work-horse terminated unexpectedly; ", ("lost", None, None, "Work-horse terminated unexpectedly;")),
        ("", ("lost", None, None, "no reason")),
    ],
)
def test_words_of_rq_are_understood(why: str, told: tuple[str, int | None, int | None, str]) -> None:
    one = rq.understood("failed", why)
    assert (one.state, one.exit_value, one.term_sig, one.reason) == told
    assert rq.understood("finished", "").state == "done"
    assert rq.understood("started", "").state == "started"


def test_jobs_depend_on_the_seed_alone() -> None:
    assert jobs(7, 50, 3) == jobs(7, 50, 3)
    assert jobs(7, 50, 3) != jobs(8, 50, 3)


@pytest.mark.skipif(
    not (FOLDER / rq.Rq.name / "requirement").exists() and os.environ.get("CI") != "true",
    reason="RQ is not installed in .peers; `python -m tests.chaos.peers --peer rq` does it",
)
def test_rq_runs_jobs_through_a_kill_and_is_judged() -> None:
    words = ["--peer", "rq", "--jobs", "10", "--faults", "1", "--nemesis", "kill-worker", "--patience", "4", "--json"]
    command = [sys.executable, "-m", "tests.chaos.peers", *words]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    assert ended.returncode == 0, ended.stderr
    line = json.loads(ended.stdout.splitlines()[-1])
    assert (line["peer"], line["version"], line["jobs"]) == ("rq", "2.12.0", 10)
    assert line["faults"] == {"kill-worker": 1}
    assert line["runs"] >= 8, "bodies ran"
    assert line["lost"] + line["told_lost"] <= 2, "what the killed worker held, at most"
