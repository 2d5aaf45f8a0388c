"""A virtual environment for each peer, so that none of them ever meets our own packages."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / ".peers"


def provide(name: str, requirement: str) -> Path:
    """Return the Python of the peer's environment, made at its first use with this one requirement."""
    home = FOLDER / name
    python = home / "bin" / "python"
    stamp = home / "requirement"
    if not stamp.exists() or stamp.read_text() != requirement:
        print(f"installing {requirement} into {home}", file=sys.stderr)
        venv.create(home, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", requirement], timeout=600, check=True)
        stamp.write_text(requirement)  # last: an installation that was cut begins anew
    return python
