"""The documentation holds: its jobs parse, its configurations load, its commands exist, its links lead somewhere."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from jobmill.config import load
from jobmill.config_file import _LATER as LATER_IN_CONFIG
from jobmill.jobs import document
from jobmill.jobs.job import Job
from jobmill.jobs.spec import RETRY_REASONS, JobSpec
from jobmill.jobs.spec_keys import LATER, OTHER_WORDS
from jobmill.rules.rule import Rule, known_rules
from jobmill.scripts.jobmill import COMMANDS, cli
from jobmill.systems import plugins, registry
from jobmill.systems.system import (
    ExecutionSystem,
    ExitStatus,
    Launch,
    NativeState,
    Settled,
    Submission,
    SubmitError,
)

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
WORKERS = {"jobmill-manager", "jobmill-starter", "jobmill-fetcher"}
_FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(*kinds: str) -> list[Any]:
    """Return (page, line, text) of the fenced blocks of these kinds, as test parameters."""
    found = []
    for page in PAGES:
        text = page.read_text()
        for match in _FENCE.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            if match[1].strip() in kinds:
                found.append(pytest.param(match[2], id=f"{page.name}:{line}"))
    return found


def code_of(kind: str) -> str:
    """Return the text of the only block of a kind."""
    (found,) = blocks(kind)
    return str(found.values[0])


def test_no_yaml_block_goes_unread() -> None:
    kinds = {m[1].strip() for page in PAGES for m in _FENCE.finditer(page.read_text()) if m[1].startswith("yaml")}
    assert kinds <= {"yaml", "yaml job", "yaml config"}
    assert len(blocks("yaml", "yaml job")) >= 4 and len(blocks("yaml config")) >= 3


@pytest.mark.parametrize("text", blocks("yaml", "yaml job"))
def test_a_job_of_the_docs_is_one(text: str) -> None:
    for each in document.load(text.encode(), limit=1 << 20):
        spec = JobSpec.parse(each)
        assert JobSpec.from_canonical(spec.canonical()).canonical() == spec.canonical()


@pytest.mark.parametrize("text", blocks("yaml config"))
def test_a_configuration_of_the_docs_loads(text: str, tmp_path: Path) -> None:
    file = tmp_path / "jobmill.yaml"
    file.write_text(text)
    config = load(file, environ={"HOME": str(tmp_path)})
    for system in config.systems.values():
        if system.kind in registry.known_kinds():
            options = dict(system.options) | ({} if system.slots is None else {"slots": system.slots})
            registry.system_class(system.kind).build(system.name, options, tmp_path)
    for route in config.routes:
        for rule in route.rules:
            Rule.parse(rule, route.name)


def test_the_complete_configuration_is_complete(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    file = tmp_path / "jobmill.yaml"
    file.write_text(next(m[2] for m in _FENCE.finditer(text) if m[1] == "yaml config"))
    shown = document.load(file.read_bytes(), limit=1 << 20)[0].data
    known = document.load(load(file, environ={"HOME": str(tmp_path)}).to_yaml().encode(), limit=1 << 20)[0].data
    for key, value in known.items():
        assert key in shown
        if isinstance(value, dict):
            assert value.keys() <= shown[key].keys()
    assert all(f"`{key}`" in text for key in LATER_IN_CONFIG)


def test_every_key_and_word_of_a_job_is_described() -> None:
    text = (ROOT / "docs" / "jobs.md").read_text()
    keys = [field.alias or name for name, field in JobSpec.model_fields.items()]
    words = [*keys, *OTHER_WORDS, *LATER, *RETRY_REASONS, *ExitStatus]
    assert [word for word in words if f"`{word}" not in text] == []


def test_every_rule_is_described() -> None:
    text = (ROOT / "docs" / "rules.md").read_text()
    assert [name for name in known_rules() if f"`{name}" not in text] == []


def test_every_command_that_the_docs_name_exists() -> None:
    named: set[tuple[str, ...]] = set()
    for page in PAGES:
        text = page.read_text()
        code = [m[2] for m in _FENCE.finditer(text) if m[1].strip() in ("", "sh", "text")]
        code += re.findall(r"`([^`\n]+)`", _FENCE.sub("", text))
        for part in code:
            for one in re.finditer(r"(?<![\w./-])jobmill ([a-z]+)(?: ([a-z]+))?", part):
                if one[1] in ("capacity", "dead"):
                    named.add((one[1], *([one[2]] if one[2] else [])))
                else:
                    named.add((one[1],))
            assert set(re.findall(r"(?<![\w./-])jobmill-[a-z]+\b", part)) <= WORKERS | {"jobmill-local"}
    named -= {("user",), ("pusher",)}
    assert len(named) > 12
    for words in sorted(named):
        assert words[0] in COMMANDS, f"jobmill {' '.join(words)}"
        assert CliRunner().invoke(cli, [*words, "--help"]).exit_code == 0, words


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as the usual renderers name them."""
    heads = re.findall(r"^#+ (.+)$", _FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_the_project_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", _FENCE.sub("", page.read_text())):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        found = page if not name else page.parent / name
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), target


