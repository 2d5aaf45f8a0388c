"""The starter dies, by SIGKILL, at each step of a launch; whoever comes after it settles what became of that."""

from __future__ import annotations

import os
import select
import signal
import time
import traceback
import warnings
from collections.abc import Callable

import pytest

from jobmill.systems.system import Handle, Launch, NativeState, Settled, SubmitError, Token
from jobmill.testing.launches import Launches
from jobmill.testing.subject import LONG, Subject


class Crashes(Subject):
    """Settle: adopt it, or make sure that it never starts."""

    def test_a_launch_that_was_not_submitted(self) -> None:
        """NOT_STARTED is a promise: a submission that comes late starts nothing."""
        launches, late = self.begin(), self.begin(lead=False)
        job = self.body()
        assert self._settled(launches, job.token) is Settled.NOT_STARTED
        for it in (late, launches):  # by the one that was declared dead, and by ourselves
            (answer,) = it.system.submit([job])
            if not isinstance(answer, SubmitError):
                it.handles.append(answer)
            it.wait(self.quiet)
            assert self.starts(job) == 0, "a late submission started what was settled as never to start"
            if not isinstance(answer, SubmitError):  # not committed: the sweep of strays kills it
                it.killed(answer)
        info = launches.system.exit_info(launches.handles)
        assert not any(record.regular for record in info.values()), info

    def test_a_submission_whose_handle_was_lost(self) -> None:
        """Died between submit and commit: found by its token, held as it was, then released and run once."""
        job = self.body(exit=3)
        self._dies_after(lambda launches: launches.submit(job))
        launches = self.begin()
        answer = self._settled(launches, job.token)
        if answer is Settled.NOT_STARTED and not self.held(launches.system):
            launches.wait(self.quiet)
            assert self.starts(job) == 0, "settled as never to start, and it started"
            return
        handle = self._adopted(launches, answer)
        if self.held(launches.system):
            launches.wait(self.quiet)
            assert self.starts(job) == 0 and launches.look(handle).held, "nobody committed it, so it has to be held"
        launches.system.release([handle])
        assert launches.end(handle).exit_value == 3
        assert self.starts(job) == 1

    def test_a_launch_that_runs(self) -> None:
        """Died after release: it runs on, is adopted, and ends once."""
        job = self.body(seconds=1.5, exit=3)

        def steps(launches: Launches) -> None:
            (handle,) = launches.launch(job)
            launches.running(handle)

        self._dies_after(steps)
        launches = self.begin()
        handle = self._adopted(launches, self._settled(launches, job.token))
        again = self._settled(launches, job.token)
        assert self.names(launches.system, again, handle, job.token), "settling is idempotent"
        assert self._settled(launches, job.token, handle) == handle, "with the handle, too"
        assert launches.end(handle).exit_value == 3
        assert self.starts(job) == 1

    def test_a_launch_that_has_ended(self) -> None:
        """Ended while nobody looked: adopted by its token, with its record."""
        job = self.body(exit=3)

        def steps(launches: Launches) -> None:
            launches.launch(job)
            launches.until(lambda: self.starts(job) == 1, "the start")

        self._dies_after(steps)
        launches = self.begin()
        launches.wait(self.quiet)
        handle = self._adopted(launches, self._settled(launches, job.token))
        assert launches.end(handle).exit_value == 3
        assert launches.look(handle).state in (NativeState.ENDED, NativeState.ABSENT)
        (again,) = launches.submit(job)
        launches.wait(self.quiet)
        if not self.names(launches.system, again, handle, job.token):
            launches.killed(again)
        assert self.starts(job) == 1, "what has ended was started again"

    def test_a_batch_is_settled_at_once(self) -> None:
        """Each token gets its own answer."""
        launches = self.begin()
        running, missing = self.body(seconds=LONG), [self.body() for _ in range(5)]
        (handle,) = launches.launch(running)
        launches.running(handle)
        tokens = [job.token for job in (*missing[:3], running, *missing[3:])]
        answers = launches.system.settle([Launch(token=token) for token in tokens])
        assert set(answers) == set(tokens)
        assert self.names(launches.system, answers[running.token], handle, running.token), answers
        assert {answers[job.token] for job in missing} == {Settled.NOT_STARTED}
        assert launches.look(handle).state is NativeState.RUNNING, "settling must not touch what runs"

    def _settled(self, launches: Launches, token: Token, handle: Handle | None = None) -> Handle | Settled:
        """Settle until it is known."""

        def look() -> Handle | Settled | None:
            answers = launches.system.settle([Launch(token=token, handle=handle)])
            assert set(answers) <= {token}, "settle answers what was not asked"
            answer = answers.get(token, Settled.UNKNOWN)
            return None if answer is Settled.UNKNOWN else answer

        return launches.until(look, f"{token} to be settled")

    def _adopted(self, launches: Launches, answer: Handle | Settled) -> Handle:
        assert not isinstance(answer, Settled), f"it was submitted, and is settled as {answer.value}"
        launches.handles.append(answer)
        return answer

    def _dies_after(self, steps: Callable[[Launches], object]) -> None:
        """Take steps as a process of its own, with its own instance, which is killed after them."""
        reader, writer = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # the child touches nothing of our threads
            pid = os.fork()
        if pid == 0:
            try:
                os.close(reader)
                launches = Launches(self.make(self.spool), patience=self.patience)
                launches.system.lead()
                steps(launches)
                os.write(writer, b"done")
            except BaseException:
                os.write(writer, traceback.format_exc().encode()[-60000:])
            finally:
                os.kill(os.getpid(), signal.SIGKILL)
        os.close(writer)
        said = b""
        deadline = time.monotonic() + 2 * self.patience
        try:
            while select.select([reader], [], [], max(0.0, deadline - time.monotonic()))[0]:
                part = os.read(reader, 65536)
                if not part:
                    break
                said += part
        finally:
            os.close(reader)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        if said != b"done":
            pytest.fail(f"before its death: {said.decode('utf-8', 'replace') or 'no answer in time'}")
