"""The `lsf` system: the conformance suite over fake commands, what goes wrong there, and answers as manuals tell."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_bench import FakeBench

from jobmill.errors import ConfigError, SystemUnavailable
from jobmill.systems import lsf_answer
from jobmill.systems.batch_row import Phase, Row
from jobmill.systems.lsf import LsfSystem
from jobmill.systems.lsf_answer import DELIMITER, FIELDS, HEADER
from jobmill.systems.lsf_states import phase_of
from jobmill.systems.system import (
    ExitStatus,
    Launch,
    NativeState,
    Settled,
    SubmitError,
    SubmitFailure,
)
from jobmill.testing.schedulers.site import Site

pytestmark = pytest.mark.timeout(120)


def system(site: Site, spool: Path, **options: Any) -> LsfSystem:
    values = {"env": site.env, "path": site.path, "poll_interval": 1, "kill_grace": 0.5, "late": 3, **options}
    return LsfSystem.build("lsf", values, spool)


class Bench(FakeBench):
    """An lsf system over its fake commands, and the launches of one test."""

    def __init__(self, folder: Path) -> None:
        super().__init__(system, Site(folder / "lsf"), folder)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.site.close()


# What bsub is told.


def test_resources_reach_the_scheduler_and_the_job_its_variables(bench: Bench) -> None:
    text = "echo $LSB_JOBID $JOBMILL_CPUS; env"
    job = bench.job("a.b-7", text, cpus=2, memory=50, walltime=3599.0, tasks=2, nodes=2, native="-G staff")
    (handle,) = bench.launch(job)
    (known,) = bench.site.jobs()
    asked = {"-n": ["4"], "-R": ["span[ptile=2]", "rusage[mem=50MB]"], "-M": ["50MB"], "-W": ["60"], "-G": ["staff"]}
    assert {key: known["resources"][key] for key in asked} == asked, known
    assert (known["name"], known["description"]) == ("a.b-7", job.token) and handle == f"{known['id']}/{job.token}"
    end = bench.end(handle)
    said = bench.file("a.b-7").splitlines()
    assert end.regular and said[0] == f"{known['id']} 2", (end, said)
    assert "PYTEST_" not in bench.file("a.b-7")
    assert end.native_state == "DONE" and "lsf says DONE 0:0" in (end.evidence or "")


def test_a_submission_that_can_never_be_is_refused_with_its_words(bench: Bench) -> None:
    jobs = [bench.job("a", "true", queue="nowhere"), bench.job("b", "true"), bench.job("c", "true", native="-l '")]
    first, second, third = bench.system.submit(jobs)
    assert isinstance(first, SubmitError) and first.failure is SubmitFailure.PERMANENT
    assert first.message == "nowhere: No such queue. Job not submitted."
    assert isinstance(second, str)
    assert isinstance(third, SubmitError) and "native" in third.message


def test_a_submit_limit_is_back_pressure(bench: Bench) -> None:
    bench.site.adjust(most=1)
    first, second = bench.system.submit([bench.job("a", "true"), bench.job("b", "true")])
    assert isinstance(first, str) and isinstance(second, SubmitError) and second.failure is SubmitFailure.LIMIT


def test_what_waits_says_why(bench: Bench) -> None:
    bench.site.adjust(slots=1)
    (handle,) = bench.launch(bench.job("a", "true", cpus=2))
    look = bench.system.status([handle])[handle]
    assert (look.state, look.native_state) == (NativeState.SUBMITTED, "PEND"), look
    assert look.reason == "New job is waiting for scheduling;"
    assert bench.system.kill([handle], force=False) == {handle: True}
    end = bench.end(handle)
    assert (end.exit_status, end.reason) == (ExitStatus.ABORTED_BEFORE_RUNNING, "killed"), end


# Ends.


def test_the_scheduler_goes_before_what_the_job_says_of_itself(bench: Bench) -> None:
    (killed,) = bench.launch(bench.job("a", "touch up; sleep 60 & wait"))
    bench.until(lambda: (bench.spool / "jobs/a/run.1/up").exists())
    bench.system.commands.call(["bkill", killed.partition("/")[0]])
    end = bench.end(killed)
    assert (end.reason, end.native_state) == ("killed", "EXIT") and "TERM_OWNER" in str(end.message), end


def test_the_run_limit(bench: Bench) -> None:
    """LSF sends USR2 first: our program ends the job by it, and leaves a record."""
    (handle,) = bench.launch(bench.job("b", "trap '' TERM; sleep 60", native="-W 0.03"))  # minutes
    end = bench.end(handle)
    assert (end.reason, end.term_sig, end.native_state) == ("timeout", 9, "EXIT"), end
    assert "TERM_RUNLIMIT" in str(end.message)


def test_ends_are_known_when_lsf_has_forgotten(bench: Bench) -> None:
    bench.site.adjust(history=0)
    handles = bench.launch(bench.job("zero", "true"), bench.job("three", "exit 3"), bench.job("kill", "kill -9 $$"))
    bench.until(lambda: not bench.site.jobs())
    ends = bench.system.exit_info(handles)
    assert [(it.exit_value, it.term_sig) for it in ends.values()] == [(0, None), (3, None), (None, 9)]
    assert "lsf knows nothing of it any more" in (ends[handles[0]].evidence or "")
    tokens = [handle.partition("/")[2] for handle in handles]
    found = system(bench.site, bench.spool).settle([Launch(token=it) for it in tokens])
    assert found == dict(zip(tokens, handles, strict=True))


def test_our_program_on_the_node_is_killed(bench: Bench) -> None:
    (handle,) = bench.launch(bench.job("a", "sleep 60"))
    bench.until(lambda: (bench.spool / "jobs/a/run.1/run").exists() and bench.site.jobs()[0]["pid"])
    bench.system.commands.call(["bkill", "-s", "KILL", handle.partition("/")[0]])
    end = bench.end(handle)
    assert not end.regular and end.exit_value == 137 and "no exit record" in str(end.evidence), end


def test_a_node_without_our_python_says_so(bench: Bench) -> None:
    bench.system = system(bench.site, bench.spool, late=1, python="/opt/no/python3")
    (handle,) = bench.launch(bench.job("a", "true"))
    end = bench.end(handle)
    assert end.exit_status is ExitStatus.ABORTED_BEFORE_RUNNING and end.reason == "start_failed", end
    assert "/opt/no/python3" in str(end.message), end


# A scheduler that means ill.


def test_accepted_and_timed_out_is_found_and_not_sent_again(bench: Bench) -> None:
    bench.site.fault("bsub", "lost", 1)
    bench.hurry()
    job = bench.job("a", "echo start >> starts; exit 3")
    (answer,) = bench.system.submit([job])
    assert isinstance(answer, SubmitError) and answer.failure is SubmitFailure.UNCLEAR, answer
    found = bench.anew().settle([Launch(token=job.token)])[job.token]
    assert isinstance(found, str) and found.endswith(f"/{job.token}")
    bench.system.release([found])
    assert bench.end(found).exit_value == 3 and bench.file("a", "starts") == "start\n"
    assert len(bench.site.jobs()) == 1


@pytest.mark.parametrize("how", ["empty", "half", "noise"])
def test_accepted_and_not_told_is_found(how: str, bench: Bench) -> None:
    bench.site.fault("bsub", how, 1)
    job = bench.job("a", "exit 3")
    (answer,) = bench.system.submit([job])
    assert isinstance(answer, SubmitError) and answer.failure is SubmitFailure.UNCLEAR, answer
    assert isinstance(bench.system.settle([Launch(token=job.token)])[job.token], str)


def test_what_comes_late_and_was_given_up_never_starts(bench: Bench) -> None:
    bench.site.fault("bsub", "mute", 1)
    bench.hurry()
    job = bench.job("a", "echo start >> starts")
    (answer,) = bench.system.submit([job])
    assert isinstance(answer, SubmitError) and answer.failure is SubmitFailure.UNCLEAR, answer
    ours = bench.anew()
    assert ours.settle([Launch(token=job.token)]) == {job.token: Settled.NOT_STARTED}
    script = (bench.spool / "jobs/a/run.1/script").read_text()  # now it gets there
    assert not ours.commands.call(["bsub", "-H", "-J", "a", "-Jd", job.token], given=script).code
    (stray,) = ours.inventory(bench.life)
    ours.release([stray])  # it is swept; and were it released:
    bench.until(lambda: bench.site.jobs()[0]["state"] == "finished")
    assert not (bench.spool / "jobs/a/run.1/starts").exists()


@pytest.mark.parametrize("how", ["empty", "half", "down", "mute", "noise"])
@pytest.mark.parametrize("plain", [False, True])
def test_an_answer_that_is_none_changes_nothing(how: str, plain: bool, bench: Bench) -> None:
    bench.site.adjust(plain=plain)
    (handle,) = bench.launch(bench.job("a", "sleep 20"))
    bench.until(lambda: bench.state(handle) is NativeState.RUNNING)
    bench.site.fault("bjobs", how)
    if how == "mute":
        bench.hurry()
    for verb in (bench.system.status, bench.system.exit_info):
        with pytest.raises(SystemUnavailable):
            verb([handle])
    for verb in (bench.system.survey, bench.system.inventory):
        with pytest.raises(SystemUnavailable):
            verb(bench.life)
    with pytest.raises(SystemUnavailable):
        bench.system.settle([Launch(token=handle.partition("/")[2])])
    bench.site.fault("bjobs", "")
    bench.anew()
    assert bench.state(handle) is NativeState.RUNNING


def test_banners_go_by(bench: Bench) -> None:
    for command in ("bsub", "bjobs", "bresume"):
        bench.site.fault(command, "banner")
    (handle,) = bench.launch(bench.job("a", "sleep 3; exit 4"))
    assert handle in bench.system.survey(bench.life)
    assert bench.end(handle).exit_value == 4


def test_a_reused_id_is_another_job(bench: Bench) -> None:
    (old,) = bench.launch(bench.job("a", "exit 3"))
    assert bench.end(old).exit_value == 3
    bench.site.next_id(1)
    (new,) = bench.launch(bench.job("b", "sleep 20"))
    assert new.partition("/")[0] == old.partition("/")[0]
    bench.until(lambda: bench.state(new) is NativeState.RUNNING)
    assert bench.end(old).exit_value == 3
    assert bench.system.kill([old], force=True) == {old: True}
    assert bench.state(new) is NativeState.RUNNING


def test_doctor_tells_how_it_answers(bench: Bench) -> None:
    assert [(check.name, check.ok, check.detail) for check in bench.system.check()][-1] == ("answers", True, "JSON")
    bench.site.adjust(plain=True)
    assert "no -json" in bench.system.check()[-1].detail


def test_options_that_cannot_be(tmp_path: Path) -> None:
    for options in ({"cluster": "a"}, {"slots": 3}, {"native": "-x"}):
        with pytest.raises(ConfigError):
            LsfSystem.build("lsf", options, tmp_path)


# Answers as the manual has them.

TOKEN = "r.1:a:1"


def record(**fields: str) -> dict[str, str]:
    return {field.upper(): "" for field in FIELDS} | {"JOB_DESCRIPTION": TOKEN} | fields


RECORDS = [
    record(JOBID="101", STAT="PEND", PEND_REASON="Job's ^ requirements not satisfied: 3 hosts;"),
    record(JOBID="102", STAT="RUN", EXEC_HOST="4*host1:2*host2", START_TIME="Nov 22 00:14"),
    record(JOBID="103", STAT="DONE", START_TIME="Nov 22 00:14", FINISH_TIME="Nov 22 00:15 L"),
    record(JOBID="104", STAT="EXIT", EXIT_CODE="3", START_TIME="Nov 22 00:14", FINISH_TIME="Nov 22 00:15 L"),
    record(JOBID="105", STAT="EXIT", EXIT_CODE="140", EXIT_REASON="TERM_RUNLIMIT: job killed after …"),
    record(JOBID="106", STAT="EXIT", EXIT_CODE="130", EXIT_REASON="TERM_MEMLIMIT: job killed after …"),
    record(JOBID="107", STAT="EXIT", EXIT_REASON="TERM_OWNER: job killed by owner"),
    record(JOBID="108", STAT="UNKWN"),
    record(JOBID="109[3]", STAT="EXIT"),
    record(JOBID="110", STAT="PSUSP"),
]
PHASES = {
    **{"101": Phase.QUEUED, "102": Phase.RUNNING, "103": Phase.COMPLETED, "104": Phase.FAILED, "105": Phase.TIMEOUT},
    **{"106": Phase.OOM, "107": Phase.CANCELLED, "108": Phase.UNREACHABLE, "110": Phase.HELD},
}


def as_json(records: list[dict[str, str]]) -> str:
    whole = {"COMMAND": "bjobs", "JOBS": len(records), "RECORDS": records}
    return json.dumps(whole, indent=2, separators=(",", ":")).replace("/", "\\/") + "\n"


def as_lines(records: list[dict[str, str]]) -> str:
    lines = [DELIMITER.join(it[field.upper()] or "-" for field in FIELDS) for it in records]
    return "\n".join([HEADER, *lines]) + "\n"


@pytest.mark.parametrize(("form", "read"), [(as_json, lsf_answer.from_json), (as_lines, lsf_answer.from_lines)])
def test_answers(form: Callable[[Any], str], read: Callable[[str], dict[str, Row]]) -> None:
    rows = read("Cannot connect to LSF. Please wait ...\n" + form(RECORDS))
    assert {native: row.phase for native, row in rows.items()} == PHASES
    assert {row.token for row in rows.values()} == {TOKEN}
    assert rows["101"].reason == "Job's ^ requirements not satisfied: 3 hosts;"
    assert rows["102"].host == "host1" and rows["102"].started and rows["102"].ended is None
    assert (rows["103"].code, rows["104"].code, rows["107"].code) == (0, 3, None)
    assert rows["104"].ended is not None and rows["104"].ended - (rows["104"].started or 0) == 60
    assert rows["107"].started is None


@pytest.mark.parametrize(("form", "read"), [(as_json, lsf_answer.from_json), (as_lines, lsf_answer.from_lines)])
def test_an_answer_cut_anywhere_makes_no_end(form: Callable[[Any], str], read: Callable[[str], dict[str, Row]]) -> None:
    """JSON is whole or none; lines are whole lines, and what they lack is not gone by that."""
    text = form(RECORDS)
    whole = read(text)
    for end in range(len(text.rstrip("\n"))):
        try:
            rows = read(text[:end])
        except ValueError:
            continue
        assert form is as_lines and rows.items() <= whole.items(), text[:end]


@pytest.mark.parametrize(
    "text",
    [
        as_json(RECORDS).replace('"JOBS":10', '"JOBS":11'),
        '{\n"COMMAND":"bhosts",\n"JOBS":0,\n"RECORDS":[]\n}',
        '{\n"RECORDS":[]\n}',
        "{\n",
        "[]",
        "",
    ],
)
def test_json_that_is_no_list(text: str) -> None:
    with pytest.raises(ValueError):
        lsf_answer.from_json(text)


def test_what_is_unknown_has_a_record_of_its_own() -> None:
    error = {"JOBID": "7", "ERROR": "Job <7> is not found"}
    assert [*lsf_answer.from_json(as_json([RECORDS[1], error]))] == ["102"]


@pytest.mark.parametrize(
    ("state", "reason", "phase"),
    [
        ("WAIT", "", Phase.QUEUED),
        ("ZOMBI", "", Phase.UNREACHABLE),
        ("SSUSP", "", Phase.RUNNING),
        ("POST_DONE", "", Phase.COMPLETED),
        ("EXIT", "", Phase.FAILED),
        ("EXIT", "TERM_PREEMPT: job killed after preemption", Phase.PREEMPTED),
        ("EXIT", "TERM_ZOMBIE: job exited while LSF is not available", Phase.NODE_FAIL),
        ("EXIT", "TERM_CWD_NOTEXIST: …", Phase.FAILED),
        ("DONE", "TERM_OWNER: …", Phase.COMPLETED),
        ("", "", Phase.UNKNOWN),
        ("GONE", "", Phase.UNKNOWN),
    ],
)
def test_states(state: str, reason: str, phase: Phase) -> None:
    assert phase_of(state, reason) is phase
