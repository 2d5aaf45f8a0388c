"""Checks of systems: each with a bound in time, whatever a stranger's class does; and what kinds there are."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_cli import Shell, shell

from jobmill.config import load
from jobmill.daemon.checkup import Checkup
from jobmill.screen.status_line import StatusLine

pytestmark = pytest.mark.timeout(60)

PLUGIN = """
import sys, time
from jobmill.errors import SystemUnavailable
from jobmill.systems.fake import FakeSystem
from jobmill.systems.registry import register

@register
class Dead(FakeSystem):
    '''A host that is down. Nobody answers.'''
    kind = "dead"
    def check(self):
        time.sleep(3600)

@register
class Faulty(FakeSystem):
    kind = "faulty"
    def check(self):
        return 1 / 0

@register
class Leaver(FakeSystem):
    kind = "leaver"
    def check(self):
        sys.exit("bye")

@register
class Away(FakeSystem):
    kind = "away"
    def check(self):
        raise SystemUnavailable("connection refused")
"""
CONFIG = """
systems:
  bird: {kind: dead, limit: 5}
  fake: {kind: fake, limit: 5}
  ill: {kind: faulty, limit: 5}
  quits: {kind: leaver, limit: 5}
  gone: {kind: away, limit: 5}
"""
# the command line, with less patience
HASTY = (
    "import sys; from jobmill.daemon.checkup import Checkup; Checkup.__init__.__kwdefaults__['deadline'] = 1.5;"
    " from jobmill.scripts.jobmill import main; sys.exit(main())"
)


@pytest.fixture
def site() -> Iterator[Shell]:
    """A shell in a folder with a configuration and plug-ins of its own."""
    with shell() as it:
        (it.work / "plugins" / "systems").mkdir(parents=True)
        it.write("plugins/systems/odd.py", PLUGIN)
        it.write("jobmill.yaml", CONFIG)
        yield it


def test_one_that_hangs_keeps_no_other_waiting(site: Shell) -> None:
    config = load(site.work / "jobmill.yaml", environ=site.env)
    begun = time.monotonic()
    checkup = Checkup(config, config.systems, deadline=1.0)
    while checkup.pending():
        if set(checkup.pending()) == {"bird"} and time.monotonic() < begun + 0.9:
            assert [check.ok for check in checkup.checks("fake")] == [True, True, True]
        checkup.wait(0.05)
    assert 0.9 < time.monotonic() - begun < 5
    (late,) = checkup.checks("bird")
    assert (late.name, late.ok, late.detail) == ("bird: answer", False, "none for 1 s")
    assert "a host that is down, or a firewall" in late.fix
    (ill,) = checkup.checks("ill")
    assert not ill.ok and ill.detail == "its check failed: ZeroDivisionError: division by zero"
    assert "`faulty`" in ill.fix
    (left,) = checkup.checks("quits")
    assert not left.ok and "SystemExit: bye" in left.detail
    (gone,) = checkup.checks("gone")
    assert (gone.name, gone.detail, gone.ok) == ("gone: answer", "connection refused", False) and gone.fix


def test_a_plug_in_that_cannot_be_loaded_is_told_for_each(site: Shell) -> None:
    site.write("plugins/systems/torn.py", "def f(:\n")
    done = site("systems", "fake")
    assert done.returncode == 1
    assert "WRONG fake: plug-ins" in done.stdout and "torn.py:1: SyntaxError" in done.stdout
    assert "correct that file" in done.stdout


def on_a_terminal(site: Shell, *words: str, columns: int = 80) -> tuple[int, str]:
    """Run the hasty command line on a terminal; return exit code and all that was written."""
    master, slave = pty.openpty()
    env = site.env | {"TERM": "xterm", "COLUMNS": str(columns)}
    env.pop("NO_COLOR", None)
    argv = [sys.executable, "-c", HASTY, *words]
    with subprocess.Popen(argv, stdin=slave, stdout=slave, stderr=slave, cwd=site.work, env=env) as process:
        os.close(slave)
        said = b""
        try:
            while select.select([master], [], [], 30)[0]:
                try:
                    said += os.read(master, 65536)
                except OSError:  # the other end is closed
                    break
            code = process.wait(30)
        finally:
            process.kill()
            os.close(master)
    return code, said.decode()


@pytest.mark.parametrize("command", ["systems", "doctor"])
def test_on_a_terminal_the_wait_is_shown_and_leaves_nothing(site: Shell, command: str) -> None:
    begun = time.monotonic()
    code, said = on_a_terminal(site, command, columns=60)
    assert code == 1 and time.monotonic() - begun < 15
    waits = re.findall(r"\r\x1b\[K\x1b\[36m.\x1b\[0m ([^\r\n\x1b]*)", said)
    assert waits and all("4 of 5 systems checked, " in words and words.endswith("waits for bird") for words in waits)
    assert max(map(len, waits)) + 2 <= 60
    left = [line.rpartition("\r\x1b[K")[2] for line in said.split("\r\n")]  # what stays on the screen
    assert not [line for line in left if "waits for" in line]
    assert [line for line in left if "WRONG" in line and "bird: answer" in line]
    assert [line for line in left if "fake: journal" in line]
    assert "Traceback" not in said


def test_a_pipe_shows_no_wait() -> None:
    stream = io.StringIO()
    with StatusLine(stream) as line:
        line.show("waits")
    assert stream.getvalue() == ""


def test_systems_by_name(site: Shell) -> None:
    done = site("systems", "fake", "gone", "fake")
    assert done.returncode == 1
    heads = [line.split()[0] for line in done.stdout.splitlines() if line[0] != " "]
    assert heads == ["fake", "gone"]
    rows = [json.loads(line) for line in site("systems", "--json", "gone", "fake").stdout.splitlines()]
    assert [(row["name"], row["kind"]) for row in rows] == [("gone", "away"), ("fake", "fake")]
    assert site("systems", "fake").returncode == 0
    away = site("systems", "brid")
    assert away.returncode == 2 and "unknown system 'brid' (did you mean 'bird'?); known: bird, fake" in away.stderr


def test_kinds_are_listed_with_what_they_lack(site: Shell, tmp_path: Path) -> None:
    info = tmp_path / "far_systems-2.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: far-systems\nVersion: 2.1\n")
    points = "[jobmill.systems]\nmoon = far_systems:Moon [rocket]\nmars = far_systems_of_mars:Mars\n"
    (info / "entry_points.txt").write_text(points)
    (tmp_path / "far_systems.py").write_text("import rocket_fuel_that_nobody_has\n")
    (tmp_path / "far_systems_of_mars.py").write_text("class Mars: pass\n")
    far = Shell(work=site.work, state=site.state, more={"PYTHONPATH": f"{site.env['PYTHONPATH']}:{tmp_path}"})

    done = far("systems", "--kinds")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["KIND", "PACKAGE", "CLASS", "WHAT", "IT", "IS"]
    dead = next(line for line in lines if line.startswith("dead "))
    assert dead.split(maxsplit=3)[1:] == ["plugins/systems/odd.py", "Dead", "A host that is down"]
    assert "needs the package 'rocket_fuel_that_nobody_has', which is not installed" in done.stdout
    assert f"→ {sys.executable} -m pip install 'far-systems[rocket]'" in done.stdout
    assert "is not a subclass of ExecutionSystem" in done.stdout

    rows = {row["name"]: row for row in map(json.loads, far("systems", "--kinds", "--json").stdout.splitlines())}
    assert {"local", "fake", "dead", "moon", "mars"} <= rows.keys()
    assert rows["local"]["class"] == "jobmill.systems.local:LocalSystem"
    assert rows["local"]["package"] == "jobmill" and rows["local"]["importable"] and rows["local"]["doc"]
    assert not rows["moon"]["importable"] and rows["moon"]["package"] == "far-systems"
    assert rows["moon"]["fix"] == f"{sys.executable} -m pip install 'far-systems[rocket]'"


def test_kinds_are_listed_whatever_the_configuration_says(site: Shell) -> None:
    site.write("jobmill.yaml", "systems: [\n")
    site.write("plugins/systems/torn.py", "def f(:\n")
    done = site("systems", "--kinds")
    assert done.returncode == 1 and "torn.py:1: SyntaxError" in done.stderr
    assert "FakeSystem" in done.stdout
    wrong = site("systems", "--kinds", "fake")
    assert wrong.returncode == 2 and "it takes no names" in wrong.stderr
