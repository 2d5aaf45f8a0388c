"""Systems with one defect each, and the test of the suite that has to catch it. Run by test_conformance_proof.py."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import test_conformance as sound
from planted_systems import Detached, Far, Held, Polled

from jobmill.systems.fake import FakeSystem
from jobmill.systems.local import LocalSystem
from jobmill.systems.system import (
    Check,
    End,
    ExitInfo,
    ExitStatus,
    NativeState,
    Observation,
    Settled,
    Submission,
    SubmitError,
    SubmitFailure,
)

DEFECTS: list[tuple[str, type[Any], type[Any]]] = []  # test, the sound system, the broken one


def breaks(test: str) -> Callable[[type[Any]], type[Any]]:
    """Note that this test has to fail for the decorated system."""

    def note(broken: type[Any]) -> type[Any]:
        DEFECTS.append((test, broken.__mro__[1], broken))
        return broken

    return note


def changed(**fields: Any) -> Callable[[Any, Submission, Path], Any]:
    """Return a `start` that changes these fields of every submission; a function gets the field's value."""

    def start(self: Any, it: Submission, folder: Path) -> Any:
        new = {key: value(getattr(it, key)) if callable(value) else value for key, value in fields.items()}
        return super(type(self), self).start(replace(it, **new), folder)

    return start


# Contract


@breaks("test_build_refuses_an_unknown_option")
class TakesAnything(Detached):
    @classmethod
    def build(cls, name: str, options: Mapping[str, Any], spool: Path) -> Any:
        return cls(name, spool)


@breaks("test_it_is_a_kind_with_a_name_and_limits")
class Closed(Detached):
    @classmethod
    def limits(cls, slots: Any, limit: Any, options: Any) -> Any:
        return {"queue": None}


@breaks("test_check_says_that_it_works")
class Ill(Detached):
    def check(self) -> Any:
        return [Check(name="shell", ok=False, detail="/bin/sh")]


@breaks("test_it_can_be_led")
class Deposed(Detached):
    led = 0

    def lead(self) -> bool:
        self.led += 1
        return self.led < 2


@breaks("test_nothing_asked_is_nothing_answered")
class NeedsWork(Detached):
    def status(self, handles: Sequence[str]) -> Any:
        return super().status(handles) or {"": Observation(state=NativeState.ABSENT)}


@breaks("test_handles_of_strangers")
class VanishedIsEnded(Detached):
    def status(self, handles: Sequence[str]) -> Any:
        seen = super().status(handles)
        ended = Observation(state=NativeState.ENDED)
        return {h: ended if look.state is NativeState.ABSENT else look for h, look in seen.items()}


@breaks("test_an_absent_endpoint_is_told")
class Guesses(FakeSystem):
    def status(self, handles: Sequence[str]) -> Any:
        return dict.fromkeys(handles, Observation(state=NativeState.ABSENT))


# Commands


@breaks("test_exit_values")
class AlwaysWell(Detached):
    def exit_info(self, handles: Sequence[str]) -> Any:
        return {h: replace(info, exit_value=0) for h, info in super().exit_info(handles).items()}


@breaks("test_a_command_that_cannot_be_executed")
class One(Detached):
    def exit_info(self, handles: Sequence[str]) -> Any:
        return {h: replace(i, exit_value=min(1, i.exit_value)) for h, i in super().exit_info(handles).items()}


@breaks("test_a_signal")
class SignalIsWell(Detached):
    def exit_info(self, handles: Sequence[str]) -> Any:
        return {h: replace(i, exit_value=i.exit_value % 128) for h, i in super().exit_info(handles).items()}


@breaks("test_stdout_and_stderr")
class OneStream(Detached):
    def start(self, it: Submission, folder: Path) -> Any:
        return super().start(replace(it, stderr=str(folder / "stdout")), folder)


@breaks("test_streams_by_path")
class OwnStreams(Detached):
    start = changed(stdout=None)


@breaks("test_stdin_is_empty")
class SharedInput(Detached):
    start = changed(stdin="/proc/self/status")


