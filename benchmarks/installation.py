"""jobmill as a user installs it: a fresh environment with it and what it requires, and nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from collections.abc import Mapping
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent
PARTS = ("jobmill", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")
MIB = 1 << 20


def install(folder: Path) -> Path:
    """Make the environment in ``folder`` and return its Python; raise CalledProcessError after pip's own words."""
    copy, home = folder / "source", folder / "environment"
    copy.mkdir(parents=True)
    for part in PARTS:  # setuptools builds where the source is, and leaves its folders there
        here = SOURCE / part
        if here.is_dir():
            shutil.copytree(here, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(here, copy / part)
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "-qq", str(copy)], timeout=600, check=True, stdout=sys.stderr)
    return python


def sizes(python: Path) -> Mapping[str, float]:
    """Return MiB of each thing at the top of the environment's site-packages, the largest first."""
    words = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    place = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True).stdout.strip()
    found = {
        entry.name: sum(file.stat().st_size for file in [entry, *entry.rglob("*")] if file.is_file()) / MIB
        for entry in Path(place).iterdir()
    }
    return dict(sorted(found.items(), key=lambda pair: -pair[1]))
