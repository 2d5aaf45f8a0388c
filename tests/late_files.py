"""A shared file system that shows late what a node wrote.

    with late_node(tmp_path, spool, 60.0) as python: …       # root; option `python` of a batch system of ours
    with late(folder, "work/*.ec", 60.0): …                  # files of others, hidden as soon as they are there

On a node with this Python our program sees a copy of the spool, in a mount namespace of its own; what it wrote there
comes into the real one later: marker, record, streams, notices.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

LOOK = 0.01  # seconds between looks
AWAY = ".hidden-"
NODE = """#!/bin/sh
view=$(mktemp -d {views}/XXXXXX)
cp -a "$5/." "$view"
touch "$view/.began"
exec unshare --mount sh -c 'mount --bind "$0" "$5" && exec /usr/bin/python3 "$@"' "$view" "$@"
"""


@contextlib.contextmanager
def late_node(folder: Path, spool: Path, seconds: float) -> Iterator[str]:
    """Give the Python of nodes whose files come so many seconds after the end of their job."""
    views = folder / "views"
    views.mkdir()
    program = folder / "late-python"
    program.write_text(NODE.format(views=views))
    program.chmod(0o755)
    ended: dict[Path, float] = {}  # view -> when (monotonic); 0: it was brought

    def look() -> None:
        for view in views.iterdir():
            notices = [name for name in view.glob("notices/*/*") if name.suffix in (".ended", ".done")]
            if any(name.stat().st_mtime >= (view / ".began").stat().st_mtime for name in notices):
                ended.setdefault(view, time.monotonic())
        for view, since in ended.items():
            if 0 < since < time.monotonic() - seconds:
                _bring(view, spool)
                ended[view] = 0.0

    with _again_and_again(look):
        yield str(program)


def _bring(view: Path, spool: Path) -> None:
    """Copy what was written since the view was made, whole files, notices last."""
    began = (view / ".began").stat().st_mtime
    for top in ("jobs", "notices"):
        for file in (view / top).rglob("*"):
            if file.is_file() and file.stat().st_mtime >= began:
                to = spool / file.relative_to(view)
                shutil.copy2(file, to.with_name(f".{to.name}.late"))
                to.with_name(f".{to.name}.late").rename(to)


@contextlib.contextmanager
def _again_and_again(look: Callable[[], None]) -> Iterator[None]:
    over = threading.Event()

    def watch() -> None:
        while not over.wait(LOOK):
            with contextlib.suppress(FileNotFoundError):  # it came and went, or is just being made
                look()

    thread = threading.Thread(target=watch, name="late files", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(10)


@contextlib.contextmanager
def late(folder: Path, pattern: str, seconds: float) -> Iterator[None]:
    """Hide each file of the pattern once, as soon as it is there; all are there again after the block."""
    hidden: dict[Path, float] = {}  # since when (monotonic); 0: it was shown again

    def away(path: Path) -> Path:
        return path.with_name(f"{AWAY}{path.name}")

    def show(before: float) -> None:
        for path, since in hidden.items():
            if 0 < since < before:
                with contextlib.suppress(FileNotFoundError):
                    away(path).rename(path)
                hidden[path] = 0.0

    def look() -> None:
        for path in folder.glob(pattern):
            if path not in hidden and not path.name.startswith(AWAY):
                path.rename(away(path))
                hidden[path] = time.monotonic()
        show(time.monotonic() - seconds)

    try:
        with _again_and_again(look):
            yield
    finally:
        show(float("inf"))