@breaks("test_hostile_words")
class ByShell(Detached):
    start = changed(argv=lambda argv: (*argv[:3], *(word.strip() for word in argv[3:])))


@breaks("test_hostile_environment")
class CutEnvironment(Detached):
    start = changed(env=lambda env: {name: value.splitlines()[0] if value else "" for name, value in env.items()})


@breaks("test_the_working_directory")
class Elsewhere(Detached):
    start = changed(workdir=lambda workdir: workdir and "/tmp")


@breaks("test_a_working_directory_that_is_not_there")
class AnyFolder(Detached):
    start = changed(workdir=lambda workdir: workdir if workdir and Path(workdir).is_dir() else None)


@breaks("test_what_every_job_is_told")
class FirstRun(Detached):
    start = changed(run=1)


@breaks("test_the_environment_is_clean")
class Leaks(Detached):
    start = changed(env=lambda env: dict(os.environ) | dict(env))


@breaks("test_files_of_the_run_folder")
class StripsFiles(Detached):
    start = changed(files=lambda files: {name: text.strip() + "\n" for name, text in files.items()})


@breaks("test_the_walltime")
class Endless(Detached):
    start = changed(walltime=None)


@breaks("test_the_walltime")
class NeverOver(Polled):
    def status(self, handles: Sequence[str]) -> Any:
        return {h: replace(look, overdue=False) for h, look in super().status(handles).items()}


@breaks("test_the_walltime")
class OverIsWell(LocalSystem):
    def exit_info(self, handles: Sequence[str]) -> Any:
        return {h: replace(info, reason=None) for h, info in super().exit_info(handles).items()}


@breaks("test_a_signal")
class AlwaysTerm(LocalSystem):
    def exit_info(self, handles: Sequence[str]) -> Any:
        found = super().exit_info(handles)
        return {h: info if info.term_sig is None else replace(info, term_sig=15) for h, info in found.items()}


# Lives


@breaks("test_a_launch_goes_its_way")
class EndsAtOnce(Detached):
    def exit_info(self, handles: Sequence[str]) -> Any:
        guess = ExitInfo(exit_status=ExitStatus.FINISHED_REGULARLY, exit_value=0, evidence="a guess")
        return dict.fromkeys(filter(self.mine, handles), guess) | super().exit_info(handles)


@breaks("test_a_pushed_end_comes_once")
class Stammers(LocalSystem):
    def ends(self) -> Any:
        return [notice for one in super().ends() for notice in ([one, one] if isinstance(one, End) else [one])]


@breaks("test_held_until_released")
class NotHeld(Held):
    def submit(self, submissions: Sequence[Submission]) -> Any:
        answers = super().submit(submissions)
        self.release([answer for answer in answers if isinstance(answer, str)])
        return answers


@breaks("test_release_twice_is_once")
class StartsAgain(Held):
    def release(self, handles: Sequence[str]) -> None:
        kept = {h: (self.line() / h).read_text() for h in handles if (self.line() / h).exists()}
        for handle in handles:
            if handle not in kept and self.mine(handle):
                (self.folder(handle) / "run").unlink()
                shutil.copy(self.line() / f".{handle}", self.line() / handle)
        super().release(handles)
        for handle, text in kept.items():
            (self.line() / f".{handle}").write_text(text)


@breaks("test_what_was_killed_before_its_release_never_starts")
class KeepsTheLine(Held):
    def kill(self, handles: Sequence[str], *, force: bool) -> Any:
        return Detached.kill(self, handles, force=force)


@breaks("test_the_same_token_is_the_same_launch")
class StartsTwice(Detached):
    def start(self, it: Submission, folder: Path) -> Any:
        with suppress(FileNotFoundError):
            (folder / "run").unlink()
        return super().start(it, folder)


@breaks("test_a_second_run_is_another_launch")
class OneRun(Detached):
    def submit(self, submissions: Sequence[Submission]) -> Any:
        return super().submit([replace(it, token=it.token.rpartition(":")[0] + ":1") for it in submissions])


