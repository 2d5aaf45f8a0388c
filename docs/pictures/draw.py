"""Draws the pictures of this folder from the real thing: a pipeline of its own, real examples, a real terminal.

python docs/pictures/draw.py
"""

from __future__ import annotations

import os
import pty
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
WIDTH = 112
JOBMILL = [sys.executable, "-m", "jobmill.scripts.jobmill"]


def terminal(words: list[str], env: dict[str, str]) -> str:
    """Run a command in a terminal of its own and return what it wrote, colours included."""
    pid, screen = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        os.execvpe(JOBMILL[0], [*JOBMILL, *words], env)
    parts = []
    while True:
        try:
            part = os.read(screen, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        parts.append(part)
    os.waitpid(pid, 0)
    return b"".join(parts).decode().replace("\r\n", "\n")


def draw(name: str, commands: list[list[str]], env: dict[str, str]) -> None:
    """Write one picture: commands and what they showed."""
    console = Console(record=True, width=WIDTH, file=open(os.devnull, "w"), force_terminal=True)  # noqa: SIM115, PTH123
    for words in commands:
        console.print(Text.assemble(("$ ", "green"), ("jobmill " + " ".join(words), "bold")))
        console.print(Text.from_ansi(terminal(words, env)))
    console.save_svg(str(HERE / f"{name}.svg"), title="jobmill")


def main() -> None:
    """Bring a pipeline up, give it work, draw."""
    state = tempfile.mkdtemp(prefix="jobmill-")
    env = os.environ | {"JOBMILL_STATE": state, "COLUMNS": str(WIDTH), "LINES": "40", "TERM": "xterm-256color"}
    up = subprocess.Popen([*JOBMILL, "up", "--quiet"], env=env, cwd=ROOT)
    try:
        time.sleep(2)
        quiet = {"env": env, "cwd": ROOT, "stdout": subprocess.DEVNULL}
        subprocess.run([*JOBMILL, "submit", "--wait", *(f"examples/{n}.yaml" for n in ("archive", "fails"))], **quiet)  # type: ignore[call-overload]
        for name in ("monte_carlo", "sleep", "sleep", "sleep"):
            subprocess.run([*JOBMILL, "submit", f"examples/{name}.yaml"], check=True, **quiet)  # type: ignore[call-overload]
        time.sleep(1)
        draw("list", [["list"], ["info"]], env)
        draw("explain", [["explain", "last"], ["explain", "--state", "failed", "all"]], env)
    finally:
        up.send_signal(signal.SIGTERM)
        up.wait()
        shutil.rmtree(state, ignore_errors=True)


if __name__ == "__main__":
    main()
