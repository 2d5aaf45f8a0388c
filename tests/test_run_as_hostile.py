"""Users who want more than their jobs may: what they put into their run folders, and what their processes answer."""

from __future__ import annotations

import base64
import json
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_run_as import AsBench, bench, users  # noqa: F401 - fixtures
from tokens import RECORD

from jobmill.errors import StageFailed
from jobmill.systems import far_files, handover, run_folder, switch
from jobmill.systems.far_desk import Desk
from jobmill.systems.local import LocalSystem
from jobmill.systems.place import Here
from jobmill.systems.spool_stage import SpoolStage
from jobmill.systems.staging import Staging, walk
from jobmill.systems.system import Submission, Transfer
from jobmill.systems.user_place import UserPlace

pytestmark = pytest.mark.timeout(90)

TOKEN = f"{RECORD}:a:1"
HEADER = run_folder.header(TOKEN, "-")


def marked(spool: Path, extra: bytes = b"") -> Path:
    """Make a run folder whose marker was taken."""
    folder = run_folder.enter(os.fsencode(spool), TOKEN)
    os.close(run_folder.take(folder, HEADER + extra))
    return Path(os.fsdecode(folder))


@pytest.mark.parametrize("plant", ["link", "pipe", "folder"])
def test_a_launch_that_is_sent_again_opens_nothing_that_its_user_planted(tmp_path: Path, plant: str) -> None:
    folder, victim = marked(tmp_path), tmp_path / "victim"
    victim.write_text("dear")
    own = folder / f"run.{os.getpid()}.{run_folder.NAMESPACE}"
    if plant == "link":
        own.symlink_to(victim)
    elif plant == "pipe":
        os.mkfifo(own)
    else:
        own.mkdir()
    with pytest.raises(FileExistsError):
        run_folder.take(os.fsencode(folder), HEADER)
    assert victim.read_text() == "dear"
    assert (folder / "run").read_bytes() == HEADER


def test_a_number_that_is_used_again_takes_the_marker(tmp_path: Path) -> None:
    """Of one who was killed between the text and its name."""
    folder = run_folder.enter(os.fsencode(tmp_path), TOKEN)
    own = Path(os.fsdecode(folder)) / f"run.{os.getpid()}.{run_folder.NAMESPACE}"
    own.write_text("torn")
    os.close(run_folder.take(folder, HEADER))
    assert (own.parent / "run").read_bytes() == HEADER and not own.exists()


@pytest.mark.parametrize("plant", ["pipe", "link", "file"])
def test_a_file_of_complaints_is_ours_or_none(tmp_path: Path, plant: str) -> None:
    """The runner had read and removed it, and was killed before its record; now the guard looks."""
    path = tmp_path / "switch"
    if plant == "pipe":
        os.mkfifo(path)
    elif plant == "link":
        path.symlink_to("/etc/passwd")
    else:
        path.write_text('failed ["forged", 0]\n')
        os.chown(path, 12345, 12345)
    began = time.monotonic()
    assert switch.failure(os.fsencode(tmp_path), switch.Switch(12345, 12345, "ann", ["x"])) is None
    assert time.monotonic() - began < 1


ANSWERS: list[tuple[str, Any]] = [
    ("entries", [["../../out", "file", 1, 0o644, [1, 1, 1, 1]]]),
    ("entries", [["/etc/out", "file", 1, 0o644, [1, 1, 1, 1]]]),
    ("entries", [[["x"], "file", 1, 0o644, [1]]]),
    ("entries", [["x", "file", "1", 0o644, [1]]]),
    ("entries", {"x": 1}),
    ("entries", 7),
    ("entry", ["x", "folder", -1, 0, []]),
    ("entry", "nonsense"),
    ("entry", []),
    ("piece", "no base64 \udcff"),
    ("piece", ["x"]),
    ("room", [1]),
]


@pytest.mark.parametrize(("verb", "answer"), ANSWERS)
def test_what_a_users_process_answers_leads_nowhere(tmp_path: Path, verb: str, answer: Any) -> None:
    """A debugger of the same user can make it say anything, also names that lead out of a folder."""
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "f").write_text("f")

    def ask(name: str, arguments: dict[str, Any]) -> Any:
        if name == verb:
            return answer
        if name == "piece":
            with Path(arguments["path"]).open("rb") as file:
                file.seek(arguments["offset"])
                return base64.b64encode(file.read()).decode()
        return getattr(far_files, name)(**arguments)

    place, to = UserPlace(ask), tmp_path / "deep" / "er" / "to"

    def bring() -> None:
        if verb == "room":
            place.room("/")
        items = walk(place, [Transfer(source=str(tmp_path / "tree"), target="tree")], lambda _: None)
        Staging(place, Here(), lambda _: None).bring(items, str(to), replace=True)

    with pytest.raises((StageFailed, OSError), match=r"nonsense|name is none"):
        bring()
    assert not list(tmp_path.rglob("out*")) and not Path("/etc/out").exists()


