"""What can be seen: by any process, of all launches at once, and in what a job wrote."""

from __future__ import annotations

import pytest

from jobmill.systems.system import ExecutionSystem, Handle, Launch, NativeState, Token
from jobmill.testing.launches import Launches
from jobmill.testing.subject import LONG, Subject


class Looks(Subject):
    """Status, survey, inventory, logs."""

    def test_another_process_sees_and_does_all(self) -> None:
        """The fetcher is not the starter: a fresh instance looks, adopts, reads and kills by the handle alone."""
        launches, other = self.begin(), self.begin(lead=False)
        job, short = self.body(seconds=LONG), self.body(exit=3)
        handle, ended = launches.launch(job, short)
        launches.end(ended)
        launches.running(handle)
        other.running(handle)
        assert other.end(ended).exit_value == 3
        assert other.look(ended).state in (NativeState.ENDED, NativeState.ABSENT)
        assert other.system.logs(ended, "stdout", 0) == launches.system.logs(ended, "stdout", 0)
        settled = other.system.settle([Launch(token=job.token)])
        assert self.names(other.system, settled[job.token], handle, job.token), settled
        other.killed(handle)
        launches.until(lambda: launches.look(handle).state is not NativeState.RUNNING, "the first one to see the death")
        assert not launches.look(handle).alive

    def test_status_tells_one_from_another(self) -> None:
        """Asked for several, it says of each what is true of it, in whatever order."""
        launches = self.begin()
        running, ended = launches.launch(self.body(seconds=LONG), self.body(exit=1))
        launches.end(ended)
        launches.running(running)
        for handles in ([running, ended], [ended, running, ended]):
            seen = launches.system.status(handles)
            assert set(seen) == {running, ended}
            assert seen[running].state is NativeState.RUNNING and seen[running].alive
            assert seen[ended].state in (NativeState.ENDED, NativeState.ABSENT) and not seen[ended].alive
            assert set(launches.system.exit_info(handles)) == {ended}

    def test_survey_tells_of_all(self) -> None:
        """One query tells every launch of the record, held or running, and nothing of another record."""
        launches = self.begin()
        if not launches.system.surveys:
            pytest.skip(f"{launches.system.kind} answers for single launches (surveys is False)")
        running, held = self._two(launches)
        (foreign,) = launches.launch(self.body(seconds=LONG, record=self.record + "x"))
        launches.running(foreign)
        seen = launches.system.survey(self.record)
        assert set(seen) == {running, held}
        assert seen[running].state is NativeState.RUNNING and seen[running].alive and not seen[running].held
        assert seen[held].held is self.held(launches.system)
        assert self.begin(lead=False).system.survey(self.record).keys() == seen.keys()
        launches.killed(running)

        def unlisted() -> bool:
            look = launches.system.survey(self.record).get(running)
            return look is None or look.state in (NativeState.ENDED, NativeState.ABSENT)

        launches.until(unlisted, "what has ended to leave the survey")

    def test_inventory_finds_strays(self) -> None:
        """Handle and token of all that is still there, held or running, of this record alone; not what has ended."""
        launches = self.begin()
        if type(launches.system).inventory is ExecutionSystem.inventory:
            assert not self.held(launches.system), "who holds submissions needs `inventory`: strays are found by it"
            pytest.skip(f"{launches.system.kind} has no inventory, and holds nothing that could be left over")
        running, held = self._two(launches)
        jobs = self.record_of
        launches.launch(self.body(seconds=LONG, record=self.record + "x"))
        assert launches.system.inventory(self.record) == {running: jobs[running], held: jobs[held]}
        assert self.begin(lead=False).system.inventory(self.record) == {running: jobs[running], held: jobs[held]}
        launches.killed(running)
        launches.killed(held)
        launches.until(lambda: not launches.system.inventory(self.record), "what has ended to leave the inventory")

    def test_logs_by_offset(self) -> None:
        """A part from here, so long: nothing beyond the end, nothing where there is none."""
        self.need("commands")
        launches = self.begin()
        handle, _ = launches.run(self.sh("printf 0123456789"))
        logs = launches.system.logs
        assert logs(handle, "stdout", 0) == b"0123456789"
        assert logs(handle, "stdout", 4) == b"456789"
        assert logs(handle, "stdout", 4, 3) == b"456"
        assert logs(handle, "stdout", 10) == logs(handle, "stdout", 4711) == b""
        assert logs(handle, "stderr", 0) == logs(handle, "return.json", 0) == logs(handle, "no-such-file", 0) == b""

    def test_logs_grow(self) -> None:
        """What a job writes is seen while it runs, so that it can be followed."""
        self.need("commands")
        self.need("live_logs")
        launches = self.begin()
        text = (
            'echo first; n=0; while [ ! -e "$1/go" ] && [ $n -lt 600 ]; do sleep 0.1; n=$((n + 1)); done; echo second'
        )
        (handle,) = launches.launch(self.sh(text, str(self.shared)))
        launches.until(lambda: launches.system.logs(handle, "stdout", 0) == b"first\n", "the first line")
        (self.shared / "go").touch()
        launches.until(lambda: launches.system.logs(handle, "stdout", 6) == b"second\n", "the second line")
        launches.end(handle)

    def test_logs_are_of_this_launch_alone(self) -> None:
        """Neither another run's, nor another job's, nor any other file of the host, by no name."""
        launches = self.begin()
        handle, _ = launches.run(self.sh("echo mine", env=self.pretend(seconds=0, exit=0)))
        other = self.sh("echo secret; echo secret >&2", env=self.pretend(seconds=0, exit=0))
        launches.run(other)
        (self.shared / "secret").write_text("secret")
        (self.spool / "secret").write_text("secret")
        names = ["secret", "../../secret", "../../../secret", str(self.shared / "secret"), "", ".", "..", "std\0out"]
        names += [f"../../{other.job_id}/run.1/stdout", f"../{other.job_id}/stdout", "stdout/../stderr"]
        for name in names:
            try:
                found = launches.system.logs(handle, name, 0)
            except ValueError:  # "not the name of a file in the run folder"
                continue
            assert b"secret" not in found, f"logs({name!r}) shows what is not this launch's"
        (late,) = launches.submit(self.body(seconds=LONG))
        launches.killed(late)
        assert b"secret" not in launches.system.logs(late, "stdout", 0)

    record_of: dict[Handle, Token]

    def _two(self, launches: Launches) -> tuple[Handle, Handle]:
        """Launch one, and submit another without releasing it."""
        jobs = [self.body(seconds=LONG), self.body(seconds=LONG)]
        (running,) = launches.launch(jobs[0])
        (held,) = launches.submit(jobs[1])
        launches.running(running)
        self.record_of = {running: jobs[0].token, held: jobs[1].token}
        return running, held
