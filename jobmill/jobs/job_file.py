"""Job files as a user names them: read, changed by ``--set``, relative folders made absolute."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jobmill.errors import SpecError
from jobmill.jobs.document import Document, load
from jobmill.jobs.spec import JobSpec, apply_settings

MAX_FILE = 64 << 20  # bytes of one file, however many documents it holds


def read_documents(name: str | Path) -> Sequence[Document]:
    """Return the documents of a file, of standard input for ``-``; raise SpecError that names file and line."""
    if str(name) == "-":
        return load(sys.stdin.buffer.read(MAX_FILE + 1), limit=MAX_FILE, where="standard input")
    path = Path(name)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SpecError(f"{path}: {error.strerror}; name a file that can be read, or - for standard input") from None
    return load(data, limit=MAX_FILE, where=str(path))


def read_specs(
    name: str | Path, *, settings: Sequence[str] = (), changes: Mapping[str, Any] | None = None
) -> list[JobSpec]:
    """Return the jobs of a file; raise SpecError with every problem as ``file:line: key: what``.

    ``settings`` (``key.path=value``) and ``changes`` hold for each job. A relative ``workdir`` that the file says is
    relative to the file's own folder (to the current one for standard input); a missing one stays missing.
    """
    folder = Path.cwd() if str(name) == "-" else Path(name).absolute().parent
    found = []
    for document in read_documents(name):
        said = document.data.keys() & {"workdir", "cwd", "directory"}
        data = apply_settings(document.data, settings) if settings else dict(document.data)
        for key, value in (changes or {}).items():
            data[key] = [*_several(data.get(key)), *value] if key == "tags" else value
        spec = JobSpec.parse(dataclasses.replace(document, data=data))
        place = spec.workdir
        if place is not None and not place.startswith(("/", "~")):
            # what came by --set was typed in the current folder, what the file says was written beside the file
            typed = any(setting.partition("=")[0] in ("workdir", "cwd", "directory") for setting in settings)
            base = folder if said and not typed else Path.cwd()
            spec = spec.model_copy(update={"workdir": os.path.normpath(base / place)})
        found.append(spec)
    return found


def _several(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [] if value is None else [value]
