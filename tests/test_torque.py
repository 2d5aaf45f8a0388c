"""The `torque` system: the conformance suite over fake commands, what goes wrong there, answers as by its source."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_bench import FakeBench

from jobmill.errors import ConfigError, SystemUnavailable
from jobmill.systems import torque_answer
from jobmill.systems.batch_row import Phase
from jobmill.systems.system import (
    ExitStatus,
    Launch,
    NativeState,
    Settled,
    SubmitError,
    SubmitFailure,
)
from jobmill.systems.torque import TorqueSystem
from jobmill.systems.torque_states import phase_of
from jobmill.testing.schedulers.site import Site

pytestmark = pytest.mark.timeout(120)
VERSION = "6.1.3"


def system(site: Site, spool: Path, **options: Any) -> TorqueSystem:
    values = {"env": site.env, "path": site.path, "poll_interval": 1, "kill_grace": 0.5, "late": 3, **options}
    return TorqueSystem.build("torque", values, spool)


class Bench(FakeBench):
    """A torque system over its fake commands, and the launches of one test."""

    def __init__(self, folder: Path) -> None:
        super().__init__(system, Site(folder / "pbs", torque=VERSION), folder)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.site.close()


# What qsub is told.


def test_resources_reach_the_scheduler_and_the_job_its_variables(bench: Bench) -> None:
    text = "echo $PBS_JOBID $JOBMILL_CPUS; env"
    job = bench.job("7.a-long-name-of-a-job", text, cpus=2, memory=51, walltime=3599.0, tasks=4, nodes=2, gpus=2)
    (handle,) = bench.launch(job)
    (known,) = bench.site.jobs()
    assert known["resources"] == {"nodes": "2:ppn=4:gpus=1", "pmem": "13mb", "walltime": "01:00:00"}, known
    assert known["name"] == "j7.a-long-name-"
    assert known["variables"]["JOBMILL_LAUNCH"] == job.token and handle == f"{known['id']}/{job.token}"
    end = bench.end(handle)
    said = bench.file("7.a-long-name-of-a-job").splitlines()
    assert end.regular and said[0] == f"{known['id']}.pbshost 2", (end, said)
    assert "PYTEST_" not in "".join(said) and "JOBMILL_LAUNCH" not in "".join(said) and "SHELL=/bin/sh" in said
    assert end.native_state == "C" and "torque says C 0:0" in (end.evidence or "")


def test_memory_of_one_node_an_account_and_native_words(bench: Bench) -> None:
    bench.launch(bench.job("a", "true", memory=50, account="proj7"), bench.job("b", "true", native="-l nodes=1:ppn=3"))
    first, second = bench.site.jobs()
    assert first["resources"] == {"nodes": "1:ppn=1", "mem": "50mb"} and first["account"] == "proj7"
    assert second["resources"] == {"nodes": "1:ppn=3"}


def test_a_submission_that_can_never_be_is_refused_with_its_words(bench: Bench) -> None:
    jobs = [bench.job("a", "true", queue="nowhere"), bench.job("b", "true"), bench.job("c", "true", native="-l '")]
    jobs.append(bench.job("d", "true", native="-l licence=1"))
    first, second, third, fourth = bench.system.submit(jobs)
    assert isinstance(first, SubmitError) and first.failure is SubmitFailure.PERMANENT
    assert first.message == "qsub: submit error (Unknown queue MSG=cannot locate queue)"
    assert isinstance(second, str)
    assert isinstance(third, SubmitError) and "native" in third.message
    assert isinstance(fourth, SubmitError) and "Resource_List.licence" in fourth.message


def test_a_submit_limit_is_back_pressure(bench: Bench) -> None:
    bench.site.adjust(most=1)
    first, second = bench.system.submit([bench.job("a", "true"), bench.job("b", "true")])
    assert isinstance(first, str) and isinstance(second, SubmitError) and second.failure is SubmitFailure.LIMIT


def test_what_waits_says_why(bench: Bench) -> None:
    bench.site.adjust(slots=1)
    (handle,) = bench.launch(bench.job("a", "true", cpus=2))
    look = bench.system.status([handle])[handle]
    assert (look.state, look.native_state) == (NativeState.SUBMITTED, "Q") and "Not enough" in str(look.reason)
    assert bench.system.kill([handle], force=False) == {handle: True}
    end = bench.end(handle)
    assert (end.exit_status, end.reason) == (ExitStatus.ABORTED_BEFORE_RUNNING, "killed"), end


# Ends.


def test_ends_are_known_when_the_server_has_forgotten(bench: Bench) -> None:
    bench.site.adjust(history=0)
    handles = bench.launch(bench.job("zero", "true"), bench.job("three", "exit 3"), bench.job("kill", "kill -9 $$"))
    bench.until(lambda: not bench.site.jobs())
    ends = bench.system.exit_info(handles)
    assert [(it.exit_value, it.term_sig) for it in ends.values()] == [(0, None), (3, None), (None, 9)]
    assert "torque knows nothing of it any more" in (ends[handles[0]].evidence or "")
    other = system(bench.site, bench.spool)
    tokens = [handle.partition("/")[2] for handle in handles]
    assert other.settle([Launch(token=it) for it in tokens]) == dict(zip(tokens, handles, strict=True))


def test_the_servers_walltime(bench: Bench) -> None:
    (late,) = bench.launch(bench.job("b", "trap 'exit 0' TERM; sleep 60 & wait", native="-l walltime=2"))
    end = bench.end(late)
    assert (end.reason, end.native_state) == ("timeout", "C") and not end.regular, end


def test_our_program_on_the_node_is_killed(bench: Bench) -> None:
    (handle,) = bench.launch(bench.job("a", "sleep 60"))
    bench.until(lambda: (bench.spool / "jobs/a/run.1/run").exists() and bench.site.jobs()[0]["pid"])
    bench.system.commands.call(["qsig", "-s", "KILL", handle.partition("/")[0]])
    end = bench.end(handle)
    assert (end.exit_status, end.term_sig) == (ExitStatus.FINISHED_SIGNAL, 9), end
    assert "no exit record" in str(end.evidence)


# A scheduler that means ill.


def test_accepted_and_timed_out_is_found_and_not_sent_again(bench: Bench) -> None:
    bench.site.fault("qsub", "lost", 1)
    bench.hurry()
    job = bench.job("a", "echo start >> starts; exit 3")
    (answer,) = bench.system.submit([job])
    assert isinstance(answer, SubmitError) and answer.failure is SubmitFailure.UNCLEAR, answer
    found = bench.anew().settle([Launch(token=job.token)])[job.token]
    assert isinstance(found, str) and found.endswith(f"/{job.token}")
    bench.system.release([found])
    assert bench.end(found).exit_value == 3 and bench.file("a", "starts") == "start\n"
    assert len(bench.site.jobs()) == 1


def test_what_comes_late_and_was_given_up_never_starts(bench: Bench) -> None:
    bench.site.fault("qsub", "mute", 1)
    bench.hurry()
    job = bench.job("a", "echo start >> starts")
    (answer,) = bench.system.submit([job])
    assert isinstance(answer, SubmitError) and answer.failure is SubmitFailure.UNCLEAR, answer
    ours = bench.anew()
    assert ours.settle([Launch(token=job.token)]) == {job.token: Settled.NOT_STARTED}
    script = str(bench.spool / "jobs/a/run.1/script")  # now it gets there
    words = ["qsub", "-h", "-N", "a", "-v", f"JOBMILL_LAUNCH={job.token}", "-S", script, script]
    assert not ours.commands.call(words).code
    (stray,) = ours.inventory(bench.life)
    ours.release([stray])  # it is swept; and were it released:
    bench.until(lambda: bench.site.jobs()[0]["state"] == "finished")
    assert not (bench.spool / "jobs/a/run.1/starts").exists()


@pytest.mark.parametrize("how", ["empty", "half", "down", "mute", "noise"])
def test_an_answer_that_is_none_changes_nothing(how: str, bench: Bench) -> None:
    (handle,) = bench.launch(bench.job("a", "sleep 20"))
    bench.until(lambda: bench.state(handle) is NativeState.RUNNING)
    bench.site.fault("qstat", how)
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
    bench.site.fault("qstat", "")
    bench.anew()
    assert bench.state(handle) is NativeState.RUNNING


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


def test_banners_go_by(bench: Bench) -> None:
    for command in ("qsub", "qstat", "qrls"):
        bench.site.fault(command, "banner")
    (handle,) = bench.launch(bench.job("a", "sleep 3; exit 4"))
    assert handle in bench.system.survey(bench.life)
    assert bench.end(handle).exit_value == 4


def test_a_list_that_is_empty_is_asked_for_twice(bench: Bench) -> None:
    """Torque prints nothing where there are no jobs; its server itself is asked whether that is so."""
    assert bench.system.survey(bench.life) == {}
    assert bench.system.inventory(bench.life) == {}


def test_commands_of_other_schedulers_are_told(bench: Bench, tmp_path: Path) -> None:
    for text, words in (
        ("echo SGE 8.1.9; echo usage: qstat", "Grid Engine"),
        ("echo pbs_version = 23.06.06", "kind: pbspro"),
        ("echo moo", "set path:"),
    ):
        other = tmp_path / "other"
        other.mkdir(exist_ok=True)
        (other / "qstat").write_text(f"#!/bin/sh\n{text}\n")
        (other / "qstat").chmod(0o755)
        ill = system(bench.site, bench.spool, path=f"{other}:{bench.site.path}")
        (first, *_) = ill.check()
        assert not first.ok and words in first.detail, first
        with pytest.raises(SystemUnavailable):
            ill.submit([bench.job("a", "true")])


def test_doctor_tells_the_version(bench: Bench) -> None:
    assert bench.system.check()[-1].detail == "Torque 6.1.3, XML"
    bench.site.adjust(plain=True)
    bench.launch(bench.job("a", "sleep 5"))
    assert "no -x" in bench.anew().check()[-1].detail


def test_a_server_and_its_queue(bench: Bench) -> None:
    there = system(bench.site, bench.spool, server="normal@pbshost")
    (handle,) = there.submit([bench.job("a", "true")])
    assert isinstance(handle, str) and bench.site.jobs()[0]["queue"] == "normal"
    other = system(bench.site, bench.spool, server="elsewhere.lab:15001")
    with pytest.raises(SystemUnavailable, match="cannot connect to server elsewhere"):
        other.submit([bench.job("b", "true")])
    with pytest.raises(SystemUnavailable):
        other.survey(bench.life)
    (answer,) = bench.system.submit([bench.job("c", "true", queue="normal@other")])
    assert isinstance(answer, SubmitError) and answer.failure is SubmitFailure.PERMANENT, answer


def test_options_that_cannot_be(tmp_path: Path) -> None:
    for options in ({"cluster": "a"}, {"slots": 3}, {"server": "a b"}, {"server": 3}, {"server": "-x@"}):
        with pytest.raises(ConfigError):
            TorqueSystem.build("torque", options, tmp_path)


# Answers as Torque's source has them.

HEAD = '<?xml version="1.0"?>\n'
JOB = (
    "<Job><Job_Id>665199.server.example.edu</Job_Id><Job_Name>a</Job_Name><Job_Owner>ann@login</Job_Owner>"
    "<resources_used><cput>00:15:23</cput></resources_used><job_state>{state}</job_state><Hold_Types>n</Hold_Types>"
    "<ctime>1479339279</ctime><exec_host>node01/0-3+node02/0</exec_host><mtime>1479351099</mtime>{more}"
    "<Variable_List>PBS_O_HOME=/home/ann,{variables}JOBMILL_LAUNCH=r.1:a:1,PBS_O_QUEUE=batch</Variable_List></Job>"
)


def document(state: str = "R", more: str = "", variables: str = "") -> str:
    return f"{HEAD}<Data>{JOB.format(state=state, more=more, variables=variables)}</Data>\n"


@pytest.mark.parametrize(
    ("state", "more", "phase", "code", "signal"),
    [
        ("R", "", Phase.RUNNING, None, None),
        ("E", "<exit_status>0</exit_status>", Phase.LEAVING, None, None),
        ("C", "<exit_status>0</exit_status>", Phase.COMPLETED, 0, None),
        ("C", "<exit_status>3</exit_status>", Phase.FAILED, 3, None),
        ("C", "<exit_status>265</exit_status>", Phase.FAILED, None, 9),
        ("C", "<exit_status>271</exit_status>", Phase.CANCELLED, None, 15),
        ("C", "<exit_status>-11</exit_status>", Phase.TIMEOUT, None, None),
        ("C", "<exit_status>-10</exit_status>", Phase.OOM, None, None),
        ("C", "<exit_status>-4</exit_status>", Phase.NODE_FAIL, None, None),
        ("C", "<exit_status>-9</exit_status>", Phase.FAILED, None, None),
        ("C", "", Phase.COMPLETED, None, None),
        ("C", "<job_state>C</job_state>", Phase.UNKNOWN, None, None),  # told twice: nobody's word
        ("?", "", Phase.UNKNOWN, None, None),
    ],
)
def test_answers(state: str, more: str, phase: Phase, code: int | None, signal: int | None) -> None:
    (row,) = torque_answer.from_xml(document(state, more)).values()
    assert (row.native, row.token, row.phase, row.code, row.signal) == ("665199", "r.1:a:1", phase, code, signal)
    assert row.host == "node01"


def test_answers_for_some_jobs_are_documents_of_their_own() -> None:
    other = document().replace("665199", "665200")
    assert [*torque_answer.from_xml(document() + other)] == ["665199", "665200"]
    assert torque_answer.from_xml(f"{HEAD}<Data/>\n") == {} == torque_answer.from_xml(f"{HEAD}<Data></Data>\n")
    assert torque_answer.from_xml(document().replace("665199.", "665199[].")) == {}


@pytest.mark.parametrize("variables", ["A=&,", "A=<b,", "A=]]>,", "A=\x0e,", "A=</Variable_List>,"])
def test_what_is_no_xml_makes_no_end(variables: str) -> None:
    """Old versions escape nothing. Its id and its token are told; its end is told by our record."""
    text = document("C", "<exit_status>0</exit_status>", variables)
    (row,) = torque_answer.from_xml(text).values()
    assert row.native == "665199" and row.token == "r.1:a:1"
    assert not row.phase.ended or variables in ("A=\x0e,", "A=]]>,")


def test_a_document_type_is_refused() -> None:
    bomb = '<!DOCTYPE Data [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]>'
    (row,) = torque_answer.from_xml(document(variables=f"A={bomb},")).values()
    assert row.phase is Phase.UNKNOWN
    assert torque_answer.from_xml(bomb + document())["665199"].phase is Phase.RUNNING  # outside of what is parsed


@pytest.mark.parametrize("read", [torque_answer.from_xml, torque_answer.from_lines])
def test_an_answer_cut_anywhere_is_none(read: Callable[[str], Any]) -> None:
    text = document()
    if read is torque_answer.from_lines:
        text = "Job Id: 7.server\n    Job_Name = a\n    job_state = R\n    exec_host = n1/0\n\n"
    assert len(read(text)) == 1
    for end in range(1, len(text.rstrip())):
        with pytest.raises(ValueError):
            read(text[:end])


def test_lines_with_broken_values() -> None:
    text = (
        "Job Id: 7.server\n    Job_Name = a\n    job_state = C\n    exit_status = 3\n    exec_host = n1/0\n"
        "    start_time = Sun Nov 22 03:02:27 2026\n    Variable_List = PBS_O_HOME=/home/ann,\n"
        "\tJOBMILL_LAUNCH=r.1:a\n\t:1,PBS_O_QUEUE=batch\n\n"
    )
    (row,) = torque_answer.from_lines(text).values()
    assert (row.token, row.phase, row.code, row.host) == ("r.1:a:1", Phase.FAILED, 3, "n1") and row.started


def test_states() -> None:
    assert phase_of("H", "u", None, ran=False) is Phase.HELD
    assert phase_of("H", "s", None, ran=False) is Phase.QUEUED
    assert phase_of("C", "n", 0, ran=False) is Phase.CANCELLED  # deleted in line
