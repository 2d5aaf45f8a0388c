"""The `pbspro` system: the conformance suite over fake commands, what goes wrong there, and what a real server said."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_bench import FakeBench

from jobmill.errors import ConfigError, SystemUnavailable
from jobmill.systems import pbspro_answer
from jobmill.systems.batch_row import Phase
from jobmill.systems.pbspro import PbsProSystem
from jobmill.systems.pbspro_states import phase_of
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
RECORDED = Path(__file__).parent / "recorded" / "openpbs-23.06"


def system(site: Site, spool: Path, **options: Any) -> PbsProSystem:
    values = {"env": site.env, "path": site.path, "poll_interval": 1, "kill_grace": 0.5, "late": 3, **options}
    return PbsProSystem.build("pbs", values, spool)


class Bench(FakeBench):
    """A pbspro system over its fake commands, and the launches of one test."""

    def __init__(self, folder: Path) -> None:
        super().__init__(system, Site(folder / "pbs"), folder)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.site.close()


# What qsub is told.


def test_resources_reach_the_scheduler_and_the_job_its_variables(bench: Bench) -> None:
    text = "echo $PBS_JOBID $JOBMILL_CPUS; env"
    job = bench.job("a.b-7", text, cpus=2, memory=50, walltime=3599.0, tasks=4, nodes=2, native="-p 7")
    (handle,) = bench.launch(job)
    (known,) = bench.site.jobs()
    select = {"select": "2:ncpus=4:mpiprocs=2:mem=50mb", "place": "scatter", "walltime": "01:00:00"}
    assert known["resources"] == select and known["name"] == "a.b-7", known
    assert known["variables"]["JOBMILL_LAUNCH"] == job.token and handle == f"{known['id']}/{job.token}"
    end = bench.end(handle)
    said = bench.file("a.b-7").splitlines()
    assert end.regular and said[0] == f"{known['id']}.pbshost 2", (end, said)
    assert "PYTEST_" not in bench.file("a.b-7") and "JOBMILL_LAUNCH" not in bench.file("a.b-7")
    assert end.native_state == "F" and "pbspro says F 0:0" in (end.evidence or "")


def test_native_resources_go_before_ours(bench: Bench) -> None:
    bench.launch(bench.job("a", "true", cpus=2, native="-l select=1:ncpus=3"))
    assert bench.site.jobs()[0]["resources"] == {"select": "1:ncpus=3"}


def test_a_submission_that_can_never_be_is_refused_with_its_words(bench: Bench) -> None:
    jobs = [bench.job("a", "true", queue="nowhere"), bench.job("b", "true"), bench.job("c", "true", native="-l '")]
    jobs.append(bench.job("d", "true", native="-l licence=1"))
    first, second, third, fourth = bench.system.submit(jobs)
    assert isinstance(first, SubmitError) and first.failure is SubmitFailure.PERMANENT
    assert first.message == "qsub: Unknown queue"
    assert isinstance(second, str)
    assert isinstance(third, SubmitError) and "native" in third.message
    assert isinstance(fourth, SubmitError) and "Unknown resource: licence" in fourth.message


def test_a_submit_limit_is_back_pressure(bench: Bench) -> None:
    bench.site.adjust(most=1)
    first, second = bench.system.submit([bench.job("a", "true"), bench.job("b", "true")])
    assert isinstance(first, str) and isinstance(second, SubmitError) and second.failure is SubmitFailure.LIMIT


def test_what_waits_says_why(bench: Bench) -> None:
    bench.site.adjust(slots=1)
    (handle,) = bench.launch(bench.job("a", "true", cpus=2))
    look = bench.system.status([handle])[handle]
    assert (look.state, look.native_state) == (NativeState.SUBMITTED, "Q") and "Can Never Run" in str(look.reason)
    assert bench.system.kill([handle], force=False) == {handle: True}
    end = bench.end(handle)
    assert (end.exit_status, end.reason) == (ExitStatus.ABORTED_BEFORE_RUNNING, "killed"), end


# Ends.


def test_the_scheduler_goes_before_what_the_job_says_of_itself(bench: Bench) -> None:
    text = "touch up; trap 'exit 0' TERM; sleep 60 & wait"
    deleted, late = bench.launch(
        bench.job("a", text.replace("exit 0", "")), bench.job("b", text, native="-l walltime=2")
    )
    bench.until(lambda: all((bench.spool / f"jobs/{name}/run.1/up").exists() for name in "ab"))
    bench.system.commands.call(["qdel", deleted.partition("/")[0]])
    end = bench.end(deleted)
    assert (end.reason, end.native_state) == ("killed", "F"), end
    end = bench.end(late)
    assert (end.reason, end.exit_value) == ("timeout", 0) and not end.regular, end


def test_ends_are_known_when_the_server_has_forgotten(bench: Bench) -> None:
    bench.site.adjust(history=0)
    handles = bench.launch(bench.job("zero", "true"), bench.job("three", "exit 3"), bench.job("kill", "kill -9 $$"))
    bench.until(lambda: not bench.site.jobs())
    ends = bench.system.exit_info(handles)
    assert [(it.exit_value, it.term_sig) for it in ends.values()] == [(0, None), (3, None), (None, 9)]
    assert "pbspro knows nothing of it any more" in (ends[handles[0]].evidence or "")
    other = system(bench.site, bench.spool)
    tokens = [handle.partition("/")[2] for handle in handles]
    assert other.settle([Launch(token=it) for it in tokens]) == dict(zip(tokens, handles, strict=True))


def test_our_program_on_the_node_is_killed(bench: Bench) -> None:
    (handle,) = bench.launch(bench.job("a", "sleep 60"))
    bench.until(lambda: (bench.spool / "jobs/a/run.1/run").exists() and bench.site.jobs()[0]["pid"])
    bench.system.commands.call(["qsig", "-s", "KILL", handle.partition("/")[0]])
    end = bench.end(handle)
    assert (end.exit_status, end.term_sig) == (ExitStatus.FINISHED_SIGNAL, 9), end
    assert "no exit record" in str(end.evidence)


def test_a_node_without_our_python_says_so(bench: Bench) -> None:
    bench.system = system(bench.site, bench.spool, late=1, python="/opt/no/python3")
    (handle,) = bench.launch(bench.job("a", "true"))
    end = bench.end(handle)
    assert end.exit_status is ExitStatus.ABORTED_BEFORE_RUNNING and end.reason == "start_failed", end
    assert "/opt/no/python3" in str(end.message), end


def test_a_record_that_the_file_system_shows_late(bench: Bench) -> None:
    (handle,) = bench.launch(bench.job("a", "exit 3"))
    marker, hidden = bench.spool / "jobs/a/run.1/run", bench.spool.parent / "hidden"
    bench.until(lambda: marker.exists() and b" end\n" in marker.read_bytes())
    marker.rename(hidden)
    bench.until(lambda: bench.state(handle) is NativeState.ENDED)
    for _ in range(3):
        assert bench.system.exit_info([handle]) == {}
        time.sleep(0.3)
    hidden.rename(marker)
    end = bench.end(handle)
    assert (end.exit_value, end.exit_status) == (3, ExitStatus.FINISHED_REGULARLY), end


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
    words = ["qsub", "-h", "-N", "a", "-v", f"JOBMILL_LAUNCH={job.token}", "--", "/bin/sh", script]
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


@pytest.mark.parametrize("how", ["empty", "half", "down", "mute", "noise"])
def test_a_list_of_ids_that_is_none_makes_no_end(how: str, bench: Bench) -> None:
    (handle,) = bench.launch(bench.job("a", "sleep 20"))
    token = handle.partition("/")[2]
    bench.until(lambda: (bench.spool / "jobs/a/run.1/run").exists())
    bench.site.fault("qselect", how)
    if how == "mute":
        bench.hurry()
    try:
        assert bench.system.survey(bench.life) == {}
        assert bench.system.settle([Launch(token=token)]) == {token: handle}  # by its marker
    except SystemUnavailable:
        assert how in ("half", "down", "mute")
    bench.anew()
    assert bench.system.exit_info([handle]) == {}
    assert bench.state(handle) is NativeState.RUNNING


def test_banners_go_by(bench: Bench) -> None:
    for command in ("qsub", "qstat", "qselect"):
        bench.site.fault(command, "banner")
    (handle,) = bench.launch(bench.job("a", "sleep 3; exit 4"))
    assert handle in bench.system.survey(bench.life)
    assert bench.end(handle).exit_value == 4


def test_a_slow_server_is_waited_for_once(bench: Bench) -> None:
    bench.site.fault("qsub", "slow", 1)
    bench.hurry()
    (answer,) = bench.system.submit([bench.job("a", "true")])
    assert isinstance(answer, SubmitError) and answer.failure is SubmitFailure.UNCLEAR, answer


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
    never = f"{new.partition('/')[0]}/{bench.life}.1:c:1"
    assert bench.state(never) is NativeState.ABSENT and bench.system.exit_info([never]) == {}


def test_a_history_that_is_off_is_no_end(bench: Bench) -> None:
    """With -x such a server tells nothing, also of what runs, and exits with 0."""
    bench.site.adjust(history=0)
    (handle,) = bench.launch(bench.job("a", "sleep 20"))
    bench.until(lambda: bench.state(handle) is NativeState.RUNNING)
    assert bench.system.exit_info([handle]) == {} and handle in bench.system.survey(bench.life)
    names = {check.name: check for check in bench.system.check()}
    assert names["version"].detail == "PBS 23.06.06" and names["history"].detail.startswith("off")


def test_commands_of_another_scheduler_are_told(bench: Bench, tmp_path: Path) -> None:
    other = tmp_path / "sge"
    other.mkdir()
    (other / "qstat").write_text("#!/bin/sh\necho SGE 8.1.9\necho usage: qstat\nexit 0\n")
    (other / "qstat").chmod(0o755)
    ill = system(bench.site, bench.spool, path=f"{other}:{bench.site.path}")
    version = {check.name: check for check in ill.check()}["version"]
    assert not version.ok and version.detail == "SGE 8.1.9" and "path:" in version.fix
    with pytest.raises(SystemUnavailable):
        ill.status(bench.launch(bench.job("a", "true")))


def test_options_that_cannot_be(tmp_path: Path) -> None:
    for options in ({"cluster": "a"}, {"slots": 3}, {"late": -1}):
        with pytest.raises(ConfigError):
            PbsProSystem.build("pbs", options, tmp_path)


# What a real server said.


def recorded(name: str) -> str:
    (path,) = RECORDED.glob(f"{name}-*.out")
    return path.read_text()


@pytest.mark.parametrize(
    ("name", "native", "phase", "code", "signal"),
    [
        ("050", "20", Phase.RUNNING, None, None),
        ("051", "21", Phase.QUEUED, None, None),
        ("054", "8", Phase.HELD, None, None),
        ("064", "21", Phase.CANCELLED, None, None),  # deleted in line
        ("066", "20", Phase.CANCELLED, None, 15),  # deleted while it ran
        ("070", "22", Phase.COMPLETED, 0, None),
        ("073", "23", Phase.FAILED, 3, None),
        ("074", "24", Phase.FAILED, 139, None),  # SEGV below the login shell
        ("075", "25", Phase.FAILED, None, 11),  # SEGV of the first process
        ("079", "29", Phase.FAILED, 254, None),  # no such command
        ("082", "31", Phase.TIMEOUT, None, None),
        ("088", "37", Phase.OOM, None, None),
        ("160", "56", Phase.HELD, None, None),  # values that look like numbers are numbers
        ("162", "113", Phase.HELD, None, None),  # a function of bash among the variables
    ],
)
def test_recorded_answers(name: str, native: str, phase: Phase, code: int | None, signal: int | None) -> None:
    (row,) = pbspro_answer.rows(recorded(name)).values()
    assert (row.native, row.phase, row.code, row.signal, row.token) == (native, phase, code, signal, "")
    assert (row.started is not None) == (phase not in (Phase.HELD, Phase.QUEUED) and name != "064")


def test_recorded_lists() -> None:
    assert pbspro_answer.rows(recorded("117")) == {}
    assert [*pbspro_answer.rows(recorded("124"))] == ["13", "45", "46"]
    assert [*pbspro_answer.rows(recorded("130"))] == ["2"]  # without -E: the first of four
    assert [*pbspro_answer.rows(recorded("131"))] == ["2", "3", "4", "13"]
    assert pbspro_answer.rows(recorded("097")) == {} == pbspro_answer.rows(recorded("092"))  # arrays are not ours


@pytest.mark.parametrize("path", sorted(RECORDED.glob("*.out")), ids=lambda path: path.name)
@pytest.mark.parametrize("spoilt", [False, True])
def test_an_answer_cut_anywhere_is_none(path: Path, spoilt: bool) -> None:
    """Also where it is no JSON: values that servers print as they are, which are read by lines."""
    text = path.read_text()
    if spoilt:
        text = text.replace('"PBS_O_HOST":', '"X":\t"say "hi"\\",\n\t\t\t\t"PBS_O_HOST":')
    whole = pbspro_answer.rows(text)
    assert whole == pbspro_answer.rows(path.read_text())
    for end in range(len(text.rstrip())):
        with pytest.raises(ValueError):
            pbspro_answer.rows(text[:end])


def test_variables_that_look_like_attributes_make_no_end() -> None:
    text = recorded("050").replace('"PBS_O_HOST":', '"X":\t"\n\t\t\t"job_state":\t"F",\n\t\t\t"substate":\t92,"\n"Y":')
    (row,) = pbspro_answer.rows(text).values()
    assert not row.phase.ended


@pytest.mark.parametrize(
    ("state", "holds", "substate", "status", "phase"),
    [
        ("H", "s", 22, None, Phase.QUEUED),  # waits for another job
        ("H", "us", 22, None, Phase.HELD),
        ("E", "n", 53, 0, Phase.LEAVING),
        ("F", "s", 92, None, Phase.CANCELLED),  # what it waited for failed: the substate of success, and no Exit_status
        ("F", "n", 91, 0, Phase.CANCELLED),
        ("F", "n", 93, 0, Phase.FAILED),
        ("F", "n", 93, -4, Phase.NODE_FAIL),
        ("F", "n", 93, -2, Phase.FAILED),
        ("M", "n", None, None, Phase.UNREACHABLE),
        ("?", "n", None, None, Phase.UNKNOWN),
        ("", "n", None, 0, Phase.UNKNOWN),
    ],
)
def test_states(state: str, holds: str, substate: int | None, status: int | None, phase: Phase) -> None:
    assert phase_of(state, holds, substate, status) is phase


def test_what_moved_to_another_server_is_not_gone(bench: Bench) -> None:
    (handle,) = bench.launch(bench.job("a", "sleep 20"))
    bench.until(lambda: bench.state(handle) is NativeState.RUNNING)
    row = dataclasses.replace(bench.system.queue()[0], state="M", phase=Phase.UNREACHABLE)
    look = bench.system._observed(row, {})
    assert look.state is NativeState.UNKNOWN and look.alive
