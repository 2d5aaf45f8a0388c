"""Files are staged whole or not at all: names, links, pipes, changes meanwhile, and what is there already."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from jobmill.errors import StageFailed, StageStopped, SystemUnavailable
from jobmill.systems import run_folder, staging
from jobmill.systems.local import LocalSystem
from jobmill.systems.place import Entry, Here
from jobmill.systems.place_search import search
from jobmill.systems.retrieval import bring_home, step_logs
from jobmill.systems.staging import Staging, amounts, put, shown, walk
from jobmill.systems.system import Submission, Transfer

pytestmark = pytest.mark.timeout(60)


def nothing(words: str) -> None:
    pass


def bring(source: Path, target: Path, *, name: str = "x", replace: bool = False, here: Here | None = None) -> None:
    here = here or Here()
    items = walk(here, [Transfer(source=str(source), target=name)], nothing)
    Staging(here, here, nothing).bring(items, str(target), replace=replace)


def files(folder: Path) -> dict[bytes, bytes]:
    top = os.fsencode(folder)
    return {
        os.path.relpath(where + b"/" + name, top): Path(os.fsdecode(where + b"/" + name)).read_bytes()
        for where, _, names in os.walk(top)
        for name in names
    }


def test_a_file_comes_with_its_permissions_as_a_copy(tmp_path: Path) -> None:
    source = tmp_path / "tool"
    source.write_text("#!/bin/sh\n")
    source.chmod(0o750)
    bring(source, tmp_path / "to", name="bin/tool")
    there = tmp_path / "to" / "bin" / "tool"
    assert there.read_text() == "#!/bin/sh\n" and there.stat().st_mode & 0o777 == 0o750
    assert there.stat().st_nlink == 1 and there.stat().st_ino != source.stat().st_ino


def test_hostile_names_come_as_they_are(tmp_path: Path) -> None:
    tree = os.fsencode(tmp_path / "tree")
    wanted = [
        b"a\nb",
        b"-rf",
        b"\xff\xfe",
        "日本 ü".encode(),
        b"$(reboot)",
        b"..x",
        b" ",
        b"d\xe9/-x\n",
        b"'\"\\",
        b"%s{}",
    ]
    for name in wanted:
        path = Path(os.fsdecode(tree + b"/" + name))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name)
    (tmp_path / "tree" / "empty").mkdir()
    bring(tmp_path / "tree", tmp_path / "to")
    assert files(tmp_path / "to" / "x") == {name: name for name in wanted}
    assert (tmp_path / "to" / "x" / "empty").is_dir()


def test_links_that_stay_inside_come_as_links_and_others_as_files(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "d").mkdir(parents=True)
    (tree / "d" / "f").write_text("f")
    (tmp_path / "outside").write_text("o")
    (tree / "inside").symlink_to("d/f")
    (tree / "d" / "up").symlink_to("../d/f")
    (tree / "folder").symlink_to("d")
    (tree / "loop").symlink_to(".")
    (tree / "out").symlink_to("../outside")
    (tree / "absolute").symlink_to(tree / "d" / "f")
    bring(tree, tmp_path / "to")
    to = tmp_path / "to" / "x"
    assert [str((to / n).readlink()) for n in ("inside", "d/up", "folder", "loop")] == ["d/f", "../d/f", "d", "."]
    assert not (to / "out").is_symlink() and (to / "out").read_text() == "o"
    assert not (to / "absolute").is_symlink() and (to / "absolute").read_text() == "f"
    bring(tree, tmp_path / "to")  # again: all is there


def test_a_link_that_leaves_its_folder_and_comes_back_by_name_comes_as_a_file(tmp_path: Path) -> None:
    """Where the folder goes to it has another name, and beside it may be something else under this one."""
    tree = tmp_path / "reference-7"
    (tree / "d").mkdir(parents=True)
    (tree / "f").write_text("f")
    (tree / "back").symlink_to("../reference-7/f")
    (tree / "d" / "back").symlink_to("../../reference-7/f")
    (tree / "d" / "top").symlink_to("..")
    bring(tree, tmp_path / "to", name="ref")
    to = tmp_path / "to" / "ref"
    assert not (to / "back").is_symlink() and (to / "back").read_text() == "f" == (to / "d" / "back").read_text()
    assert str((to / "d" / "top").readlink()) == ".."
    (tree / "folder").symlink_to("../reference-7/d")
    with pytest.raises(StageFailed, match=r"folder is a link that leads to a folder outside \(../reference-7/d\)"):
        bring(tree, tmp_path / "to", name="ref")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"steps": 7}', '{"steps": [{"log": 7}, 8]}', "\0", None])
def test_a_specification_that_a_job_wrote_anew_names_no_logs(tmp_path: Path, text: str | None) -> None:
    (tmp_path / "job.yaml").write_text(text or "")
    if text is None:
        os.truncate(tmp_path / "job.yaml", 1 << 42)
    assert step_logs(str(tmp_path)) == []


def test_a_link_that_is_named_itself_is_followed(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("f")
    (tmp_path / "l").symlink_to("f")
    bring(tmp_path / "l", tmp_path / "to")
    assert not (tmp_path / "to" / "x").is_symlink() and (tmp_path / "to" / "x").read_text() == "f"


@pytest.mark.parametrize("where", ["", "tree"])
def test_what_is_no_file_is_refused_by_name(tmp_path: Path, where: str) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    os.mkfifo(tree / "pi\npe")
    began = time.monotonic()
    with pytest.raises(StageFailed, match=r"pi\\npe is neither a file nor a folder"):
        bring(tree if where else tree / "pi\npe", tmp_path / "to")
    assert time.monotonic() - began < 1  # nobody waits for a writer


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match=r"gone does not exist"):
        bring(tmp_path / "gone", tmp_path / "to")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "dangling").symlink_to("nowhere/at/../all")
    (tmp_path / "tree" / "away").symlink_to("/nowhere")
    with pytest.raises(StageFailed, match=r"away is a link that leads to nothing \(/nowhere\)"):
        bring(tmp_path / "tree", tmp_path / "to")
    with pytest.raises(StageFailed, match="null byte"):
        walk(Here(), [Transfer(source="/a\0b", target="x")], nothing)
    with pytest.raises(StageFailed, match="File name too long"):
        walk(Here(), [Transfer(source="/" + "x" * 300, target="x")], nothing)


def test_other_content_never_gives_way_to_an_input(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("mine")
    to = tmp_path / "to"
    to.mkdir()
    (to / "x").write_text("ours")
    with pytest.raises(StageFailed, match="is there with other content"):
        bring(tmp_path / "f", to)
    (to / "x").write_text("yours.")  # of another size
    with pytest.raises(StageFailed, match="is there with other content"):
        bring(tmp_path / "f", to)
    assert files(to) == {b"x": b"yours."}
    (to / "x").unlink()
    (to / "x").mkdir()
    with pytest.raises(StageFailed, match="is there with other content"):
        bring(tmp_path / "f", to, replace=True)
    (to / "x").rmdir()
    (to / "x").write_text("mine")
    before = (to / "x").stat()
    bring(tmp_path / "f", to)
    assert (to / "x").stat() == before


def test_staging_a_file_onto_itself_is_nothing(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("mine")
    bring(tmp_path / "x", tmp_path)
    assert files(tmp_path) == {b"x": b"mine"}


class Changing(Here):
    """A file that is written to while it is read."""

    def __init__(self, change: Callable[[str], None], times: int) -> None:
        super().__init__()
        self.change, self.times = change, times

    def read(self, path: str) -> Iterator[bytes]:
        yield from super().read(path)
        if self.times:
            self.times -= 1
            self.change(path)


def append(path: str) -> None:
    with Path(path).open("a") as file:
        file.write("more")


def rewrite(path: str) -> None:
    os.utime(path, ns=(time.time_ns(), time.time_ns() + 1))


@pytest.mark.parametrize("change", [append, rewrite])
def test_a_file_that_changes_meanwhile_is_copied_again(tmp_path: Path, change: Callable[[str], None]) -> None:
    (tmp_path / "f").write_text("first")
    bring(tmp_path / "f", tmp_path / "to", here=Changing(change, 1))
    assert files(tmp_path / "to") == {b"x": (tmp_path / "f").read_bytes()}
    with pytest.raises(StageFailed, match="changes while it is copied"):
        bring(tmp_path / "f", tmp_path / "to2", here=Changing(change, 100))
    assert files(tmp_path / "to2") == {}


class Lossy(Here):
    """A place that writes something else than it was given."""

    def write(self, path: str, pieces: Iterable[bytes], mode: int) -> None:
        super().write(path, [b"".join(pieces).replace(b"a", b"b")], mode)


def test_what_arrives_is_compared(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("aaa")
    with pytest.raises(StageFailed):
        bring(tmp_path / "f", tmp_path / "to", here=Lossy())
    assert files(tmp_path / "to") == {}


class Failing(Here):
    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def write(self, path: str, pieces: Iterable[bytes], mode: int) -> None:
        super().write(path, [next(iter(pieces))], mode)
        raise OSError(self.number, os.strerror(self.number), path)


@pytest.mark.parametrize(
    ("number", "error"),
    [
        (errno.ENOSPC, SystemUnavailable),
        (errno.EDQUOT, SystemUnavailable),
        (errno.EIO, SystemUnavailable),
        (errno.ESTALE, SystemUnavailable),
        (errno.EACCES, StageFailed),
        (errno.EROFS, StageFailed),
    ],
)
def test_what_may_pass_is_told_from_what_never_will(tmp_path: Path, number: int, error: type[Exception]) -> None:
    (tmp_path / "f").write_text("aaa")
    with pytest.raises(error, match=os.strerror(number)):
        bring(tmp_path / "f", tmp_path / "to", here=Failing(number))
    assert files(tmp_path / "to") == {}


def test_it_goes_on_where_it_stopped(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(10):
        (tree / str(number)).write_text(f"{number}" * 100)
    told: list[str] = []

    def stop(words: str) -> None:
        told.append(words)
        if words.startswith("stages in 5/"):
            raise StageStopped("enough")

    here = Here()
    items = walk(here, [Transfer(source=str(tree), target="x")], nothing)
    with pytest.raises(StageStopped):
        Staging(here, here, stop).bring(items, str(tmp_path / "to"), replace=True)
    first = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "to" / "x").iterdir()}
    assert len(first) == 5 and told[-1] == "stages in 5/10, 0.5 of 1 kB"
    bring(tree, tmp_path / "to", replace=True)
    assert len(files(tmp_path / "to")) == 10
    assert {name: (tmp_path / "to" / "x" / name).stat().st_mtime_ns for name in first} == first


def test_two_at_once_leave_one_whole_file(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(os.urandom(5 << 20))
    problems: list[BaseException] = []

    def run() -> None:
        try:
            bring(tmp_path / "f", tmp_path / "to")
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == [] and files(tmp_path / "to") == {b"x": (tmp_path / "f").read_bytes()}


def test_a_folder_of_two_thousand_files(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for number in range(2000):
        path = tree / str(number % 20) / str(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(number))
    began = time.monotonic()
    bring(tree, tmp_path / "to")
    assert len(files(tmp_path / "to")) == 2000 and time.monotonic() - began < 20


def test_more_files_than_memory_should_hold_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "MOST", 20)
    for n in range(20):
        (tmp_path / "tree" / f"d{n}").mkdir(parents=True)
    with pytest.raises(StageFailed, match=r"more than 20 files, at .*tree/d.*; put them into an archive"):
        bring(tmp_path / "tree", tmp_path / "to")


def test_amounts_are_told_in_one_unit() -> None:
    assert amounts(2_100_000_000, 5_000_000_000) == "2.1 of 5 GB"
    assert amounts(999_900, 999_990) == "999.9 of 1000 kB"
    assert amounts(0, 999) == "0 of 999 bytes" and amounts(1, 1000) == "0.001 of 1 kB"
    assert shown("a\nb\udcff\x1b[2J") == "a\\nb\\xff\\x1b[2J"


# What comes home.


def test_globs_match_as_they_do_here(tmp_path: Path) -> None:
    for name in ("a.txt", "d/b.txt", "d/e/c.txt", ".h", "x[1]"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "link").symlink_to("d")

    def found(glob: str) -> set[str]:
        return set(search(Here(), str(tmp_path), glob, lambda: None))

    for glob in (
        "*.txt",
        "**/*.txt",
        "d/*",
        "**/c.txt",
        "x[[]1]",
        "none",
        "*/b.txt",
        "link/b.txt",
        "d//b.txt",
        "./a.txt",
    ):
        assert found(glob) == {str(p.relative_to(tmp_path)) for p in tmp_path.glob(glob)}, glob
    assert found("dangling") == set() and found("**") == {"a.txt", "d", ".h", "x[1]", "link"}


def test_what_is_home_is_not_brought_again_and_what_grows_comes_as_far_as_it_was(tmp_path: Path) -> None:
    there, home = tmp_path / "there", tmp_path / "home"
    (there / "out").mkdir(parents=True)
    for name in ("run", "stdout", "stderr", "private", "out/a"):
        (there / name).write_text(name)

    class Grows(Here):
        def read(self, path: str) -> Iterator[bytes]:
            if path.endswith("stdout"):
                append(path)
            return super().read(path)

    assert bring_home(Grows(), str(there), None, str(home), ["out", "none"], nothing) == ["none"]
    assert files(home) == {b"run": b"run", b"stdout": b"stdout", b"stderr": b"stderr", b"outputs/out/a": b"out/a"}
    kept = (home / "outputs" / "out" / "a").stat().st_mtime_ns
    assert bring_home(Here(), str(there), None, str(home), ["out"], nothing) == []
    assert (home / "stdout").read_text().startswith("stdoutmore")
    assert (home / "outputs" / "out" / "a").stat().st_mtime_ns == kept


def test_logs_come_before_what_cannot_come(tmp_path: Path) -> None:
    there, home = tmp_path / "there", tmp_path / "home"
    there.mkdir()
    for name in ("run", "stdout", "job.yaml", "one.log", "other.log"):
        (there / name).write_text(name)
    (there / "job.yaml").write_text('{"steps": [{"name": "one"}, {"name": "x", "log": "../../etc/passwd"}]}')
    os.mkfifo(there / "pipe")
    with pytest.raises(StageFailed, match="pipe is neither"):
        bring_home(Here(), str(there), None, str(home), ["pipe"], nothing)
    assert files(home).keys() == {b"run", b"stdout", b"job.yaml", b"one.log"}


# The local system.


def local(tmp_path: Path) -> LocalSystem:
    return LocalSystem(name="local", spool=tmp_path / "spool", slots=1)


def submission(source: Path, target: str = "x", workdir: Path | None = None) -> Submission:
    return Submission(
        token="r.1:j:1",
        job_id="j",
        run=1,
        argv=("true",),
        workdir=None if workdir is None else str(workdir),
        inputs=[Transfer(source=str(source), target=target)],
    )


def test_local_stages_beside_the_run_folder_or_into_the_workdir(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("f")
    system = local(tmp_path)
    staged = system.stage_in(submission(tmp_path / "f"), nothing).staged
    assert staged is not None and files(Path(staged)) == {b"x": b"f"} and not (tmp_path / "spool" / "jobs").exists()
    (tmp_path / "work").mkdir()
    assert system.stage_in(submission(tmp_path / "f", "a/b", tmp_path / "work"), nothing).staged is None
    assert files(tmp_path / "work") == {b"a/b": b"f"}
    with pytest.raises(StageFailed, match=r"no folder; make it, or leave workdir: out"):
        system.stage_in(submission(tmp_path / "f", workdir=tmp_path / "nowhere"), nothing)
    system.forget([system.handle_for("r.1:j:1")])
    system.forget([system.handle_for("r.1:j:1")])
    assert not Path(staged).exists() and files(tmp_path / "work") == {b"a/b": b"f"}


def test_what_nobody_took_is_removed_after_a_day(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("f")
    system = local(tmp_path)
    fresh = system.stage_in(submission(tmp_path / "f"), nothing).staged
    assert fresh is not None
    old = Path(fresh).with_name("r.1:old:1")
    (old / "d").mkdir(parents=True)
    os.utime(old, (time.time() - 90000, time.time() - 90000))
    try:
        assert system.lead()
        deadline = time.monotonic() + 5
        while old.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not old.exists() and Path(fresh).exists()
    finally:
        system.close()


def test_an_entry_is_what_it_was(tmp_path: Path) -> None:
    assert Here().entry(str(tmp_path / "none")) is None
    entry = Here().entry(str(tmp_path))
    assert isinstance(entry, Entry) and entry.kind.value == "folder"


def test_a_file_that_grows_as_fast_as_it_is_read_has_an_end(tmp_path: Path) -> None:
    class Endless(Here):
        def read(self, path: str) -> Iterator[bytes]:
            for _ in range(10_000):
                yield b"x" * 1000
            raise AssertionError("nobody stops")

    (tmp_path / "log").write_text("x")
    with pytest.raises(StageFailed, match="changes while it is copied"):
        bring(tmp_path / "log", tmp_path / "to", here=Endless())
    assert list((tmp_path / "to").iterdir()) == []


def test_what_a_killed_transfer_left_is_removed_by_the_next(tmp_path: Path) -> None:
    """Also by one that brings something else there; what another process is at stays."""
    (tmp_path / "f").write_text("f")
    to = tmp_path / "to"
    to.mkdir()
    child = os.fork()
    if child == 0:

        class Dies(Here):
            def digest(self, path: str, tick: Callable[[], None]) -> str:
                os._exit(9)

        bring(tmp_path / "f", to, name="a", here=Dies())
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    (dead,) = to.iterdir()
    assert dead.name.endswith(".new")
    alive = to / dead.name.replace(f"-{child}-", f"-{os.getpid()}-")
    elsewhere, old = to / ".jobmill-0123abcd-1-aa.new", to / ".jobmill-0123abcd-1-bb.new"
    theirs = to / ".jobmill-notes.new"
    for path in (alive, elsewhere, old, theirs):
        path.write_text("")
    os.utime(old, (1, 1))
    os.utime(theirs, (1, 1))
    bring(tmp_path / "f", to, name="b")
    assert {path.name for path in to.iterdir()} == {"b", alive.name, elsewhere.name, theirs.name}


def test_what_is_dropped_is_removed_beside_the_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop that tells a system to forget has a lease, and a tree may be huge."""
    removed: list[str] = []

    def slow(folder: bytes) -> None:
        time.sleep(0.3)
        removed.append(os.fsdecode(folder))
        remove(folder)

    remove = run_folder.remove
    monkeypatch.setattr(run_folder, "remove", slow)
    system = LocalSystem.build("local", {}, tmp_path)
    stages = [tmp_path / "stage" / "local" / f"r:{n}:1" for n in range(5)]
    for stage in stages:
        stage.mkdir(parents=True)
        (stage / "f").write_text("")
    began = time.monotonic()
    system.forget([system.handle_for(stage.name) for stage in stages])
    assert time.monotonic() - began < 0.3
    assert not any(stage.exists() for stage in stages)  # who stages anew finds none of it
    until = time.monotonic() + 10
    while list((tmp_path / "stage" / "local").iterdir()):
        assert time.monotonic() < until
        time.sleep(0.02)
    assert len(removed) == 5
    system.close()


def test_small_files_of_two_who_bring_the_same_are_whole(tmp_path: Path) -> None:
    """A fetcher that had stood still goes on while another brings the same."""
    here, path = Here(durable=True), str(tmp_path / "stdout")
    contents = [bytes([sign]) * 20_000 for sign in b"ab"]
    wrong: list[object] = []

    def work(content: bytes) -> None:
        try:
            for _ in range(50):
                put(here, path, content, 0o644)
                if Path(path).read_bytes() not in contents:
                    wrong.append("torn")
        except OSError as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [] and [one.name for one in tmp_path.iterdir()] == ["stdout"]
