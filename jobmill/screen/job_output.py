"""What a job wrote, passed through untouched, and followed until its end."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from jobmill.client import Client
from jobmill.errors import PermanentError, ServerUnavailable, UnknownName, nearest
from jobmill.ledger.listing import JobRow
from jobmill.screen import terminal

PAUSE = 0.2  # seconds between looks at what is new
PART = 1 << 20  # bytes


def show_output(client: Client, job_id: str, *, stream: str, step: str | None, follow: bool, run: int | None) -> int:
    """Write a stream, or a step's log, from its beginning; with ``follow`` until the job has ended."""
    row = client.job(job_id)
    spec = client.spec(job_id)
    name = stream if step is None else _log_of(spec, step)
    if run is not None and run != row.run:
        return _show_run(client, row, run, name)
    elsewhere = _named(spec, row, client, stream) if step is None else None
    offset, number, told, ended = 0, row.run, False, row.ended
    while True:
        while part := _from_file(elsewhere, offset) if elsewhere else _from_system(client, row, name, offset):
            _write(part)
            offset += len(part)
        if not follow or ended:
            break
        if not told and not row.facts.get("handle"):
            terminal.note(f"{row.id} is {row.state}; waits for its start (jobmill explain {row.id})")
        told = True
        time.sleep(PAUSE)
        try:
            row = client.job(job_id)
        except ServerUnavailable:
            continue
        ended = row.ended  # once more after the end: the last words come before it
        if row.run != number:
            number, offset = row.run, 0
            terminal.note(f"run {number} of {row.id}:")
    if not offset and not follow:
        _say_why_empty(row, name, ended)
    return 0


def _show_run(client: Client, row: JobRow, run: int, name: str) -> int:
    """Write what an earlier run left in its folder."""
    folder = client.folder(row, run)
    if run > row.run or not folder.is_dir():
        known = "run 1 is its only one" if row.run == 1 else f"its runs: 1 to {row.run}"
        raise UnknownName(f"no run {run} of {row.id} here; {known} (jobmill show {row.id})")
    offset = 0
    while part := _from_file(folder / name, offset):
        _write(part)
        offset += len(part)
    return 0


def _say_why_empty(row: JobRow, name: str, ended: bool) -> None:
    if not row.facts.get("handle"):
        terminal.note(f"{row.id} is {row.state} and has written nothing (jobmill explain {row.id})")
    elif not ended:
        terminal.note(f"{row.id} has written nothing to {name} yet; -f goes on")


def _log_of(spec: dict[str, Any], step: str) -> str:
    steps = {str(s.get("name")): str(s.get("log") or f"{s.get('name')}.log") for s in spec.get("steps", [])}
    if step not in steps:
        known = f"known: {', '.join(steps)}" if steps else "this job has none"
        raise UnknownName(f"no step {step!r}{nearest(step, steps)}; {known}")
    return steps[step]


def _named(spec: dict[str, Any], row: JobRow, client: Client, stream: str) -> Path | None:
    """Return the file that the spec itself names for a stream."""
    path = spec.get(stream)
    if not path:
        return None
    base = str(spec.get("workdir") or client.folder(row))
    return Path(os.path.normpath(Path(base) / str(path)))


def _from_system(client: Client, row: JobRow, name: str, offset: int) -> bytes:
    try:
        return client.part(row, name, offset, PART)
    except OSError as error:
        raise PermanentError(f"{name} of {row.id} cannot be read here: {error.strerror}") from None


def _from_file(path: Path, offset: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(PART)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise PermanentError(f"{path} cannot be read: {error.strerror}") from None


def _write(data: bytes) -> None:
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
