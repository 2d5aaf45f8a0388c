"""Environment modules, by Debian's Environment Modules: what a job loads before it starts, and what stops it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from farm import Missing, need
from pipeline import Pipeline

from jobmill.errors import PermanentError, SpecError
from jobmill.jobs import modules
from jobmill.jobs.pool import PoolJob
from jobmill.jobs.spec import JobSpec
from jobmill.jobs.states import ENDED
from jobmill.ledger import listing
from jobmill.systems.registry import system_class

pytestmark = pytest.mark.timeout(120)
PACKAGE = {"modulecmd-is-no-program": "environment-modules"}
INIT = Path("/usr/share/modules/init/sh")


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    if INIT.exists():
        return
    try:
        need(PACKAGE)
    except Missing as error:
        if not INIT.exists():  # it is a shell function, no program that could be found
            if os.environ.get("CI") == "true":
                raise
            pytest.skip(str(error))


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    """A folder of module files: tool/1.5, tool/2.0, and one that is broken."""
    made = tmp_path / "modulefiles"
    (made / "tool").mkdir(parents=True)
    for version in ("1.5", "2.0"):
        text = f"#%Module\nprepend-path PATH {tmp_path}/bin\nsetenv TOOL {version}\nconflict tool\n"
        (made / "tool" / version).write_text(text)
    (made / "broken").write_text("#%Module\nerror {this is how it is}\n")
    return made


def run(
    names: Sequence[str], argv: Sequence[str], shelf: Path, env: dict[str, str] | None = None
) -> tuple[int, str, str, str]:
    """Run what a job with these modules would; return exit code, stdout, stderr and its error message."""
    error = shelf.parent / "error"
    given = {"PATH": "/usr/bin:/bin", "HOME": "/", "MODULEPATH": str(shelf), "JOBMILL_ERROR_FILE": str(error)}
    words = modules.loading(names, argv)
    done = subprocess.run(words, env=given | (env or {}), capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout, done.stderr, error.read_text() if error.exists() else ""


def test_they_are_loaded_and_the_words_come_through_untouched(shelf: Path) -> None:
    text = 'echo "$TOOL|$LOADEDMODULES|${PATH%%:*}"; printf "<%s>" "$@"'
    code, out, err, message = run(["tool/1.5"], ["sh", "-c", text, "x", "a  b", "*", "", "'$(id)"], shelf)
    assert (code, message, err) == (0, "", "")
    assert out == f"1.5|tool/1.5|{shelf.parent}/bin\n<a  b><*><><'$(id)>"


def test_a_default_version_and_an_exit_code(shelf: Path) -> None:
    assert run(["tool"], ["sh", "-c", 'echo "$TOOL"; exit 7'], shelf)[:2] == (7, "2.0\n")


@pytest.mark.parametrize(
    ("names", "words"),
    [(["tool/9"], "tool/9"), (["broken"], "this is how it is"), (["tool/1.5", "tool/2.0"], "conflict")],
)
def test_what_cannot_be_loaded_stops_the_job_and_says_why(names: list[str], words: str, shelf: Path) -> None:
    code, out, err, message = run(names, ["echo", "never"], shelf)
    assert (code, out) == (modules.FAILED, "")
    assert words in message and words in err


def test_a_version_that_fails_in_words_alone_fails(shelf: Path) -> None:
    """Environment Modules before 4 returned 0 whatever happened."""
    init = shelf.parent / "old"
    init.write_text('module() { [ "$2" = bad ] || LOADEDMODULES=x; echo "ModuleCmd_Load.c: ERROR:105: $2" >&2; }\n')
    env = {"JOBMILL_MODULES_INIT": str(init)}
    code, out, _, message = run(["bad"], ["echo", "never"], shelf, env)
    assert (code, out) == (modules.FAILED, "") and "ERROR:105: bad" in message
    assert run(["good"], ["echo", "yes"], shelf, env)[:2] == (0, "yes\n")
    init.write_text("module() { :; }\n")
    assert "loaded nothing" in run(["bad"], ["echo", "never"], shelf, env)[3]


def test_a_host_without_modules_says_so(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = modules._SCRIPT
    for file in modules.INIT:
        bare = bare.replace(file, "/nowhere")
    monkeypatch.setattr(modules, "_SCRIPT", bare)
    code, _, _, message = run(["tool"], ["echo", "never"], shelf)
    assert code == modules.FAILED and "no environment modules" in message and "JOBMILL_MODULES_INIT" in message


def test_a_start_up_file_that_takes_the_shells_words_takes_nothing_of_the_job(shelf: Path) -> None:
    init = shelf.parent / "greedy"
    init.write_text(f"set -- gone\n. {INIT}\n")
    code, out, _, message = run(["tool/1.5"], ["echo", "here"], shelf, {"JOBMILL_MODULES_INIT": str(init)})
    assert (code, out, message) == (0, "here\n", "")


@pytest.mark.parametrize("name", ["--help", "a b", "$(id)", "a;b", "", "a\nb", "*"])
def test_no_name_is_a_word_for_the_shell(name: str) -> None:
    with pytest.raises(SpecError, match="is no module"):
        JobSpec.parse({"command": "true", "modules": [name]})


def test_a_container_does_not_see_them_and_a_pool_keeps_its_steps_to_itself() -> None:
    with pytest.raises(SpecError, match="modules: are the host's"):
        JobSpec.parse({"command": "true", "modules": "gcc", "container": {"image": "x"}})
    system = system_class("fake").build("x", {}, Path("/f"))
    spec = JobSpec.parse({"modules": ["gcc"], "steps": [{"command": "true"}]})
    job = PoolJob(spec, job_id="j", run=1, record="r.1", spool="/s", system=system)
    with pytest.raises(PermanentError, match="steps on a pool"):
        job.argv()


def test_steps_and_commands_in_the_pipeline(shelf: Path, tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path / "p")
    env = {"MODULEPATH": str(shelf)}
    jobs = [
        {"id": "steps", "modules": ["tool"], "env": env, "steps": [{"command": "test $TOOL = 2.0"}]},
        {"id": "bad", "modules": ["tool/9"], "env": env, "command": "true"},
    ]
    try:
        pipeline.start()
        pipeline.client.submit_many([JobSpec.parse(job) for job in jobs])
        record = pipeline.client.record
        pipeline.until(lambda: [row.state in ENDED for row in listing.jobs(record, ["steps", "bad"])] == [True] * 2, 60)
        assert str(pipeline.client.job("steps").state) == "done"
        bad = pipeline.client.job("bad")
        assert (str(bad.state), bad.exit["exit_value"]) == ("failed", 127) and "tool/9" in bad.exit["message"]
    finally:
        pipeline.stop()
