"""What the record says of the end of a program."""

from __future__ import annotations

import time

import pytest

from jobmill.systems.system import ExitStatus, SubmitError, SubmitFailure
from jobmill.testing.subject import LONG, Subject


class Outcomes(Subject):
    """Exit values, signals, walltime."""

    @pytest.mark.parametrize("value", [0, 1, 3, 255])
    def test_exit_values(self, value: int) -> None:
        """The record has what the program returned; only 0 is regular."""
        info = self.begin().run(self.body(exit=value))[1]
        assert (info.exit_status, info.exit_value) == (ExitStatus.FINISHED_REGULARLY, value), info
        assert info.term_sig is None, info
        assert info.regular is (value == 0), info

    @pytest.mark.parametrize("value", [127, 126])
    def test_a_command_that_cannot_be_executed(self, value: int) -> None:
        """127 for one that is not there, 126 for one that is no program, as a shell has it; never regular."""
        self.need("commands")
        file = self.shared / "no-program"
        if value == 126:
            file.write_text("no program")
            file.chmod(0o644)
        info = self.begin().run(self.job(str(file)))[1]
        assert info.exit_value == value, info
        assert not info.regular, info

    @pytest.mark.parametrize("number", [9, 15, 11])
    def test_a_signal(self, number: int) -> None:
        """The record tells that a signal ended the program: as such, or as 128 + n where only this is known."""
        self.need("commands")
        info = self.begin().run(self.sh(f"kill -{number} $$; sleep 5"))[1]
        assert not info.regular, info
        if self.signals == "signal":
            assert (info.exit_status, info.term_sig) == (ExitStatus.FINISHED_SIGNAL, number), info
        else:
            assert info.term_sig == number or info.exit_value == 128 + number, info

    def test_the_walltime(self) -> None:
        """Where there is a walltime it ends a job that outlasts it, with reason `timeout`; else it is refused."""
        launches = self.begin()
        job = self.body(seconds=LONG, walltime=1.0)
        if self.walltime == "refused":
            (answer,) = launches.system.submit([job])
            assert isinstance(answer, SubmitError), "a walltime that nobody enforces must not be accepted"
            assert answer.failure is SubmitFailure.PERMANENT and answer.message.strip(), answer
            return
        begun = time.monotonic()
        (handle,) = launches.launch(job)
        if self.walltime == "by_poll":
            launches.until(lambda: launches.look(handle).overdue, "status to tell that the walltime is over")
            launches.killed(handle)
            info = launches.system.exit_info([handle]).get(handle)
            assert info is None or not info.regular, info
        else:
            info = launches.end(handle)
            assert info.reason == "timeout" and not info.regular, info
        assert time.monotonic() - begun > 0.9, "it ended before its walltime was over"
