"""Kinds of system and job classes by name: ours, an installed stranger's, and a site's own file."""

import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from jobmill.errors import ConfigError, UnknownName
from jobmill.jobs import registry as jobs
from jobmill.jobs.job import Job
from jobmill.jobs.local import LocalJob
from jobmill.systems import registry as systems
from jobmill.systems.local import LocalSystem
from jobmill.systems.plugins import Plugins, load_files

Install = Callable[..., Path]

VERBS = "build submit status exit_info settle kill logs check"
A_SYSTEM = f"""
from jobmill.systems.system import ExecutionSystem
from jobmill.systems.registry import register

class {{name}}(ExecutionSystem):
    kind = "{{kind}}"
    {"; ".join(f"{verb} = None" for verb in VERBS.split())}
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Install a package as pip would: modules and a dist-info folder on the path."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))

    def _install(name: str, entry_points: str, **modules: str) -> Path:
        info = site / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(textwrap.dedent(entry_points))
        for module, text in modules.items():
            (site / f"{module}.py").write_text(textwrap.dedent(text))
        return site

    return _install


def anything(name: str, found: object) -> object:
    return found


def plugins() -> Plugins[object]:
    return Plugins("jobmill.test", "kind of test", anything)


# Ours, declared as a stranger's would be.


def test_our_own_are_found_by_entry_point() -> None:
    assert systems.system_class("local") is LocalSystem
    assert jobs.job_class("Local") is LocalJob
    assert "local" in systems.known_kinds()
    assert "Local" in jobs.known_classes()


def test_every_declared_system_and_class_keeps_the_contract() -> None:
    for kind in systems.known_kinds():
        assert systems.system_class(kind).kind == kind
    for class_type in jobs.known_classes():
        found = jobs.job_class(class_type)
        assert found.class_type == class_type
        assert found.usual_on <= found.kinds


def test_an_unknown_name_lists_the_known_ones_and_the_nearest() -> None:
    with pytest.raises(
        UnknownName, match=r"^unknown kind of system 'locla' \(did you mean 'local'\?\); known: .*local"
    ):
        systems.system_class("locla")
    with pytest.raises(UnknownName, match=r"^unknown ClassType 'local' \(did you mean 'Local'\?\); known: .*Local"):
        jobs.job_class("local")


def test_the_class_of_a_job_follows_the_kind_when_it_names_none() -> None:
    assert jobs.class_for(None, "local") is LocalJob
    assert jobs.class_for(None, "a-strangers-kind") is Job
    assert jobs.class_for("Local", "a-strangers-kind") is LocalJob
    with pytest.raises(UnknownName):
        jobs.class_for("Lokal", "local")


def test_asking_for_names_loads_nothing() -> None:
    script = (
        "import sys; from jobmill.systems.registry import known_kinds; assert 'local' in known_kinds(); "
        "sys.exit('jobmill.systems.local' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], timeout=30, check=False).returncode == 0


# A stranger's package.


def test_a_stranger_s_system_needs_an_entry_point_and_nothing_else(install: Install) -> None:
    install(
        "stranger",
        "[jobmill.systems]\nmoon = moon_system:Moon\n",
        moon_system=A_SYSTEM.format(name="Moon", kind="moon"),
    )
    kinds = Plugins("jobmill.systems", "kind of system", systems._checked)
    assert {"local", "moon"} <= set(kinds.known())
    assert kinds.get("moon").kind == "moon"
    assert kinds.get("moon") is kinds.get("moon")


def test_a_missing_optional_package_is_told_with_the_pip_line(install: Install) -> None:
    install(
        "stranger",
        "[jobmill.test]\nplain = needy:Thing\nextra = needy:Thing [ssh]\n",
        needy="import no_such_package.sub\n",
    )
    for name, wanted in (("plain", "no_such_package"), ("extra", "'stranger[ssh]'")):
        with pytest.raises(ConfigError) as told:
            plugins().get(name)
        assert str(told.value) == (
            f"kind of test '{name}' (stranger: needy:Thing) needs the package 'no_such_package', "
            f"which is not installed; do: {sys.executable} -m pip install {wanted}"
        )


def test_a_broken_package_is_told_in_one_line(install: Install) -> None:
    install("stranger", "[jobmill.test]\na = gone:Thing\nb = burst:Thing\nc = hollow:Thing\n", burst="1 / 0", hollow="")
    for name, words in (
        ("a", "No module named 'gone'; install it again"),
        ("b", "ZeroDivisionError: division by zero"),
        ("c", "AttributeError: module 'hollow' has no attribute 'Thing'"),
    ):
        with pytest.raises(ConfigError) as told:
            plugins().get(name)
        assert str(told.value).startswith(f"kind of test '{name}' (stranger: ")
        assert str(told.value).endswith(words)


def test_two_packages_with_one_name_are_refused_the_same_twice_is_not(install: Install) -> None:
    install("one", "[jobmill.test]\nx = m_one:Thing\ny = m_one:Thing\n", m_one="Thing = 1")
    install("two", "[jobmill.test]\nx = m_two:Thing\ny = m_one:Thing\n", m_two="Thing = 2")
    with pytest.raises(ConfigError, match=r"'x' is declared twice, by one \(m_one:Thing\) and two \(m_two:Thing\)"):
        plugins().get("x")
    assert plugins().get("y") == 1


def test_a_group_without_entries_says_so() -> None:
    with pytest.raises(UnknownName, match=r"unknown kind of test 'x'; none is installed \(jobmill\.test\)"):
        plugins().get("x")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("Moon = 7", "7 is not a subclass of ExecutionSystem"),
        (A_SYSTEM.format(name="Moon", kind="mars"), r"Moon\.kind must be 'moon' too"),
        (A_SYSTEM.format(name="Moon", kind="moon").replace("kill = None; ", ""), "Moon lacks the verbs kill"),
    ],
)
def test_what_is_no_system_is_refused_by_name(body: str, words: str) -> None:
    scope: dict[str, object] = {}
    exec(body, scope)
    with pytest.raises(ConfigError, match=rf"kind of system 'moon': {words}"):
        systems._checked("moon", scope["Moon"])


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"class_type": "Mars", "kinds": frozenset({"x"})}, "class_type must be 'Moon' too"),
        ({"class_type": "Moon"}, "kinds names no kind of system"),
    ],
)
def test_what_is_no_job_class_is_refused_by_name(attributes: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=rf"ClassType 'Moon': .*{words}"):
        jobs._checked("Moon", type("MoonJob", (Job,), attributes))
    with pytest.raises(ConfigError, match="is not a subclass of Job"):
        jobs._checked("Moon", object)


# A site's own file.


@pytest.fixture
def kinds(monkeypatch: pytest.MonkeyPatch) -> Plugins[object]:
    """A registry of systems that ends with the test."""
    own = Plugins("jobmill.systems", "kind of system", systems._checked)
    monkeypatch.setattr(systems, "_kinds", own)
    return own  # type: ignore[return-value]


def test_a_file_of_the_site_registers_its_systems_once(tmp_path: Path, kinds: Plugins[object]) -> None:
    (tmp_path / "mine.py").write_text(A_SYSTEM.format(name="Mine", kind="mine") + "register(Mine)\n")
    (tmp_path / "_parts.py").write_text("1 / 0\n")
    (tmp_path / "notes.txt").write_text("not Python")
    assert systems.load_site_systems(tmp_path) == (tmp_path / "mine.py",)
    assert systems.load_site_systems(tmp_path) == (tmp_path / "mine.py",)
    assert systems.system_class("mine").kind == "mine"
    assert "mine" in systems.known_kinds()


def test_a_site_cannot_take_a_name_that_exists(tmp_path: Path, kinds: Plugins[object]) -> None:
    (tmp_path / "mine.py").write_text(A_SYSTEM.format(name="Mine", kind="local") + "register(Mine)\n")
    with pytest.raises(ConfigError, match=r"mine\.py:\d+: ConfigError: kind of system 'local' exists already"):
        systems.load_site_systems(tmp_path)
    assert systems.system_class("local") is LocalSystem


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1\ny = 1 / 0\n", r"bad\.py:2: ZeroDivisionError: division by zero"),
        ("x = 1\n\nif:\n", r"bad\.py:3: SyntaxError: invalid syntax"),
        ("def f():\n    raise KeyError('k')\nf()\n", r"bad\.py:2: KeyError: 'k'"),
    ],
)
def test_a_bad_file_is_told_with_its_line_and_tried_again(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "bad.py").write_text(text)
    for _ in range(2):
        with pytest.raises(ConfigError, match=words):
            load_files(tmp_path)
    (tmp_path / "bad.py").write_text("mended = True\n")
    assert load_files(tmp_path)


def test_a_folder_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    assert load_files(tmp_path / "none") == ()


def test_a_system_without_a_kind_cannot_register(kinds: Plugins[object]) -> None:
    class Nameless(LocalSystem):
        kind = ""

    with pytest.raises(ConfigError, match='Nameless needs `kind = "…"`'):
        systems.register(Nameless)
