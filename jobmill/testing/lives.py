"""How a launch goes its way: held, released, started once, ended, forgotten."""

from __future__ import annotations

from dataclasses import replace

import pytest

from jobmill.systems.system import ExecutionSystem, Handle, NativeState, Submission
from jobmill.testing.launches import Launches
from jobmill.testing.subject import LONG, Subject


class Lives(Subject):
    """One launch, and the same one again."""

    def test_a_launch_goes_its_way(self) -> None:
        """Submitted, released, running, ended; the record says when and by what evidence; it does not change."""
        launches = self.begin()
        job = self.body(seconds=1.0)
        (handle,) = launches.launch(job)
        if launches.system.launches_at_once:
            assert handle == launches.system.handle_for(job.token), "handle_for has to know the handle beforehand"
            assert handle.endswith(job.token), "the handle has to end with its token"
        seen = launches.running(handle)
        assert not seen.held and seen.alive
        assert handle not in launches.system.exit_info([handle]), "there is no record before the end"
        info = launches.end(handle, job.token)
        assert info.regular and info.evidence, info
        if info.started is not None and info.ended is not None:
            assert 0.5 < info.ended - info.started < self.patience + 1, info
        after = launches.look(handle)
        assert after.state in (NativeState.ENDED, NativeState.ABSENT) and not after.held, after
        assert launches.system.exit_info([handle])[handle] == info
        assert self.starts(job) == 1

    def test_a_pushed_end_comes_once(self) -> None:
        """Where ends are pushed each comes once, also of those that were submitted twice; and is the record."""
        launches = self.begin()
        if launches.system.fileno() is None:
            pytest.skip("nothing is pushed here (fileno() is None): ends are found by polls, as the other tests do")
        jobs = [self.body(exit=n % 3) for n in range(10)]
        handles = launches.launch(*jobs, *jobs[:3])[:10]
        launches.until(lambda: len(launches.ended) == len(jobs), "the ends to be pushed")
        launches.wait(self.quiet)
        assert sorted(launches.started) == sorted(job.token for job in jobs), "each start is pushed once"
        for job, handle in zip(jobs, handles, strict=True):
            launches.end(handle, job.token)

    def test_held_until_released(self) -> None:
        """A submission starts when its handle is committed: until then it is there, held, and does nothing."""
        launches = self.begin()
        self._need_holding(launches.system)
        job = self.body(seconds=LONG)
        (handle,) = launches.submit(job)
        unseen = (NativeState.ABSENT, NativeState.UNKNOWN)
        launches.until(lambda: launches.look(handle).state not in unseen, "the submission to be listed")
        launches.wait(self.quiet)
        seen = launches.look(handle)
        assert seen.state is NativeState.SUBMITTED and seen.held, seen
        assert self.starts(job) == 0, "it started without having been released"
        launches.system.release([handle])
        launches.running(handle)
        assert not launches.look(handle).held
        launches.until(lambda: self.starts(job), "the start that status tells of")
        assert self.starts(job) == 1

    def test_release_twice_is_once(self) -> None:
        """Neither a second release, nor one after the end, starts anything."""
        launches = self.begin()
        job = self.body()
        (handle,) = launches.launch(job)
        launches.system.release([handle])
        launches.system.release([handle, handle])
        info = launches.end(handle, job.token)
        launches.system.release([handle])
        launches.wait(self.quiet)
        assert info.regular and self.starts(job) == 1
        assert launches.system.exit_info([handle])[handle] == info

    def test_what_was_killed_before_its_release_never_starts(self) -> None:
        """Kill proves that nothing exists, and a release that comes late is without effect."""
        launches = self.begin()
        self._need_holding(launches.system)
        job = self.body()
        (handle,) = launches.submit(job)
        launches.killed(handle)
        launches.system.release([handle])
        launches.wait(self.quiet)
        assert self.starts(job) == 0
        assert launches.look(handle).state in (NativeState.ENDED, NativeState.ABSENT)
        info = launches.system.exit_info([handle]).get(handle)
        assert info is None or not info.regular, info

    @pytest.mark.parametrize("view", ["same", "another"])
    def test_the_same_token_is_the_same_launch(self, view: str) -> None:
        """Submitted again (a reply was lost), by whomever: one launch, before its end and after it."""
        launches = self.begin()
        other = launches if view == "same" else self.begin(lead=False)
        job = self.body(seconds=1.0)
        (handle,) = launches.submit(job)
        (again,) = other.submit(job)
        launches.system.release([handle])  # a record commits one handle for a token
        self._drop(other, job, handle, again)
        assert launches.end(handle, job.token).regular
        (late,) = other.submit(job)
        if not self.held(launches.system):
            assert self.names(other.system, again, handle, job.token), (again, handle)
            assert self.names(other.system, late, handle, job.token), (late, handle)
        self._drop(other, job, handle, late)
        launches.wait(self.quiet)
        if other is not launches:
            other.wait(self.quiet)
        assert self.starts(job) == 1, f"one token was started {self.starts(job)} times"

    def test_a_second_run_is_another_launch(self) -> None:
        """The run of a job is part of its name: a retry starts, and what the first run left stays its own."""
        launches = self.begin()
        first = self.body(exit=3)
        token = first.token.rpartition(":")[0] + ":2"
        second = replace(first, token=token, run=2, argv=[token if w == first.token else w for w in first.argv])
        before, info = launches.run(first)
        after, _ = launches.run(second)
        assert before != after
        assert (self.starts(first), self.starts(second)) == (1, 1)
        assert launches.system.exit_info([before])[before] == info

    def test_forget_keeps_the_results(self) -> None:
        """Forgetting is idempotent, harmless to others, and leaves what the job wrote."""
        launches = self.begin()
        handle, _ = launches.run(self.body())
        (other,) = launches.launch(self.body(seconds=LONG))
        launches.running(other)
        before = launches.system.logs(handle, "stdout", 0)
        launches.system.forget([handle])
        launches.system.forget([handle, handle])
        assert launches.look(handle).state in (NativeState.ENDED, NativeState.ABSENT)
        if not launches.system.stages:  # else what is worth keeping was brought here before
            assert launches.system.logs(handle, "stdout", 0) == before
        assert launches.look(other).state is NativeState.RUNNING

    def _drop(self, launches: Launches, job: Submission, committed: Handle, other: Handle) -> None:
        """Do with a second submission of a token what the record does: it is not committed, so it is killed."""
        if not self.names(launches.system, other, committed, job.token):
            launches.killed(other)

    def _need_holding(self, system: ExecutionSystem) -> None:
        if not self.held(system):
            pytest.skip(f"{type(self).__name__}: a submission starts at once (holds is False, or launches_at_once)")
