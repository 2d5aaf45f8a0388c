"""A client program that is run by the Python of what is measured, and answers with one line of JSON."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.contender import WrongResult

CLIENTS = Path(__file__).resolve().parent / "clients"
TIMEOUT = 600.0  # seconds for one client program


def environment(python: Path) -> Mapping[str, str]:
    """Return ours with the Python's own commands found first: some programs start their parts by name."""
    return os.environ | {"PATH": f"{python.parent}{os.pathsep}{os.environ.get('PATH', '')}"}


def answer(
    who: str, python: Path, client: str, *words: str, folder: Path, env: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Run a program of ``clients/`` in ``folder``; return its answer; raise WrongResult with its last words.

    ``env``: on top of `environment`.
    """
    try:
        ended = subprocess.run(
            [python, CLIENTS / client, *words],
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
            cwd=folder,
            env={**environment(python), **(env or {})},
        )
    except subprocess.TimeoutExpired as error:
        raise WrongResult(f"{who}: its client {client} did not end within {TIMEOUT:g} s") from error
    lines = [line for line in ended.stdout.splitlines() if line.startswith("{")]
    if ended.returncode != 0 or not lines:
        words_left = (ended.stderr.strip() or ended.stdout.strip())[-500:]
        raise WrongResult(f"{who}: its client {client} exited with {ended.returncode}: {words_left}")
    found: dict[str, Any] = json.loads(lines[-1])
    return found