@breaks("test_many_at_once")
class WrongOrder(Detached):
    def submit(self, submissions: Sequence[Submission]) -> Any:
        return super().submit(submissions)[::-1]


@breaks("test_a_refusal_says_why")
class Mute(Detached):
    def submit(self, submissions: Sequence[Submission]) -> Any:
        mute = SubmitError(failure=SubmitFailure.PERMANENT, message="")
        return [mute if isinstance(it, SubmitError) else it for it in super().submit(submissions)]


@breaks("test_forget_keeps_the_results")
class ForgetsOthers(Detached):
    def forget(self, handles: Sequence[str]) -> None:
        shutil.rmtree(Path(os.fsdecode(self.spool)) / "jobs", ignore_errors=True)


@breaks("test_slots_bound_what_runs")
class Boundless(LocalSystem):
    def set_slots(self, slots: int) -> None:
        pass


# Looks


@breaks("test_another_process_sees_and_does_all")
class OwnMemory(Detached):
    def submit(self, submissions: Sequence[Submission]) -> Any:
        self.known = {it.token for it in submissions}
        return super().submit(submissions)

    def status(self, handles: Sequence[str]) -> Any:
        known = getattr(self, "known", set())
        absent = Observation(state=NativeState.ABSENT)
        return {h: look if h in known else absent for h, look in super().status(handles).items()}


@breaks("test_status_tells_one_from_another")
class Mixed(Detached):
    def status(self, handles: Sequence[str]) -> Any:
        seen = super().status(handles)
        return dict(zip(seen, reversed(seen.values()), strict=True))


@breaks("test_survey_tells_of_all")
class OnlyRunning(Held):
    def survey(self, record: str) -> Any:
        return {h: look for h, look in super().survey(record).items() if not look.held}


@breaks("test_inventory_finds_strays")
class EverybodysJobs(Held):
    def inventory(self, record: str) -> Any:
        return super().inventory(record) | super().inventory(record + "x")


@breaks("test_logs_by_offset")
class NoLimit(Detached):
    def logs(self, handle: str, stream: str, offset: int, limit: int = 1 << 20) -> Any:
        return super().logs(handle, stream, offset)


@breaks("test_logs_grow")
class LogsAtTheEnd(Detached):
    def logs(self, handle: str, stream: str, offset: int, limit: int = 1 << 20) -> Any:
        return super().logs(handle, stream, offset, limit) if self.exit_info([handle]) else b""


@breaks("test_logs_are_of_this_launch_alone")
class AnyFile(Detached):
    def logs(self, handle: str, stream: str, offset: int, limit: int = 1 << 20) -> Any:
        with suppress(OSError, ValueError):
            return (self.folder(handle) / stream).read_bytes()[offset : offset + limit]
        return b""


# Kills


@breaks("test_kill_ends_what_runs")
class SaysKilled(Detached):
    def kill(self, handles: Sequence[str], *, force: bool) -> Any:
        return dict.fromkeys(handles, True)


@breaks("test_kill_is_a_question_of_ends")
class Rewrites(Detached):
    def kill(self, handles: Sequence[str], *, force: bool) -> Any:
        for handle in handles:
            (self.folder(handle) / "exit").write_text("137\n")
        return super().kill(handles, force=force)


