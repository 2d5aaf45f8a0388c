"""What a job sees of its place."""

from __future__ import annotations

import pytest

from jobmill.systems.system import Submission, SubmitError
from jobmill.testing.subject import Subject

HOSTILE = (
    "",
    " ",
    "two words",
    "'",
    '"',
    "a'b\"c",
    "$HOME `id` $(id) ${x}",
    "\\",
    "\\n",
    "line one\nline two\n",
    "\ttab\r",
    "*",
    "? [a-z] {1,2} ~",
    "; exit 3 #",
    "&& false",
    "| cat > /dev/null",
    "-n",
    "--",
    "%s%n",
    "Ünï çødé 日本語 🐟",
    "x" * 5000,
)
SHOW = 'for word in "$@"; do printf "<%s>" "$word"; done'
LEAK = "JOBMILL_CONFORMANCE_LEAK"


class Commands(Subject):
    """Argv, environment, folders, streams."""

    def test_stdout_and_stderr(self) -> None:
        """Both are kept apart, byte for byte."""
        self.need("commands")
        launches = self.begin()
        text = r"printf 'o\000\377\n'; printf 'no end' >&2; printf 'more'"
        handle, info = launches.run(self.sh(text))
        assert info.regular, info
        assert launches.system.logs(handle, "stdout", 0) == b"o\0\xff\nmore"
        assert launches.system.logs(handle, "stderr", 0) == b"no end"

    def test_streams_by_path(self) -> None:
        """Stdin, stdout and stderr are the files that the submission names."""
        self.need("commands")
        self.need("redirects")
        source, out, err = (self.shared / name for name in ("it's in", "the out", "$err"))
        source.write_bytes(b"one\ntwo")
        text = "cat; echo bad >&2"
        info = self.begin().run(self.sh(text, stdin=str(source), stdout=str(out), stderr=str(err)))[1]
        assert info.regular, info
        assert (self.written(out.name), self.written(err.name)) == (b"one\ntwo", b"bad\n")

    def test_stdin_is_empty(self) -> None:
        """Who reads from stdin finds its end, not our terminal, not another's input."""
        self.need("commands")
        launches = self.begin()
        handle, info = launches.run(self.sh("wc -c"))
        assert info.regular and launches.system.logs(handle, "stdout", 0).split() == [b"0"]

    def test_hostile_words(self) -> None:
        """Argv reaches the program as it is; no shell on the way takes it for its own."""
        self.need("commands")
        launches = self.begin()
        handle, info = launches.run(self.sh(SHOW, *HOSTILE))
        assert info.regular, info
        shown = launches.system.logs(handle, "stdout", 0).decode()
        assert shown == "".join(f"<{word}>" for word in HOSTILE)

    def test_hostile_environment(self) -> None:
        """So does every value of `env`, whatever is in it."""
        self.need("commands")
        launches = self.begin()
        env = {f"WORD_{number}": word for number, word in enumerate(HOSTILE)}
        text = "; ".join(f'printf "<%s>" "$WORD_{number}"' for number in range(len(HOSTILE)))
        handle, info = launches.run(self.sh(text, env=env))
        assert info.regular, info
        shown = launches.system.logs(handle, "stdout", 0).decode()
        assert shown == "".join(f"<{word}>" for word in HOSTILE)

    def test_the_working_directory(self) -> None:
        """The job stands in `workdir`, whatever its name; the run folder does without one."""
        self.need("commands")
        launches = self.begin()
        for name in ("plain", 'it\'s $(id) "a" 日本 ; rm'):
            folder = self.shared / name
            folder.mkdir()
            text = 'pwd -P > where; printf %s "$JOBMILL_WORKDIR" > told'
            assert launches.run(self.sh(text, workdir=str(folder)))[1].regular
            assert self.written(f"{name}/where").decode() == f"{folder.resolve()}\n"
            assert self.written(f"{name}/told").decode() == str(folder)
        text = (
            '[ "$(cd "$JOBMILL_WORKDIR" && pwd -P)" = "$(pwd -P)" ] && [ "$JOBMILL_WORKDIR" = "$JOBMILL_RUN_FOLDER" ]'
        )
        assert launches.run(self.sh(text))[1].regular, "without `workdir` a job stands in its run folder"

    def test_a_working_directory_that_is_not_there(self) -> None:
        """The command does not run somewhere else instead: a failure, or a refusal."""
        self.need("commands")
        launches = self.begin()
        job = self.sh('echo "$2" >> "$1/starts"', str(self.shared), "here", workdir=str(self.shared / "gone"))
        (answer,) = launches.system.submit([job])
        if not isinstance(answer, SubmitError):
            launches.handles.append(answer)
            launches.system.release([answer])
            assert not launches.end(answer).regular
        assert not self.written("starts"), "it ran in a folder that was not asked for"

    def test_what_every_job_is_told(self) -> None:
        """JOBMILL_JOB_ID, _RUN, _CPUS, _WORKDIR, _RUN_FOLDER, and two files that it may write."""
        self.need("commands")
        launches = self.begin()
        text = 'printf "%s\\n" "$JOBMILL_JOB_ID" "$JOBMILL_RUN" "$JOBMILL_CPUS";'
        text += ' cd / && [ -d "$JOBMILL_WORKDIR" ] && [ -d "$JOBMILL_RUN_FOLDER" ] && echo folders;'
        text += ' echo "why it failed" > "$JOBMILL_ERROR_FILE"; echo "{}" > "$JOBMILL_RETURN_FILE"'
        name = "told.it-self_7"
        job = self.sh(text)
        job = Submission(token=self.token(name, run=3), job_id=name, run=3, argv=job.argv)
        handle, info = launches.run(job)
        assert info.regular, info
        assert launches.system.logs(handle, "stdout", 0).decode().split() == [name, "3", "1", "folders"]
        assert launches.system.logs(handle, "error", 0) == b"why it failed\n"
        assert launches.system.logs(handle, "return.json", 0) == b"{}\n"

    def test_the_environment_is_clean(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nothing of the worker's own environment is in the job's; PATH and HOME are, and `env` comes last."""
        self.need("commands")
        monkeypatch.setenv(LEAK, "leaked")
        monkeypatch.setenv("JOBMILL_REDIS_URL", "redis://:leaked@nowhere")
        launches = self.begin()
        handle, info = launches.run(self.sh("env", env={"ADDED": "yes", "LANG": "tlh"}))
        assert info.regular, info
        shown = launches.system.logs(handle, "stdout", 0).decode()
        leaked = [line.partition("=")[0] for line in shown.splitlines() if "leaked" in line]
        assert leaked == [], "the worker's own environment reaches its jobs"  # of which nothing is shown here
        names = dict(line.partition("=")[::2] for line in shown.splitlines())
        assert names["ADDED"] == "yes" and names["LANG"] == "tlh" and names["PATH"] and names["HOME"]

    def test_files_of_the_run_folder(self) -> None:
        """`files` are there before the start, with their text as it is."""
        self.need("commands")
        launches = self.begin()
        text = "line one\n\n$HOME 'x' ü\nno end"
        files = {"job.yaml": text, "settings": ""}
        job = self.sh('cat "$JOBMILL_RUN_FOLDER/job.yaml" && [ -e "$JOBMILL_RUN_FOLDER/settings" ]', files=files)
        handle, info = launches.run(job)
        assert info.regular, info
        assert launches.system.logs(handle, "stdout", 0).decode() == text
