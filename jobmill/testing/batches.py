"""Many launches: in one call, beyond the slots, and one that is refused among them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from jobmill.systems.system import NativeState, SubmitError
from jobmill.testing.subject import LONG, Subject


class Batches(Subject):
    """One call, many answers."""

    def test_many_at_once(self) -> None:
        """One call takes them all, answers in order, and each runs once and tells its own end."""
        launches = self.begin()
        jobs = [self.body(exit=n % 5) for n in range(self.many)]
        handles = launches.launch(*jobs)
        assert len(set(handles)) == self.many, "each launch needs a handle of its own"
        found = launches.ends(handles)
        assert [found[handle].exit_value for handle in handles] == [n % 5 for n in range(self.many)]
        wrong = {job.job_id: self.starts(job) for job in jobs if self.starts(job) != 1}
        assert wrong == {}, "each is started once"
        assert {look.state for look in launches.system.status(handles).values()} <= {
            NativeState.ENDED,
            NativeState.ABSENT,
        }

    def test_slots_bound_what_runs(self) -> None:
        """`set_slots` bounds what runs; who waits is SUBMITTED, can be taken out of line, and submitted again."""
        launches = self.begin()
        if not self.keeps_slots:
            pytest.skip(f"{type(self).__name__} keeps no limit of what runs at once (keeps_slots is False)")
        launches.system.set_slots(1)
        jobs = [self.body(seconds=LONG) for _ in range(3)]
        handles = launches.launch(*jobs)
        launches.running(handles[0])
        launches.until(lambda: self.starts(jobs[0]), "the start that status tells of")
        launches.wait(self.quiet)
        assert [self.starts(job) for job in jobs] == [1, 0, 0]
        assert [launches.look(handle).state for handle in handles[1:]] == [NativeState.SUBMITTED] * 2
        if launches.system.fileno() is not None:
            launches.system.withdraw([jobs[1].token])
            out = launches.until(lambda: launches.ended.pop(jobs[1].token, None), "the one that was taken out of line")
            assert out.reason == "withdrawn" and not out.regular, out
            launches.launch(jobs[1])
        launches.system.set_slots(3)
        for handle in handles:
            launches.running(handle)
        launches.until(lambda: all(self.starts(job) for job in jobs), "all to be started")
        assert [self.starts(job) for job in jobs] == [1, 1, 1]

    def test_a_refusal_says_why(self) -> None:
        """More than the place has is refused with words, or waits; it does not break the batch that it came in."""
        launches = self.begin()
        good = self.body()
        answers = list(launches.system.submit([replace(self.body(), cpus=100_000, memory=1 << 40), good]))
        assert len(answers) == 2
        assert not isinstance(answers[1], SubmitError), answers[1]
        launches.handles += [answer for answer in answers if not isinstance(answer, SubmitError)]
        if isinstance(answers[0], SubmitError):
            assert answers[0].message.strip()
        else:
            launches.killed(answers[0])
        launches.system.release([answers[1]])
        assert launches.end(answers[1]).regular