class OnlyTheFirst(Detached):
    def kill(self, handles: Sequence[str], *, force: bool) -> Any:
        for handle in filter(self.alive, handles):
            with suppress(FileNotFoundError, ProcessLookupError):
                os.kill(self.pid(handle), signal.SIGKILL if force else signal.SIGTERM)
        return {handle: not self.lives(handle) for handle in handles}

    def pid(self, handle: str) -> int:
        return int((self.folder(handle) / "pid").read_text())

    def lives(self, handle: str) -> bool:
        with suppress(OSError, ValueError):
            return Path(f"/proc/{self.pid(handle)}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
        return False


DEFECTS.append(("test_kill_takes_the_tree", Detached, OnlyTheFirst))
DEFECTS.append(("test_kill_takes_what_fled", LocalSystem, Detached))


@breaks("test_kill_is_not_told_before_it_is_true")
class TermIsEnough(Detached):
    def kill(self, handles: Sequence[str], *, force: bool) -> Any:
        return dict.fromkeys(super().kill(handles, force=force), True)


# Crashes


@breaks("test_a_launch_that_was_not_submitted")
class NothingSealed(Detached):
    def settle(self, launches: Sequence[Any]) -> Any:
        return {it.token: it.token if self.mine(it.token) else Settled.NOT_STARTED for it in launches}


@breaks("test_a_submission_whose_handle_was_lost")
class NeverFound(Detached):
    def settle(self, launches: Sequence[Any]) -> Any:
        return {it.token: Settled.NOT_STARTED for it in launches}


@breaks("test_a_launch_that_runs")
class KillsWhatItAdopts(Detached):
    def settle(self, launches: Sequence[Any]) -> Any:
        self.kill([it.token for it in launches], force=True)
        return super().settle(launches)


@breaks("test_a_launch_that_has_ended")
class EndedIsNothing(Detached):
    def settle(self, launches: Sequence[Any]) -> Any:
        found = dict(super().settle(launches))
        return found | {token: Settled.NOT_STARTED for token in found if self.exit_info([token])}


@breaks("test_a_batch_is_settled_at_once")
class OneAnswer(Detached):
    def settle(self, launches: Sequence[Any]) -> Any:
        found = super().settle(launches)
        return dict.fromkeys(found, next(iter(found.values())))


# Stages


@breaks("test_inputs_come_there")
class NoFolders(Far):
    def stage_in(self, submission: Submission, progress: Any) -> Any:
        files = tuple(it for it in submission.inputs if not Path(it.source).is_dir())
        return super().stage_in(replace(submission, inputs=files), progress)


@breaks("test_inputs_that_are_not_wanted_any_more")
class Unstoppable(Far):
    def stage_in(self, submission: Submission, progress: Any) -> Any:
        return super().stage_in(submission, lambda words: None)


@breaks("test_an_input_that_is_not_there")
class WithoutIt(Far):
    def stage_in(self, submission: Submission, progress: Any) -> Any:
        there = tuple(it for it in submission.inputs if Path(it.source).exists())
        return super().stage_in(replace(submission, inputs=there), progress)


@breaks("test_outputs_come_back")
class NoneMissing(Far):
    def stage_out(self, handle: str, folder: Path, globs: Sequence[str], progress: Any) -> Any:
        super().stage_out(handle, folder, globs, progress)
        return []


SUITES = {
    Detached: sound.TestDetached,
    Far: sound.TestFar,
    Held: sound.TestHeld,
    Polled: sound.TestPolled,
    FakeSystem: sound.TestFake,
    LocalSystem: sound.TestLocal,
}


def suite(test: str, broken: type[Any]) -> type[Any]:
    """Return the class of tests for a broken system: that of the sound one, with little patience."""
    base = next(SUITES[kind] for kind in broken.__mro__ if kind in SUITES)

    def make(self: Any, spool: Path) -> Any:
        return broken.build(broken.kind, {"slots": 4} if issubclass(broken, LocalSystem) else {}, spool)

    def make_absent(self: Any, spool: Path) -> Any:
        return broken.build(broken.kind, {"folder": str(spool / "elsewhere"), "down": True}, spool)

    cannot = {promise: why for promise, why in base.cannot.items() if promise not in ("absent", "fled")}
    if not test.startswith("test_kill_takes_what_fled") and "fled" in base.cannot:
        cannot["fled"] = base.cannot["fled"]
    members = {"make": make, "make_absent": make_absent, "cannot": cannot, "patience": 4.0, "many": 20}
    return type(f"Test{broken.__name__}", (base,), members)


for _test, _sound, _broken in DEFECTS:
    globals()[f"Test{_broken.__name__}"] = suite(_test, _broken)