def forger(folder: Path, answer: str) -> switch.Switch:
    """Return a switch whose words answer in the place of the user's process."""
    said = folder / "said"
    said.write_text(answer)
    words = folder / "words"
    words.write_text(f"#!/bin/sh\nexec cat {said}\n")
    words.chmod(0o755)
    return switch.Switch(os.getuid(), os.getgid(), "ann", [str(words)])


@pytest.mark.parametrize(
    "answer",
    [
        "[" * 100_000,
        '{"answer":' * 50_000,
        '{"errno": [], "error": "x"}',
        '{"errno": "5"}',
        '{"wrong": {"a": 1}}',
        '{"answer": {"a": 1}}',
        '{"answer": 7}',
        '{"answer": "é"}',
        '{"answer": "====x"}',
        "[]",
        "",
    ],
)
def test_answers_that_are_nonsense_stop_nobody(tmp_path: Path, answer: str) -> None:
    forged = forger(tmp_path, answer)
    assert forged.read(TOKEN, b"/x", 0, 100) == b""
    forged.ask("left", TOKEN, {"folder": "/x", "leader": [None, None, None]})
    try:
        forged.file("entry", {"path": "/", "follow": False})
    except OSError as error:
        assert isinstance(error.errno, int) and error.strerror


def test_an_answer_without_end_is_not_read(tmp_path: Path) -> None:
    forged = forger(tmp_path, "")
    (tmp_path / "words").write_text("#!/bin/sh\nexec truncate -s 1T /dev/stdout\n")
    assert forged.ask("left", TOKEN, {}) is None
    with pytest.raises(OSError, match="is more than"):
        forged.file("entries", {"folder": "/"})


def test_nobody_else_opens_what_a_question_and_its_answer_stand_in() -> None:
    fd = switch._memory()
    assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o600
    os.close(fd)


def test_a_forged_answer_writes_nothing_here(users: Any, tmp_path: Path) -> None:  # noqa: F811
    """From end to end: the inputs of a job come from its user's process, which names a file outside of the stage."""
    folder = users.folder / f"t{time.monotonic_ns()}"
    folder.mkdir(0o755)
    facts = ["x", "folder", 0, 0o755, [1, 1, 1, 1]]
    names = [["../../../../escaped", "file", 0, 0o644, [1, 1, 1, 1]]]
    (folder / "words").write_text(
        "#!/usr/bin/python3 -I\nimport json, sys\nv = json.load(sys.stdin)\n"
        f"print(json.dumps({{'answer': {names!r} if v['name'] == 'entries' else {facts!r}}}))\n"
    )
    (folder / "words").chmod(0o755)
    system = LocalSystem.build("local", {"run_as": [str(folder / "words"), "{user}"]}, folder / "spool")
    wanted = (Transfer(source=str(tmp_path), target="tree"),)
    job = Submission(token=TOKEN, job_id="a", run=1, argv=("true",), user=users.ann, inputs=wanted)
    with pytest.raises(StageFailed, match="name is none"):
        system.stage_in(job, lambda _: None)
    assert not list(folder.rglob("escaped*"))


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    for name in ("jobs", "stage"):
        (tmp_path / "spool" / name).mkdir(parents=True)
    return Desk(os.fsencode(tmp_path / "spool"), "lab")


LINE = b'as [12345, 12345, "ann", ["x"]]\n'


@pytest.mark.parametrize("plant", ["pipe", "link", "dangling"])
def test_the_mark_of_what_was_fetched_is_put_through_nothing(tmp_path: Path, desk: Desk, plant: str) -> None:
    folder, outside = marked(tmp_path / "spool", LINE), tmp_path / "outside"
    if plant == "pipe":
        os.mkfifo(folder / "fetched")
    else:
        (folder / "fetched").symlink_to(outside)
        if plant == "link":
            outside.write_text("dear")
    began = time.monotonic()
    desk.tidy([(TOKEN, 0.0)])
    assert time.monotonic() - began < 1
    assert outside.exists() == (plant == "link") and (plant != "link" or outside.read_text() == "dear")


def test_a_huge_file_in_the_place_of_a_path_is_not_read(tmp_path: Path, desk: Desk) -> None:
    folder = marked(tmp_path / "spool")
    with (folder / "workdir").open("wb") as file:
        file.truncate(1 << 42)
    assert len(desk.left(TOKEN, ["run"], 1 << 16)["workdir"]) < 20_000