def until(true: Callable[[], bool]) -> None:
    """Wait for a condition, 10 s at most."""
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_rule_of_the_docs_works(tmp_path: Path) -> None:
    (tmp_path / "project_is_not.py").write_text(code_of("python rule"))
    plugins.load_files(tmp_path)
    rule = Rule.parse({"project_is_not": ["thesis"]}, "here")
    assert rule.refusal(JobSpec.parse({"command": "echo", "project": "other"})) is None
    assert rule.refusal(JobSpec.parse({"command": "echo", "project": "thesis"})) == (
        "project_is_not: project is 'thesis'"
    )


@pytest.fixture(scope="module")
def kind(tmp_path_factory: pytest.TempPathFactory) -> type[ExecutionSystem]:
    folder = tmp_path_factory.mktemp("systems")
    (folder / "detached.py").write_text(code_of("python system"))
    registry.load_site_systems(folder)
    return registry.system_class("detached")


def ready(system: ExecutionSystem, spool: Path, job_id: str, **spec: Any) -> Submission:
    return Job(JobSpec.parse(spec), job_id=job_id, run=1, record="r", system=system, spool=spool).prepare()


def reap(system: ExecutionSystem) -> None:
    for child in system.children:  # type: ignore[attr-defined]  # the example's own
        child.wait(10)


def test_the_system_of_the_docs_keeps_the_contract(kind: type[ExecutionSystem], tmp_path: Path) -> None:
    system = kind.build("side", {}, tmp_path)
    first = ready(system, tmp_path, "a", command="echo out; echo err >&2; exit 3")
    (handle,) = system.submit([first])
    assert isinstance(handle, str)
    assert system.submit([first]) == [handle]
    until(lambda: system.status([handle])[handle].state is NativeState.ENDED)
    end = system.exit_info([handle])[handle]
    assert (end.exit_value, end.regular) == (3, False)
    assert system.logs(handle, "stdout", 0) == b"out\n"  # once: the second submit launched nothing
    assert system.logs(handle, "stderr", 1) == b"rr\n"
    until(lambda: system.kill([handle], force=False)[handle])

    (refused,) = system.submit([ready(system, tmp_path, "b", command="echo", walltime="1h")])
    assert isinstance(refused, SubmitError)

    missing = ready(system, tmp_path, "c", command="echo")
    assert system.settle([Launch(token=missing.token)]) == {missing.token: Settled.NOT_STARTED}
    assert system.submit([missing]) == [missing.token]  # late, and to no effect
    assert system.status([missing.token])[missing.token].state is NativeState.ABSENT
    assert system.exit_info([missing.token]) == {}
    assert all(check.ok for check in system.check())
    reap(system)


def test_the_system_of_the_docs_kills_and_adopts(kind: type[ExecutionSystem], tmp_path: Path) -> None:
    system = kind.build("side", {}, tmp_path)
    (handle,) = system.submit([ready(system, tmp_path, "k", command="sleep 60 & sleep 60")])
    assert isinstance(handle, str)
    another = kind.build("side", {}, tmp_path)  # as another process would see it
    assert another.settle([Launch(token=handle)]) == {handle: handle}
    assert another.status([handle])[handle].state is NativeState.RUNNING
    until(lambda: another.kill([handle], force=True)[handle])
    assert another.status([handle])[handle].state is NativeState.ABSENT
    reap(system)
