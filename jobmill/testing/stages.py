"""Files on their way to a place that does not share ours, and back."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobmill.errors import StageFailed, StageStopped
from jobmill.systems.system import ExecutionSystem, Submission, Transfer
from jobmill.testing.launches import Launches
from jobmill.testing.subject import Subject


class Stages(Subject):
    """stage_in, stage_out."""

    def test_inputs_come_there(self) -> None:
        """Files and folders, under the names asked for, byte for byte; twice is once."""
        launches = self._taking()
        source = self._source()
        inputs = (
            Transfer(source=str(source / "reads $1.fq"), target="in put.fq"),
            Transfer(source=str(source / "ref"), target="sub/ref"),
        )
        job = self.sh("cat 'in put.fq' sub/ref/a sub/ref/deep/b", inputs=inputs)
        said: list[str] = []
        self._staged(job, said)
        handle, info = launches.run(self._staged(job, said))  # who does it again goes on where it stopped
        assert info.regular, info
        assert launches.system.logs(handle, "stdout", 0) == b"\0\xff reads" + b"a\n" + b"b\n"
        assert said and all(isinstance(words, str) for words in said), "progress has to be called"

    def test_an_input_that_is_not_there(self) -> None:
        """StageFailed names the file; nothing is submitted without it."""
        self._taking()
        gone = self.spool.parent / "no such input"
        with pytest.raises(StageFailed) as told:
            self._staged(self.sh("true", inputs=(Transfer(source=str(gone), target="x"),)), [])
        assert gone.name in str(told.value)

    def test_inputs_that_are_not_wanted_any_more(self) -> None:
        """What `progress` raises stops it: StageStopped, whoever waits for a host or a disk."""
        self._taking()
        source = self._source()
        job = self.sh("true", inputs=(Transfer(source=str(source / "ref"), target="ref"),))

        def stop(words: str) -> None:
            raise StageStopped("the job was cancelled")

        with pytest.raises(StageStopped):
            self.begin(lead=False).system.stage_in(job, stop)

    def test_outputs_come_back(self) -> None:
        """Stdout, stderr, the run's own files, and what the globs match; those that match nothing are told."""
        launches = self._staging()
        text = (
            'mkdir -p logs; echo 1 > one.out; echo 2 > "two of.out"; echo 3 > logs/x.log; echo no > left; echo said;'
            ' echo bad >&2; echo "{}" > "$JOBMILL_RETURN_FILE"; exit 3'
        )
        handle, info = launches.run(self._staged(self.sh(text), []))
        assert info.exit_value == 3, info
        folder = self.spool / "back"
        other = self.begin(lead=False).system
        for _ in range(2):  # may be repeated
            missing = other.stage_out(handle, folder, ["*.out", "logs/*", "no*such"], lambda words: None)
            assert list(missing) == ["no*such"]
            found = {str(p.relative_to(folder / "outputs")) for p in (folder / "outputs").rglob("*") if p.is_file()}
            assert found == {"one.out", "two of.out", "logs/x.log"}
            assert (folder / "outputs" / "two of.out").read_text() == "2\n"
            assert (folder / "stdout").read_text() == "said\n"
            assert (folder / "stderr").read_text() == "bad\n"
            assert (folder / "return.json").read_text() == "{}\n"
        assert list(other.stage_out(handle, folder, [], lambda words: None)) == []

    def _staging(self) -> Launches:
        self.need("commands")
        launches = self.begin()
        if not launches.system.stages:
            pytest.skip(f"{launches.system.kind} shares its files with us (stages is False): nothing is brought")
        return launches

    def _taking(self) -> Launches:
        self.need("commands")
        launches = self.begin()
        if type(launches.system).stage_in is ExecutionSystem.stage_in:
            assert not launches.system.stages, "who shares no files with us needs `stage_in`"
            pytest.skip(f"{launches.system.kind} takes no inputs (it does not override stage_in)")
        return launches

    def _source(self) -> Path:
        source = self.spool.parent / "source"
        (source / "ref" / "deep").mkdir(parents=True)
        (source / "reads $1.fq").write_bytes(b"\0\xff reads")
        (source / "ref" / "a").write_text("a\n")
        (source / "ref" / "deep" / "b").write_text("b\n")
        return source

    def _staged(self, job: Submission, said: list[str]) -> Submission:
        """Stage in as the worker does: off the launching thread, on an instance of its own."""
        return self.begin(lead=False).system.stage_in(job, said.append)