def deep(folder: Path, levels: int = 1500) -> None:
    folder.mkdir(parents=True)
    at = os.open(folder, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("d", dir_fd=at)
        below = os.open("d", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)


def test_a_deep_tree_keeps_nobody_from_removing_the_rest(tmp_path: Path, desk: Desk) -> None:
    folder = marked(tmp_path / "spool", run_folder.end_line("exit", "{}"))
    deep(folder / "deep", 3000)
    os.utime(folder / "run", (1, 1))
    assert desk.prune(1.0) == 1
    assert not folder.exists()


def test_a_deep_tree_is_given_to_its_user(tmp_path: Path) -> None:
    deep(tmp_path / "stage" / "top", 1200)
    handover.give(os.fsencode(tmp_path / "stage"), 12345, 12345)
    path = tmp_path / "stage" / "top"
    assert (path / "d" / "d" / "d").stat().st_uid == 12345
    run_folder.remove(os.fsencode(tmp_path / "stage"))
    assert not (tmp_path / "stage").exists()


def test_kills_that_take_their_time_leave_the_loop_its_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the workers are not root each is a process of sudo's, which may be slow."""
    system = LocalSystem.build("local", {}, tmp_path)
    asked: list[str] = []

    def kill(token: str, *_: Any, **__: Any) -> bool:
        asked.append(token)
        time.sleep(0.3)
        return token.endswith("1:1")

    monkeypatch.setattr(system._launches, "kill", kill)
    handles = [system.handle_for(f"{RECORD}:a{n}:1") for n in range(100)]
    began = time.monotonic()
    gone = system.kill(handles, force=True)
    assert time.monotonic() - began < 4
    assert gone[handles[1]] and not gone[handles[0]] and handles[99] not in gone
    assert len(asked) < 15
    system.close()


def through(folder: Path, calls: list[str]) -> Callable[[str, dict[str, Any]], Any]:
    """Return a user's files: those of `folder`, by paths that only that user can enter."""

    def ask(name: str, arguments: dict[str, Any]) -> Any:
        calls.append(name)
        values = {k: v.replace("/theirs", str(folder), 1) if isinstance(v, str) else v for k, v in arguments.items()}
        verbs = {"piece": as_user_piece, "append": as_user_append}
        return verbs.get(name, getattr(far_files, name, None))(**values)  # type: ignore[misc]

    from jobmill.systems.as_user import _append as as_user_append
    from jobmill.systems.as_user import _piece as as_user_piece

    return ask


def test_inputs_come_into_a_workdir_that_only_their_user_can_enter(tmp_path: Path) -> None:
    (tmp_path / "home" / "w").mkdir(parents=True)
    (tmp_path / "home" / "f").write_text("f")
    stage = SpoolStage(tmp_path / "spool", "local")
    inputs = (Transfer(source="/theirs/f", target="f"),)
    job = Submission(token=TOKEN, job_id="a", run=1, argv=("true",), workdir="/theirs/w", inputs=inputs)
    stage.bring(job, lambda _: None, UserPlace(through(tmp_path / "home", [])))
    assert (tmp_path / "home" / "w" / "f").read_text() == "f"


@pytest.mark.parametrize("workdir", ["/theirs/w", None])
def test_many_files_of_a_user_show_progress_all_the_time(tmp_path: Path, workdir: str | None) -> None:
    """A question is 50 ms, and a minute without progress a file system that does not answer."""
    tree = tmp_path / "home" / "tree"
    tree.mkdir(parents=True)
    (tmp_path / "home" / "w").mkdir()
    for n in range(150):
        (tree / f"f{n}").write_text("")
        (tree / f"l{n}").symlink_to(f"f{n}")
    calls: list[str] = []
    told = [0]
    longest = [0]

    def progress(words: str) -> None:
        longest[0] = max(longest[0], len(calls) - told[0])
        told[0] = len(calls)

    inputs = (Transfer(source="/theirs/tree", target="tree"),)
    job = Submission(token=TOKEN, job_id="a", run=1, argv=("true",), workdir=workdir, inputs=inputs)
    SpoolStage(tmp_path / "spool", "local").bring(job, progress, UserPlace(through(tmp_path / "home", calls)))
    assert len(calls) > 150 and longest[0] < 20


def test_inputs_of_a_job_are_its_to_remove(bench: AsBench, users: Any) -> None:  # noqa: F811
    place = bench.spool.parent / "in"
    (place / "d").mkdir(parents=True)
    (place / "d" / "f").write_text("f")
    wanted = (Transfer(source=str(place), target="in"), Transfer(source=str(place / "d" / "f"), target="f"))
    text = "mv f g && sed -i s/f/x/ in/d/f && cat in/d/f && rm -r in g && chmod 700 . || exit 7"
    (end,) = bench.run(bench.system.stage_in(bench.sh("a", text, inputs=wanted), lambda _: None))
    assert end.exit_value == 7 and (bench.folder("a") / "stdout").read_text() == "x"  # the folder itself is not its own
    assert not (bench.folder("a") / "in").exists() and not (bench.folder("a") / "g").exists()


def test_records_that_a_user_wrote_are_read_as_a_strangers(tmp_path: Path) -> None:
    said = tmp_path / "switch"
    said.write_text("failed " + json.dumps(["x", {"a": [1, 2]}]) + "\n")
    told = switch.failure(os.fsencode(tmp_path), switch.Switch(12345, 12345, "ann", ["x"]))
    assert told == ("x", None)
